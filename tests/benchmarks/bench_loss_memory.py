"""Peak memory and time of a training step with the loss of the whole logits and with ours, side by side, each in
processes of its own.

    python -m tests.benchmarks.bench_loss_memory [VOCABULARY ...]     (default 2048 32000)

A step is forward and backward of a small Llama on 8 x 256 tokens. Peak is the process's high-water mark above where it
stood before the network came; `allocated` is the peak of what torch's allocator handed out in a step. Beside it stands
the estimate of `estimate_memory`.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # before torch comes: its profiler would write into the output
ROWS, CONTEXT, STEPS = 8, 256, 3


def main(vocabularies: list[int]) -> None:
    """Measure each vocabulary in both ways, in turns, and print ratios."""
    for vocabulary in vocabularies:
        result: dict[str, list[dict[str, float]]] = {"plain": [], "joined": []}
        for _ in range(2):
            for way, values in result.items():
                command = [sys.executable, __file__, "--child", way, str(vocabulary)]
                values.append(
                    json.loads(
                        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
                    )
                )
        medians = {
            way: {name: statistics.median(v[name] for v in values) for name in values[0]}
            for way, values in result.items()
        }
        ratios = {
            name: round(medians["joined"][name] / medians["plain"][name], 3)
            for name in ("peak_mb", "allocated_mb", "step_s")
        }
        apart = abs(medians["joined"]["loss"] - medians["plain"]["loss"]) / medians["plain"]["loss"]
        print(
            json.dumps(
                {"vocabulary": vocabulary, **medians, "joined / plain": ratios, "losses_apart": apart}, indent=1
            ),
            flush=True,
        )


def child(way: str, vocabulary: int) -> None:
    """Do some steps and print what they took."""
    import torch

    from backend.domain.architectures.config import ArchitectureConfig
    from backend.domain.estimates.memory import estimate_memory
    from backend.domain.estimates.setting import TrainingSetting
    from jobs.batches.base import MicroBatch
    from jobs.modeling.build import build_network
    from jobs.training.losses.output_head import OutputHead, logits_loss
    from jobs.training.probe import allocated_peak
    from jobs.training.telemetry import MemoryMeter

    shape = ArchitectureConfig(
        num_layers=6,
        width=256,
        num_heads=8,
        num_kv_heads=8,
        context=CONTEXT,
        vocab_size=vocabulary,
        feed_forward=688,
        tie_embeddings=False,
    )
    ids = torch.randint(0, vocabulary, (ROWS, CONTEXT + 1), generator=torch.Generator().manual_seed(1))
    batch = MicroBatch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), ROWS * CONTEXT)
    meter = MemoryMeter(torch.device("cpu"))
    meter.begin()
    network: Any = build_network(shape, seed=1).train()
    head, optimizer = OutputHead(network), torch.optim.AdamW(network.parameters(), lr=0.0, fused=True)

    def step() -> float:
        if way == "joined":
            total = head.losses(network, batch)[0].total
        else:
            total = logits_loss(network(**batch.arguments).logits.flatten(0, 1), batch.targets.flatten()).total
        loss = total / batch.units
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - started)
    peak = meter.peak_bytes() or 0
    with tempfile.TemporaryDirectory() as folder:
        allocated = allocated_peak(step, model=network, optimizer=optimizer, folder=Path(folder))
    estimate = estimate_memory(TrainingSetting(architecture=shape, micro_batch=ROWS, context=CONTEXT)).allocated
    print(
        json.dumps(
            {
                "peak_mb": peak / 1e6,
                "allocated_mb": allocated / 1e6,
                "estimated_mb": estimate / 1e6,
                "step_s": min(seconds[1:]),
                "loss": loss,
            }
        )
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], int(sys.argv[3]))
    else:
        main([int(value) for value in sys.argv[1:]] or [2048, 32_000])
