"""Health of the parts: what a visitor is told while one fails, hangs or vanishes."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx2
import pytest

from backend.db.tables import Job, Provider
from backend.domain.jobs.gauges import MachineGauges
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import JobKind
from backend.errors import Unavailable
from backend.infra.artifacts import Artifacts
from backend.services.context import Context
from backend.services.health import (
    BROKER,
    DATABASE,
    EVERY_S,
    GATEWAY,
    OVERDUE_S,
    START_S,
    STORE,
    STORE_EVERY_S,
    TIMEOUT_S,
    HealthWatch,
    Outage,
    _Check,
    check_endpoints,
    check_gateway,
    check_providers,
    check_store,
    check_workers,
)
from backend.services.jobs.claims import give_back, requeue
from backend.services.jobs.recovery import recover_jobs
from backend.services.jobs.workers import beat, say_goodbye
from backend.settings import PROJECT
from tests.support.installation import wait_until
from tests.support.jobs import add_stored_job
from tests.support.scenario import add_row
from tests.support.serving.serving_world import ServingWorld
from tests.support.stores import Store, folder_store, moto_store


def test_a_part_that_hangs_or_fails_is_reported_until_it_answers() -> None:
    now, answers, fails = 0.0, threading.Event(), False

    def check() -> Outage | None:
        answers.wait()
        if fails:
            raise OSError("refused")
        return None

    part = _Check(check, DATABASE, lambda: now)
    assert part.outage() is None, "starts together with the pages"
    thread = threading.Thread(target=part.run)
    thread.start()
    now = START_S + 1
    assert part.outage() == DATABASE, "never answered"
    answers.set()
    thread.join()
    assert part.outage() is None
    fails = True
    part.run()
    assert part.outage() == DATABASE
    fails = False
    part.run()
    assert part.outage() is None
    answers.clear()
    thread = threading.Thread(target=part.run)
    thread.start()
    wait_until(lambda: part._under_way, what="the check")
    now += OVERDUE_S - 0.1
    assert part.outage() is None
    now += 0.2
    assert part.outage() == DATABASE
    answers.set()
    thread.join()
    assert part.outage() is None


def test_a_part_that_hangs_is_named_on_open_pages_within_15_seconds() -> None:
    script = (PROJECT / "pages" / "components" / "browser" / "health" / "health.js").read_text()
    (asked_every_ms,) = re.findall(r"EVERY_MS = (\d+)", script)
    assert EVERY_S + max(OVERDUE_S, 2 * TIMEOUT_S) + int(asked_every_ms) / 1000 <= 15
    assert STORE_EVERY_S + OVERDUE_S + int(asked_every_ms) / 1000 <= 30, "a store is asked less often"


def test_an_installation_without_broker_and_gateway_says_both_and_nothing_before_it_is_watched(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.health.START_S", 0.0)
    watch = HealthWatch()
    assert watch.outages() == ()
    watch.start(replace(ctx, gateway_url="http://127.0.0.1:1", own_gateway_url=""))
    try:
        wait_until(lambda: {GATEWAY, BROKER} <= set(watch.outages()), what="both outages")
        assert not watch.fails(DATABASE)
        assert "starts it again" in GATEWAY.cure, "nobody has to end all runs for it"
    finally:
        watch.close()
    assert watch.outages() == ()


def test_workers_that_vanish_are_named_and_workers_that_stop_are_not(ctx: Context) -> None:
    def say(name: str, queue: str) -> None:
        beat(ctx, name=name, host="lab", pid=1, slots={queue: 1}, devices=[], gauges={})

    def later() -> Context:
        then = ctx.now() + timedelta(seconds=30)
        return replace(ctx, now=lambda: then)

    assert check_workers(ctx) is None, "nothing waits"
    say("lab/train", "train")
    assert check_workers(ctx) is None
    outage = check_workers(later())
    assert outage is not None
    assert outage.cause == "Workers on lab do not answer any more (queues train). Their jobs wait for other workers."
    assert outage.cure.startswith("See the Workers page; `roundhouse down`, then `roundhouse up` ")
    with ctx.db.write() as session:
        add_stored_job(session, ctx, JobKind.TRAIN, title="Run")
    assert check_workers(ctx) is None, "the worker of its queue lives"
    outage = check_workers(later())
    assert outage is not None
    assert outage.cause == "No worker answers for jobs that wait: 1 job for `train`."
    say_goodbye(ctx, "lab/train")
    outage = check_workers(ctx)
    assert outage is not None
    with ctx.db.write() as session:
        session.execute(Job.__table__.delete())
    assert check_workers(ctx) is None, "a worker that stopped by itself is nobody's outage"


def test_an_endpoint_whose_replicas_were_lost_is_told_until_one_answers_again(ctx: Context) -> None:
    """For 47 s after its worker was killed requests failed, /healthz said ok, and all workers were alive."""

    def after(seconds: float) -> Context:
        then = ctx.now() + timedelta(seconds=seconds)
        return replace(ctx, now=lambda: then)

    world = ServingWorld(ctx)
    world.deploy(start=False)
    assert check_endpoints(ctx) is None, "starts for the first time"
    world.start_all()
    assert check_endpoints(ctx) is None
    assert check_endpoints(after(ctx.policy.lease_s / 4 + 2)) is None, "a worker says so every quarter of a lease"
    silent = check_endpoints(after(11))
    assert silent is not None
    assert silent.cause == "No replica of 1 endpoint answers: requests to it fail with 503."
    assert "started again" in silent.cure
    later = after(ctx.policy.lease_s + 1)
    recover_jobs(later)
    assert check_endpoints(later) == silent, "queued again"
    world.ctx = after(ctx.policy.lease_s + 60)
    world.start_all()
    assert check_endpoints(world.ctx) is None


def test_an_endpoint_whose_only_replica_crashed_is_told_and_one_with_another_is_not(ctx: Context) -> None:
    world = ServingWorld(ctx)
    world.deploy(num_replicas=2)
    for claim, expected in zip(world.claims, (True, False), strict=True):
        with ctx.db.write() as session:
            requeue(session, ctx, claim, error=JobFailure(cause="Out of memory."), lasted_s=90)
        assert (check_endpoints(ctx) is None) is expected


def test_replicas_of_a_worker_that_was_stopped_in_order_are_no_outage(ctx: Context) -> None:
    world = ServingWorld(ctx)
    world.deploy()
    give_back(ctx, world.claims[0])
    assert check_endpoints(ctx) is None


def test_a_public_address_that_its_own_machine_cannot_reach_is_no_outage(ctx: Context) -> None:
    """Behind a public address the line named the gateway, although it answered everybody else."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # answers 501, which is an answer
    threading.Thread(target=server.serve_forever, daemon=True).start()
    own = f"http://127.0.0.1:{server.server_port}"
    try:
        assert check_gateway(replace(ctx, gateway_url="http://127.0.0.1:1", own_gateway_url=own)) is None
        assert check_gateway(replace(ctx, gateway_url=own, own_gateway_url="http://127.0.0.1:1")) is None
    finally:
        server.shutdown()
        server.server_close()
    with pytest.raises(httpx2.HTTPError):
        check_gateway(replace(ctx, gateway_url="http://127.0.0.1:1", own_gateway_url="http://127.0.0.1:2"))


def test_runs_that_wait_for_a_cluster_need_no_worker_here_and_an_outdated_worker_is_none(ctx: Context) -> None:
    with ctx.db.write() as session:
        add_stored_job(session, ctx, JobKind.TRAIN, placement="slurm:gpu")
    assert check_workers(ctx) is None, "a cluster starts its worker"
    with ctx.db.write() as session:
        add_stored_job(session, ctx, JobKind.TRAIN)
    gauges = MachineGauges(takes_no_jobs="A newer version has upgraded the database.")
    beat(ctx, name="lab/train", host="lab", pid=1, slots={"train": 1}, devices=[], gauges=gauges)
    outage = check_workers(ctx)
    assert outage is not None
    assert "1 job for `train`" in outage.cause


def with_store(ctx: Context, store: Store) -> Context:
    return replace(ctx, artifacts=Artifacts(ctx.artifacts.root, url=store.url, keys=store.keys, cache_gb=1.0))


def test_a_store_that_is_gone_fails_its_check_and_none_is_asked_where_there_is_none(
    ctx: Context, tmp_path: Path
) -> None:
    assert check_store(ctx) is None, "artifacts are in a folder of the home"
    with moto_store() as cloud:
        in_cloud = with_store(ctx, cloud)
        assert check_store(in_cloud) is None
    with pytest.raises(Unavailable):
        check_store(in_cloud)
    mount = tmp_path / "mount"
    in_folder = with_store(ctx, folder_store(mount))
    assert check_store(in_folder) is None, "nobody has written to it yet"
    assert in_folder.artifacts.store is not None
    in_folder.artifacts.store.objects.write("a/b", b"c", within_s=1)
    assert check_store(in_folder) is None
    mount.rename(tmp_path / "unmounted")
    with pytest.raises(Unavailable, match="is not mounted"):
        check_store(in_folder)


def test_a_store_that_is_gone_is_on_the_line_without_its_address(
    ctx: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.health.START_S", 0.0)
    stored = with_store(ctx, folder_store(tmp_path / "mount"))
    assert stored.artifacts.store is not None
    stored.artifacts.store.objects.write("a/b", b"c", within_s=1)
    (tmp_path / "mount").rename(tmp_path / "unmounted")
    watch = HealthWatch()
    watch.start(stored)
    try:
        wait_until(lambda: STORE in watch.outages(), what="the store's outage")
    finally:
        watch.close()


def test_a_cluster_that_takes_no_runs_is_named(ctx: Context) -> None:
    assert check_providers(ctx) is None
    add_row(ctx, Provider(name="slurm", partitions=[], problem="", checked_at=ctx.now()))
    assert check_providers(ctx) is None
    then = ctx.now() + timedelta(minutes=2)
    outage = check_providers(replace(ctx, now=lambda: then))
    assert outage is not None, "no worker asks it any more"
    assert outage.cause == "Runs can't be sent to Slurm. Those under way continue."
    with ctx.db.write() as session:
        session.get_one(Provider, "slurm").problem = "Slurm does not answer: Unable to contact head-7.internal."
    outage = check_providers(ctx)
    assert outage is not None
    assert "internal" not in outage.cause + outage.cure
