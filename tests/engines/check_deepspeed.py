"""Two processes by DeepSpeed train as one: ZeRO-2 and ZeRO-3, with offload, after a kill, and with other numbers of
processes.

Run by `make engines`. The reference is the same run in one process: 20 steps with accumulated gradients, norms above
the clip in each of them, and a loss by token, whose number differs from micro-batch to micro-batch.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.domain.architectures.config import ArchitectureConfig
from backend.errors import JobFailed
from jobs.training import run as training
from tests.support.installation import wait_until
from tests.support.training_rooms import Recorder, Rooms

CURVES = ("train_loss", "grad_norm", "val_loss")
CLIP = 0.2
SAME: dict[str, Any] = {"max_steps": 20, "micro_batch": 2, "grad_clip": CLIP, "checkpoint_every": 10, "eval_every": 10}
SHARDINGS = [
    {"sharding": "zero2"},
    {"sharding": "zero3"},
    {"sharding": "zero2", "offload": True},
    {"sharding": "zero3", "offload": True},
]
NAMES = ["zero2", "zero3", "zero2-offload", "zero3-offload"]


@dataclass
class Trained:
    """A run that ended: what it reported, its weights, and the state of its optimizer."""

    recorder: Recorder
    weights: dict[str, torch.Tensor]
    state: dict[str, torch.Tensor]


class Bench:
    """Runs of one objective, each in a folder of its own."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    def spec(self, name: str, *, objective: str = "sft", attempt: int = 1, **values: Any) -> Any:
        """Return the job of a run."""
        return self._rooms.training(objective, run=name, job=name, attempt=attempt, **{**SAME, **values})

    def train(self, name: str, *, objective: str = "sft", attempt: int = 1, **values: Any) -> Trained:
        """Train a run to its end."""
        recorder = Recorder()
        result = training.run(self.spec(name, objective=objective, attempt=attempt, **values), recorder)
        folder = self._rooms.root / str(result.checkpoint)
        (weights,) = [load_file(path) for path in folder.glob("*model.safetensors")]
        return Trained(recorder, weights, load_file(folder / "training_state" / "state.safetensors"))

    def kill_after_a_checkpoint(self, name: str, **values: Any) -> None:
        """Start a run in a process of its own and kill that, with its ranks, once a checkpoint exists. It validates
        after each step, so that it is far from its end by then.
        """
        spec = self.spec(name, **{**values, "eval_every": 1})
        spec.write(self._rooms.root / "killed.json")
        program = (
            "import sys; from pathlib import Path; from jobs.reporter import JobSpec, SilentReporter;"
            "from backend.domain.jobs.payloads import TrainPayload; from jobs.training.run import run;"
            "run(JobSpec.read(Path(sys.argv[1]), of=TrainPayload), SilentReporter())"
        )
        child = subprocess.Popen([sys.executable, "-c", program, str(self._rooms.root / "killed.json")])
        try:
            first = self._rooms.root / name / "checkpoints" / "step-000010" / "roundhouse.json"
            wait_until(first.is_file, what="a checkpoint", every_s=0.02)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(Rooms(tmp_path_factory.mktemp("artifacts")))


@pytest.fixture(scope="module")
def alone(bench: Bench) -> Trained:
    one = bench.train("one", grad_accum_steps=4)
    assert all(norm > CLIP for _, norm in one.recorder.series("grad_norm"))
    return one


def check_equal(theirs: Trained, one: Trained, *, first: int = 1, curves: float = 1e-5, weights: float = 1e-4) -> None:
    for name in CURVES:
        expected = [point for point in one.recorder.series(name) if point[0] >= first]
        seen = theirs.recorder.series(name)
        assert [step for step, _ in seen] == [step for step, _ in expected], name
        assert [value for _, value in seen] == pytest.approx([value for _, value in expected], abs=curves), name
    assert theirs.weights.keys() == one.weights.keys()
    for name, tensor in one.weights.items():
        torch.testing.assert_close(theirs.weights[name], tensor, atol=weights, rtol=0)
    assert theirs.recorder.of("checkpoint")[-1]["parameters"] == one.recorder.of("checkpoint")[-1]["parameters"]


@pytest.mark.parametrize("sharding", SHARDINGS, ids=NAMES)
def test_two_processes_train_as_one(bench: Bench, alone: Trained, sharding: dict[str, Any]) -> None:
    name = "-".join(map(str, sharding.values()))
    two = bench.train(name, grad_accum_steps=2, devices={"count": 2, **sharding})
    check_equal(two, alone)
    assert two.recorder.samples == alone.recorder.samples
    moments = [name for name in alone.state if name.startswith("optimizer.")]
    assert len(moments) == 3 * len(alone.weights)  # AdamW's two moments and its step
    for name in moments:
        torch.testing.assert_close(two.state[name], alone.state[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("sharding", SHARDINGS[1:3], ids=NAMES[1:3])
def test_a_killed_run_continues_as_if_nothing_had_happened(
    bench: Bench, alone: Trained, sharding: dict[str, Any]
) -> None:
    same: dict[str, Any] = {"grad_accum_steps": 2, "devices": {"count": 2, **sharding}}
    name = f"killed-{sharding['sharding']}"
    bench.kill_after_a_checkpoint(name, **same)
    after = bench.train(name, attempt=2, **same)
    assert after.recorder.of("resumed")[0]["step"] == 10
    check_equal(after, alone, first=11)


def test_a_run_resumes_with_other_processes_and_other_shardings(bench: Bench, alone: Trained) -> None:
    """A checkpoint holds whole tensors, so what wrote it is nothing to what reads it."""
    half, resumed = {"max_steps": 10, "schedule": "constant"}, {"attempt": 2, "schedule": "constant"}
    constant = bench.train("constant", grad_accum_steps=4, schedule="constant")
    bench.train("moved", grad_accum_steps=4, **half)
    three = bench.train("moved", grad_accum_steps=2, devices={"count": 2, "sharding": "zero3"}, **resumed)
    check_equal(three, constant, first=11)
    bench.train("back", grad_accum_steps=1, devices={"count": 4, "sharding": "zero2"}, **half)
    two = bench.train("back", grad_accum_steps=2, devices={"count": 2, "sharding": "zero2", "offload": True}, **resumed)
    check_equal(two, constant, first=11)
    bench.train("lone", grad_accum_steps=2, devices={"count": 2, "sharding": "zero3"}, **half)
    check_equal(bench.train("lone", grad_accum_steps=4, **resumed), constant, first=11)


@pytest.mark.parametrize(
    ("objective", "values"),
    [
        ("pretrain", {"recompute": True, "freeze_blocks": 1, "optimizer": "lion", "learning_rate": 3e-4}),
        ("sft", {"method": "lora"}),
        ("dpo", {}),
        ("pretrain", {"patience": 1, "eval_every": 2, "learning_rate": 1e-30}),
    ],
    ids=["frozen-lion", "lora", "dpo", "early-stopping"],
)
def test_what_a_run_can_have_beside_it(bench: Bench, objective: str, values: dict[str, Any]) -> None:
    name = f"{objective}-{'-'.join(values)}"
    short = {"max_steps": 6, "checkpoint_every": 6, **values}
    one = bench.train(f"{name}-one", objective=objective, grad_accum_steps=2, **short)
    two = bench.train(f"{name}-two", objective=objective, devices={"count": 2, "sharding": "zero3"}, **short)
    check_equal(two, one)
    assert two.recorder.of("stopped_early") == one.recorder.of("stopped_early")
    assert bool(one.recorder.of("stopped_early")) is ("patience" in values)


def test_a_step_that_is_not_finite_ends_the_run_and_saves_nothing(tmp_path: Path) -> None:
    bench = Bench(Rooms(tmp_path))
    path = tmp_path / "base" / "model.safetensors"
    weights = load_file(path)
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = float("nan")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(JobFailed, match="step 1"):
        bench.train("broken", devices={"count": 2, "sharding": "zero3"})
    assert list((tmp_path / "broken" / "checkpoints").iterdir()) == []


def train_base(folder: Path, **shape: Any) -> tuple[Trained, Trained]:
    """Train a base of another shape in one process and in two."""
    sizes = {"num_layers": 2, "width": 32, "num_heads": 4, "context": 64, "vocab_size": 320, "feed_forward": 128}
    bench = Bench(rooms := Rooms(folder))
    rooms.save_base_of(folder / "base", ArchitectureConfig.model_validate({**sizes, **shape}), rooms.tokenizer)
    two = bench.train("two", grad_accum_steps=2, devices={"count": 2, "sharding": "zero3"})
    return bench.train("one", grad_accum_steps=4), two


def test_experts_are_balanced_as_in_one_process(tmp_path: Path) -> None:
    """Their loss is asked of the network's config, and DeepSpeed's engine has another attribute of that name."""
    one, two = train_base(tmp_path, family="mixtral", num_experts=4, experts_per_token=2)
    check_equal(two, one)


def test_key_biases_alone_may_differ_by_more(tmp_path: Path) -> None:
    """A softmax does not change if all keys gain the same vector, so the gradient of their bias is zero in theory:
    AdamW divides its rounding errors by their own size.
    """
    one, two = train_base(tmp_path, family="gpt2")
    biases = [name for name in one.weights if name.endswith("c_attn.bias")]
    assert len(biases) == 2
    for name in biases:  # GPT-2 has queries, keys and values in one
        ours, theirs = one.weights[name][32:64], two.weights[name][32:64]
        torch.testing.assert_close(theirs, ours, atol=1e-2, rtol=0)
        theirs.copy_(ours)
    check_equal(two, one)
