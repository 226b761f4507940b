"""Held-out rows with the highest losses, from real validations of tiny networks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from backend.domain.training.held_out import FILE, HeldOutRows
from jobs.batches.base import IGNORE
from jobs.batches.sft import encode_row
from jobs.modeling.dataset_files import split_file
from jobs.training.held_out import HeldOutIds, WorstRows
from jobs.training.run import run
from tests.support.training_rooms import Recorder, Rooms, chat_rows, write_dataset


def trained(rooms: Rooms, objective: str, name: str, **values: Any) -> tuple[HeldOutRows, Recorder]:
    """The held-out rows that a run left, and what it reported."""
    recorder = Recorder()
    run(rooms.training(objective, run=name, job=name, **values), recorder)
    return HeldOutRows.model_validate_json((rooms.root / name / FILE).read_text()), recorder


@pytest.mark.parametrize(
    ("objective", "measure"),
    [
        ("pretrain", "tokens"),
        ("dpo", "pair"),
        ("orpo", "pair"),
        ("simpo", "pair"),
        ("kto", "answer"),
        ("reward", "pair"),
    ],
)
def test_the_worst_rows_come_first_and_their_mean_is_the_val_loss(rooms: Rooms, objective: str, measure: str) -> None:
    held_out, recorder = trained(rooms, objective, f"first-{objective}")
    losses = [row.loss for row in held_out.rows]
    assert losses == sorted(losses, reverse=True)
    assert (held_out.step, held_out.measure) == (6, measure)
    assert held_out.num_rows >= len(losses) > 1
    assert held_out.mean_loss == pytest.approx(recorder.series("val_loss")[-1][1], rel=1e-5)
    assert all(row.prompt and row.expected for row in held_out.rows)
    assert all((row.given is None) == (objective == "reward") for row in held_out.rows)
    assert all((row.rejected is None) == (measure != "pair") for row in held_out.rows)
    assert any(row.is_good for row in held_out.rows) == (objective == "kto")


@pytest.mark.parametrize("packing", [True, False])
def test_a_conversation_has_the_loss_of_its_answers_and_the_answer_of_the_saved_network(
    rooms: Rooms, packing: bool
) -> None:
    name = f"chats-{packing}"
    held_out, _ = trained(rooms, "sft", name, packing=packing, learning_rate=1e-3)
    network = AutoModelForCausalLM.from_pretrained(rooms.root / name / "checkpoints/step-000006").eval()
    expected: dict[str, float] = {}
    for row in chat_rows(8):
        (example,) = encode_row(rooms.tokenizer, row, context=48)
        with torch.inference_mode():
            logits = network(torch.from_numpy(example.ids)[None]).logits[0]
        targets = torch.from_numpy(example.targets)[1:]
        loss = torch.nn.functional.cross_entropy(logits[:-1], targets, ignore_index=IGNORE)
        expected[str(rooms.tokenizer.decode(example.ids))] = float(loss)
    assert held_out.num_rows == 8
    assert [row.loss for row in held_out.rows] == pytest.approx(sorted(expected.values(), reverse=True), rel=1e-4)
    for row in held_out.rows:
        (loss,) = {
            loss
            for text, loss in expected.items()
            if text.startswith(row.prompt) and row.loss == pytest.approx(loss, rel=1e-4)
        }
        assert loss
        ids = torch.tensor([rooms.tokenizer(row.prompt, add_special_tokens=False)["input_ids"]])
        with torch.inference_mode():
            output = network.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=24)
        text = rooms.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        assert row.given is not None
        assert text.startswith(row.given) or row.given.startswith(text)


def test_rewards_show_the_completion_that_got_them_lowest_reward_first(rooms: Rooms) -> None:
    asked = [{"prompt": f"How is {name}?", "completion": "Glad."} for name in ("Mira", "Tom", "Ada", "Ben")]
    write_dataset(rooms.root / "answered", train=asked, val=asked)
    rewards = [{"kind": "length", "target": 6}]
    grpo = {"rewards": rewards, "group_size": 4, "max_new_tokens": 8}
    held_out, recorder = trained(rooms, "grpo", "rewarded", dataset="answered", grpo=grpo, max_steps=3)
    assert held_out.mean_loss == pytest.approx(-recorder.series("val_reward/mean")[-1][1])
    assert [row.expected for row in held_out.rows] == ["Glad."] * 4
    assert [row.loss for row in held_out.rows] == sorted((row.loss for row in held_out.rows), reverse=True)


def test_a_run_is_the_same_with_and_without_its_held_out_rows(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    _, watched = trained(rooms, "pretrain", "watched", checkpoint_every=2)
    monkeypatch.setattr("jobs.training.loop.write_held_out", lambda *_, **__: None)
    other = Recorder()
    run(rooms.training("pretrain", run="unwatched", job="unwatched", checkpoint_every=2), other)
    assert watched.series("train_loss") == other.series("train_loss")
    assert watched.samples == other.samples


def test_a_folder_that_can_not_be_written_is_logged_and_the_run_goes_on(
    rooms: Rooms, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("jobs.training.loop.write_held_out", refuse)
    recorder = Recorder()
    result = run(rooms.training("pretrain", run="full", job="full"), recorder)
    assert result.final_step == 6
    assert any("held-out rows were not written: No space left" in line for line in recorder.lines)


def test_answers_that_fail_are_left_out_and_the_run_goes_on(rooms: Rooms, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> list[str]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("jobs.training.held_out._answers", fail)
    held_out, recorder = trained(rooms, "sft", "unanswered")
    assert held_out.rows
    assert all(row.given is None for row in held_out.rows)
    assert any("without answers: OutOfMemoryError" in line for line in recorder.lines)


def test_no_file_without_a_val_split(rooms: Rooms) -> None:
    folder = rooms.root / "no-val"
    write_dataset(folder, train=[{"text": "Mira found a lamp and gave it to Tom. " * 12}])
    assert split_file(folder, "val") is None
    run(rooms.training("pretrain", run="blind", job="blind", dataset="no-val"), Recorder())
    assert not (Path(rooms.root) / "blind" / FILE).exists()


def test_rows_that_are_not_finite_are_the_worst_and_the_number_kept_is_bounded() -> None:
    worst = WorstRows(most=3)
    for place, loss in enumerate([1.0, math.nan, 5.0, 2.0, 4.0]):
        worst.offer(loss, lambda place=place: HeldOutIds([place], []))
    assert [(loss, ids.prompt) for loss, ids in worst.ranked()] == [(math.inf, [1]), (5.0, [2]), (4.0, [4])]
    assert worst.num_rows == 5
    row = HeldOutRows(step=1, measure="tokens", num_rows=5, mean_loss=math.nan)
    assert math.isnan(HeldOutRows.model_validate_json(row.model_dump_json()).mean_loss)
