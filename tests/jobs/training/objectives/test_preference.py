"""Preference runs on tiny networks: metrics, files and refusals."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForSequenceClassification

from backend.domain.jobs.states import StopRequest
from backend.domain.training.summary import TOKENS
from backend.errors import InvalidInput
from jobs.modeling.chat import encode_completion
from jobs.modeling.checkpoints import load_network, load_scorer
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.reporter import StopRequested
from jobs.training.context import read_training_context
from jobs.training.distributed import ProcessGroup
from jobs.training.objectives.preference import KEY_BYTES, _read_logprobs, _write_logprobs
from jobs.training.run import run
from tests.support.jobs import with_payload
from tests.support.training_rooms import NAMES, TINY, Recorder, Rooms, load_batches, preference_rows, write_dataset


def references(run_folder: Path) -> list[Path]:
    return sorted(run_folder.glob("reference-*.safetensors"))


@pytest.mark.parametrize("method", ["full", "lora"])
def test_dpo_prefers_the_chosen_side_and_reports_margins(rooms: Rooms, method: str) -> None:
    recorder = Recorder()
    name = f"dpo-{method}"
    rate = 2e-2 if method == "lora" else 5e-3
    result = run(
        rooms.training("dpo", run=name, job=name, method=method, max_steps=8, checkpoint_every=4, learning_rate=rate),
        recorder,
    )
    losses, margins = recorder.series("train_loss"), recorder.series("rewards/margins")
    assert [step for step, _ in losses] == list(range(1, 9))
    assert losses[0][1] == pytest.approx(math.log(2), abs=1e-5)  # before learning the policy equals the reference
    assert losses[-1][1] < losses[0][1] - 0.2
    assert margins[-1][1] > 0.5
    counted = [value for _, value in recorder.series(TOKENS)]
    assert counted == sorted(counted)
    assert 0 < counted[-1] < 8 * 2 * 4 * 48, "two answers of each pair, without padding to the context"
    assert [step for step, _ in recorder.series("val_loss")] == [3, 4, 6, 8]
    assert recorder.series("val_rewards/accuracies")[-1] == (8, 1.0)
    events = recorder.of("checkpoint")
    assert [(event["step"], event["final"], event["adapter"]) for event in events] == [
        (4, False, method == "lora"),
        (8, True, method == "lora"),
    ]
    assert (result.final_step, result.checkpoint) == (8, f"{name}/checkpoints/step-000008")
    assert result.metrics["rewards/margins"] == margins[-1][1]
    assert load_network(rooms.root / result.checkpoint).config.vocab_size == TINY.vocab_size


def test_reference_logprobs_are_computed_once_and_saved_with_the_run(rooms: Rooms) -> None:
    values = {"max_steps": 6, "checkpoint_every": 2, "learning_rate": 5e-3}
    undisturbed = Recorder()
    run(rooms.training("dpo", run="d-a", job="d-a", **values), undisturbed)
    stopped = Recorder(stop_after=3, request="stop_and_save")
    result = run(rooms.training("dpo", run="d-b", job="d-b", **values), stopped)
    assert (result.stopped, result.final_step, result.checkpoint) == ("stop_and_save", 3, "d-b/checkpoints/step-000003")
    (stored,) = references(rooms.root / "d-b")
    before = (stored.read_bytes(), stored.stat().st_mtime_ns)
    resumed = Recorder()
    run(rooms.training("dpo", run="d-b", job="d-c", **values), resumed)  # another job of the same run
    assert before == (stored.read_bytes(), stored.stat().st_mtime_ns)
    assert resumed.series("train_loss") == undisturbed.series("train_loss")[3:]
    stored.unlink()  # lost with a worker's disk: recomputed from the base and not from the trained weights
    again = Recorder()
    run(rooms.training("dpo", run="d-b", job="d-d", **{**values, "max_steps": 7}), again)
    assert stored.read_bytes() == before[0]


def test_a_run_stopped_while_computing_the_reference_ends_without_a_step(rooms: Rooms) -> None:
    recorder = Recorder(stop_after=0, request="cancel")
    result = run(rooms.training("dpo", run="d-x", job="d-x"), recorder)
    assert (result.stopped, result.final_step, result.checkpoint) == ("cancel", 0, None)
    assert not references(rooms.root / "d-x")


class Stopping(ProcessGroup):
    """One of two ranks, the first of which is asked to stop."""

    def broadcast_request(self, request: StopRequest | None) -> StopRequest | None:
        assert (request is not None) == self.is_first
        return "cancel"

    def barrier(self) -> None:
        pass


@pytest.mark.parametrize("rank", [0, 1])
def test_all_ranks_stop_if_the_first_is_stopped_while_computing_the_reference(rooms: Rooms, rank: int) -> None:
    ctx = read_training_context(
        rooms.training("dpo", run="d-y", job="d-y"), Recorder(stop_after=0 if rank == 0 else None)
    )
    with pytest.raises(StopRequested):
        load_batches(replace(ctx, process_group=Stopping(rank=rank, count=2, local_rank=rank, local_count=2)))
    assert not references(rooms.root / "d-y")


@pytest.mark.parametrize(
    ("objective", "preference"),
    [
        ("dpo", {"loss": "hinge"}),
        ("dpo", {"loss": "ipo"}),
        ("dpo", {"sft_weight": 1.0, "label_smoothing": 0.1}),
        ("orpo", {}),
        ("simpo", {"beta": 2.0}),
        ("simpo", {"beta": 2.0, "sft_weight": 1.0}),
        ("kto", {"desirable_weight": 2.0}),
    ],
    ids=["hinge", "ipo", "dpo with sft", "orpo", "simpo", "cpo-simpo", "kto on pairs"],
)
def test_every_objective_learns_what_is_preferred(
    rooms: Rooms, request: pytest.FixtureRequest, objective: str, preference: dict[str, float]
) -> None:
    name, recorder = request.node.callspec.id, Recorder()
    run(rooms.training(objective, run=name, job=name, preference=preference, max_steps=8, learning_rate=5e-3), recorder)
    losses, margins = recorder.series("train_loss"), recorder.series("rewards/margins")
    assert losses[-1][1] < losses[0][1]
    assert margins[-1][1] > margins[0][1]
    assert recorder.series("val_loss")[-1][1] < recorder.series("val_loss")[0][1]
    assert recorder.series("val_rewards/margins")[-1][1] > 0
    assert bool(references(rooms.root / name)) == (objective in ("dpo", "kto"))


def rated_rows(count: int) -> list[dict[str, object]]:
    """Return single answers, good and bad, for two prompts."""
    return [
        {
            "prompt": [{"role": "user", "content": f"How is {NAMES[index % 4]}?"}],
            "completion": [
                {
                    "role": "assistant",
                    "content": f"{NAMES[index % 4]} is glad." if index % 3 else f"a lamp the {NAMES[index % 4]}",
                }
            ],
            "label": bool(index % 3),
        }
        for index in range(count)
    ]


def test_kto_learns_from_single_rated_answers(rooms: Rooms) -> None:
    write_dataset(rooms.root / "rated", train=rated_rows(24), val=rated_rows(6))
    recorder = Recorder()
    spec = rooms.training("kto", run="kto", job="kto", dataset="rated", micro_batch=8, max_steps=8, learning_rate=5e-3)
    spec = with_payload(spec, dataset_kind="kto")
    run(spec, recorder)
    margins = recorder.series("rewards/margins")
    assert margins[-1][1] > max(0.1, margins[0][1])
    assert all(value >= 0 for _, value in recorder.series("kl"))
    batch = load_batches(read_training_context(spec, Recorder())).at_step(1)[0]
    pairs = [(row.tolist(), other.tolist()) for row, other in zip(batch.inputs, batch.mismatched.inputs, strict=True)]
    assert all(own[:4] == other[:4] and own != other for own, other in pairs), (
        "each answer's prompt also has another prompt's answer"
    )


def test_kto_without_a_second_prompt_or_answer_is_refused(rooms: Rooms) -> None:
    write_dataset(rooms.root / "one prompt", train=[row for row in rated_rows(24) if "Mira" in str(row)])
    spec = rooms.training("kto", run="k1", job="k1", dataset="one prompt")
    spec = with_payload(spec, dataset_kind="kto")
    with pytest.raises(InvalidInput, match="share one prompt"):
        run(spec, Recorder())
    with pytest.raises(ValueError, match="kto compares answers of a micro-batch, so micro_batch 1 is too small"):
        rooms.training("kto", micro_batch=1)


def test_unusable_pairs_are_counted_and_left_out(rooms: Rooms) -> None:
    ask, yes = [{"role": "user", "content": "Hello?"}], [{"role": "assistant", "content": "Yes."}]
    good = {"prompt": ask, "chosen": yes, "rejected": [{"role": "assistant", "content": "No."}]}
    same = {**good, "rejected": yes}
    endless = {**good, "prompt": [{"role": "user", "content": "word " * 200}]}
    write_dataset(rooms.root / "few", train=[good, same, endless, same])
    recorder = Recorder()
    run(rooms.training("dpo", run="few", job="few", dataset="few", max_steps=2), recorder)
    assert recorder.of("rows_encoded")[0] == {
        "split": "train",
        "rows": 4,
        "zero_label_rows": 3,
        "truncated": 0,
        "refused": 0,
    }
    assert any("2 of 4 train pairs have equal sides" in line for line in recorder.lines)
    assert any("no validation split" in line for line in recorder.lines)
    write_dataset(rooms.root / "none", train=[same, endless])
    with pytest.raises(InvalidInput, match="None of the 2 train pairs can be used"):
        run(rooms.training("dpo", run="none", job="none", dataset="none"), Recorder())


def test_pairs_of_a_step_are_sorted_by_length_and_come_once_per_epoch(rooms: Rooms) -> None:
    spec = rooms.training("orpo", run="order", job="order", micro_batch=4, grad_accum_steps=3)
    batches = load_batches(read_training_context(spec, Recorder()))
    seen = []
    for step in (1, 2):
        lengths = [int(batch.inputs.shape[1]) for batch in batches.at_step(step)]
        assert lengths == sorted(lengths)
        seen += [tuple(row.tolist()) for batch in batches.at_step(step) for row in batch.inputs[: batch.units]]
    assert len(seen) == 24
    again = batches.at_step(2)[1]
    assert torch.equal(again.inputs, batches.at_step(2)[1].inputs)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_reward_model_learns_to_score_and_loads_in_transformers_alone(rooms: Rooms, method: str) -> None:
    name, recorder = f"reward-{method}", Recorder()
    rate = 2e-2 if method == "lora" else 5e-3
    result = run(rooms.training("reward", run=name, job=name, method=method, max_steps=8, learning_rate=rate), recorder)
    assert recorder.series("accuracy")[-1][1] == recorder.series("val_accuracy")[-1][1] == 1.0
    assert recorder.series("val_margin")[-1][1] > recorder.series("margin")[0][1]
    assert not recorder.samples, "a reward model generates no text"
    folder = rooms.root / result.checkpoint
    scorer = (
        load_scorer(folder, pad_id=2, seed=5)
        if method == "lora"
        else AutoModelForSequenceClassification.from_pretrained(folder)
    )
    assert scorer.num_labels == 1
    with torch.inference_mode():
        tokenizer = load_tokenizer(folder)
        answers = [
            encode_completion(tokenizer, row["prompt"], row[side])
            for row in preference_rows(1)
            for side in ("chosen", "rejected")
        ]
        good, bad = (float(scorer(torch.tensor([[*prompt, *answer]])).logits) for prompt, answer in answers)
    assert good > bad
    with pytest.raises(InvalidInput, match="holds a reward model, which generates no text"):
        load_network(folder)


def test_a_reward_run_resumes_bit_for_bit(rooms: Rooms) -> None:
    for method, variant in (("full", ""), ("lora", "lora"), ("lora", "pissa")):
        undisturbed, stopped, resumed = Recorder(), Recorder(stop_after=4), Recorder()
        values = {
            "method": method,
            "learning_rate": 5e-3,
            **({"lora": {"rank": 4, "variant": variant}} if variant else {}),
        }
        run(rooms.training("reward", run=f"r-a-{method}{variant}", job=f"r-a-{method}{variant}", **values), undisturbed)
        run(rooms.training("reward", run=f"r-b-{method}{variant}", job=f"r-b-{method}{variant}", **values), stopped)
        run(rooms.training("reward", run=f"r-b-{method}{variant}", job=f"r-c-{method}{variant}", **values), resumed)
        assert resumed.series("train_loss") == undisturbed.series("train_loss")[3:]


def test_a_reward_model_is_the_base_of_reward_runs_alone(rooms: Rooms) -> None:
    run(rooms.training("reward", run="scorer", job="scorer"), Recorder())
    scorer = "scorer/checkpoints/step-000006"
    again = rooms.training("reward", run="again", job="again", max_steps=2)
    again = with_payload(again, base=scorer)
    recorder = Recorder()
    run(again, recorder)
    assert recorder.series("accuracy")[0][1] == 1.0, "it continues from the trained scorer"
    tuned = rooms.training("sft", run="tuned", job="tuned")
    tuned = with_payload(tuned, base=scorer)
    with pytest.raises(InvalidInput, match="generates no text"):
        run(tuned, Recorder())


def test_the_reference_scores_only_the_pairs_that_the_run_uses(rooms: Rooms) -> None:
    def kept(steps: int) -> dict[bytes, float]:
        recorder = Recorder()
        run(
            rooms.training(
                "dpo", run="met", job=f"met-{steps}", dataset="wide", max_steps=steps, eval_every=9, checkpoint_every=2
            ),
            recorder,
        )
        assert all(math.isfinite(loss) for _, loss in recorder.series("train_loss"))
        (file,) = references(rooms.root / "met")
        held = load_file(file)
        return {key.tobytes(): float(value) for key, value in zip(held["keys"], held["logprobs"], strict=True)}

    rows = preference_rows(40)
    for index, row in enumerate(rows):
        row["chosen"][0]["content"] = f"Glad, {index} times."
    write_dataset(rooms.root / "wide", train=rows)
    first = kept(2)
    assert len(first) == 8 + 4  # two steps of four pairs, whose rejected answers are one to each prompt
    more = kept(4)
    assert len(more) == 16 + 4
    assert more.items() >= first.items(), "known answers are not computed again"


def test_machines_that_share_a_folder_may_save_log_probabilities_at_the_same_moment(tmp_path: Path) -> None:
    file = tmp_path / "reference.safetensors"
    known = {bytes([number]) * KEY_BYTES: float(number) for number in range(100)}

    def write(machine: int) -> None:
        for _ in range(50):
            _write_logprobs(file, known, writer=machine)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, range(2)))
    assert _read_logprobs(file) == known
