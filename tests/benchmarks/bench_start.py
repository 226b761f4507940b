"""Start, stop, memory and pages of an installation, beside an older checkout measured in turns.

    python -m tests.benchmarks.bench_start [--old FOLDER] [--rows help,list,...] [--rounds 5] [--json FILE]

FOLDER is a checkout with an installation of its own in FOLDER/.venv (`make install`). Every row can be measured alone:

- `help`: `roundhouse --help`
- `list`: `roundhouse endpoint list`
- `start`: `roundhouse up` in a home folder that has been used, until the page answers
- `stop`: Ctrl-C with one endpoint, until no process is left
- `memory`: sum of the proportional set sizes of an idle installation's processes (Linux)
- `pages`: a fresh browser to a settled page: architectures, planner, launch
- `training`: the same beside a training run
- `install`: a clone without a virtual environment, `make run` until the page answers: minutes, only when named

Each checkout gets a home folder of its own, in which a small run is trained first. Needs Chromium for the pages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import sync_playwright

from backend.infra.devices import cpu_name
from tests.support.browser import FLAGS, chromium
from tests.support.installation import PROJECT, free_port, is_alive, wait_until

ROWS = ("help", "list", "start", "stop", "memory", "pages", "training")
PAGES = ("architectures", "planner", "launch")
RUN = """
name: {name}
dataset: pebblewick-stories
tokenizer: pebblewick-bpe-2048
architecture: {{num_layers: 4, width: 128, num_heads: 4, num_kv_heads: 4, context: 256, vocab_size: 2048, feed_forward: 384}}
max_steps: {steps}
micro_batch: 8
context: 256
learning_rate: 1.0e-3
warmup_steps: 5
eval_every: {steps}
eval_batches: 1
checkpoint_every: {steps}
"""  # noqa: E501
WANTED = {
    "roundhouse --help, s": 0.4,
    "roundhouse endpoint list, s": 1.0,
    "start until the page answers, s": 5.0,
    "Ctrl-C until nothing is left, s": 4.0,
    "idle installation, MB": 700.0,
    **{f"{page}, s": 2.0 for page in PAGES},
    **{f"{page} beside a training run, s": 3.0 for page in PAGES},
}
SETTLED = """() => {
  const app = document.querySelector('[data-testid="stApp"]');
  const done = app && app.getAttribute('data-test-script-state') === 'notRunning' && document.querySelector('h1')
    && !document.querySelector('[data-testid="stSkeleton"]');
  if (!done) { window.settledAt = undefined; return false; }
  window.settledAt ??= performance.now();
  return performance.now() - window.settledAt > 400;
}"""


@dataclass
class Running:
    """A `roundhouse up` and everything it has started."""

    process: subprocess.Popen[bytes]

    def family(self) -> list[psutil.Process]:
        """Return its processes."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def stop(self) -> float:
        """Press Ctrl-C and return the seconds until no process is left."""
        family = self.family()
        started = time.perf_counter()
        if os.getpgid(self.process.pid) == self.process.pid:
            # a terminal sends it to every process of the group: make forwards none
            os.killpg(self.process.pid, signal.SIGINT)
        else:
            self.process.send_signal(signal.SIGINT)
        while self.process.poll() is None or any(is_alive(member) for member in family):
            time.sleep(0.01)
        return time.perf_counter() - started

    def pss_mb(self) -> float:
        """Return the sum of the proportional set sizes."""
        total = 0
        for member in self.family():
            lines = Path(f"/proc/{member.pid}/smaps_rollup").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024


OPEN: list[Running] = []
"""What was started, to be stopped however the measurement ends."""


class Checkout:
    """A checkout with its own home folder and ports."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        home.mkdir()
        self.port = free_port()
        self.environment = {
            **{key: value for key, value in os.environ.items() if key not in {"REDIS_URL", "VIRTUAL_ENV"}},
            "PYTHONPATH": str(folder),
            "ROUNDHOUSE_HOME": str(home),
            "DATABASE_URL": f"sqlite:///{home / 'models.db'}",
            "ROUNDHOUSE_PORT": str(self.port),
            "ROUNDHOUSE_GATEWAY_PORT": str(free_port()),
            "ROUNDHOUSE_REDIS_PORT": str(free_port()),
        }

    def run(self, *arguments: str) -> Any:
        """Run a command with --json and return what it says."""
        done = subprocess.run(
            [self.script, *arguments, "--json"], cwd=self.folder, env=self.environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"roundhouse {' '.join(arguments)}: {done.stdout} {done.stderr}")
        return json.loads(done.stdout)

    def seconds_of(self, *arguments: str) -> float:
        """Return how long a command takes."""
        started = time.perf_counter()
        subprocess.run(
            [self.script, *arguments], cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, check=True
        )
        return time.perf_counter() - started

    @property
    def script(self) -> str:
        """The command."""
        return str(self.folder / ".venv" / "bin" / "roundhouse")

    def start(self) -> tuple[Running, float]:
        """Start everything. Returns it and the seconds until the page answers."""
        started = time.perf_counter()
        with (self.home / "up.log").open("ab") as log:
            process = subprocess.Popen(
                [self.script, "up"], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
        wait_until(
            lambda: process.poll() is not None or answers(self.port), timeout_s=180, what="the page", every_s=0.01
        )
        seconds = time.perf_counter() - started
        if process.poll() is not None:
            raise RuntimeError(f"roundhouse up ended: {(self.home / 'up.log').read_text()[-2000:]}")
        OPEN.append(running := Running(process))
        return running, seconds

    @contextmanager
    def running(self) -> Iterator[Running]:
        """Run for as long as the block lasts."""
        running, _ = self.start()
        try:
            yield running
        finally:
            running.stop()

    def prepare(self) -> None:
        """Start for the first time, wait for the starter content, and train a small run."""
        with self.running() as running:
            wait_until(
                lambda: len(self.run("data", "list")["datasets"]) >= 4 and is_idle(running),
                timeout_s=600,
                what="the starter content",
            )
            self.launch("small", steps=20, wait=True)

    def deploys(self, name: str) -> bool:
        """Deploy the small run, and return whether a replica became ready: none does before there is a worker."""
        try:
            self.run("endpoint", "deploy", "--checkpoint", "small", "--name", name)
        except RuntimeError:
            return False
        return True

    def launch(self, name: str, *, steps: int, wait: bool = False) -> None:
        """Launch a run."""
        recipe = self.home / f"{name}.yaml"
        recipe.write_text(RUN.format(name=name, steps=steps))
        self.run("run", "launch", str(recipe), "--yes", *(["--wait"] if wait else []))


def answers(port: int) -> bool:
    """Whether the pages answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def is_idle(running: Running) -> bool:
    """Whether no job has a process."""
    for member in running.family():
        with contextlib.suppress(psutil.Error):  # it has ended in the meantime
            if "--child" in member.cmdline():
                return False
    return True


Measured = dict[str, float]


def measure_help(checkout: Checkout) -> Measured:
    """Time `roundhouse --help`."""
    return {"roundhouse --help, s": checkout.seconds_of("--help")}


def measure_list(checkout: Checkout) -> Measured:
    """Time `roundhouse endpoint list`."""
    return {"roundhouse endpoint list, s": checkout.seconds_of("endpoint", "list")}


def measure_start(checkout: Checkout) -> Measured:
    """Time a start, and stop again."""
    running, seconds = checkout.start()
    wait_until(lambda: len(running.family()) > 5, what="the processes")
    time.sleep(3)
    running.stop()
    return {"start until the page answers, s": seconds}


def measure_stop(checkout: Checkout) -> Measured:
    """Time Ctrl-C with one endpoint that is ready."""
    running, _ = checkout.start()
    name = f"endpoint-{time.time_ns()}"
    wait_until(lambda: checkout.deploys(name), timeout_s=120, what="the endpoint", every_s=0.5)
    seconds = running.stop()
    checkout.run("endpoint", "stop", name)
    return {"Ctrl-C until nothing is left, s": seconds}


def measure_memory(checkout: Checkout) -> Measured:
    """Weigh an installation that has been idle for ten seconds."""
    with checkout.running() as running:
        time.sleep(10)
        wait_until(lambda: is_idle(running), timeout_s=60, what="an idle installation")
        return {"idle installation, MB": running.pss_mb()}


def measure_pages(checkout: Checkout) -> Measured:
    """Time pages of an installation that was started half a minute ago."""
    with checkout.running():
        time.sleep(30)
        return {f"{page}, s": seconds_to_settle(checkout, page) for page in PAGES}


def measure_training(checkout: Checkout) -> Measured:
    """Time pages beside a training run."""
    with checkout.running() as running:
        checkout.launch(name := f"long-{time.time_ns()}", steps=1_000_000)
        wait_until(
            lambda: (checkout.run("run", "show", name)["step"] or 0) > 20, timeout_s=180, what="some steps", every_s=1
        )
        try:
            return {f"{page} beside a training run, s": seconds_to_settle(checkout, page) for page in PAGES}
        finally:
            checkout.run("run", "cancel", name)
            wait_until(lambda: is_idle(running), timeout_s=60, what="the end of the run")


def seconds_to_settle(checkout: Checkout, page: str) -> float:
    """Return the seconds from an address to a page whose script has ended and stays so, in a browser that has seen
    nothing.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        view = browser.new_page(viewport={"width": 1440, "height": 1000})
        view.goto(f"http://127.0.0.1:{checkout.port}/{page}", wait_until="commit")
        view.wait_for_function(SETTLED, timeout=120_000, polling=20)
        milliseconds = view.evaluate("window.settledAt")  # since the navigation began
        browser.close()
    return float(milliseconds) / 1000


def measure_install(checkout: Checkout) -> Measured:
    """Time `make run` in a clone without a virtual environment until the page answers."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(checkout.folder), str(clone)], check=True)
        (home := Path(folder) / "home").mkdir()
        environment = {
            **checkout.environment,
            "PYTHONPATH": "",
            "ROUNDHOUSE_HOME": str(home),
            "DATABASE_URL": f"sqlite:///{home / 'models.db'}",
        }
        started = time.perf_counter()
        process = subprocess.Popen(
            ["make", "run"], cwd=clone, env=environment, stdout=subprocess.DEVNULL, start_new_session=True
        )
        OPEN.append(running := Running(process))
        wait_until(lambda: answers(checkout.port), timeout_s=1800, what="the page", every_s=0.1)
        seconds = time.perf_counter() - started
        running.stop()
        return {"clone to the page, s": seconds}


MEASURES: dict[str, Callable[[Checkout], Measured]] = {
    "help": measure_help,
    "list": measure_list,
    "start": measure_start,
    "stop": measure_stop,
    "memory": measure_memory,
    "pages": measure_pages,
    "training": measure_training,
    "install": measure_install,
}


def main() -> None:
    """Measure the rows that were asked for, both checkouts in turns, and print medians."""
    arguments = read_arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        report(measure(arguments), arguments)
    finally:
        for running in OPEN:
            if running.process.poll() is None:
                running.stop()


def measure(arguments: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Return every value by row and checkout."""
    with tempfile.TemporaryDirectory(prefix="rh-") as folder:
        checkouts = {"new": Checkout(PROJECT, Path(folder) / "new")}
        if arguments.old:
            checkouts = {"old": Checkout(arguments.old.resolve(), Path(folder) / "old"), **checkouts}
        if set(arguments.rows) - {"help", "install"}:
            for name, checkout in checkouts.items():
                note(f"preparing {name}: {checkout.folder}")
                checkout.prepare()
        values: dict[str, dict[str, list[float]]] = {}
        for row in arguments.rows:
            for number in range(1 if row == "install" else arguments.rounds):
                for name, checkout in checkouts.items():
                    for what, value in MEASURES[row](checkout).items():
                        values.setdefault(what, {}).setdefault(name, []).append(value)
                        note(f"{row} {number + 1}: {what} {name} {value:.2f} (load {os.getloadavg()[0]:.1f})")
        return values


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, help="an older checkout with its own .venv")
    parser.add_argument(
        "--rows", type=lambda text: text.split(","), default=list(ROWS), help=f"of {', '.join(MEASURES)}"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write every value to this file")
    arguments = parser.parse_args()
    if unknown := [row for row in arguments.rows if row not in MEASURES]:
        parser.error(f"there is no row {unknown[0]!r}; choose from {', '.join(MEASURES)}")
    return arguments


def report(values: dict[str, dict[str, list[float]]], arguments: argparse.Namespace) -> None:
    """Print a Markdown table of medians and the conditions; write every value to a file if one was named."""
    conditions = (
        f"{cpu_name()}, Python {platform.python_version()}, median of {arguments.rounds}, load now"
        f" {os.getloadavg()[0]:.1f}"
    )
    lines = ["| row | old | new | new / old | wanted |", "|---|---|---|---|---|"]
    for what, by_name in values.items():
        medians = {name: statistics.median(seconds) for name, seconds in by_name.items()}
        old, new, target = medians.get("old"), medians["new"], WANTED.get(what)
        ratio = f"{new / old:.2f}" if old else ""
        lines.append(
            f"| {what} | {'' if old is None else f'{old:.2f}'} | {new:.2f} | {ratio} |"
            f" {'' if target is None else f'< {target:g}'} |"
        )
    print("\n".join([*lines, "", conditions]))
    if arguments.json:
        arguments.json.write_text(json.dumps({"conditions": conditions, "values": values}, indent=2))


def note(text: str) -> None:
    """Write a line of progress to stderr."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
