"""How far the estimate of peak memory is off, before and after a probe: `python -m tests.benchmarks.bench_memory
FILE.json`.

Twelve settings, each probed once and then trained for real, in processes of their own as a worker starts them. Three
figures are held against the peak of the real run: the formula's, the formula's as the probes of the other eleven
correct it, and the probe's of the same setting. The real run is longer than the probe and does what a probe doesn't: it
measures val_loss, writes samples and saves. The raw figures are kept in FILE; cases that it has already are not
measured again.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.estimates.memory import estimate_memory
from backend.domain.estimates.prediction import MeasuredPeak, calibrate
from backend.domain.estimates.setting import TrainingSetting, setting_of
from backend.domain.training.config import RunConfig
from backend.domain.wording import format_bytes
from jobs.environment import with_memory_reuse
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizers import train_bpe
from tests.support.jobs import make_spec
from tests.support.training_rooms import make_stories, write_dataset

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = 20
DATA = {"pretrain": ("texts", "text"), "sft": ("chats", "chat"), "dpo": ("pairs", "preference")}


@dataclass(frozen=True)
class Case:
    """A setting to measure: a shape, and how it is trained."""

    objective: str
    shape: dict[str, Any]
    micro_batch: int
    context: int
    precision: str = "fp32"
    lora_rank: int | None = None
    grad_accum_steps: int = 1
    recompute: bool = False

    @property
    def architecture(self) -> ArchitectureConfig:
        """The network's shape."""
        return ArchitectureConfig.model_validate({"context": 1024, **self.shape})

    @property
    def config(self) -> RunConfig:
        """The real run."""
        fresh = self.objective == "pretrain"
        values: dict[str, Any] = {
            "objective": self.objective,
            "dataset": "d",
            "micro_batch": self.micro_batch,
            "context": self.context,
            "precision": self.precision,
            "warmup_steps": 2,
            "grad_accum_steps": self.grad_accum_steps,
            "recompute": self.recompute,
            "learning_rate": 1e-4,
            "max_steps": STEPS,
            "eval_every": STEPS // 2,
            "eval_batches": 2,
            "checkpoint_every": STEPS // 2,
            "sample_prompts": ("Mira found",),
            "sample_tokens": 16,
            "device": "cpu",
            **({"architecture": self.architecture, "tokenizer": "t"} if fresh else {"base": "b"}),
        }
        if self.lora_rank is not None:
            values |= {"method": "lora", "lora": {"rank": self.lora_rank}}
        return RunConfig.model_validate(values)

    @property
    def setting(self) -> TrainingSetting:
        """What memory and speed depend on."""
        return setting_of(self.config, self.architecture, device="cpu", data=DATA[self.objective][0])

    @property
    def title(self) -> str:
        """The case in a few words."""
        shape = self.architecture
        how = f"LoRA {self.lora_rank}" if self.lora_rank else "all weights"
        more = (f" x {self.grad_accum_steps}" if self.grad_accum_steps > 1 else "") + (
            ", recompute" if self.recompute else ""
        )
        return (
            f"{shape.family} {shape.num_layers} x {shape.width}, vocabulary {shape.vocab_size:,}; {self.objective},"
            f" {how}, {self.precision}, {self.micro_batch} x {self.context}{more}"
        )


def _shape(family: str, layers: int, width: int, heads: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "family": family,
        "num_layers": layers,
        "width": width,
        "num_heads": heads,
        "vocab_size": vocabulary,
        **more,
    }


CASES = (
    Case("pretrain", _shape("llama", 4, 256, 8, 8192, num_kv_heads=4), 8, 128),
    Case("pretrain", _shape("gpt2", 6, 384, 6, 16384), 4, 128, precision="bf16"),
    Case("pretrain", _shape("qwen3", 6, 512, 8, 32768, num_kv_heads=2), 1, 512),
    Case("pretrain", _shape("gemma3", 6, 256, 4, 16384, num_kv_heads=1, window=64), 2, 256, grad_accum_steps=2),
    Case("pretrain", _shape("mixtral", 4, 192, 6, 4096, num_kv_heads=2, num_experts=4, experts_per_token=2), 8, 64),
    Case("pretrain", _shape("deepseek_v3", 4, 192, 6, 4096), 2, 256),
    Case("pretrain", _shape("smollm3", 12, 256, 4, 2048, num_kv_heads=2), 4, 256, recompute=True),
    Case("pretrain", _shape("bloom", 4, 256, 8, 1024), 1, 512),
    Case("sft", _shape("llama", 8, 256, 8, 8192, num_kv_heads=8), 4, 256),
    Case("sft", _shape("mistral", 8, 384, 6, 8192, num_kv_heads=2, window=128), 4, 256, lora_rank=16),
    Case("dpo", _shape("llama", 4, 256, 8, 8192, num_kv_heads=4), 2, 256),
    Case("dpo", _shape("qwen3", 6, 384, 6, 4096, num_kv_heads=2), 2, 256, lora_rank=8, recompute=True),
)


class Bench:
    """A folder with data, a tokenizer and bases, and jobs in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        stories, draw = make_stories(4000), random.Random(7)
        self.tokenizer = train_bpe(stories[:400], vocab_size=300)
        self.tokenizer.save_pretrained(root / "tokenizer")
        write_dataset(
            root / "texts",
            train=[{"text": text} for text in stories[:-200]],
            val=[{"text": text} for text in stories[-200:]],
        )
        for name, row in (("chats", _chat), ("pairs", _pair)):
            rows = [row(stories, draw) for _ in range(400)]
            write_dataset(root / name, train=rows[:-20], val=rows[-20:])
        self._jobs = 0

    def measure(self, case: Case, kind: str) -> dict[str, Any]:
        """Do a probe or a run (`train`) of a case in a process of its own; return what it measured."""
        self._jobs += 1
        folder = self.root / "jobs" / str(self._jobs)
        folder.mkdir(parents=True)
        fresh, (dataset, dataset_kind) = case.objective == "pretrain", DATA[case.objective]
        payload = {
            "config": case.config.model_dump(mode="json"),
            "architecture": case.architecture.model_dump(mode="json") if fresh else None,
            "tokenizer": "tokenizer" if fresh else None,
            "dataset": dataset,
            "dataset_kind": dataset_kind,
            "base": None if fresh else self._base(case),
            "run_folder": f"runs/{self._jobs}",
            "threads": 0,
        }
        own = {"fingerprint": "benchmark"} if kind == "probe" else {"run_id": str(self._jobs)}
        make_spec(kind, {**payload, **own}, root=self.root, folder=folder).write(folder / "job.json")
        quiet = {"CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false", "GOMP_SPINCOUNT": "10000"}
        environment = with_memory_reuse({**os.environ, **quiet})
        command = [sys.executable, "-m", "jobs.run", "--child", str(folder)]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
        result = next((event["result"] for event in events if event["type"] == "result"), None)
        if result is None:
            raise RuntimeError(f"{case.title}: {events[-1]} {done.stderr[-2000:]}")
        return {**(result if kind == "probe" else result["measurement"]), "wall_s": time.perf_counter() - started}

    def _base(self, case: Case) -> str:
        name = f"base-{CASES.index(case)}"
        if not (self.root / name).exists():
            network = build_network(case.architecture, seed=3, bos_token_id=0, eos_token_id=1, pad_token_id=2)
            save_checkpoint(self.root / name, model=network, tokenizer=self.tokenizer, meta={})
        return name


def _said(stories: list[str], draw: random.Random) -> str:
    return " ".join(draw.choice(stories) for _ in range(draw.randint(1, 6)))


def _chat(stories: list[str], draw: random.Random) -> dict[str, Any]:
    roles = ("user", "assistant", "user", "assistant")
    return {"messages": [{"role": role, "content": _said(stories, draw)} for role in roles]}


def _pair(stories: list[str], draw: random.Random) -> dict[str, Any]:
    chosen, rejected = ([{"role": "assistant", "content": _said(stories, draw)}] for _ in range(2))
    return {"prompt": [{"role": "user", "content": _said(stories, draw)}], "chosen": chosen, "rejected": rejected}


def collect(file: Path) -> list[dict[str, Any]]:
    """Measure every case that the file has not: [{"title", "setting", "probe": {...}, "run": {...}}]."""
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(Path(root))
        for case in CASES:
            if any(row["title"] == case.title for row in rows):
                continue
            row = {"title": case.title, "setting": case.setting.model_dump(mode="json")}
            rows.append({**row, "probe": bench.measure(case, "probe"), "run": bench.measure(case, "train")})
            file.write_text(json.dumps(rows, indent=1))
    return rows


def errors_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each case what was said and by what share it was off the real run's peak."""
    probes = [
        MeasuredPeak(
            TrainingSetting.model_validate(row["setting"]),
            row["probe"]["measured_bytes"],
            row["probe"].get("longest"),
            row["probe"].get("trained"),
        )
        for row in rows
    ]
    result = []
    for index, row in enumerate(rows):
        peak, mine = row["run"]["measured_bytes"], probes[index]
        # sequences as long as the context, as nobody has seen the data yet
        before = estimate_memory(mine.setting).total
        others = calibrate(mine.setting, mine.estimated_bytes, [probe for probe in probes if probe is not mine])
        estimates = {
            "formula": before,
            "calibrated": mine.estimated_bytes * others.factor,
            "probe": mine.measured_bytes,
        }
        off = {name: value / peak - 1 for name, value in estimates.items()}
        result.append({"title": row["title"], "peak": peak, "said": estimates, "off": off, "promised": others.error})
    return result


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print the cases as a table in Markdown, and the median and worst errors."""
    result = errors_of(rows)
    sys.stdout.write(
        "| setting | run's peak | formula | corrected by the other eleven | after its probe |\n|---|---|---|---|---|\n"
    )
    for case in result:
        cells = [
            f"{format_bytes(case['said'][name])} ({case['off'][name]:+.1%})"
            for name in ("formula", "calibrated", "probe")
        ]
        sys.stdout.write(f"| {case['title']} | {format_bytes(case['peak'])} | {' | '.join(cells)} |\n")
    for name in ("formula", "calibrated", "probe"):
        off = [abs(case["off"][name]) for case in result]
        sys.stdout.write(f"{name}: median {statistics.median(off):.1%}, worst {max(off):.1%}\n")
    promised = [case["promised"] for case in result if case["promised"] is not None]
    sys.stdout.write(
        f"error promised for the corrected formula: median {statistics.median(promised):.1%} of {len(promised)} cases\n"
    )
    sys.stdout.write(f"seconds of a probe, median: {statistics.median(row['probe']['wall_s'] for row in rows):.0f}\n")


if __name__ == "__main__":
    print_table(collect(Path(sys.argv[1])))
