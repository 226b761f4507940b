"""Workers: who is alive, and who is forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from backend.services.context import Context
from backend.services.jobs.workers import beat, has_worker, list_workers


def test_a_silent_worker_is_shown_as_such_and_then_deleted(ctx: Context) -> None:
    def say(name: str, *, minutes: float) -> Context:
        then = ctx.now() + timedelta(minutes=minutes)
        later = replace(ctx, now=lambda: then)
        beat(later, name=name, host="lab", pid=1, queues=["train"], concurrency=1, devices=[], gauges={})
        return later

    say("container-1/train", minutes=0)
    later = say("container-2/train", minutes=5)
    assert [(worker.name, worker.is_alive) for worker in list_workers(later)] == [
        ("container-2/train", True),
        ("container-1/train", False),
    ]
    assert has_worker(later, "train")
    assert [worker.name for worker in list_workers(say("container-2/train", minutes=11))] == ["container-2/train"]
