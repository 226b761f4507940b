"""Replicas of one checkpoint on one machine: seconds of each start and memory of each, with weights of their own and
mapped ones.

`python -m tests.benchmarks.serving.bench_weights CHECKPOINT [--replicas 3] [--precision int8]`: each replica is a
process that loads and starts its engine as a replica does, and answers greedily; the next one starts once it has.
Memory is read when all have answered.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

NEW_TOKENS = 48
PROMPT = "The roundhouse turned slowly, and the engine"


def serve(checkpoint: Path, precision: Any, prepared: Path | None) -> None:
    """Start one replica, answer once, print what it took, and wait for the end of the input."""
    import torch

    from backend.domain.serving.protocol import SamplingParams, TokenEvent
    from jobs.modeling.tokenizer_folders import load_tokenizer
    from jobs.serving.adapters import AdapterBank
    from jobs.serving.native.library import compile_library
    from jobs.serving.prepared import PreparedFolder, load_own, load_prepared
    from jobs.serving.reading import PromptReader
    from jobs.serving.start import start_engine

    torch.set_num_threads(1)
    device = torch.device("cpu")
    began, began_cpu = time.perf_counter(), time.process_time()
    if prepared is None:
        loaded = load_own(checkpoint, device=device, precision=precision, library=compile_library())
    else:
        loaded = load_prepared(checkpoint, device=device, precision=precision, prepared=PreparedFolder(prepared))
    weights_s, weights_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    tokenizer = load_tokenizer(checkpoint)
    reader = PromptReader(loaded.network)
    reader.bank = AdapterBank(checkpoint, loaded.network, reader.network)
    engine = start_engine(loaded.network, tokenizer, bank=reader.bank)
    start_s, start_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    tokens: list[int] = []
    done = threading.Event()

    def on_event(event: Any) -> None:
        if isinstance(event, TokenEvent):
            tokens.extend(event.token_ids)
        else:
            done.set()

    engine.submit(
        tokenizer(PROMPT)["input_ids"], SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True), on_event
    )
    done.wait()
    read = reader.score(tokens, top=0)[-1]
    answer = {
        "tokens": hashlib.sha256(str(tokens).encode()).hexdigest()[:12],
        "logprob": None if read is None else float(read.logprob),
    }
    took = {"weights_s": weights_s, "weights_cpu_s": weights_cpu_s, "start_s": start_s, "start_cpu_s": start_cpu_s}
    print(json.dumps({**took, "is_mapped": loaded.file is not None, **answer}), flush=True)
    sys.stdin.read()
    engine.close()


def measure(checkpoint: Path, precision: str, *, replicas: int, prepared: Path | None) -> None:
    """Start replicas one after the other and print a line for each."""
    command = [
        sys.executable,
        "-m",
        __spec__.name,
        str(checkpoint),
        "--precision",
        precision,
        "--child",
        str(prepared or ""),
    ]
    processes = []
    reports = []
    try:
        for _ in range(replicas):
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            output = processes[-1].stdout
            assert output is not None
            reports.append(json.loads(output.readline()))
        for number, (process, report) in enumerate(zip(processes, reports, strict=True), start=1):
            memory = psutil.Process(process.pid).memory_full_info()
            print(
                f"{precision}, {'mapped' if report['is_mapped'] else 'own':6}, replica {number}: "
                f"weights {report['weights_s']:5.2f} s ({report['weights_cpu_s']:5.2f} s of CPU), "
                f"start {report['start_s']:5.2f} s ({report['start_cpu_s']:5.2f} s), "
                f"USS {memory.uss / 1e6:6.0f} MB, PSS {memory.pss / 1e6:6.0f} MB, RSS {memory.rss / 1e6:6.0f} MB, "
                f"tokens {report['tokens']}, logprob {report['logprob']!r}",
                flush=True,
            )
    finally:
        for process in processes:
            process.kill()
            process.wait()


def main() -> None:
    """Measure each precision with own and with mapped weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--precision", choices=["float32", "int8"])
    parser.add_argument("--child")
    arguments = parser.parse_args()
    if arguments.child is not None:
        serve(arguments.checkpoint, arguments.precision, Path(arguments.child) if arguments.child else None)
        return
    for precision in [arguments.precision] if arguments.precision else ["int8", "float32"]:
        with tempfile.TemporaryDirectory() as folder:
            for prepared in (None, Path(folder)):
                measure(arguments.checkpoint, precision, replicas=arguments.replicas, prepared=prepared)


if __name__ == "__main__":
    main()
