"""Workers: who is alive, who is forgotten, and who does what one of them does for all."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from operator import add
from threading import Barrier

from sqlalchemy import func, select

from backend.db.tables import Worker
from backend.services.context import Context
from backend.services.jobs.recovery import recover_jobs
from backend.services.jobs.workers import beat, has_worker, list_workers, take_duties


def test_a_silent_worker_is_shown_as_such_and_then_deleted(ctx: Context) -> None:
    def say(name: str, *, minutes: float) -> Context:
        then = ctx.now() + timedelta(minutes=minutes)
        later = replace(ctx, now=lambda: then)
        beat(later, name=f"{name}/train", host=name, pid=1, slots={"train": 1}, devices=[], gauges={})
        return later

    say("container-1", minutes=0)
    later = say("container-2", minutes=5)
    assert [(worker.name, worker.is_alive) for worker in list_workers(later)] == [
        ("container-2/train", True),
        ("container-1/train", False),
    ]
    assert has_worker(later, "train")
    last = say("container-2", minutes=11)
    recover_jobs(last)
    assert [worker.name for worker in list_workers(last)] == ["container-2/train"]


def test_a_worker_has_one_row_and_is_shown_with_each_of_its_queues(ctx: Context) -> None:
    start, slots = ctx.now(), {"train": 1, "serve": 4}
    for seconds, pid in ((0, 7), (4, 7), (8, 8), (12, 8)):  # it is started anew after the second
        at = replace(ctx, now=partial(add, start, timedelta(seconds=seconds)))
        beat(at, name="a", host="lab", pid=pid, slots=slots, devices=[], gauges={})
    with ctx.db.read() as session:
        assert session.scalar(select(func.count()).select_from(Worker)) == 1
    views = list_workers(at)
    assert [(view.name, view.queues, view.concurrency, view.pid) for view in views] == [
        ("lab/serve", ("serve",), 4, 8),
        ("lab/train", ("train",), 1, 8),
    ]
    assert {(view.started_at, view.heartbeat_at) for view in views} == {
        (start + timedelta(seconds=8), start + timedelta(seconds=12))
    }


def test_one_of_many_workers_takes_a_duty_once_in_its_time(any_ctx: Context) -> None:
    """Each worker looked for lost jobs: a thousand machines asked the database a thousand times for the same."""
    workers, start = 16, any_ctx.now()
    for seconds, takers in ((0, 1), (3, 0), (4, 1), (5, 0), (8.5, 1)):
        ask = _asker(any_ctx, start + timedelta(seconds=seconds), Barrier(workers))
        with ThreadPoolExecutor(workers) as pool:
            assert sorted(pool.map(ask, range(workers))) == [[]] * (workers - takers) + [["recovery"]] * takers
    back = replace(any_ctx, now=lambda: start - timedelta(hours=1))
    assert take_duties(back, ["recovery"], every_s=4) == ["recovery"], "a clock was set back: nobody waits an hour"
    assert take_duties(replace(any_ctx, now=lambda: start), ["sweeps", "suites"], every_s=4) == ["sweeps", "suites"]


def _asker(ctx: Context, then: datetime, together: Barrier) -> Callable[[int], list[str]]:
    def ask(_: int) -> list[str]:
        together.wait()
        return take_duties(replace(ctx, now=lambda: then), ["recovery"], every_s=4)

    return ask
