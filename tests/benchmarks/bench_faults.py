"""Faults of a whole installation on PostgreSQL and Valkey: what is lost or recorded twice, and when pages say it.

    make faults
    python -m tests.benchmarks.bench_faults [--trials N] [FAULT ...]

Each trial trains a run with a second one queued behind it, does harm at a random step, and ends it again. Meanwhile a
client asks an endpoint of two replicas once a second. A trial passes if both runs end as undisturbed ones do, with each
step recorded once and equal to the bit. A run that failed with a cause is resumed, as its page offers. Prints a line of
JSON for each trial, and a table at the end. Needs root for a disk of its own, libfaketime for clocks, SeaweedFS
(`weed`) for the store: what is not there is left out, and said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import select

from backend.bootstrap import build_context
from backend.cli.processes import broker_binary
from backend.db.tables import Checkpoint, Job
from backend.domain.jobs.states import TERMINAL, Status
from backend.domain.tokenizers.config import TokenizerConfig
from backend.domain.training.config import RunConfig
from backend.domain.training.sweep import SweepConfig
from backend.infra.artifacts import Artifacts
from backend.services.context import LOCAL, Context
from backend.services.data.imports import add_rows_dataset
from backend.services.jobs.jobs import get_job
from backend.services.serving.deployments import deploy
from backend.services.serving.endpoints import get_endpoint
from backend.services.tokenizers.tokenizers import list_tokenizers, train_tokenizer
from backend.services.training.runs import launch_run, resume_run
from backend.services.training.sweeps import launch_sweep, sweep_detail
from backend.services.training.views import get_run
from tests.support.curves import read_curve
from tests.support.installation import Installation, free_port, mark_starter_content, wait_until
from tests.support.job_work import do_job
from tests.support.postgres import PostgresServer
from tests.support.run_world import tiny_run
from tests.support.settings import make_settings
from tests.support.slow_link import SlowLink, slow_link
from tests.support.stores import Store, weed_binary, weed_store

STEPS, STEPS_BEHIND = 400, 20
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
PARTS = {
    "pages": "streamlit",
    "gateway": "backend.gateway.serve",
    "worker": "jobs.celery_app",
    "forks": "jobs.fork_server",
}
"""Processes of an installation by words of their commands."""


class Broker:
    """Valkey, which keeps nothing on disk: started again, it is empty."""

    def __init__(self) -> None:
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [broker_binary(), "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


class Client:
    """Asks the endpoint once a second in a thread, and counts what is answered."""

    def __init__(self, url: str) -> None:
        self.url, self.times, self.failures = url, [0.0], list[str]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def _repeat(self) -> None:
        body = json.dumps({"model": "m", "prompt": "engine", "max_tokens": 4}).encode()
        while not self._over.wait(1.0):
            began = time.monotonic()
            request = urllib.request.Request(
                f"{self.url}/completions", body, {"Content-Type": "application/json"}, method="POST"
            )
            try:
                urllib.request.urlopen(request, timeout=60).read()
                self.times.append(time.monotonic() - began)
            except (OSError, ValueError) as error:
                self.failures.append(str(error))

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@dataclass
class World:
    """A running installation with its servers, and what undisturbed runs recorded."""

    up: Installation
    ctx: Context
    postgres: PostgresServer
    broker: Broker
    store: Store | None = None
    link: SlowLink | None = None
    clock: Path | None = None
    number: int = 0
    expected: dict[int, list[float]] = field(default_factory=dict)
    cut: list[psutil.Process] = field(default_factory=list)

    def launch(self, name: str, steps: int = STEPS, **values: object) -> str:
        """Launch a run of this number of steps."""
        self.number += 1
        values = {"micro_batch": 16, "device": "cpu", **values}
        config: RunConfig = tiny_run(f"{name} {self.number}", max_steps=steps, **values)
        return launch_run(self.ctx, config, person=LOCAL).id

    def last_step(self, run: str) -> int:
        """Return the newest recorded step."""
        return max(read_curve(self.ctx, run, "train_loss").steps, default=0)

    def wait(self, run: str) -> tuple[Status, int, list[str]]:
        """Wait for the end of a run; resume one that failed. Return its status, its resumes and why it failed."""
        causes: list[str] = []
        while True:
            view = wait_until(
                lambda: (one := get_run(self.ctx, run)).status in TERMINAL and one, timeout_s=900, what=f"end of {run}"
            )
            if view.status is not Status.FAILED or len(causes) == 3:
                return view.status, len(causes), causes
            causes.append(view.error.cause)
            if self.last_step(run) < 50:  # without a checkpoint there is nothing to resume
                return view.status, len(causes), causes
            resume_run(self.ctx, run, person=LOCAL)

    def problems(self, run: str, steps: int) -> list[str]:
        """Compare a run's points with those of an undisturbed one."""
        curve = read_curve(self.ctx, run, "train_loss")
        problems = []
        if len(set(curve.steps)) != len(curve.steps):
            problems.append(f"{len(curve.steps) - len(set(curve.steps))} steps recorded twice")
        if missing := set(range(1, steps + 1)) - set(curve.steps):
            problems.append(f"{len(missing)} steps lost, first {min(missing)}")
        if not problems and list(curve.values) != self.expected[steps]:
            problems.append("other values")
        return problems

    def outages(self) -> dict[str, str]:
        """Return what the pages' line says, by part; `Pages` when they don't answer."""
        try:
            with urllib.request.urlopen(f"{self.up.url}/healthz", timeout=5) as answer:
                return {one["part"]: one["cause"] for one in json.load(answer)["outages"]}
        except (OSError, ValueError):
            return {"Pages": "no answer"}

    def unsent(self) -> list[str]:
        """Return what waits for the store."""
        return self.ctx.artifacts.outbox.entries() if self.ctx.artifacts.outbox else []

    def has_sent(self, run: str) -> bool:
        """Return whether a machine with nothing but the store's address has the run's last checkpoint."""
        assert self.store is not None
        with tempfile.TemporaryDirectory() as folder:
            other = Artifacts(Path(folder), url=self.store.url, keys=self.store.keys)
            return (other.path(f"runs/{run}/checkpoints/step-{STEPS:06d}") / "model.safetensors").exists()

    def children(self, kind: str) -> list[psutil.Process]:
        """Return the processes of jobs of a kind."""
        children = []
        for process in self.up.processes("--child"):
            with contextlib.suppress(psutil.Error, OSError, ValueError):
                command = process.cmdline()  # that of a forked one ends with empty words
                folder = Path(command[command.index("--child") + 1])
                if json.loads((folder / "job.json").read_text())["kind"] == kind:
                    children.append(process)
        return children


@contextmanager
def world(
    folder: Path, *, store: bool = False, slow: bool = False, clock: bool = False, **more: str
) -> Iterator[World]:
    """Start an installation with a dataset, a tokenizer, and an endpoint of two replicas."""
    with ExitStack() as stack:
        home = folder / "home"
        home.mkdir(parents=True)
        postgres, broker = PostgresServer(), Broker()
        stack.callback(shutil.rmtree, postgres.folder, ignore_errors=True)
        postgres.start()
        stack.callback(postgres.kill)
        broker.start()
        stack.callback(broker.kill)
        link = stack.enter_context(slow_link(postgres.port)) if slow else None
        weed = stack.enter_context(weed_store(folder / "weed")) if store else None
        redis = f"redis://127.0.0.1:{broker.port}/0"
        environment = {
            "DATABASE_URL": postgres.url.replace(str(postgres.port), str(link.port)) if link else postgres.url,
            "REDIS_URL": redis,
            "ROUNDHOUSE_LEASE_S": "15",  # the product's own
            "ROUNDHOUSE_SWEEP_S": "4",
            "ROUNDHOUSE_REPLICA_SLOTS": "2",
            **(weed.environment() if weed else {}),
            **more,
        }
        fake = folder / "clock"
        if clock:
            fake.write_text("+0")
            environment |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(fake),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        settings: dict[str, object] = {"database_url": postgres.url, "redis_url": redis}
        if weed is not None:
            settings |= {"artifacts_url": weed.url, "artifacts_endpoint": weed.keys.endpoint}
            settings |= {"artifacts_key": weed.keys.key, "artifacts_secret": weed.keys.secret}
        ctx = build_context(make_settings(home, **settings))
        stack.callback(ctx.db.engine.dispose)
        mark_starter_content(ctx)
        rows = [{"text": f"Row {n}: the {n % 7} engines wait in the roundhouse for steam. " * 8} for n in range(60)]
        do_job(ctx, add_rows_dataset(ctx, name="lines", kind="text", rows=rows, person=LOCAL).job_id)
        config = TokenizerConfig(kind="byte")
        do_job(ctx, train_tokenizer(ctx, name="bytes", dataset="lines", config=config, person=LOCAL).job_id)
        up = Installation(home, **environment)
        stack.callback(up.stop)
        up.start()
        made = World(up, ctx, postgres, broker, weed, link, fake if clock else None)
        for steps in (STEPS, STEPS_BEHIND):
            run = made.launch("undisturbed", steps)
            assert made.wait(run)[0] is Status.FINISHED
            curve = read_curve(ctx, run, "train_loss")
            assert list(curve.steps) == list(range(1, steps + 1))
            made.expected[steps] = list(curve.values)
        with ctx.db.read() as session:
            checkpoint = session.scalars(select(Checkpoint.id).where(Checkpoint.run_id == run)).first()
        deploy(ctx, checkpoint_id=str(checkpoint), name="m", num_replicas=2, person=LOCAL)
        wait_until(lambda: get_endpoint(ctx, "m").num_ready == 2, timeout_s=300, what="two replicas")
        yield made


@dataclass(frozen=True)
class Fault:
    """A harm: what does it until the context ends, for how long, and the part that the pages' line should name."""

    title: str
    act: Callable[[World], AbstractContextManager[None]]
    lasts_s: float = 0.0
    line: str = ""
    kind: str = "plain"
    """World in which it happens: plain, slow, store, clock, disk."""


@contextmanager
def killed(find: Callable[[World], list[psutil.Process]], w: World) -> Iterator[None]:
    """Kill processes; what supervises them starts them again."""
    for process in find(w)[:1]:
        process.send_signal(signal.SIGKILL)
    yield


@contextmanager
def frozen(find: Callable[[World], list[psutil.Process]], w: World) -> Iterator[None]:
    """Suspend processes, as a debugger or a machine that swaps does."""
    processes = find(w)[:1]
    assert processes
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.resume()


@contextmanager
def away(server: Callable[[World], PostgresServer | Broker], w: World) -> Iterator[None]:
    """Kill a server of the installation, and start it again at the end."""
    server(w).kill()
    try:
        yield
    finally:
        server(w).start()


@contextmanager
def emptied(w: World) -> Iterator[None]:
    """Delete all messages of the broker."""
    w.ctx.queue._redis.flushall()
    yield


@contextmanager
def late(w: World) -> Iterator[None]:
    """Add two seconds to each question to the database."""
    assert w.link is not None
    w.link.delay_s = 2.0
    try:
        yield
    finally:
        w.link.delay_s = 0.0


@contextmanager
def full(w: World) -> Iterator[None]:
    """Fill the disk of the home."""
    ballast = w.up.home / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def read_only(w: World) -> Iterator[None]:
    """Let nothing be created in the folder of artifacts; files that are open are written on."""
    folder = str(w.up.home / "artifacts")
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@contextmanager
def clock_set(seconds: int, w: World) -> Iterator[None]:
    """Set the clock of all processes but the database's forward or back, in mid-run, and leave it there."""
    assert w.clock is not None
    w.clock.write_text(f"{int(w.clock.read_text()) + seconds:+d}")
    yield


def part(name: str) -> Callable[[World], list[psutil.Process]]:
    """Return a function that finds the processes of a part."""
    return lambda w: w.up.processes(PARTS[name])


def job(kind: str) -> Callable[[World], list[psutil.Process]]:
    """Return a function that finds the processes of jobs of a kind."""
    return lambda w: w.children(kind)


def broker_of(w: World) -> list[psutil.Process]:
    """Return the broker's process."""
    assert w.broker.process is not None
    return [psutil.Process(w.broker.process.pid)]


def postgres_of(w: World) -> list[psutil.Process]:
    """Return the main process of PostgreSQL."""
    assert w.postgres.process is not None
    return [psutil.Process(w.postgres.process.pid)]


def weed_of(w: World) -> list[psutil.Process]:
    """Return the store's process."""
    assert w.store is not None
    assert w.store.server is not None
    return [psutil.Process(w.store.server.pid)]


FREEZE_S = 20.0
FAULTS = {
    "kill-pages": Fault("pages: SIGKILL", partial(killed, part("pages"))),
    "kill-gateway": Fault("gateway: SIGKILL", partial(killed, part("gateway"))),
    "kill-worker": Fault("worker: SIGKILL", partial(killed, part("worker"))),
    "kill-child": Fault("process of the run: SIGKILL", partial(killed, job("train"))),
    "kill-forks": Fault("server that forks jobs: SIGKILL", partial(killed, part("forks"))),
    "kill-replica": Fault("one of two replicas: SIGKILL", partial(killed, job("replica"))),
    "kill-broker": Fault(
        "Valkey: SIGKILL, away, back empty", partial(away, lambda w: w.broker), lasts_s=FREEZE_S, line="Broker"
    ),
    "empty-broker": Fault("Valkey: emptied", emptied),
    "freeze-pages": Fault("pages: SIGSTOP", partial(frozen, part("pages")), lasts_s=FREEZE_S, line="Pages"),
    "freeze-gateway": Fault("gateway: SIGSTOP", partial(frozen, part("gateway")), lasts_s=FREEZE_S, line="Gateway"),
    "freeze-worker": Fault("worker: SIGSTOP", partial(frozen, part("worker")), lasts_s=FREEZE_S, line="Workers"),
    "freeze-child": Fault("process of the run: SIGSTOP", partial(frozen, job("train")), lasts_s=FREEZE_S),
    "freeze-replica": Fault("one of two replicas: SIGSTOP", partial(frozen, job("replica")), lasts_s=FREEZE_S),
    "freeze-broker": Fault("Valkey: SIGSTOP", partial(frozen, broker_of), lasts_s=FREEZE_S, line="Broker"),
    "database": Fault(
        "PostgreSQL: killed, away for 1 min", partial(away, lambda w: w.postgres), lasts_s=60, line="Database"
    ),
    "database-long": Fault(
        "PostgreSQL: killed, away for 10 min", partial(away, lambda w: w.postgres), lasts_s=600, line="Database"
    ),
    "late": Fault("2 s added to each query, for 1 min", late, lasts_s=60, line="Database", kind="slow"),
    "freeze-store": Fault("store: SIGSTOP", partial(frozen, weed_of), lasts_s=60, line="Store", kind="store"),
    "full": Fault("disk of the home full", full, lasts_s=FREEZE_S, line="Workers", kind="disk"),
    "read-only": Fault("artifacts read-only", read_only, lasts_s=FREEZE_S, kind="disk"),
    "freeze-store-long": Fault(
        "store: SIGSTOP for 10 min", partial(frozen, weed_of), lasts_s=600, line="Store", kind="store"
    ),
    "clock": Fault("clock an hour forward", partial(clock_set, 3600), lasts_s=5, kind="clock"),
    "clock-back": Fault("clock an hour back", partial(clock_set, -3600), lasts_s=5, kind="clock"),
}


def try_once(w: World, name: str) -> dict[str, Any]:
    """Do harm once, and say what became of it."""
    fault = FAULTS[name]
    run, behind = w.launch("disturbed"), w.launch("behind", STEPS_BEHIND)
    at = random.randint(5, STEPS // 2)
    wait_until(lambda: w.last_step(run) >= at, timeout_s=300, what=f"step {at}")
    outcome: dict[str, Any] = {"fault": name, "step": at}
    with Client(w.up.gateway_url) as client:
        began = time.monotonic()
        with fault.act(w):
            while (elapsed := time.monotonic() - began) < fault.lasts_s:
                outages = w.outages()
                if fault.line in outages and "said_s" not in outcome:
                    outcome["said_s"] = round(elapsed, 1)
                if outages:
                    outcome.setdefault("line", {}).update(outages)
                time.sleep(0.5)
        over = time.monotonic()
        wait_until(lambda: not (set(w.outages()) - {"Workers"}), timeout_s=120, what="pages that name no outage")
        outcome["line_gone_s"] = round(time.monotonic() - over, 1)
        status, resumes, causes = w.wait(run)
        status_behind, _, causes_behind = w.wait(behind)
        outcome["ended_s"] = round(time.monotonic() - over, 1)
    outcome |= {"attempts": get_job(w.ctx, str(get_run(w.ctx, run).job_id)).attempt, "resumes": resumes}
    outcome |= {"asked": len(client.times) - 1 + len(client.failures), "unanswered": len(client.failures)}
    outcome |= {"slowest_answer_s": round(max(client.times), 1), "causes": causes + causes_behind}
    problems = [] if status is Status.FINISHED else [f"the run is {status}"]
    problems += [] if status_behind is Status.FINISHED else [f"the run behind it is {status_behind}"]
    problems += w.problems(run, STEPS) + w.problems(behind, STEPS_BEHIND)
    if w.store is not None:
        wait_until(lambda: not w.unsent(), timeout_s=120, what="the last upload")
        outcome["all_sent_s"] = round(time.monotonic() - over, 1)
        problems += [] if w.has_sent(run) else ["another machine can't bring the last checkpoint"]
    wait_until(lambda: get_endpoint(w.ctx, "m").num_ready == 2, timeout_s=300, what="two replicas again")
    return {**outcome, "problems": problems}


def hundred_jobs(w: World, number: int) -> dict[str, Any]:
    """Launch two sweeps of four runs and a hundred small jobs at one instant, and kill the worker in the middle."""
    gate = threading.Barrier(22)
    config = TokenizerConfig(kind="byte")

    def sweep(name: str) -> None:
        gate.wait()
        vary = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
        run = tiny_run(name, max_steps=STEPS_BEHIND, device="cpu").model_dump(mode="json")
        stated = {"name": name, "run": run, "vary": vary, "method": "random", "runs": 4, "parallel": 2}
        launch_sweep(w.ctx, SweepConfig.model_validate(stated), person=LOCAL)

    def five(first: int) -> None:
        gate.wait()
        for n in range(first, first + 5):
            train_tokenizer(w.ctx, name=f"small {number} {n}", dataset="lines", config=config, person=LOCAL)

    sweeps = [f"sweep {number} {n}" for n in range(2)]
    threads = [threading.Thread(target=sweep, args=(name,)) for name in sweeps]
    threads += [threading.Thread(target=five, args=(5 * n,)) for n in range(20)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def num_done() -> int:
        names = {one.name for one in list_tokenizers(w.ctx, ready=True)}
        return sum(f"small {number} {n}" in names for n in range(100))

    wait_until(lambda: num_done() >= 30, timeout_s=600, what="a third of the jobs")
    part("worker")(w)[0].kill()
    wait_until(lambda: num_done() == 100, timeout_s=900, what="all jobs")
    wait_until(lambda: all(sweep_detail(w.ctx, name).sweep.done for name in sweeps), timeout_s=600, what="both sweeps")
    problems = []
    for name in sweeps:
        statuses = [one.run.status for one in sweep_detail(w.ctx, name).runs]
        if statuses != [Status.FINISHED] * 4:
            problems.append(f"{name}: {statuses}")
    with w.ctx.db.read() as session:
        attempts = session.scalars(select(Job.attempt).where(Job.title.contains(f"small {number} "))).all()
    outcome = {"fault": "jobs", "ended_s": round(time.monotonic() - began, 1), "jobs": len(attempts)}
    return {**outcome, "taken_again": sum(attempt > 1 for attempt in attempts), "problems": problems}


def summary(name: str, outcomes: Sequence[dict[str, Any]]) -> str:
    """Return a fault's row of the table."""

    def spread(key: str) -> str:
        values = sorted(one[key] for one in outcomes if key in one)
        return f"{statistics.median(values):.0f} (at most {values[-1]:.0f})" if values else ""

    title = FAULTS[name].title if name in FAULTS else "two sweeps and 100 jobs at once, worker killed"
    clean = sum(not one["problems"] for one in outcomes)
    asked, unanswered = (sum(one.get(key, 0) for one in outcomes) for key in ("asked", "unanswered"))
    cells = (title, f"{clean} of {len(outcomes)}", spread("said_s"), spread("ended_s"), f"{unanswered} of {asked}")
    return "| " + " | ".join(cells) + " |"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 300 MB in memory. Needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def missing(kind: str) -> str:
    """Return what this machine lacks for a kind of world."""
    lacks = {
        "store": "" if weed_binary() else "SeaweedFS (`weed`)",
        "clock": "" if FAKETIME.exists() else "libfaketime",
        "disk": "" if os.getuid() == 0 else "root",
    }
    return lacks.get(kind, "")


def main(names: Sequence[str], trials: int) -> None:
    """Run the trials of the named faults, by world."""
    outcomes: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    kinds = {name: FAULTS[name].kind if name in FAULTS else "plain" for name in names}
    for kind in dict.fromkeys(kinds.values()):
        if lack := missing(kind):
            print(json.dumps({"left out": [n for n in names if kinds[n] == kind], "for want of": lack}), flush=True)
            continue
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
            if kind == "disk":
                folder = stack.enter_context(small_disk(folder / "disk"))
            w = stack.enter_context(world(folder, store=kind == "store", slow=kind == "slow", clock=kind == "clock"))
            for name in (name for name in names if kinds[name] == kind):
                for number in range(1 if name.endswith("-long") else trials):
                    outcome = hundred_jobs(w, number) if name == "jobs" else try_once(w, name)
                    outcomes[name].append(outcome)
                    print(json.dumps({**outcome, "load": os.getloadavg()[0]}), flush=True)
    print("| fault | passed | said after, s | ended after, s | requests not answered |\n|---|---:|---:|---:|---:|")
    for name in names:
        if outcomes[name]:
            print(summary(name, outcomes[name]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=", ".join([*FAULTS, "jobs"]))
    parser.add_argument("--trials", type=int, default=5)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))  # so that it ends what it has started
    main(options.faults or [*FAULTS, "jobs"], options.trials)
