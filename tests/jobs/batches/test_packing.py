"""Packed rows have the losses of the rows alone, come once per epoch, and depend on the step alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES, FAMILY_NAMES
from jobs.batches.base import IGNORE, BatchSizes, MicroBatch
from jobs.batches.sft import Example, PackedBatches, SftBatches, concatenate
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import save_checkpoint
from jobs.training import run as training
from jobs.training.network.packed_attention import attend_by_row
from tests.support.jobs import with_payload
from tests.support.training_rooms import TINY, Recorder, Rooms

SIZES = BatchSizes(micro_batch=3, items_per_step=6, val_items=6, seed=4)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_examples(lengths: list[int]) -> list[Example]:
    """Return rows whose first token is their number; the second half of each is trained on."""
    draw, examples = np.random.default_rng(9), []
    for number, length in enumerate(lengths):
        ids = draw.integers(0, TINY.vocab_size, length)
        ids[0] = number
        targets = np.where(np.arange(length) >= length // 2, ids, IGNORE)
        targets[-1] = ids[-1]
        examples.append(Example(ids, targets))
    return examples


def network_of(family: str, **values: Any) -> transformers.PreTrainedModel:
    heads = {} if "num_kv_heads" in FAMILIES[family].fixed else {"num_kv_heads": 2}
    window = {"window": 8} if "window" in FAMILIES[family].fields else {}
    config = ArchitectureConfig(
        family=family, num_layers=3, width=32, context=64, vocab_size=TINY.vocab_size, **heads, **window, **values
    )
    return build_network(config, seed=1)


def losses(network: torch.nn.Module, batch: MicroBatch) -> torch.Tensor:
    """Return the loss of every position in nats; 0 where it is not trained on."""
    logits = network(**batch.arguments).logits
    return F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORE, reduction="none")


@pytest.mark.parametrize("family", [name for name in FAMILY_NAMES if FAMILIES[name].packs])
def test_packed_rows_have_the_losses_and_gradients_of_the_rows_alone(family: str) -> None:
    network, examples = network_of(family), make_examples([2, 30, 9, 17])
    # before the switch: transformers' own attention
    alone = [losses(network, concatenate([example])) for example in examples]
    torch.autograd.backward(torch.cat(alone).sum())
    gradients = [parameter.grad.clone() for parameter in network.parameters() if parameter.grad is not None]
    network.zero_grad()
    assert attend_by_row(network)
    network.activation_checkpointing_enable({"use_reentrant": False})
    together = losses(network.train(), concatenate(examples))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    torch.autograd.backward(together.sum())
    for now, then in zip([p.grad for p in network.parameters() if p.grad is not None], gradients, strict=True):
        torch.testing.assert_close(now, then, atol=1e-4, rtol=1e-4)


def test_networks_that_mix_packed_rows_are_detected_and_left_unchanged() -> None:
    common: dict[str, Any] = {"hidden_size": 32, "vocab_size": 320, "num_hidden_layers": 2, "num_attention_heads": 4}
    alibi = transformers.FalconForCausalLM(transformers.FalconConfig(**common, alibi=True))
    kinds = {"layer_types": ["conv", "full_attention"], "num_key_value_heads": 2, "intermediate_size": 64}
    convolved = transformers.Lfm2ForCausalLM(transformers.Lfm2Config(**common, **kinds))
    ids = torch.arange(20)[None]
    for network in (network_of("bloom"), alibi, convolved):
        before = network.eval()(input_ids=ids).logits
        assert not attend_by_row(network)
        assert torch.equal(network(input_ids=ids).logits, before)


def test_every_row_is_packed_once_per_epoch_and_a_step_depends_on_its_number_alone() -> None:
    lengths = np.random.default_rng(2).integers(2, 40, 61).tolist()
    examples = make_examples(lengths)
    batches = PackedBatches(examples, [], context=48, sizes=SIZES)
    per_epoch = batches.num_sequences
    assert per_epoch == -(-sum(length - 1 for length in lengths) // 48)  # the fewest possible
    whole = PackedBatches(
        examples, [], context=48, sizes=BatchSizes(micro_batch=1, items_per_step=per_epoch, val_items=1, seed=4)
    )
    orders = []
    for epoch in (1, 2, 3):
        micro = whole.at_step(epoch)
        assert all(batch.inputs.shape[1] <= 48 for batch in micro)
        starts = [
            int(number)
            for batch in micro
            if batch.positions is not None
            for number in batch.inputs[batch.positions == 0]
        ]
        assert sorted(starts) == list(range(61))
        assert sum(batch.trained for batch in micro) == sum(
            int((example.targets[1:] != IGNORE).sum()) for example in examples
        )
        orders.append(starts)
    assert orders[0] != orders[1] != orders[2]
    later = PackedBatches(examples, [], context=48, sizes=SIZES).at_step(9)
    for step in (1, 4, 9):
        batches.at_step(step)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(batches.at_step(9), later, strict=True))


@torch.inference_mode()
def test_val_loss_is_the_same_with_and_without_packing() -> None:
    examples, network = make_examples([5, 40, 12, 30, 8, 3, 44, 9]), network_of("qwen3")
    assert attend_by_row(network)
    packed = PackedBatches(examples, examples, context=48, sizes=SIZES)
    padded = SftBatches(examples, examples, pad_id=0, sizes=SIZES)
    sums = [
        (
            sum(float(losses(network, batch).sum()) for batch in batches.validation()),
            sum(batch.trained for batch in batches.validation()),
        )
        for batches in (packed, padded)
    ]
    assert sums[0] == pytest.approx(sums[1], abs=1e-3)
    assert len(packed.validation()) < len(padded.validation()) + 1


def test_a_run_logs_its_packing_or_why_it_pads(rooms: Rooms) -> None:
    recorder = Recorder()
    result = training.run(rooms.training("sft", run="packed", job="packed", max_steps=5), recorder)
    assert result.measurement is not None
    assert f"packed into {result.measurement.epoch_sequences} sequences" in "\n".join(recorder.lines)
    assert any("40 rows packed into" in line and "sequences of at most 48 tokens" in line for line in recorder.lines)
    bloom = build_network(
        ArchitectureConfig(family="bloom", num_layers=2, width=32, context=64, vocab_size=TINY.vocab_size),
        seed=1,
        eos_token_id=1,
    )
    save_checkpoint(rooms.root / "bloom", model=bloom, tokenizer=rooms.tokenizer, meta={})
    spec = rooms.training("sft", run="not packed", job="not packed", max_steps=2)
    spec = with_payload(spec, base="bloom")
    recorder = Recorder()
    training.run(spec, recorder)
    assert "Rows are padded, not packed: BloomForCausalLM can't keep packed rows apart." in recorder.lines


def test_a_killed_packed_run_with_adapters_repeats_its_losses(rooms: Rooms) -> None:
    values: dict[str, Any] = {
        "method": "lora",
        "max_steps": 8,
        "checkpoint_every": 3,
        "micro_batch": 1,
    }  # several epochs
    whole, torn, again = Recorder(), Recorder(stop_after=5), Recorder()
    training.run(rooms.training("sft", run="whole", job="whole", **values), whole)
    training.run(rooms.training("sft", run="torn", job="torn", **values), torn)
    training.run(rooms.training("sft", run="torn", job="torn", attempt=2, **values), again)
    assert again.series("train_loss") == whole.series("train_loss")[3:]
