"""Our losses equal TRL's: the same network, the same batch, TRL's own code on the other side."""

from __future__ import annotations

import os
from collections import defaultdict
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"  # before the import below, which warns that its place may change
from trl.experimental.cpo.cpo_trainer import CPOTrainer
from trl.experimental.orpo.orpo_trainer import ORPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference, KTOTrainer
from trl.trainer.reward_trainer import RewardTrainer
from trl.trainer.utils import add_fused_lm_head

from backend.domain.training.config import RunConfig
from jobs.batches.preference import (
    Answered,
    Rated,
    ReferencedPair,
    ReferencedRated,
    Sequences,
    collate_pairs,
    collate_rated,
    collate_scored,
    flatten_pairs,
    in_pairs,
    pad,
)
from jobs.modeling.build import build_network
from jobs.training.losses.output_head import OutputHead, linear_logprobs
from jobs.training.losses.preference import grpo_advantages, grpo_losses
from jobs.training.objectives.base import LossOutput
from jobs.training.objectives.preference import (
    DpoObjective,
    KtoObjective,
    OrpoObjective,
    RewardObjective,
    SimpoObjective,
)
from tests.support.training_rooms import TINY

PAD = 2
PROMPTS = ([5, 6, 7, 8, 9], [10, 11], [12, 13, 14])
CHOSEN = ([20, 21, 22], [23, 24, 25, 26, 27, 28, 29], [30])
REJECTED = ([40, 41], [42, 43, 44], [45, 46, 47, 48, 49])
PAIRS = [(Answered(p + c, len(p)), Answered(p + r, len(p))) for p, c, r in zip(PROMPTS, CHOSEN, REJECTED, strict=True)]


def network(seed: int) -> Any:
    """A network with random weights, large enough that its answers' probabilities differ."""
    made = build_network(TINY, seed=seed, bos_token_id=0, eos_token_id=1, pad_token_id=PAD)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3.0)
    add_fused_lm_head(made, outputs=("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1"))
    return made


@pytest.fixture(scope="module")
def policy() -> Any:
    return network(1)


@pytest.fixture(scope="module")
def base() -> Any:
    return network(2).eval()


class Alone(SimpleNamespace):
    """The part of Accelerate that TRL's trainers use, for one process."""

    device = torch.device("cpu")
    gather = gather_for_metrics = staticmethod(lambda value: value)
    reduce = staticmethod(lambda value, reduction: value)
    unwrap_model = staticmethod(lambda value: value)


def trainer(model: Any, **values: Any) -> SimpleNamespace:
    """The attributes of a TRL trainer that its loss reads."""
    return SimpleNamespace(
        model=model,
        accelerator=Alone(),
        aux_loss_enabled=False,
        _metrics={"train": defaultdict(list), "eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
        is_encoder_decoder=False,
        **values,
    )


def config(objective: str, *, micro_batch: int = 3, **preference: Any) -> RunConfig:
    return RunConfig(objective=objective, dataset="d", base="b", micro_batch=micro_batch, preference=preference)  # type: ignore[arg-type]


def reference_of(base: Any, answers: list[Answered]) -> list[tuple[float, float]]:
    with torch.inference_mode():
        return in_pairs(OutputHead(base).answer_logprobs(base, pad(answers, pad_id=PAD)).numpy())


def test_tokens_of_pairs_are_those_of_prompts_and_answers_without_padding() -> None:
    """Of pairs of 30 tokens a run said 1,024, as many as two full contexts have."""
    pairs = [ReferencedPair(pair) for pair in PAIRS]
    batch = collate_pairs(pairs, pairs, pad_id=PAD)
    assert batch.trained == sum(len(side.ids) for side in flatten_pairs(PAIRS)) < batch.inputs.numel()
    assert collate_pairs(pairs, pairs, pad_id=PAD, prompts=True).trained == batch.trained
    assert collate_scored(pairs, pairs, pad_id=PAD).trained == batch.trained


def per_unit(output: LossOutput, units: int) -> float:
    return float(output.total.detach()) / units


@pytest.mark.parametrize(
    ("preference", "names", "weights"),
    [
        ({"beta": 0.1}, ["sigmoid"], [1.0]),
        ({"beta": 0.3, "loss": "hinge"}, ["hinge"], [1.0]),
        ({"beta": 0.2, "loss": "ipo"}, ["ipo"], [1.0]),
        ({"beta": 0.1, "sft_weight": 0.5}, ["sigmoid", "sft"], [1.0, 0.5]),
    ],
    ids=["sigmoid", "hinge", "ipo", "sigmoid with sft"],
)
def test_dpo_equals_trl(
    policy: Any, base: Any, preference: dict[str, Any], names: list[str], weights: list[float]
) -> None:
    pairs = [ReferencedPair(*each) for each in zip(PAIRS, reference_of(base, flatten_pairs(PAIRS)), strict=True)]
    ours = DpoObjective(config("dpo", **preference), OutputHead(policy)).compute_loss(
        policy, collate_pairs(pairs, pairs, pad_id=PAD)
    )
    rows = [
        {"prompt_ids": p, "chosen_ids": c, "rejected_ids": r} for p, c, r in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
    ]
    theirs = trainer(
        policy,
        ref_model=base,
        beta=preference["beta"],
        loss_types=names,
        loss_weights=weights,
        ld_alpha=None,
        use_weighting=False,
        precompute_ref_logps=False,
        f_divergence_type="reverse_kl",
        label_smoothing=0.0,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )
    loss = DPOTrainer._compute_loss(theirs, policy, DataCollatorForPreference(pad_token_id=PAD)(rows), False)
    assert per_unit(ours, 3) == pytest.approx(float(loss.detach()), abs=1e-6, rel=1e-6)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"):
        assert float(ours.metric_sums[name]) / 3 == pytest.approx(theirs._metrics["train"][name][0], abs=1e-5)


def test_label_smoothing_equals_flipping_that_share_of_the_pairs(policy: Any, base: Any) -> None:
    turned = [(rejected, chosen) for chosen, rejected in PAIRS]
    losses = []
    for pairs, smoothing in ((PAIRS, 0.0), (turned, 0.0), (PAIRS, 0.2)):
        referenced = [
            ReferencedPair(*each) for each in zip(pairs, reference_of(base, flatten_pairs(pairs)), strict=True)
        ]
        output = DpoObjective(config("dpo", label_smoothing=smoothing), OutputHead(policy)).compute_loss(
            policy, collate_pairs(referenced, referenced, pad_id=PAD)
        )
        losses.append(float(output.total.detach()))
    assert losses[2] == pytest.approx(0.8 * losses[0] + 0.2 * losses[1], rel=1e-6)


def paired_inputs() -> dict[str, torch.Tensor]:
    """Return the pairs as the collator of TRL's older trainers pads them."""
    arguments: dict[str, torch.Tensor] = {}
    for name, answers in (("chosen", CHOSEN), ("rejected", REJECTED)):
        rows = [p + a for p, a in zip(PROMPTS, answers, strict=True)]
        labels = [[-100] * len(p) + a for p, a in zip(PROMPTS, answers, strict=True)]
        longest = max(map(len, rows))
        arguments[f"{name}_input_ids"] = torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])
        arguments[f"{name}_attention_mask"] = torch.tensor(
            [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
        )
        arguments[f"{name}_labels"] = torch.tensor([row + [-100] * (longest - len(row)) for row in labels])
    return arguments


def legacy(kind: Any, model: Any, **values: Any) -> Any:
    """Return an ORPO or CPO trainer without its set-up, for its loss alone."""
    made = kind.__new__(kind)
    for name, value in vars(
        trainer(model, padding_value=PAD, pad_token_id=PAD, label_pad_token_id=-100, **values)
    ).items():
        setattr(made, name, value)
    return made


def test_orpo_equals_trl(policy: Any) -> None:
    pairs = [ReferencedPair(sides) for sides in PAIRS]
    ours = OrpoObjective(config("orpo", beta=0.25), OutputHead(policy)).compute_loss(
        policy, collate_pairs(pairs, pairs, pad_id=PAD, prompts=True)
    )
    loss, metrics = legacy(ORPOTrainer, policy, beta=0.25).get_batch_loss_metrics(policy, paired_inputs())
    assert per_unit(ours, 3) == pytest.approx(float(loss.detach()), abs=1e-6, rel=1e-6)
    assert float(ours.metric_sums["rewards/margins"]) / 3 == pytest.approx(metrics["rewards/margins"], abs=1e-6)


@pytest.mark.parametrize("sft_weight", [0.0, 0.7], ids=["simpo", "cpo-simpo"])
def test_simpo_equals_trl(policy: Any, sft_weight: float) -> None:
    pairs = [ReferencedPair(sides) for sides in PAIRS]
    objective = SimpoObjective(config("simpo", beta=2.0, gamma=0.6, sft_weight=sft_weight), OutputHead(policy))
    ours = objective.compute_loss(policy, collate_pairs(pairs, pairs, pad_id=PAD))
    theirs = legacy(
        CPOTrainer,
        policy,
        beta=2.0,
        simpo_gamma=0.6,
        cpo_alpha=sft_weight,
        alpha=0.0,
        loss_type="simpo",
        label_smoothing=0.0,
    )
    loss, metrics = theirs.get_batch_loss_metrics(policy, paired_inputs())
    assert per_unit(ours, 3) == pytest.approx(float(loss.detach()), abs=1e-6, rel=1e-6)
    assert float(ours.metric_sums["rewards/accuracies"]) / 3 == pytest.approx(metrics["rewards/accuracies"])


def test_kto_equals_trl(policy: Any, base: Any) -> None:
    labels, others = (True, False, True), (1, 2, 0)
    rated = [
        Rated(Answered(p + CHOSEN[row], len(p)), labels[row], Answered(p + CHOSEN[others[row]], len(p)))
        for row, p in enumerate(PROMPTS)
    ]
    references = reference_of(base, [answer for each in rated for answer in (each.answered, each.mismatched)])
    items = [ReferencedRated(*each) for each in zip(rated, references, strict=True)]
    objective = KtoObjective(config("kto", beta=0.2, desirable_weight=1.5, undesirable_weight=0.5), OutputHead(policy))
    ours = objective.compute_loss(policy, collate_rated(items, items, pad_id=PAD))
    rows = [
        {"prompt_ids": p, "completion_ids": CHOSEN[row], "KL_completion_ids": CHOSEN[others[row]], "label": labels[row]}
        for row, p in enumerate(PROMPTS)
    ]
    theirs = trainer(
        policy,
        ref_model=base,
        beta=0.2,
        loss_type="kto",
        calculate_KL=True,
        desirable_weight=1.5,
        undesirable_weight=0.5,
        precompute_ref_logps=False,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
    )
    theirs._compute_kl_logps = lambda model, batch: KTOTrainer._compute_kl_logps(theirs, model, batch)
    loss = KTOTrainer._compute_loss(theirs, policy, DataCollatorForUnpairedPreference(pad_token_id=PAD)(rows), False)
    assert per_unit(ours, 3) == pytest.approx(float(loss.detach()), abs=1e-6, rel=1e-6)
    for name in ("kl", "rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert float(ours.metric_sums[name]) / 3 == pytest.approx(theirs._metrics["train"][name][0], abs=1e-5)


def test_reward_equals_trl() -> None:
    from transformers import AutoModelForSequenceClassification

    shape = build_network(TINY, seed=1, bos_token_id=0, eos_token_id=1, pad_token_id=PAD).config
    shape.num_labels = 1
    scorer = AutoModelForSequenceClassification.from_config(shape)
    pairs = [ReferencedPair(sides) for sides in PAIRS]
    batch = collate_scored(pairs, pairs, pad_id=PAD)
    ours = RewardObjective().compute_loss(scorer, batch)
    inputs = {"input_ids": batch.inputs, "attention_mask": (batch.inputs != PAD).long()}
    theirs = trainer(scorer, args=SimpleNamespace(center_rewards_coefficient=None))
    assert per_unit(ours, 3) == pytest.approx(
        float(RewardTrainer.compute_loss(theirs, scorer, inputs).detach()), abs=1e-6
    )
    assert float(ours.metric_sums["accuracy"]) / 3 == pytest.approx(theirs._metrics["train"]["accuracy"][0])
    assert float(ours.metric_sums["margin"]) / 3 == pytest.approx(theirs._metrics["train"]["margin"][0], abs=1e-6)


@pytest.mark.parametrize("kl_weight", [0.0, 0.3])
def test_grpo_equals_trl(kl_weight: float) -> None:
    draw = torch.Generator().manual_seed(4)
    logprobs, old, reference = (-torch.rand(4, 5, generator=draw) for _ in range(3))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]])
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.5])
    advantages, spread = grpo_advantages(rewards, group_size=2)
    assert advantages.tolist() == pytest.approx([0.7070, -0.7070, 0.0, 0.0], abs=1e-3)
    assert spread.tolist() == pytest.approx([0.70711, 0.70711, 0.0, 0.0], abs=1e-4)
    losses, divergence = grpo_losses(
        logprobs,
        old=old,
        reference=reference if kl_weight else None,
        advantages=advantages,
        mask=mask,
        clip_range=0.2,
        kl_weight=kl_weight,
    )
    theirs = trainer(
        SimpleNamespace(training=True),
        beta=kl_weight,
        loss_type="grpo",
        importance_sampling_level="token",
        epsilon_low=0.2,
        epsilon_high=0.2,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
    )
    prompt = torch.zeros(4, 1, dtype=torch.long)
    inputs = {
        "prompt_ids": prompt,
        "prompt_mask": prompt,
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
    }
    assert float(losses.mean()) == pytest.approx(
        float(GRPOTrainer._compute_loss(theirs, theirs.model, inputs)), abs=1e-6
    )
    if kl_weight:
        tokens = mask.sum(dim=1)
        assert float((divergence * tokens).sum() / tokens.sum()) == pytest.approx(
            theirs._metrics["train"]["kl"][0], abs=1e-6
        )


def test_the_loss_of_pairs_does_not_depend_on_the_micro_batch(policy: Any) -> None:
    """The chosen answer's likelihood is a mean over the step's tokens, whatever their micro-batch."""
    pairs = [ReferencedPair(sides) for sides in PAIRS]
    objective = OrpoObjective(config("orpo"), OutputHead(policy))
    whole = objective.compute_loss(policy, collate_pairs(pairs, pairs, pad_id=PAD, prompts=True))
    parts = [objective.compute_loss(policy, collate_pairs([pair], pairs, pad_id=PAD, prompts=True)) for pair in pairs]
    assert sum(float(part.total.detach()) for part in parts) == pytest.approx(float(whole.total.detach()), rel=1e-6)


def test_targets_are_the_answers_tokens_alone() -> None:
    batch = pad([side for pair in PAIRS for side in pair], pad_id=PAD)
    assert isinstance(batch, Sequences)
    read = [[int(token) for token in row if token != -100] for row in batch.targets]
    assert read == [answer for pair in zip(CHOSEN, REJECTED, strict=True) for answer in pair]


@pytest.mark.parametrize("cap", [None, 5.0], ids=["plain", "capped"])
def test_log_probabilities_computed_in_chunks_have_the_same_values_and_gradients(cap: float | None) -> None:
    draw = torch.Generator().manual_seed(1)
    hidden, weight, bias = (torch.randn(*shape, generator=draw) for shape in ((23, 8), (50, 8), (50,)))
    targets = torch.randint(0, 50, (23,), generator=draw)
    targets[::4] = -100
    slope = torch.randn(23, generator=draw)
    results = []
    for at_once in (2**20, 4 * 50 * 5):
        parts = [part.clone().requires_grad_() for part in (hidden, weight, bias)]
        logprobs = linear_logprobs(
            parts[0], parts[1], targets, bias=parts[2], cap=cap, temperature=0.7, at_once_bytes=at_once
        )
        (logprobs * slope).sum().backward()  # type: ignore[no-untyped-call]
        results.append([logprobs.detach(), *(part.grad for part in parts)])
    for whole, chunked in zip(*results, strict=True):
        assert torch.allclose(whole, chunked, atol=1e-5)  # type: ignore[arg-type]
    logits = hidden @ weight.T + bias
    plain = (logits if cap is None else cap * torch.tanh(logits / cap)) / 0.7
    expected = plain.log_softmax(dim=1).gather(1, targets.clamp(min=0)[:, None])[:, 0]
    assert torch.allclose(results[1][0], torch.where(targets == -100, 0.0, expected), atol=1e-5)  # type: ignore[arg-type]


def test_the_logits_of_long_pairs_are_never_in_memory_together(policy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory saved for the backward pass grows with the hidden states, not with the vocabulary."""
    pairs = [ReferencedPair(sides) for sides in PAIRS]
    objective, batch = SimpoObjective(config("simpo"), OutputHead(policy)), collate_pairs(pairs, pairs, pad_id=PAD)
    saved: dict[str, list[int]] = {"whole": [], "chunked": []}
    losses = []
    for name, at_once in (("whole", 2**20), ("chunked", 4 * TINY.vocab_size * 3)):
        monkeypatch.setattr(
            "jobs.training.losses.output_head.linear_logprobs", partial(linear_logprobs, at_once_bytes=at_once)
        )

        def note(tensor: torch.Tensor, sizes: list[int] = saved[name]) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            losses.append(float(objective.compute_loss(policy, batch).total.detach()))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    tokens = int((batch.targets != -100).sum())
    assert tokens * TINY.vocab_size in saved["whole"]
    assert tokens * TINY.vocab_size not in saved["chunked"]
