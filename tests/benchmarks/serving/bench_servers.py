"""Servers and engines side by side through HTTP, which read the same weights.

    python -m tests.benchmarks.serving.bench_servers CHECKPOINT --gguf FILE --llama FOLDER

Each server is a process (ours two: gateway and replica), and all take turns, so that what else the machine does falls
on all; those whose turn it is not are stopped. The client streams `/v1/completions`: prompts of random token ids,
greedy answers of a fixed length. FILE is what `roundhouse export --format gguf` wrote, with `{}` for the numbers (f32,
f16, q8_0), and FOLDER is where `pip install --target FOLDER xllamacpp` put llama.cpp's server, which the project
doesn't need. `--servers` chooses:
`ours-PRECISION`, or `vllm-PRECISION` and `llama.cpp-float32` for the same gateway and replica with another engine, or
`llama.cpp-NUMBERS` for that engine on a base added as such a file, or `llama-NUMBERS` for llama.cpp's server by
itself; with `@THREADS` for more than one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from jobs.modeling.gguf import convert_gguf
from tests.support.gateway_fixtures import KEY

CONTEXT = 2048
USERS = 8
SETTLE_S = 1.0
PRECISIONS = ("float32", "bfloat16", "int8")
ENGINES = {"ours": "roundhouse", "vllm": "vllm", "sglang": "sglang", "llama.cpp": "llama.cpp"}
SERVERS = "ours-float32,ours-bfloat16,ours-int8,llama-f32,llama-f16,llama-q8_0"


def serve_ours(folder: str, engine: str, precision: str, threads: int) -> None:
    """Serve a checkpoint by a replica in this process, and by a gateway in another; print the address."""
    from backend.domain.jobs.events import Event, ReadyEvent
    from jobs.reporter import SilentReporter
    from jobs.serving.replica import run
    from tests.benchmarks.serving.bench_gateway import start
    from tests.support.jobs import make_spec

    class Teller(SilentReporter):
        def emit(self, event: Event) -> None:
            if isinstance(event, ReadyEvent):
                print(json.dumps({"url": start("gateway", event.url)[1]}), flush=True)

    # one place more than users: a replica keeps one of its places from every single key
    with tempfile.TemporaryDirectory() as home:
        Path(home, "c").symlink_to(Path(folder).resolve(), target_is_directory=True)
        payload = {
            "checkpoint": "c",
            "name": "small",
            "internal_token": "t",
            "threads": threads,
            "engine": engine,
            "precision": precision,
        }
        run(make_spec("replica", {**payload, "context": CONTEXT, "max_running": USERS + 1}, root=Path(home)), Teller())


def serve_llama(folder: str, file: str, threads: int) -> None:
    """Serve a GGUF file by llama.cpp's server; print the address."""
    sys.path.insert(0, folder)
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.hostnames, params.port, params.n_parallel, params.n_ctx = ["127.0.0.1"], 0, USERS, USERS * CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = 0
    server = xllamacpp.Server(params)
    print(json.dumps({"url": server.listening_address}), flush=True)
    threading.Event().wait()


class Server:
    """A server as a process, which has answered once."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        kind, _, rest = name.partition("-")
        rest, _, threads = rest.partition("@")
        threads = threads or "1"
        file = arguments.gguf.format(rest)
        source = [arguments.checkpoint] if kind in ENGINES else [arguments.llama, file]
        if kind == "llama.cpp" and rest not in PRECISIONS:
            self._base = tempfile.TemporaryDirectory()
            source, rest = [f"{self._base.name}/base"], "float32"
            convert_gguf(Path(file), Path(source[0]))
        command = [sys.executable, __file__, "--serve", kind, *source, rest, threads]
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": threads,
            "GOMP_SPINCOUNT": "10000",
            "PYTHONPATH": os.environ.get("PYTHONPATH", os.getcwd()),
        }
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                self._url = json.loads(line)["url"]
                break
        else:
            raise RuntimeError(f"{name} ended.")
        threading.Thread(target=self._process.stdout.read, daemon=True).start()
        with self.awake():
            pass

    async def measure(self, *, users: int, prompt: int, new: int, seed: int) -> dict[str, float]:
        """Return seconds to a first token on average and to the last, tokens per second after that and in all, and the
        processor seconds of all processes of the server, which other work on the machine changes least.
        """
        draw = random.Random(seed)
        prompts = [[draw.randrange(100, 40_000) for _ in range(prompt)] for _ in range(users)]
        headers = {"Authorization": f"Bearer {KEY}"}
        async with aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=600)) as session:
            used, began = self._used_s(), time.perf_counter()
            answers = await asyncio.gather(*(self._answer(session, ids, new) for ids in prompts))
            end, used = time.perf_counter() - began, self._used_s() - used
        firsts = [answer - began for answer in answers]
        decode = users * (new - 1) / (end - max(firsts))
        return {
            "mean_s": statistics.fmean(firsts),
            "last_s": max(firsts),
            "decode": decode,
            "whole": users * new / end,
            "used_s": used,
        }

    def _used_s(self) -> float:
        server = psutil.Process(self._process.pid)
        times = [one.cpu_times() for one in (server, *server.children(recursive=True))]
        return sum(time.user + time.system for time in times)

    async def _answer(self, session: aiohttp.ClientSession, ids: list[int], new: int) -> float:
        """Stream one answer; return when its first token came. Raises RuntimeError for another number of tokens."""
        body = {
            "model": "small",
            "prompt": ids,
            "max_tokens": new,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        body["stream_options"] = {"include_usage": True}
        first, tokens = 0.0, 0
        async with session.post(f"{self._url}/v1/completions", json=body) as response:
            if response.status != 200:
                raise RuntimeError(await response.text())
            async for line in response.content:
                if line.startswith(b"data: {"):
                    chunk: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
                    first = first or (time.perf_counter() if chunk.get("choices") else 0.0)
                    tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        if tokens != new:
            raise RuntimeError(f"{tokens} tokens instead of {new}")
        return first

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Let the server's processes run here alone, and answer once: those of some compute while they wait."""
        self._signal(signal.SIGCONT)
        time.sleep(SETTLE_S)
        asyncio.run(self.measure(users=2, prompt=16, new=4, seed=-1))
        yield
        self._signal(signal.SIGSTOP)

    def _signal(self, number: signal.Signals) -> None:
        server = psutil.Process(self._process.pid)
        for one in (server, *server.children(recursive=True)):
            one.send_signal(number)

    def close(self) -> None:
        """End the process, and its gateway with it."""
        self._signal(signal.SIGCONT)
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(30)


def main() -> None:
    """Measure every load on every server, in turns."""
    if sys.argv[1:2] == ["--serve"]:
        kind, source, *rest = sys.argv[2:]
        if kind in ENGINES:
            serve_ours(source, ENGINES[kind], rest[0], int(rest[1]))
        else:
            serve_llama(source, rest[0], int(rest[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("--gguf", default="")
    parser.add_argument("--llama", default="")
    parser.add_argument("--servers", default=SERVERS)
    parser.add_argument("--loads", default="1x64,8x64", help="users x prompt tokens")
    parser.add_argument("--new", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    servers = {name: Server(name, arguments) for name in arguments.servers.split(",")}
    try:
        for users, prompt in (map(int, load.split("x")) for load in arguments.loads.split(",")):
            rounds: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
            for seed in range(arguments.rounds):
                for name, server in servers.items():
                    load = {"users": users, "prompt": prompt, "new": arguments.new, "seed": 100 * users + seed}
                    with server.awake():
                        rounds[name].append(asyncio.run(server.measure(**load)))
            print(
                f"\n{users} users, prompts of {prompt} tokens, {arguments.new} new, load {os.getloadavg()[0]:.0f}",
                flush=True,
            )
            for name, measured in rounds.items():
                medians = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
                decodes = sorted(one["decode"] for one in measured)
                print(
                    f"  {name:20} {medians['decode']:7.1f} tokens/s ({decodes[0]:.1f} to {decodes[-1]:.1f}),"
                    f" whole {medians['whole']:6.1f}, first {medians['mean_s']:.2f} s, last {medians['last_s']:.2f} s,"
                    f" processor {medians['used_s']:.2f} s",
                    flush=True,
                )
    finally:
        for server in servers.values():
            server.close()


if __name__ == "__main__":
    main()
