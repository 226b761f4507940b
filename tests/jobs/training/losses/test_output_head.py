"""Chunked cross-entropy against the plain loss: values, gradients, memory, every family."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch
import torch.nn.functional as F

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILY_NAMES
from backend.domain.estimates.memory import chunk_rows
from jobs.batches.base import IGNORE, BatchSizes, MicroBatch
from jobs.batches.pretrain import PretrainBatches
from jobs.modeling.build import build_network
from jobs.training.losses.output_head import OutputHead, Penalties, linear_loss, logits_loss
from jobs.training.objectives.language import LanguageObjective
from jobs.training.probe import allocated_peak

TOKENS, WIDTH, VOCABULARY = 50, 16, 97


def parts(seed: int = 0) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return hidden states, a head's weight and bias, and targets of which some are not trained on."""
    torch.manual_seed(seed)
    shapes = ((TOKENS, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    targets = torch.randint(0, VOCABULARY, (TOKENS,))
    targets[::7] = IGNORE
    return [torch.randn(shape, requires_grad=True) for shape in shapes], targets


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    return float((one - other).detach().abs().max() / other.detach().abs().max())


@pytest.mark.parametrize(
    "at_once_bytes", [1, 7 * 4 * VOCABULARY, 1 << 30], ids=["a-token-a-chunk", "seven", "all-at-once"]
)
@pytest.mark.parametrize("penalties", [Penalties(), Penalties(0.1, 1e-3)], ids=["plain", "smoothed-and-z"])
@pytest.mark.parametrize("cap", [None, 3.0], ids=["uncapped", "capped"])
def test_the_loss_and_its_gradients_are_those_of_the_whole_logits(
    cap: float | None, penalties: Penalties, at_once_bytes: int
) -> None:
    (hidden, weight, bias), targets = parts()
    ours = linear_loss(hidden, weight, targets, bias=bias, cap=cap, penalties=penalties, at_once_bytes=at_once_bytes)
    (ours.total / 44).backward()
    gradients = [part.grad for part in (hidden, weight, bias)]
    again, _ = parts()
    logits = F.linear(*again)
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    trained = targets != IGNORE
    smooth, z_loss = penalties
    partition = logits.logsumexp(1)
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum", label_smoothing=smooth)
    expected = expected + z_loss * (partition.square() * trained).sum()
    (expected / 44).backward()
    assert relative(ours.total, expected) < 1e-5
    assert relative(ours.nll, F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")) < 1e-5
    for gradient, part in zip(gradients, again, strict=True):
        assert gradient is not None
        assert part.grad is not None
        assert relative(gradient, part.grad) < 1e-5
    plain = logits_loss(logits, targets, penalties)
    assert relative(plain.total, expected) < 1e-6


def test_sums_over_many_tokens_do_not_overflow_in_fp16() -> None:
    """A small vocabulary makes chunks of many tokens, over which the head's gradient sums."""
    hidden, weight = torch.full((8192, 4), 100.0), torch.zeros(8, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.float16):
        linear_loss(hidden, weight, torch.zeros(8192, dtype=torch.long), at_once_bytes=1 << 30).total.backward()
    expected = torch.full((8, 4), 8192 * 100 / 8)
    expected[0] *= -7
    assert weight.grad is not None
    assert relative(weight.grad, expected) < 1e-2


def test_chunks_are_even_and_as_large_as_allowed() -> None:
    assert chunk_rows(4096, 2048) == 4096
    assert chunk_rows(4096, 32_000) * 4 * 32_000 <= 64 * 2**20
    assert chunk_rows(3, 10**9) == 1
    assert chunk_rows(0, 100) == 1


@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "adapters"])
@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_the_joined_loss_of_every_family_has_the_gradients_of_its_logits(family: str, adapters: bool) -> None:
    shape = ArchitectureConfig.model_validate(
        {"family": family, "num_layers": 2, "width": 32, "num_heads": 4, "context": 64, "vocab_size": 128}
    )
    network: Any = build_network(shape, seed=1)
    if family == "gemma3":
        network.config.final_logit_softcapping = 2.0
    if adapters:
        network = peft.get_peft_model(network, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    network.train()
    head = OutputHead(network)
    assert head.joins_loss
    ids = torch.randint(0, 128, (2, 17), generator=torch.Generator().manual_seed(2))
    targets = ids[:, 1:].clone()
    targets[:, :3] = IGNORE
    batch = MicroBatch(ids[:, :-1].contiguous(), targets, 26, columns=torch.arange(3, 16))
    losses, output = head.losses(
        network, batch, more={"output_router_logits": True} if "mixtral" in family or "moe" in family else None
    )
    assert output.logits.shape[-1] == 32  # hidden states: the logits of all tokens are never computed
    losses.total.backward()
    joined = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    network.zero_grad()
    plain = F.cross_entropy(
        network(**batch.arguments).logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )
    plain.backward()
    assert relative(losses.total, plain) < 1e-5
    for name, weight in network.named_parameters():
        if weight.grad is not None:
            assert (joined[name] - weight.grad).abs().max() <= 1e-5 * weight.grad.abs().max() + 1e-7, name
    assert network(input_ids=batch.inputs).logits.shape[-1] == 128  # generation is unchanged


def test_a_head_that_is_more_than_a_matrix_product_returns_logits() -> None:
    shape = ArchitectureConfig(num_layers=1, width=32, num_heads=4, context=32, vocab_size=64)
    network: Any = build_network(shape, seed=1)
    network.lm_head.register_forward_hook(lambda module, inputs, output: output**3)
    head = OutputHead(network)
    ids = torch.arange(18).view(2, 9)
    batch = MicroBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), 16)
    losses, output = head.losses(network, batch)
    assert not head.joins_loss
    assert output.logits.shape == (2, 8, 64)
    assert (
        relative(losses.nll, F.cross_entropy(output.logits.flatten(0, 1), batch.targets.flatten(), reduction="none"))
        < 1e-6
    )


def test_penalties_are_trained_and_left_out_of_validation() -> None:
    shape = ArchitectureConfig(num_layers=1, width=32, num_heads=4, context=32, vocab_size=64)
    network = build_network(shape, seed=1).train()
    ids = torch.arange(34).view(2, 17)
    batch = MicroBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), 32)
    plain, penalised = (
        LanguageObjective(OutputHead(network), penalties=penalties) for penalties in (Penalties(), Penalties(0.1, 0.01))
    )
    output, penalised_output = plain.compute_loss(network, batch), penalised.compute_loss(network, batch)
    assert output.penalty is None
    assert penalised_output.penalty is not None
    assert float(penalised_output.penalty) > 0.0
    assert relative(penalised_output.total - penalised_output.penalty, output.total) < 1e-5
    measured = [
        objective.validate(
            network.eval(), [batch], device=torch.device("cpu"), precision=lambda: torch.autocast("cpu", enabled=False)
        )
        for objective in (plain, penalised)
    ]
    assert measured[0] == measured[1]


def test_the_chunked_loss_halves_memory_with_a_large_vocabulary(tmp_path: Any) -> None:
    shape = ArchitectureConfig(
        num_layers=1, width=32, num_heads=4, context=128, vocab_size=32_000, tie_embeddings=False
    )
    network: Any = build_network(shape, seed=1).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    ids = torch.randint(0, 32_000, (8, 129), generator=torch.Generator().manual_seed(1))
    batch = MicroBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), 1024)
    head = OutputHead(network)

    def joined() -> None:
        head.losses(network, batch)[0].total.backward()
        network.zero_grad()

    def plain() -> None:
        logits_loss(network(**batch.arguments).logits.flatten(0, 1), batch.targets.flatten()).total.backward()
        network.zero_grad()

    joined()  # both after a first step, which allocates what persists
    ours, theirs = (
        allocated_peak(step, model=network, optimizer=optimizer, folder=tmp_path) for step in (joined, plain)
    )
    assert ours < 0.5 * theirs


def test_a_prefetched_batch_equals_the_one_read_at_its_step() -> None:
    import numpy as np

    tokens = np.arange(1000, dtype=np.uint16)
    sizes = BatchSizes(micro_batch=2, items_per_step=4, val_items=2, seed=3)
    ahead, plain = (PretrainBatches(tokens, None, context=16, sizes=sizes) for _ in range(2))
    ahead.prefetch(5)
    ahead.reduce_micro_batch(1)
    plain.reduce_micro_batch(1)
    ahead.prefetch(6)
    for step in (5, 6, 7):
        assert [batch.inputs.tolist() for batch in ahead.at_step(step)] == [
            batch.inputs.tolist() for batch in plain.at_step(step)
        ]
