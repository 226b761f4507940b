"""Whether a run over two machines that loses one at a random moment ends with the curve of an undisturbed run:
`python -m tests.benchmarks.bench_gang_kills [--trials 20] [--learning-rate 1e-3] [--out FILE.json]`.

Two workers with homes of their own share a database, a broker and a store (tests/support/workers/team.py). One run is
left alone on both, one on one machine. Each trial then waits for a random step and some more milliseconds, and harms a
machine at random: its worker is killed and stays away (the run goes on alone), or is killed and started again, one of
its processes is frozen, or killed (which fails the run, as too little memory would: it is then retried, as a person
would). Every loss of every step is compared with the undisturbed run's.

After a trial that goes on with both machines the losses have to be the same to the last bit. One that goes on alone
adds the same gradients in another order; how much that is by itself is the difference between the two undisturbed runs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from backend.bootstrap import build_context
from backend.domain.jobs.states import TERMINAL, Status
from backend.domain.tokenizers.config import TokenizerConfig
from backend.services.context import LOCAL
from backend.services.data.imports import add_rows_dataset
from backend.services.jobs.gangs import list_members
from backend.services.jobs.jobs import JobView, get_job
from backend.services.tokenizers.tokenizers import train_tokenizer
from backend.services.training.runs import launch_run, retry_run
from backend.services.training.views import get_run
from tests.support.curves import read_curve
from tests.support.installation import wait_until
from tests.support.job_work import do_job
from tests.support.run_world import tiny_run
from tests.support.settings import make_settings
from tests.support.workers.team import Team, team

STEPS, CHECKPOINT_EVERY, LATEST_S = 120, 10, 0.2
HARMS = ("killed, away", "killed, back", "process frozen", "process killed")
BOUND = 1e-4
Curve = dict[int, float]


@dataclass(frozen=True)
class Trial:
    """What one trial came to. `to_both`: the largest difference of a loss to the undisturbed run on both machines."""

    harm: str
    machine: int
    step: int
    attempts: int
    again_s: float
    ended_on: int
    to_both: float
    to_alone: float
    is_whole: bool


class Bench:
    """Two machines, and the workers that run on them now."""

    def __init__(self, lab: Team, stack: ExitStack, learning_rate: float) -> None:
        self.lab, self.stack, self.learning_rate = lab, stack, learning_rate
        self.workers: dict[str, subprocess.Popen[bytes]] = {}
        for name in "ab":
            self.start(name)

    def start(self, name: str) -> None:
        """Start a machine's worker."""
        self.workers[name] = self.stack.enter_context(self.lab.machine(name))

    def launch(self, name: str, *, machines: int) -> str:
        """Launch a run with the same sequences in a step, whatever its machines are."""
        devices = {"count": 2, "nodes": 2} if machines == 2 else {"count": 1}
        config = tiny_run(
            name,
            max_steps=STEPS,
            eval_every=STEPS,
            checkpoint_every=CHECKPOINT_EVERY,
            learning_rate=self.learning_rate,
            grad_accum_steps=4 // machines,
            devices=devices,
        )
        return launch_run(self.lab.ctx, config, person=LOCAL).id

    def job(self, run_id: str) -> JobView:
        """Return a run's newest job."""
        return get_job(self.lab.ctx, str(get_run(self.lab.ctx, run_id).job_id))

    def curve(self, run_id: str) -> Curve:
        """Return a run's losses by step."""
        points = read_curve(self.lab.ctx, run_id, "train_loss")
        return dict(zip(points.steps, points.values, strict=True))

    def finish(self, run_id: str) -> Curve:
        """Wait for the end of a run, retrying it as a person would; return its losses."""
        while True:
            wait_until(lambda: self.job(run_id).status in TERMINAL, what="the end of the run")
            if self.job(run_id).status is Status.FINISHED:
                return self.curve(run_id)
            retry_run(self.lab.ctx, run_id, person=LOCAL)

    def rank_of(self, name: str) -> psutil.Process:
        """Return the process that trains on a machine."""
        home = str(self.lab.folder / name)
        for one in psutil.process_iter():
            try:
                if "jobs.training.rank" in one.cmdline() and one.environ().get("ROUNDHOUSE_HOME") == home:
                    return one
            except psutil.Error:
                continue
        raise AssertionError(f"nothing trains on {name}")

    def trial(self, number: int, draw: random.Random, both: Curve, alone: Curve) -> Trial:
        """Harm a machine of a run at a random moment, and compare the losses that it ends with."""
        harm, machine, step = HARMS[number % len(HARMS)], draw.randrange(2), draw.randrange(2, STEPS - 20)
        run_id = self.launch(f"trial-{number}", machines=2)
        wait_until(lambda: max(self.curve(run_id), default=0) >= step, what="the step", every_s=0.02)
        hosts = [member.host for member in list_members(self.lab.ctx, self.job(run_id).id)]
        time.sleep(draw.uniform(0.0, LATEST_S))
        name, harmed_at = hosts[machine], time.monotonic()
        first = self.job(run_id)
        if harm.startswith("killed"):
            self.workers[name].send_signal(signal.SIGKILL)
            self.workers[name].wait()
            if harm == "killed, back":
                self.start(name)
        else:
            self.rank_of(name).send_signal(signal.SIGSTOP if harm == "process frozen" else signal.SIGKILL)
        wait_until(
            lambda: (job := self.job(run_id)).status in TERMINAL or job.attempt > first.attempt,
            what="the end of the attempt",
        )
        reached = max(self.curve(run_id), default=0)
        if self.job(run_id).status is Status.FAILED:
            retry_run(self.lab.ctx, run_id, person=LOCAL)
        wait_until(lambda: max(self.curve(run_id), default=0) > reached or self.job(run_id).status in TERMINAL)
        again_s = time.monotonic() - harmed_at
        losses = self.finish(run_id)
        job = self.job(run_id)
        members = list_members(self.lab.ctx, job.id)
        if harm == "killed, away":
            self.start(name)
        return Trial(
            harm=harm,
            machine=machine,
            step=step,
            attempts=job.attempt,
            again_s=round(again_s, 1),
            ended_on=len(members),
            to_both=largest(losses, both),
            to_alone=largest(losses, alone),
            is_whole=list(losses) == list(range(1, STEPS + 1)),
        )


def largest(losses: Curve, expected: Curve) -> float:
    """Return the largest difference of a loss."""
    return max(abs(losses.get(step, float("inf")) - value) for step, value in expected.items())


def prepare(home: Path) -> str:
    """Make a database with the parts of a run in it; return its address."""
    home.mkdir()
    ctx = build_context(make_settings(home))
    rows = [{"text": f"Row {n}: the {n % 7} engines stand in the roundhouse and wait. " * 8} for n in range(60)]
    do_job(ctx, add_rows_dataset(ctx, name="lines", kind="text", rows=rows, person=LOCAL).job_id)
    config = TokenizerConfig(kind="byte")
    do_job(ctx, train_tokenizer(ctx, name="bytes", dataset="lines", config=config, person=LOCAL).job_id)
    ctx.db.engine.dispose()
    return f"sqlite:///{home / 'models.db'}"


def main() -> None:
    """Run the trials; print a line for each and a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=20261201)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    draw, trials, began = random.Random(options.seed), list[Trial](), time.monotonic()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder) / "pages"
        lab = stack.enter_context(team(Path(folder) / "team", pages=home, database_url=prepare(home)))
        bench = Bench(lab, stack, options.learning_rate)
        both = bench.finish(bench.launch("both", machines=2))
        again = bench.finish(bench.launch("again", machines=2))
        alone = bench.finish(bench.launch("alone", machines=1))
        quiet = {"both_again": largest(again, both), "alone": largest(alone, both)}
        print(f"undisturbed: both again {quiet['both_again']:.1e}, alone {quiet['alone']:.1e}", flush=True)
        for number in range(options.trials):
            trials.append(bench.trial(number, draw, both, alone))
            print(trials[-1], flush=True)
        shutil.rmtree(lab.folder, ignore_errors=True)
    print(f"\nlearning rate {options.learning_rate:g}, {STEPS} steps, {time.monotonic() - began:.0f} s")
    print(table(trials))
    if options.out is not None:
        record: dict[str, Any] = {"learning_rate": options.learning_rate, "undisturbed": quiet}
        options.out.write_text(json.dumps({**record, "trials": [asdict(one) for one in trials]}, indent=1) + "\n")


def table(trials: list[Trial]) -> str:
    """Return a row for each kind of harm."""
    rows = [
        "| harm | trials | whole curve within 1e-4 | largest difference | to the last bit | steps again after, s |",
        "|---|---|---|---|---|---|",
    ]
    for harm in HARMS:
        mine = [one for one in trials if one.harm == harm]
        if mine:
            good = sum(one.is_whole and one.to_both < BOUND for one in mine)
            times = sorted(one.again_s for one in mine)
            rows.append(
                f"| {harm} | {len(mine)} | {good} | {max(one.to_both for one in mine):.1e} |"
                f" {sum(one.to_both == 0 for one in mine)} | {times[0]:.0f} to {times[-1]:.0f} |"
            )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
