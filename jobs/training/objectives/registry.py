"""What each objective trains on and by: its batches and its lesson."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import peft

from backend.domain.training.config import PAIRWISE, Objective
from backend.domain.training.execution import sequences_at_once
from backend.errors import InvalidInput
from jobs.batches.base import Batches, EpochOrder, StepBatches
from jobs.batches.preference import (
    UNKNOWN,
    ReferredPair,
    ReferredRated,
    Shuffled,
    answers_of,
    collate_pairs,
    collate_rated,
    collate_scored,
    pair_length,
    refer,
)
from jobs.batches.preference_rows import Answered, load_pairs, load_rated
from jobs.batches.prompts import load_questions
from jobs.batches.sft import PackedBatches
from jobs.modeling.dataset_files import Split
from jobs.modeling.devices import device_kind
from jobs.modeling.tokenizers import padding_id, token_bytes
from jobs.training.context import Parts
from jobs.training.losses.chunked_cross_entropy import Penalties
from jobs.training.losses.output_head import OutputHead
from jobs.training.network.experts import has_experts
from jobs.training.network.load import load_base, settle_packing
from jobs.training.network.load import load_batches as load_language_batches
from jobs.training.objectives.base import LanguageLesson, Lesson, batch_sizes, for_validation
from jobs.training.objectives.grpo import RolloutLesson
from jobs.training.objectives.preference import PairLesson, RatedLesson, RewardLesson
from jobs.training.objectives.reference_logprobs import Stopped, reference_logprobs
from jobs.training.objectives.rewards import Rewards
from jobs.training.objectives.rollouts import RolloutBatches

SPLITS: tuple[Split, ...] = ("train", "val")


def load_batches(parts: Parts, *, folder: Path) -> Batches:
    """Read and encode the dataset for the objective. `folder` keeps what is computed once for a run.

    Raises InvalidInput if there is nothing to train on, Stopped if the job is asked to stop meanwhile.
    """
    objective = parts.config.objective
    if objective in (Objective.PRETRAIN, Objective.SFT):
        return load_language_batches(parts)
    if objective is Objective.GRPO:
        return _rollouts(parts)
    load = _rated_batches if objective is Objective.KTO else _pair_batches
    batches, stopped = None, False
    if parts.team.is_first:  # it asks the reference, the others read what that answered, or stop as it did
        try:
            batches = load(parts, folder)
        except Stopped:
            stopped = True
    if parts.team.agree("cancel" if stopped else None):
        raise Stopped
    return batches if batches is not None else load(parts, folder)


def settle_batches(parts: Parts, batches: Batches, model: Any) -> Batches:
    """Return the batches that a network is trained on, now that it is there: some depend on what it can do, grpo's it writes itself."""
    if isinstance(batches, RolloutBatches):
        batches.policy = model
        return batches
    return _cut_for_cache(parts, settle_packing(parts, batches, model), model)


def _cut_for_cache(parts: Parts, batches: Batches, model: Any) -> Batches:
    """Cut steps into what suits a CPU's cache, which leaves their loss what it is, and say so."""
    config = parts.config
    is_full = config.objective is Objective.PRETRAIN or isinstance(batches, PackedBatches)
    at_once = sequences_at_once(config, device=device_kind(parts.device), is_full=is_full, has_experts=has_experts(model))
    if at_once < config.micro_batch and isinstance(batches, StepBatches):
        batches.cut_to(at_once)
        parts.reporter.log(f"{at_once} of the {config.micro_batch} sequences of a micro-batch pass at once: this suits the CPU's cache.")
    return batches


def make_lesson(parts: Parts, batches: Batches, model: Any) -> Lesson:
    """Return what the objective costs."""
    config = parts.config
    if config.objective is Objective.GRPO:
        reference = None
        if config.grpo.kl_weight:
            reference = model if isinstance(model, peft.PeftModel) else load_base(parts).to(parts.device).eval().requires_grad_(False)
        return RolloutLesson(config, OutputHead(model), batches, reference)
    if config.objective is Objective.REWARD:
        return RewardLesson()
    if config.objective is Objective.KTO:
        return RatedLesson(config, OutputHead(model))
    if config.objective in PAIRWISE:
        return PairLesson(config, OutputHead(model))
    is_text = config.objective is Objective.PRETRAIN
    return LanguageLesson(
        OutputHead(model),
        token_bytes(parts.tokenizer, vocab_size=int(model.config.vocab_size)) if is_text else None,
        Penalties(config.label_smoothing, config.z_loss),
    )


def _pair_batches(parts: Parts, folder: Path) -> Batches:
    objective, pad_id = parts.config.objective, padding_id(parts.tokenizer)
    train, val = (
        load_pairs(parts.dataset, split, tokenizer=parts.tokenizer, context=parts.config.context, reporter=parts.reporter)
        for split in SPLITS
    )
    val = for_validation(parts, val)
    pairs = [ReferredPair(sides) for sides in (*train, *val)]
    if objective is Objective.DPO:
        met = _met(parts, len(train), len(val))
        references = refer(reference_logprobs(parts, answers_of([pairs[place].sides for place in met]), folder=folder))
        for place, reference in zip(met, references, strict=True):
            pairs[place] = ReferredPair(pairs[place].sides, reference)
    collate: Any = partial(collate_pairs, pad_id=pad_id, prompts=objective is Objective.ORPO)
    if objective is Objective.REWARD:
        collate = partial(collate_scored, pad_id=pad_id)
    return Shuffled(pairs[: len(train)], pairs[len(train) :], items="pairs", collate=collate, length=pair_length, **batch_sizes(parts))


def _rated_batches(parts: Parts, folder: Path) -> Batches:
    config = parts.config
    train, val = (
        load_rated(parts.dataset, split, tokenizer=parts.tokenizer, context=config.context, seed=config.seed, reporter=parts.reporter)
        for split in SPLITS
    )
    val = for_validation(parts, val)
    items = [ReferredRated(rated, UNKNOWN) for rated in (*train, *val)]
    met = _met(parts, len(train), len(val))
    answers: list[Answered] = [answer for place in met for answer in (items[place].rated.answered, items[place].rated.mismatched)]
    for place, reference in zip(met, refer(reference_logprobs(parts, answers, folder=folder)), strict=True):
        items[place] = ReferredRated(items[place].rated, reference)
    # not by length: the estimate of the divergence is a micro-batch's, and long answers alone would have another
    collate = partial(collate_rated, pad_id=padding_id(parts.tokenizer))
    return Shuffled(items[: len(train)], items[len(train) :], items="answers", collate=collate, **batch_sizes(parts))


def _met(parts: Parts, train: int, val: int) -> list[int]:
    """Return the places of the items that a run meets, those of the val split behind the train split's: no others need a reference."""
    sizes = batch_sizes(parts)
    draws = parts.config.max_steps * sizes["micro_batch"] * sizes["grad_accum_steps"]
    seen = range(train) if draws >= train else sorted(EpochOrder(train, seed=sizes["seed"]).take(0, draws)[1].tolist())
    return [*seen, *range(train, train + val)]


def _rollouts(parts: Parts) -> Batches:
    config = parts.config
    if config.grpo.needs_answers and parts.spec.payload["dataset_kind"] == "prompts":
        raise InvalidInput(
            "The prompts have no answers, and a reward of grpo.rewards compares completions with them.",
            remedy="Use rewards of kind regex or length, or a dataset with answers (instruction, benchmark).",
            field="grpo.rewards",
        )
    rewards = Rewards(config.grpo.rewards, say=parts.reporter.log)
    train, val = (
        load_questions(
            parts.dataset,
            split,
            tokenizer=parts.tokenizer,
            context=config.context,
            max_new_tokens=config.grpo.max_new_tokens,
            reporter=parts.reporter,
        )
        for split in SPLITS
    )
    return RolloutBatches(
        train,
        val,
        config=config,
        tokenizer=parts.tokenizer,
        rewards=rewards,
        pad_id=padding_id(parts.tokenizer),
        measured=parts.measured,
        autocast=parts.autocast,
    )
