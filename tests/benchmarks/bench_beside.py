"""The product beside an older commit, in one run and in turns: processes, pages, gateway, training, ratings.

    python -m tests.benchmarks.bench_beside --old FOLDER [--rows imports,pages,...] [--rounds 5] [--json FILE]

FOLDER is a checkout with an installation in FOLDER/.venv (a link to this one's, where the packages are the same). The
checkout that is measured first in one round comes last in the next, and each ratio is of one round. Processor time is
of the whole process; where others use the machine it says more than the clock.

- `help`, `list`: `roundhouse --help`, `roundhouse endpoint list`
- `imports`: what gateway, pages, worker and jobs import, processor time and peak memory
- `start`, `memory`: as in `bench_start.py`
- `pages`: an installation with one of everything and a thousand runs, seen before: until a page is settled, and the
  server's processor time
- `gateway`: key, limits, usage and log in SQLite before a replica that answers at once; today's load generator
- `training`: a network of 2 million weights on the CPU
- `ratings`: votes read, rated, imported, shown as a board, cast
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from backend.domain.jobs.load_test import LoadTarget
from backend.domain.serving.load import LoadConfig, LoadSummary, summarise_load
from backend.infra.devices import cpu_name
from backend.infra.load_generator import run_level
from jobs.environment import with_memory_reuse
from tests.benchmarks.battles.bench_ratings import write_votes
from tests.benchmarks.bench_pretraining import Contender, take_turn, warm_up
from tests.benchmarks.bench_start import (
    OPEN,
    SETTLED,
    Checkout,
    Measured,
    answers,
    measure_memory,
    measure_start,
    note,
)
from tests.support.browser import FLAGS, chromium
from tests.support.installation import PROJECT, free_port, wait_until

WORK = PROJECT / "tests/benchmarks/beside_work.py"
IMPORTS = {
    "gateway": "import backend.gateway.main",
    "pages": "import app; from backend.web.server import warm_up; warm_up('pages.components').join()",
    "worker": "import jobs.celery_app",
    "job": "import jobs.run",
    "training": "import jobs.training.run",
}
TELL_PEAK = "; print(open('/proc/self/status').read())"
PEAK = re.compile(r"VmHWM:\s+(\d+) kB")
PAGES = ("overview", "runs", "finished", "launch", "evaluation", "campaign", "requests")
USERS, WARMUP, NUM_REQUESTS, NUM_STREAMS, STREAMED_TOKENS = 16, 50, 1500, 32, 300
TURN_S, TURNS = 2.4, 4
TOKENS_A_STEP = 16 * 256
VOTES = {"votes": 200_000, "contestants": 50, "prompts": 5_000, "raters": 200}


class Side:
    """One of the two checkouts, and what runs of it until the end."""

    def __init__(self, folder: Path, work: Path, *, browser: Browser, votes: Path, ends: ExitStack) -> None:
        work.mkdir()
        self.checkout = Checkout(folder, work / "home")
        self.checkout.environment.pop("PYTHONDONTWRITEBYTECODE", None)  # modules are compiled, as after an installation
        subprocess.run([sys.executable, "-m", "compileall", "-q", "backend", "jobs", "pages"], cwd=folder, check=True)
        self.work, self.votes = work, votes
        self._browser, self._ends = browser, ends

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start Python in the checkout; it is stopped at the end."""
        environment = {**self.checkout.environment, **options.pop("more", {})}
        process = subprocess.Popen(
            [str(self.checkout.folder / ".venv/bin/python"), *arguments],
            cwd=self.checkout.folder,
            env=environment,
            text=True,
            **options,
        )
        self._ends.callback(end, process)
        return process

    def work_of(self, *arguments: str) -> dict[str, Any]:
        """Do work of `beside_work.py` and return what it prints."""
        process = self.start(str(WORK), *arguments, stdout=subprocess.PIPE)
        output, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{arguments} in {self.checkout.folder} ended with {process.returncode}")
        values: dict[str, Any] = json.loads(output.splitlines()[-1])
        return values

    @cached_property
    def is_prepared(self) -> bool:
        """Fill the home folder by a first start."""
        self.checkout.prepare()
        return True

    @cached_property
    def pages(self) -> Pages:
        """A server over the filled installation, whose pages have been seen."""
        home = self.work / "filled"
        addresses = self.work_of("fill", str(home))
        more = {"ROUNDHOUSE_HOME": str(home), "DATABASE_URL": f"sqlite:///{home / 'models.db'}"}
        port = free_port()
        command = ["-m", "streamlit", "run", "app.py", "--server.port", str(port), "--server.address", "127.0.0.1"]
        server = self.start(*command, more={**more, "REDIS_URL": "redis://127.0.0.1:1/0"}, stdout=subprocess.DEVNULL)
        wait_until(lambda: answers(port), what="the pages' server")
        view = self._browser.new_page(viewport={"width": 1440, "height": 1000})
        pages = Pages(f"http://127.0.0.1:{port}", addresses, view, psutil.Process(server.pid))
        pages.visit_all()
        return pages

    @cached_property
    def gateway(self) -> tuple[LoadTarget, psutil.Process]:
        """A gateway, and its process."""
        process = self.start(
            str(WORK), "gateway", str(self.work / "gateway"), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        return LoadTarget(kind="gateway", url=told["url"], model="small", token=told["key"]), psutil.Process(
            told["process"]
        )

    @cached_property
    def training(self) -> Contender:
        """A run that has taken its first steps, and stands still."""
        (folder := self.work / "training").mkdir()
        script = str(self.checkout.folder / "tests/benchmarks/bench_pretraining.py")
        more = with_memory_reuse({"PYTHONUNBUFFERED": "1", "GOMP_SPINCOUNT": "10000", "BENCH_WAY": "eager"})
        process = self.start(
            *(script, "--child", "roundhouse", "--shape", "2m", "--folder", str(folder)),
            more=more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        contender = Contender(self.checkout.folder.name, process)
        threading.Thread(target=contender.read, daemon=True).start()
        warm_up(contender)
        return contender


class Pages:
    """Pages of one server, seen by one browser."""

    def __init__(self, url: str, addresses: dict[str, str], view: Page, server: psutil.Process) -> None:
        self._url, self._addresses, self._view, self._server = url, addresses, view, server

    def visit_all(self) -> Measured:
        """Open each page."""
        values: Measured = {}
        for page in PAGES:
            before = cpu_s(self._server)
            self._view.goto(self._url + self._addresses[page], wait_until="commit")
            self._view.wait_for_function(SETTLED, timeout=120_000, polling=20)
            values[f"page {page}, s"] = self._view.evaluate("window.settledAt") / 1000
            values[f"page {page}, server's processor s"] = cpu_s(self._server) - before
            self._view.goto("about:blank")
        return values


def end(process: subprocess.Popen[str]) -> None:
    """End a process that is left, with those of its group where it has one."""
    if process.stdin is not None:
        process.stdin.close()  # a gateway ends with it, and ends its servers
    elif process.poll() is None and os.getpgid(process.pid) == process.pid:
        os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.terminate()
    process.wait(60)


def cpu_s(process: psutil.Process) -> float:
    """Return a process's seconds of processor time."""
    times = process.cpu_times()
    return float(times.user + times.system)


def whole_process(side: Side, what: str, command: Sequence[str]) -> Measured:
    """Run a command; return its seconds by the clock and of the processor, and the peak memory that it states."""
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=side.checkout.folder, env=side.checkout.environment, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.stdout.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}")
    values = {f"{what}, s": seconds, f"{what}, processor s": usage.ru_utime + usage.ru_stime}
    peak = PEAK.search(output)
    return values if peak is None else values | {f"{what}, MB": int(peak[1]) / 1024}


def measure_imports(side: Side) -> Measured:
    """Import what each process imports."""
    values: Measured = {}
    python = str(side.checkout.folder / ".venv/bin/python")
    for name, code in IMPORTS.items():
        values |= whole_process(side, f"imports of {name}", [python, "-c", code + TELL_PEAK])
    return values


def measure_prepared(side: Side, measure: Callable[[Checkout], Measured]) -> Measured:
    """Measure an installation that has been used."""
    assert side.is_prepared
    return measure(side.checkout)


def measure_gateway(side: Side) -> Measured:
    """Send short requests, then long streams."""
    target, process = side.gateway

    def run(users: int, requests: int, tokens: int) -> tuple[LoadSummary, float]:
        config = LoadConfig(users=(users,), requests=requests, warmup=WARMUP, max_tokens=(tokens,), prompt_words=(8,))
        before = cpu_s(process)
        with ThreadPoolExecutor(1) as apart:  # the browser's event loop is this thread's
            sent = apart.submit(run_level, config, [target], users=users).result()
        level = summarise_load([sent], slo_ttft_ms=1e4, slo_itl_ms=1e4)
        assert not level.errors, level.first_error
        return level, cpu_s(process) - before

    short, used = run(USERS, NUM_REQUESTS, 1)
    _, streaming = run(8, NUM_STREAMS, STREAMED_TOKENS)
    each = used / (NUM_REQUESTS + WARMUP)
    chunks = STREAMED_TOKENS * (NUM_STREAMS + WARMUP)
    assert short.e2e is not None
    return {
        "gateway, requests a second": short.requests_per_s,
        "gateway, p50 ms": short.e2e.p50_ms,
        "gateway, p99 ms": short.e2e.p99_ms,
        "gateway, processor ms a request": 1000 * each,
        "gateway, processor µs a chunk": 1e6 * (streaming - each * (NUM_STREAMS + WARMUP)) / chunks,
    }


def measure_training(side: Side) -> Measured:
    """Let a run train for a turn."""
    return {"training, tokens a second": TOKENS_A_STEP * take_turn(side.training, TURN_S)}


MEASURES: dict[str, Callable[[Side], Measured]] = {
    "help": lambda side: whole_process(side, "`roundhouse --help`", [side.checkout.script, "--help"]),
    "list": lambda side: whole_process(side, "`roundhouse endpoint list`", [side.checkout.script, "endpoint", "list"]),
    "imports": measure_imports,
    "pages": lambda side: side.pages.visit_all(),
    "gateway": measure_gateway,
    "training": measure_training,
    "ratings": lambda side: side.work_of("ratings", str(side.votes)),
    "start": lambda side: measure_prepared(side, measure_start),
    "memory": lambda side: measure_prepared(side, measure_memory),
}


def main() -> None:
    """Measure the rows that were asked for and print them."""
    arguments = read_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    values: dict[str, list[dict[str, float]]] = {}
    printed: set[str] = set()
    began, loads = time.strftime("%Y-%m-%d %H:%M", time.gmtime()), []
    with ExitStack() as ends:
        work = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="rh-")))
        browser = ends.enter_context(sync_playwright()).chromium.launch(executable_path=chromium(), args=FLAGS)
        ends.callback(lambda: [running.stop() for running in OPEN if running.process.poll() is None])
        write_votes(votes := work / "votes.csv", **VOTES)
        sides = {
            name: Side(folder, work / name, browser=browser, votes=votes, ends=ends)
            for name, folder in (("old", arguments.old.resolve()), ("new", PROJECT))
        }
        for row in arguments.rows:
            for turn in range(arguments.rounds * (TURNS if row == "training" else 1)):
                order = list(sides)[:: 1 if turn % 2 == 0 else -1]
                for name in order:
                    for what, value in MEASURES[row](sides[name]).items():
                        rounds = values.setdefault(what, [])
                        if len(rounds) == turn:
                            rounds.append({})
                        rounds[turn][name] = value
                loads.append(os.getloadavg()[0])
                note(f"{row} {turn + 1} (load {loads[-1]:.1f})")
            print(table({what: rounds for what, rounds in values.items() if what not in printed}), flush=True)
            printed |= set(values)
    print(f"{began}, {cpu_name()}, Python {platform.python_version()}, load {min(loads):.0f} to {max(loads):.0f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(values, indent=1))


def table(values: dict[str, list[dict[str, float]]]) -> str:
    """Return a Markdown table of medians and of the rounds' ratios."""
    lines = ["| | old | new | new / old | least to greatest | pairs |", "|---|---:|---:|---:|---|---:|"]
    for what, rounds in values.items():
        old, new = (statistics.median(each[name] for each in rounds) for name in ("old", "new"))
        ratios = sorted(each["new"] / each["old"] for each in rounds if each["old"])
        if not ratios:
            continue
        lines.append(
            f"| {what} | {old:.3g} | {new:.3g} | {statistics.median(ratios):.2f} | {ratios[0]:.2f} to"
            f" {ratios[-1]:.2f} | {len(ratios)} |"
        )
    return "\n".join(lines)


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True, help="an older checkout with its own .venv")
    parser.add_argument(
        "--rows", type=lambda text: text.split(","), default=list(MEASURES), help=f"of {', '.join(MEASURES)}"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every value to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
