"""A small artifacts folder with datasets, a tokenizer and a base, and a recording reporter, for tests of modeling and
training.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.jobs.payloads import TrainPayload
from backend.domain.jobs.states import StopRequest
from backend.domain.training.config import RunConfig
from backend.domain.training.objectives import OBJECTIVE_FACTS, Objective
from jobs.batches.base import StepBatches
from jobs.batches.token_making import TokenSource
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizers import train_bpe
from jobs.reporter import JobSpec, Reporter
from jobs.training.context import TrainingContext
from jobs.training.objectives.registry import OBJECTIVES
from tests.support import second_device
from tests.support.jobs import MemoryReporter, make_spec

TINY = ArchitectureConfig(
    num_layers=2, width=32, num_heads=4, num_kv_heads=2, context=64, vocab_size=320, feed_forward=64
)
NAMES = ("Mira", "Tom", "Ada", "Ben")
THINGS = ("a lamp", "a red kite", "the old boat", "a song")


def make_stories(count: int, *, seed: int = 0) -> list[str]:
    """Return short texts with something to learn in them."""
    draw = random.Random(seed)
    return [
        f"{draw.choice(NAMES)} found {draw.choice(THINGS)} and gave it to {draw.choice(NAMES)}. Everyone was glad —"
        " très."
        for _ in range(count)
    ]


def write_dataset(folder: Path, *, train: list[dict[str, Any]], val: list[dict[str, Any]] | None = None) -> Path:
    """Write a dataset version's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(train), folder / "train.parquet")
    if val is not None:
        pq.write_table(pa.Table.from_pylist(val), folder / "val.parquet")
    return folder


def chat_rows(count: int) -> list[dict[str, Any]]:
    """Return chat rows of one and two turns."""
    rows = []
    for index in range(count):
        name = NAMES[index % 4]
        messages = [
            {"role": "user", "content": f"What did {name} find?"},
            {"role": "assistant", "content": f"{name} found {THINGS[index % 3]}."},
        ]
        if index % 2:
            messages += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
        rows.append({"messages": messages})
    return rows


def preference_rows(count: int) -> list[dict[str, Any]]:
    """Return pairs in which the glad answer is preferred."""
    return [
        {
            "prompt": [{"role": "user", "content": f"How is {NAMES[index % 4]}?"}],
            "chosen": [{"role": "assistant", "content": "Glad, very glad."}],
            "rejected": [{"role": "assistant", "content": "a lamp the lamp"}],
        }
        for index in range(count)
    ]


class Rooms:
    """An artifacts folder and jobs in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        stories = make_stories(120)
        write_dataset(
            root / "texts",
            train=[{"text": text} for text in stories[:100]],
            val=[{"text": text} for text in stories[100:]],
        )
        write_dataset(root / "chats", train=chat_rows(40), val=chat_rows(8))
        write_dataset(root / "asks", train=[{"prompt": f"How is {name}?"} for name in NAMES])
        write_dataset(root / "pairs", train=preference_rows(24), val=preference_rows(6))
        self.tokenizer = train_bpe(stories, vocab_size=TINY.vocab_size)
        self.tokenizer.save_pretrained(root / "tokenizer")
        self.save_base(root / "base")

    def save_base(self, folder: Path) -> None:
        """Save an untrained network as a base."""
        self.save_base_of(folder, TINY, self.tokenizer)

    @staticmethod
    def save_base_of(folder: Path, shape: ArchitectureConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        """Save an untrained network of any shape as a base."""
        network = build_network(shape, seed=3, bos_token_id=0, eos_token_id=1, pad_token_id=2)
        save_checkpoint(folder, model=network, tokenizer=tokenizer, meta={})

    def spec(self, payload: dict[str, Any], *, kind: str, job: str = "job", attempt: int = 1) -> JobSpec[Any]:
        """Return an attempt at a job with a folder of its own."""
        return make_spec(kind, payload, root=self.root, job=job, attempt=attempt)

    def training(
        self, objective: str, *, run: str = "run", job: str = "job", attempt: int = 1, dataset: str = "", **values: Any
    ) -> JobSpec[TrainPayload]:
        """Return a training job; `values` go into its config."""
        facts = OBJECTIVE_FACTS[Objective(objective)]
        names = {"text": ("texts", "text"), "conversations": ("chats", "chat"), "prompts": ("asks", "prompts")}.get(
            facts.rows, ("pairs", "preference")
        )
        fresh = objective == "pretrain"
        small = {
            "max_steps": 6,
            "micro_batch": 4,
            "context": 48,
            "eval_every": 3,
            "eval_batches": 2,
            "checkpoint_every": 3,
            "warmup_steps": 2,
        }
        device = "cpu" if second_device.DEVICE.type == "cpu" else "auto"
        small |= {"sample_prompts": ("Mira found",), "sample_tokens": 4, "device": device, "seed": 5}
        parts = {"architecture": TINY, "tokenizer": "t"} if fresh else {"base": "b"}
        config = RunConfig(objective=objective, dataset="d", **{**small, **parts, **values})  # type: ignore[arg-type]
        payload = {
            "run_id": run,
            "config": config.model_dump(mode="json"),
            "architecture": TINY.model_dump(mode="json") if fresh else None,
            "tokenizer": "tokenizer" if fresh else None,
            "dataset": dataset or names[0],
            "dataset_kind": names[1],
            "base": None if fresh else "base",
            "run_folder": run,
            "threads": 1,
        }
        return self.spec(payload, kind="train", job=job, attempt=attempt)


def source_of(folder: Path, tokenizer: Any, reporter: Reporter | None = None) -> TokenSource:
    """Return a dataset's folder as a source of tokens, which are kept beside its rows."""
    return TokenSource(folder, tokenizer, folder / "tokens", reporter or MemoryReporter())


def load_batches(ctx: TrainingContext, model: Any = None) -> StepBatches:
    """Load a run's data and build its batches."""
    stages = OBJECTIVES[ctx.config.objective]
    return stages.prepare(ctx, stages.load(ctx), model)


class Recorder(MemoryReporter):
    """A reporter that records everything. Asks to stop once `stop_after` steps are reported."""

    def __init__(self, *, stop_after: int | None = None, request: StopRequest = "cancel") -> None:
        super().__init__()
        self._stop_after, self._request = stop_after, request

    def should_stop(self) -> StopRequest | None:
        done = max((step for step, _ in self.points), default=0)
        return self._request if self._stop_after is not None and done >= self._stop_after else None
