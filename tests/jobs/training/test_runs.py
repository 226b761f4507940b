"""Reports and checkpoints of training jobs on tiny networks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from backend.domain.estimates.architecture_report import describe_architecture
from backend.domain.training.holds import hold_of, mark_of_use
from backend.domain.training.schedule import learning_rate_at
from backend.errors import InvalidInput, JobFailed
from jobs.modeling.checkpoints import load_network, read_card
from jobs.modeling.loglikelihood import rolling_nll
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.training import loop
from jobs.training.checkpoints import CheckpointStore
from jobs.training.context import read_training_context
from jobs.training.loop import TrainingLoop
from jobs.training.run import run
from tests.support.jobs import with_payload
from tests.support.training_rooms import TINY, Recorder, Rooms, write_dataset


def test_pretraining_learns_and_reports_every_step(rooms: Rooms) -> None:
    recorder = Recorder()
    spec = rooms.training("pretrain", max_steps=40, eval_every=20, checkpoint_every=40, learning_rate=1e-2)
    result = run(spec, recorder)
    losses = [loss for _, loss in recorder.series("train_loss")]
    assert [step for step, _ in recorder.series("train_loss")] == list(range(1, 41))
    assert abs(losses[0] - math.log(TINY.vocab_size)) < 0.3
    assert losses[-1] < 3.0
    config = read_training_context(spec, Recorder()).config
    assert recorder.series("learning_rate") == [(step, learning_rate_at(step, config)) for step in range(1, 41)]
    assert [step for step, _ in recorder.series("val_bpb")] == [20, 40]
    assert {step for step, _, _ in recorder.samples} == {20, 40}
    assert recorder.progressed[-1] == (40, 40)
    event = recorder.of("checkpoint")[-1]
    assert (event["final"], event["adapter"], event["parameters"]) == (
        True,
        False,
        describe_architecture(TINY).parameters,
    )
    assert (result.final_step, result.stopped, result.checkpoint) == (40, None, "run/checkpoints/step-000040")
    assert result.measurement is not None
    assert result.metrics["val_loss"] == recorder.series("val_loss")[-1][1]


def test_validation_and_samples_keep_no_graph(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    without = {"validation": set[bool](), "samples": set[bool]()}
    validate, sample = TrainingLoop._validate, loop.sample_completion

    def note(name: str) -> None:
        without[name].add(torch.is_grad_enabled())

    def validating(self: TrainingLoop, step: int) -> bool:
        hook = self.model.register_forward_pre_hook(lambda *_: note("validation"))
        try:
            return validate(self, step)
        finally:
            hook.remove()

    def sampling(*values: Any, **named: Any) -> str:
        note("samples")
        return sample(*values, **named)

    monkeypatch.setattr(TrainingLoop, "_validate", validating)
    monkeypatch.setattr(loop, "sample_completion", sampling)
    run(rooms.training("pretrain", run="graphs", job="graphs", max_steps=2, eval_every=2), Recorder())
    assert without == {"validation": {False}, "samples": {False}}


def test_a_checkpoint_loads_in_transformers_and_its_val_bpb_equals_scoring(rooms: Rooms) -> None:
    recorder = Recorder()
    run(rooms.training("pretrain", run="plain", job="plain", eval_batches=50, micro_batch=2), recorder)
    folder = rooms.root / "plain/checkpoints/step-000006"
    network = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [row["text"] for row in _rows(rooms.root / "texts/val.parquet")]
    flat = [token for text in texts for token in [0, *tokenizer(text, add_special_tokens=False)["input_ids"], 1]]
    windows = [flat[at : at + 49] for at in range(0, len(flat) - 48, 48)]
    total, count = 0.0, 0
    with torch.inference_mode():
        for window in windows:
            logits = network(torch.tensor([window[:-1]])).logits[0]
            total += float(torch.nn.functional.cross_entropy(logits, torch.tensor(window[1:]), reduction="sum"))
            count += 48
    assert recorder.series("val_loss")[-1][1] == pytest.approx(total / count, rel=1e-5)
    nll = rolling_nll(network, tokenizer, texts)
    whole = sum(item.sum_nll for item in nll) / sum(item.bytes for item in nll) / math.log(2)
    # other windows and document borders, the same text
    assert recorder.series("val_bpb")[-1][1] == pytest.approx(whole, rel=0.05)
    card = read_card(folder)
    assert (card["step"], card["dataset"], card["config"]["seed"]) == (6, "texts", 5)


def test_accumulated_micro_batches_equal_one_large_batch(rooms: Rooms) -> None:
    """The loss is weighted by token, so the grouping of rows of different lengths does not matter."""
    whole, parts = Recorder(), Recorder()
    run(rooms.training("sft", run="w", job="w", micro_batch=8, max_steps=2), whole)
    run(rooms.training("sft", run="p", job="p", micro_batch=2, grad_accum_steps=4, max_steps=2), parts)
    for (_, one), (_, other) in zip(whole.series("train_loss"), parts.series("train_loss"), strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def test_fine_tuning_with_adapters_saves_adapters_that_load_on_their_base(rooms: Rooms) -> None:
    recorder = Recorder()
    run(
        rooms.training(
            "sft", run="lora", job="lora", method="lora", learning_rate=2e-2, max_steps=20, checkpoint_every=20
        ),
        recorder,
    )
    losses = [loss for _, loss in recorder.series("train_loss")]
    assert losses[-1] < losses[0] - 0.1
    assert recorder.of("checkpoint")[-1]["adapter"] is True
    folder = rooms.root / "lora/checkpoints/step-000020"
    assert not (folder / "model.safetensors").exists()
    tuned, base = load_network(folder), load_network(rooms.root / "base")
    on_base = peft.PeftModel.from_pretrained(load_network(rooms.root / "base"), str(folder)).eval()
    ids = torch.tensor([load_tokenizer(folder)("Mira found").input_ids])
    with torch.inference_mode():
        assert torch.allclose(tuned(ids).logits, on_base(ids).logits, atol=1e-5)
        assert not torch.allclose(tuned(ids).logits, base(ids).logits, atol=1e-2)
    assert recorder.series("val_loss")


def test_rows_without_a_trained_token_are_counted_and_left_out(rooms: Rooms) -> None:
    silent = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": ""}]}
    endless = {"messages": [{"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "Yes."}]}
    good = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Yes."}]}
    question = {"messages": [{"role": "user", "content": "Hello?"}]}
    write_dataset(rooms.root / "mixed", train=[good, endless, question, silent])
    recorder = Recorder()
    run(rooms.training("sft", run="mixed-run", job="mixed", dataset="mixed", max_steps=2), recorder)
    assert recorder.of("rows_encoded")[0] == {
        "split": "train",
        "rows": 4,
        "zero_label_rows": 2,
        "truncated": 1,
        "refused": 0,
    }
    assert any("2 of 4 train rows have nothing to train on" in line for line in recorder.lines)
    assert any("no validation split" in line for line in recorder.lines)
    write_dataset(rooms.root / "hopeless", train=[endless, question])
    with pytest.raises(InvalidInput, match="None of the 2 train rows"):
        run(rooms.training("sft", run="h", job="h", dataset="hopeless"), Recorder())


def test_settings_that_do_not_fit_are_refused(rooms: Rooms) -> None:
    with pytest.raises(InvalidInput, match="trains on a dataset of kind text, and this one is chat"):
        run(_with(rooms, dataset_kind="chat"), Recorder())
    small = TINY.model_copy(update={"vocab_size": 300})
    with pytest.raises(InvalidInput, match="tokenizer has 320 entries and the architecture's vocab_size is 300"):
        run(_with(rooms, architecture=small), Recorder())
    with pytest.raises(InvalidInput, match="base takes at most 64 tokens, and context is 128"):
        run(rooms.training("sft", run="x", job="x", context=128), Recorder())
    write_dataset(rooms.root / "short", train=[{"text": "Too short."}])
    with pytest.raises(InvalidInput, match="too few for a context of 48"):
        run(rooms.training("pretrain", run="x", job="x", dataset="short"), Recorder())


def test_a_run_larger_than_the_disk_is_refused_with_numbers(rooms: Rooms) -> None:
    store = CheckpointStore(rooms.training("pretrain"), Recorder(), folder=rooms.root / "disk", keep_last=2, lineage={})
    with pytest.raises(JobFailed, match=r"B free, and the run's checkpoints need 4\d{3}\.\d TB \(4 of 1000\.0 TB\)"):
        store.check_disk(checkpoint_bytes=10**15, max_steps=1000, checkpoint_every=100)


def test_a_checkpoint_waits_for_its_suite_before_it_is_removed(rooms: Rooms) -> None:
    """A run with keep_last 1 removed checkpoints that a suite had yet to score."""
    recorder = Recorder()
    spec = rooms.training(
        "pretrain", run="held", job="held", max_steps=8, checkpoint_every=2, eval_every=8, keep_last=1
    )
    spec = with_payload(spec, holds_checkpoints=True)
    folder = rooms.root / "held" / "checkpoints"
    run(spec, recorder)
    assert [event["step"] for event in recorder.of("checkpoint")] == [2, 4, 6, 8]
    assert recorder.of("checkpoint_removed") == []
    for step in (2, 6):
        hold_of(folder / f"step-{step:06d}").unlink()  # as a worker does when the evaluations have ended
    store = CheckpointStore(spec, recorder, folder=folder, keep_last=1, lineage={})
    store._prune(1, best_step=None)
    assert store.steps() == [4, 8]
    assert [event["step"] for event in recorder.of("checkpoint_removed")] == [2, 6]


def test_a_checkpoint_in_use_is_never_removed_even_where_the_disk_is_full(rooms: Rooms) -> None:
    """A run removed the checkpoint that an endpoint served, and its next replica had nothing to load."""
    recorder = Recorder()
    spec = rooms.training(
        "pretrain", run="used", job="used", max_steps=8, checkpoint_every=2, eval_every=8, keep_last=1
    )
    folder = rooms.root / "used" / "checkpoints"
    folder.mkdir(parents=True)
    mark_of_use(folder / "step-000004").touch()  # as the process does that watches the job
    run(spec, recorder)
    assert [event["step"] for event in recorder.of("checkpoint_removed")] == [2, 6]
    store = CheckpointStore(spec, recorder, folder=folder, keep_last=1, lineage={})
    store._prune(1, best_step=None, with_holds=False)
    assert store.steps() == [4, 8]
    mark_of_use(folder / "step-000004").unlink()
    store._prune(1, best_step=None)
    assert store.steps() == [8]


def test_batches_visit_every_window_once_per_epoch_and_depend_on_the_step_alone(rooms: Rooms) -> None:
    from jobs.batches.base import BatchSizes
    from jobs.batches.pretrain import PretrainBatches

    tokens = np.arange(16 * 33 + 1, dtype=np.uint16)
    sizes = BatchSizes(micro_batch=4, items_per_step=8, val_items=1, seed=7)
    batches = PretrainBatches(tokens, None, context=16, sizes=sizes)
    assert batches.num_windows == 32
    first_epoch = [int(row[0]) for step in range(1, 5) for batch in batches.at_step(step) for row in batch.inputs]
    assert sorted(first_epoch) == list(range(0, 512, 16))
    later = PretrainBatches(tokens, None, context=16, sizes=sizes).at_step(9)
    for one, other in zip(batches.at_step(9), later, strict=True):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.inputs[:, 1:], one.targets[:, :-1])
    second_epoch = [int(row[0]) for step in range(5, 9) for batch in batches.at_step(step) for row in batch.inputs]
    assert len({start % 16 for start in second_epoch}) == 1
    assert second_epoch[0] % 16 != 0


def _with(rooms: Rooms, **changes: object):  # type: ignore[no-untyped-def]
    return with_payload(rooms.training("pretrain", run="x", job="x"), **changes)


def _rows(file: Path) -> list[dict[str, str]]:
    import pyarrow.parquet as pq

    return pq.read_table(file).to_pylist()
