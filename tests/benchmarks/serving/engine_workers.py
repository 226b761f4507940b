"""One engine as a process: reads loads as JSON lines, and writes seconds to the last first token and tokens per second
after it.

Imports only what its engine needs, so that it also runs where the project is not installed.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Measure = Callable[[list[list[int]], int], "tuple[float, float]"]
"""Answer prompts with a number of tokens each; return seconds to the last first token and to the end."""


def read_rate() -> float:
    """Return GB/s at which one thread reads memory: the best of some sums."""
    import numpy as np

    numbers = np.ones(32_000_000)
    best = 0.0
    for _ in range(12):
        began = time.perf_counter()
        numbers.sum()
        best = max(best, numbers.nbytes / (time.perf_counter() - began) / 1e9)
    return best


def serve_batching(folder: str, precision: Any, *, is_fused: bool) -> Measure:
    """Return the batching engine on the library's layers, or as replicas run it."""
    import torch

    from backend.domain.serving.protocol import SamplingParams
    from jobs.modeling.checkpoints import load_network
    from jobs.modeling.tokenizer_folders import load_tokenizer
    from jobs.serving.native.library import compile_library
    from jobs.serving.prepared import load_own
    from jobs.serving.start import start_engine

    torch.set_num_threads(1)
    if is_fused:
        loaded = load_own(Path(folder), device=torch.device("cpu"), precision=precision, library=compile_library())
        network = loaded.network
        print("" if loaded.check is None else loaded.check.describe(), file=sys.stderr)
    else:
        network = load_network(Path(folder), dtype=torch.float32)
    engine = start_engine(network, load_tokenizer(Path(folder)), kind="batching", max_running=8)

    def measure(prompts: list[list[int]], new: int) -> tuple[float, float]:
        began, firsts, ends = time.perf_counter(), [0.0] * len(prompts), [threading.Event() for _ in prompts]
        for index, ids in enumerate(prompts):

            def on_event(event: Any, index: int = index) -> None:
                if event.type != "token":
                    ends[index].set()
                elif not firsts[index]:
                    firsts[index] = time.perf_counter() - began

            engine.submit(ids, SamplingParams(max_tokens=new, temperature=0, ignore_eos=True), on_event)
        for end in ends:
            end.wait()
        return max(firsts), time.perf_counter() - began

    return measure


def serve_generate(folder: str) -> Measure:
    """Return transformers' `generate` on one batch."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.generation.streamers import BaseStreamer

    torch.set_num_threads(1)
    network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    class Clock(BaseStreamer):  # type: ignore[misc]
        times: list[float]

        def put(self, value: Any) -> None:
            del value
            self.times.append(time.perf_counter())

        def end(self) -> None:
            pass

    def measure(prompts: list[list[int]], new: int) -> tuple[float, float]:
        clock, ids = Clock(), torch.tensor(prompts)
        clock.times = []
        began = time.perf_counter()
        with torch.inference_mode():
            network.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                streamer=clock,
                pad_token_id=0,
            )
        return clock.times[1] - began, clock.times[-1] - began  # the first call holds the prompts

    return measure


def serve_openvino(file: str, precision: str) -> Measure:
    """Return OpenVINO GenAI's continuous batching over a GGUF file, computing and caching in float32."""
    import numpy as np
    import openvino
    import openvino_genai

    schedule = openvino_genai.SchedulerConfig()
    schedule.cache_size, schedule.enable_prefix_caching, schedule.max_num_seqs = 2, False, 8
    properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False, "KV_CACHE_PRECISION": "f32"}
    if precision == "f16":
        properties["INFERENCE_PRECISION_HINT"] = "f32"
    pipeline = openvino_genai.ContinuousBatchingPipeline(file, schedule, "CPU", properties)

    def measure(prompts: list[list[int]], new: int) -> tuple[float, float]:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = new, True
        began, first = time.perf_counter(), 0.0
        handles = [
            pipeline.add_request(index, openvino.Tensor(np.array([ids])), config) for index, ids in enumerate(prompts)
        ]
        waiting = set(range(len(handles)))
        while pipeline.has_non_finished_requests():
            pipeline.step()
            waiting -= {index for index in waiting if handles[index].can_read()}
            first = first or (0.0 if waiting else time.perf_counter() - began)
        return first, time.perf_counter() - began

    return measure


def serve_ctranslate2(folder: str, precision: str) -> Measure:
    """Return CTranslate2 on one batch."""
    import ctranslate2

    words = json.loads((Path(folder) / "vocabulary.json").read_text(encoding="utf-8"))
    generator = ctranslate2.Generator(folder, compute_type=precision, inter_threads=1, intra_threads=1)

    def measure(prompts: list[list[int]], new: int) -> tuple[float, float]:
        began, firsts = time.perf_counter(), dict[int, float]()

        def note(result: Any) -> bool:
            firsts.setdefault(result.batch_id, time.perf_counter() - began)
            return False

        texts = [[words[i] for i in ids] for ids in prompts]
        generator.generate_batch(
            texts, max_length=new, min_length=new, sampling_topk=1, include_prompt_in_result=False, callback=note
        )
        return max(firsts.values()), time.perf_counter() - began

    return measure


def main() -> None:
    """Measure the loads that arrive on the standard input."""
    kind, source, precision = sys.argv[1:4]
    engines: dict[str, Callable[[], Measure]] = {
        "batching": lambda: serve_batching(source, precision, is_fused=False),
        "ours": lambda: serve_batching(source, precision, is_fused=True),
        "generate": lambda: serve_generate(source),
        "openvino": lambda: serve_openvino(source, precision),
        "ctranslate2": lambda: serve_ctranslate2(source, precision),
    }
    measure = engines[kind]()
    for line in sys.stdin:
        load = json.loads(line)
        draw = random.Random(load["seed"])
        prompts = [[draw.randrange(100, 40_000) for _ in range(load["prompt"])] for _ in range(load["users"])]
        first, end = measure(prompts, load["new"])
        decode = load["users"] * (load["new"] - 1) / (end - first)
        print(json.dumps({"first_s": first, "decode": decode, "end_s": end}), flush=True)


if __name__ == "__main__":
    main()
