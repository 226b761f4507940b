"""Preference objectives: dpo, orpo and simpo on pairs, kto on rated answers, reward on scored pairs.

Log-probabilities of a run's answers under the reference network are computed once before training, so that only one
network is in memory. They are saved in the run's folder under a hash of each answer's tokens: a resumed run reads the
same numbers on any machine, and a run that is extended computes only those of new answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from backend.domain.data.splits import SPLITS
from backend.domain.training.config import RunConfig
from backend.errors import JobFailed
from jobs.batches.base import IGNORE, EpochOrder, StepBatches
from jobs.batches.preference import (
    UNKNOWN,
    Answered,
    AnsweredPair,
    Floats,
    PairBatch,
    Rated,
    RatedBatch,
    ReferencedPair,
    ReferencedRated,
    ScoredBatch,
    ShuffledBatches,
    collate_pairs,
    collate_rated,
    collate_scored,
    flatten_pairs,
    in_pairs,
    load_pairs,
    load_rated,
    pad,
    pair_length,
)
from jobs.modeling.checkpoints import read_card
from jobs.modeling.tokenizers import padding_id
from jobs.reporter import PROGRESS_EVERY_S, StopRequested
from jobs.training.context import TrainingContext
from jobs.training.losses.output_head import OutputHead
from jobs.training.losses.preference import (
    PreferenceLosses,
    dpo_losses,
    kto_divergence,
    kto_losses,
    orpo_losses,
    reward_losses,
    simpo_losses,
)
from jobs.training.network.load import load_reference
from jobs.training.objectives.base import (
    LossOutput,
    ObjectiveStages,
    Splits,
    TrainingObjective,
    batch_sizes,
    token_source,
)

Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class PairwiseObjective(TrainingObjective):
    """Make the chosen answer likelier than the rejected one. A unit is a pair."""

    config: RunConfig
    head: OutputHead
    is_divisible: bool = True

    @abstractmethod
    def score(self, batch: PairBatch, logprobs: torch.Tensor, tokens: torch.Tensor) -> PreferenceLosses:
        """Score pairs by the summed log-probabilities of all rows and their numbers of answer tokens, each (rows,)."""

    @property
    def chosen_weight(self) -> float:
        """Weight of the chosen answer's own negative log-likelihood."""
        return self.config.preference.sft_weight

    def compute_loss(self, network: torch.nn.Module, batch: PairBatch) -> LossOutput:
        """Return the loss summed over pairs, and the rewards that it implies."""
        logprobs, router_loss = self.head.logprobs(network, batch.inputs, batch.targets, batch.columns)
        is_answer = batch.columns >= batch.starts[:, None]  # ORPO has targets before them: the chosen side's prompt
        tokens = ((batch.targets[:, batch.columns] != IGNORE) & is_answer).sum(dim=1)
        scored = self.score(batch, (logprobs * is_answer).sum(dim=1), tokens)
        losses = scored.losses
        if self.chosen_weight:
            losses = losses - self.chosen_weight * batch.per_token * logprobs[: batch.units].sum(dim=1)
        return LossOutput(
            losses.sum(), aux_loss=router_loss, metric_sums=pair_metric_sums(scored), unit_losses=losses.detach()
        )


class DpoObjective(PairwiseObjective):
    """dpo: against a reference's log-probabilities."""

    def score(self, batch: PairBatch, logprobs: torch.Tensor, tokens: torch.Tensor) -> PreferenceLosses:
        """Score pairs by `dpo_losses`."""
        assert batch.reference is not None
        preference, pairs = self.config.preference, batch.units
        return dpo_losses(
            logprobs[:pairs],
            logprobs[pairs:],
            reference_chosen=batch.reference[:pairs],
            reference_rejected=batch.reference[pairs:],
            chosen_tokens=tokens[:pairs],
            rejected_tokens=tokens[pairs:],
            beta=preference.beta,
            loss=preference.loss,
            label_smoothing=preference.label_smoothing,
        )


class OrpoObjective(PairwiseObjective):
    """orpo: the odds ratio of mean log-probabilities, and the chosen answer's likelihood."""

    @property
    def chosen_weight(self) -> float:
        """Weight 1: the likelihood is part of ORPO's loss."""
        return 1.0

    def score(self, batch: PairBatch, logprobs: torch.Tensor, tokens: torch.Tensor) -> PreferenceLosses:
        """Score pairs by `orpo_losses`."""
        means = logprobs / tokens.clamp(min=1)
        return orpo_losses(means[: batch.units], means[batch.units :], weight=self.config.preference.beta)


class SimpoObjective(PairwiseObjective):
    """simpo: mean log-probabilities with a target margin, no reference."""

    def score(self, batch: PairBatch, logprobs: torch.Tensor, tokens: torch.Tensor) -> PreferenceLosses:
        """Score pairs by `simpo_losses`."""
        means, preference = logprobs / tokens.clamp(min=1), self.config.preference
        return simpo_losses(means[: batch.units], means[batch.units :], beta=preference.beta, gamma=preference.gamma)


@dataclass(frozen=True)
class KtoObjective(TrainingObjective):
    """kto: make good answers likelier than the reference does, bad ones less likely. A unit is an answer.

    The divergence is estimated per micro-batch, so micro-batches can't be split without changing the loss.
    """

    config: RunConfig
    head: OutputHead
    is_divisible: bool = False

    def compute_loss(self, network: torch.nn.Module, batch: RatedBatch) -> LossOutput:
        """Return the loss summed over answers, and the rewards that it implies."""
        with torch.no_grad():
            mismatched = self.head.answer_logprobs(network, batch.mismatched)
        divergence = kto_divergence(mismatched, batch.mismatched_reference)
        logprobs, router_loss = self.head.logprobs(network, batch.inputs, batch.targets, batch.columns)
        preference = self.config.preference
        losses, rewards = kto_losses(
            logprobs.sum(dim=1),
            reference=batch.reference,
            desirable=batch.desirable,
            divergence=divergence,
            beta=preference.beta,
            desirable_weight=preference.desirable_weight,
            undesirable_weight=preference.undesirable_weight,
        )
        sums = {"kl": divergence * batch.units}
        if batch.per_good:
            sums["rewards/chosen"] = batch.per_good * rewards[batch.desirable].sum()
        if batch.per_bad:
            sums["rewards/rejected"] = batch.per_bad * rewards[~batch.desirable].sum()
        if batch.per_good and batch.per_bad:
            sums["rewards/margins"] = sums["rewards/chosen"] - sums["rewards/rejected"]
        return LossOutput(losses.sum(), aux_loss=router_loss, metric_sums=sums, unit_losses=losses.detach())


@dataclass(frozen=True)
class RewardObjective(TrainingObjective):
    """reward: score the chosen answer above the rejected one. A unit is a pair."""

    is_divisible: bool = True

    def compute_loss(self, network: torch.nn.Module, batch: ScoredBatch) -> LossOutput:
        """Return the loss summed over pairs, with the accuracy and the margin of the scores."""
        scores = network(input_ids=batch.inputs, use_cache=False).logits.float().squeeze(-1)
        scored = reward_losses(scores[: batch.units], scores[batch.units :])
        margins = scored.chosen_rewards - scored.rejected_rewards
        return LossOutput(
            scored.losses.sum(),
            metric_sums={"accuracy": (margins > 0).float().sum(), "margin": margins.sum()},
            unit_losses=scored.losses.detach(),
        )


def pair_metric_sums(scored: PreferenceLosses) -> dict[str, torch.Tensor]:
    """Return the metrics of pairs by name, summed over the pairs."""
    margins = scored.chosen_rewards - scored.rejected_rewards
    return {
        "rewards/chosen": scored.chosen_rewards.sum(),
        "rewards/rejected": scored.rejected_rewards.sum(),
        "rewards/accuracies": (margins > 0).float().sum(),
        "rewards/margins": margins.sum(),
    }


def first_rank_first(load: Callable[[TrainingContext], Loaded]) -> Callable[[TrainingContext], Loaded]:
    """Decorate a loader to run on the first rank of each machine, then on the others, which read its saved
    log-probabilities, or stop with it.
    """

    def load_in_order(ctx: TrainingContext) -> Loaded:
        loaded: Loaded | None = None
        is_stopped = False
        if ctx.process_group.is_first_here:
            try:
                loaded = load(ctx)
            except StopRequested:
                is_stopped = True
        ctx.process_group.barrier()
        if ctx.process_group.broadcast_request("cancel" if is_stopped else None):
            raise StopRequested
        return load(ctx) if loaded is None else loaded

    return load_in_order


def _load_pairs(ctx: TrainingContext) -> Splits[list[AnsweredPair]]:
    source = token_source(ctx)
    train, val = (load_pairs(source, split, context=ctx.config.context) for split in SPLITS)
    return Splits(train, val[: ctx.val_items])


@first_rank_first
def load_plain_pairs(ctx: TrainingContext) -> Splits[list[ReferencedPair]]:
    """Encode the pairs of an objective without a reference."""
    train, val = _load_pairs(ctx)
    return Splits([ReferencedPair(pair) for pair in train], [ReferencedPair(pair) for pair in val])


@first_rank_first
def load_referenced_pairs(ctx: TrainingContext) -> Splits[list[ReferencedPair]]:
    """Encode pairs, and compute the reference's log-probabilities of those that the run uses."""
    train, val = _load_pairs(ctx)
    pairs = [ReferencedPair(pair) for pair in (*train, *val)]
    used = _used_items(ctx, len(train), len(val))
    references = _reference_logprobs(ctx, flatten_pairs([pairs[index].sides for index in used]))
    for index, reference in zip(used, in_pairs(references), strict=True):
        pairs[index] = ReferencedPair(pairs[index].sides, reference)
    return Splits(pairs[: len(train)], pairs[len(train) :])


@first_rank_first
def load_referenced_answers(ctx: TrainingContext) -> Splits[list[ReferencedRated]]:
    """Encode rated answers, and compute the reference's log-probabilities of those that the run uses."""
    config, source = ctx.config, token_source(ctx)
    train, val = (load_rated(source, split, context=config.context, seed=config.seed) for split in SPLITS)
    val = val[: ctx.val_items]
    rated: list[Rated] = [*train, *val]
    used = _used_items(ctx, len(train), len(val))
    answers: list[Answered] = [answer for index in used for answer in (rated[index].answered, rated[index].mismatched)]
    references = dict(zip(used, in_pairs(_reference_logprobs(ctx, answers)), strict=True))
    items = [ReferencedRated(item, references.get(index, UNKNOWN)) for index, item in enumerate(rated)]
    return Splits(items[: len(train)], items[len(train) :])


def _used_items(ctx: TrainingContext, num_train: int, num_val: int) -> list[int]:
    """Return the indices of the items that a run uses, val after train: no others need a reference."""
    sizes = batch_sizes(ctx)
    draws = ctx.config.max_steps * sizes.items_per_step
    drawn = (
        range(num_train)
        if draws >= num_train
        else sorted(EpochOrder(num_train, seed=sizes.seed).take(0, draws)[1].tolist())
    )
    return [*drawn, *range(num_train, num_train + num_val)]


KEY_BYTES = 16


def _reference_logprobs(ctx: TrainingContext, answers: Sequence[Answered]) -> Floats:
    """Return the base's log-probability of each answer, (answers,), computing those that the run's folder lacks.

    Raises StopRequested if the job is asked to stop meanwhile, JobFailed if a log-probability is not finite.
    """
    file = ctx.run_folder / f"reference-{_base_hash(ctx)[:24]}.safetensors"
    known = _read_logprobs(file)
    answer_by_key = {_answer_key(answer): answer for answer in answers}
    missing = [key for key in answer_by_key if key not in known]
    if missing:
        network = load_reference(ctx)
        values = _compute_logprobs(ctx, network, [answer_by_key[key] for key in missing])
        if not np.isfinite(values).all():
            raise JobFailed(
                "The base's log-probabilities of some answers are not finite.",
                remedy="Choose another base.",
                field="base",
            )
        known |= dict(zip(missing, values.tolist(), strict=True))
        _write_logprobs(file, known, writer=ctx.process_group.machine)
    return np.array([known[_answer_key(answer)] for answer in answers], dtype=np.float32)


def _read_logprobs(file: Path) -> dict[bytes, float]:
    if not file.is_file():
        return {}
    arrays = load_file(file)
    return dict(zip([key.tobytes() for key in arrays["keys"]], arrays["logprobs"].tolist(), strict=True))


def _write_logprobs(file: Path, known: dict[bytes, float], *, writer: int) -> None:
    """Replace the file. Other machines of the run may do so at the same moment, where they share the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    keys = sorted(known)
    partial = file.with_name(f".{file.name}.{writer}.partial")
    packed = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES)
    save_file({"keys": packed.copy(), "logprobs": np.array([known[key] for key in keys], dtype=np.float32)}, partial)
    os.replace(partial, file)


@torch.inference_mode()
def _compute_logprobs(ctx: TrainingContext, network: Any, answers: Sequence[Answered]) -> Floats:
    """Run all answers, longest first so that memory runs out at once, two rows for each pair of a micro-batch."""
    values = np.zeros(len(answers), dtype=np.float32)
    order = sorted(range(len(answers)), key=lambda index: -len(answers[index].ids))
    rows, pad_id, last_progress = 2 * ctx.config.micro_batch, padding_id(ctx.tokenizer), 0.0
    head = OutputHead(network)
    for at in range(0, len(order), rows):
        part = order[at : at + rows]
        batch = pad([answers[index] for index in part], pad_id=pad_id).to(ctx.device)
        with torch.autocast(ctx.device.type, dtype=ctx.autocast) if ctx.autocast else nullcontext():
            values[part] = head.answer_logprobs(network, batch).float().cpu().numpy()
        if ctx.reporter.should_stop():
            raise StopRequested
        if time.perf_counter() - last_progress > PROGRESS_EVERY_S:
            last_progress = time.perf_counter()
            ctx.reporter.progress(at, len(order), unit="answer", message="Computing the reference's log-probabilities")
    return values


def _answer_key(answer: Answered) -> bytes:
    return hashlib.blake2b(
        np.asarray([answer.start, *answer.ids], dtype=np.int64).tobytes(), digest_size=KEY_BYTES
    ).digest()


def _base_hash(ctx: TrainingContext) -> str:
    """Hash the base's files, but neither device nor batch size: a run that moves keeps its numbers."""
    assert ctx.base is not None
    card = read_card(ctx.base)
    files = card.get("files") or {
        path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(ctx.base.iterdir())
    }
    return hashlib.sha256(json.dumps([files, card.get("base")], sort_keys=True, default=str).encode()).hexdigest()


def _prepare_pairs(ctx: TrainingContext, pairs: Splits[list[ReferencedPair]], collate: Any) -> StepBatches:
    collate = partial(collate, pad_id=padding_id(ctx.tokenizer))
    return ShuffledBatches(
        pairs.train, pairs.val, items="pairs", collate=collate, length=pair_length, sizes=batch_sizes(ctx)
    )


def prepare_pairs(ctx: TrainingContext, pairs: Splits[list[ReferencedPair]], model: Any) -> StepBatches:
    """Build batches of pairs."""
    return _prepare_pairs(ctx, pairs, collate_pairs)


def prepare_pairs_with_prompts(ctx: TrainingContext, pairs: Splits[list[ReferencedPair]], model: Any) -> StepBatches:
    """Build batches of pairs whose chosen side trains on its prompt as well."""
    return _prepare_pairs(ctx, pairs, partial(collate_pairs, prompts=True))


def prepare_scored_pairs(ctx: TrainingContext, pairs: Splits[list[ReferencedPair]], model: Any) -> StepBatches:
    """Build batches of pairs for a network that scores whole rows."""
    return _prepare_pairs(ctx, pairs, collate_scored)


def prepare_answers(ctx: TrainingContext, answers: Splits[list[ReferencedRated]], model: Any) -> StepBatches:
    """Build batches of rated answers, not sorted by length: long answers alone would bias a micro-batch's estimate of
    the divergence.
    """
    collate = partial(collate_rated, pad_id=padding_id(ctx.tokenizer))
    return ShuffledBatches(answers.train, answers.val, items="answers", collate=collate, sizes=batch_sizes(ctx))


def _build(objective: Callable[[RunConfig, OutputHead], Any]) -> Callable[[TrainingContext, Any, Any], Any]:
    return lambda ctx, _batches, model: objective(ctx.config, OutputHead(model))


DPO = ObjectiveStages(load_referenced_pairs, prepare_pairs, _build(DpoObjective))
ORPO = ObjectiveStages(load_plain_pairs, prepare_pairs_with_prompts, _build(OrpoObjective))
SIMPO = ObjectiveStages(load_plain_pairs, prepare_pairs, _build(SimpoObjective))
KTO = ObjectiveStages(load_referenced_answers, prepare_answers, _build(KtoObjective))
REWARD = ObjectiveStages(load_plain_pairs, prepare_scored_pairs, lambda _ctx, _batches, _model: RewardObjective())
