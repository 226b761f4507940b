"""Load tests of deployments: against the gateway and against the replicas themselves; the difference is the gateway's
overhead.

A test is a job, or runs in the shell that started it. Its result is kept beside the deployment.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx2
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint, Deployment, Job, LoadTest, User
from backend.domain.csv_text import safe_cell
from backend.domain.jobs.load_test import LoadOutcome, LoadTarget, LoadTestPayload, LoadTestResult
from backend.domain.jobs.own_keys import JOB_KEYS
from backend.domain.jobs.states import ACTIVE, JobKind
from backend.domain.serving.key_limits import MANY_AT_ONCE
from backend.domain.serving.load import LoadConfig, prompts_of_length
from backend.domain.wording import plural
from backend.errors import Conflict, InvalidInput, RoundhouseError, Unavailable
from backend.infra.load_generator import LoadProgress, run_load
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import JobView, add_job, get_job, view, wake
from backend.services.people.keys import create_key
from backend.services.serving.chat.contexts import endpoint_facts
from backend.services.serving.endpoints import find_endpoint
from backend.services.serving.own_keys import KEY_LASTS, create_job_key, revoke_secrets, scopes_of
from backend.services.serving.replicas import Target, ready_targets
from backend.services.tokenizers.sources import resolve_source
from backend.services.tokenizers.tokenization import count_tokens

COUNTED = 8
"""Prompts whose tokens are counted before a test."""


@dataclass(frozen=True)
class LoadTestView:
    """A stored load test. `result.levels` holds, per number of users, a summary of the gateway, one of the replicas
    directly, and the overhead in milliseconds (differences of medians).
    """

    id: str
    endpoint: str
    config: LoadConfig
    result: LoadOutcome
    created_at: datetime
    revision: int | None = None
    checkpoint: str = ""
    author: str | None = None


def start_load_test(ctx: Context, name: str, config: LoadConfig, *, person: Person) -> JobView:
    """Queue a load test of an endpoint. Raises Unavailable without a ready replica, Conflict while another one loads it
    or where a target can't be reached, and InvalidInput for prompts that its context does not hold.
    """
    require_builder(person)
    with ctx.db.read() as session:
        payload = _payload(session, ctx, name, config)
    _check_prompts(ctx, name, config)
    _replicas(ctx, name, config)
    with ctx.db.write() as session:
        if session.scalar(_jobs_of(payload.endpoint_id).where(Job.status.in_(ACTIVE)).limit(1)) is not None:
            raise Conflict(
                f"A load test of {name!r} is active; two at once would measure each other.",
                remedy="Wait for it, or stop it.",
            )
        queued = view(
            add_job(session, ctx, payload, title=f"Load test of {name}", priority=2, device="cpu", created_by=person.id)
        )
    wake(ctx, queued.queue)
    return get_job(ctx, queued.id)


def find_load_job(ctx: Context, name: str) -> JobView | None:
    """Return the newest load test job of an endpoint, in any status; None before the first."""
    with ctx.db.read() as session:
        job = session.scalar(_jobs_of(find_endpoint(session, name).id).limit(1))
        return None if job is None else view(job)


def fill_targets(ctx: Context, claim: Claim[LoadTestPayload]) -> LoadTestPayload:
    """Return a claim's payload with the addresses of gateway and replicas. Where `/v1` needs a key, one is made for
    this attempt; it is in the child's file alone and is revoked when the job ends. Raises Unavailable.
    """
    payload = claim.payload
    key = create_job_key(ctx, claim) or ""
    targets = _targets(ctx, payload.endpoint, config=payload.config, gateway_url=ctx.gateway_url, key=key)
    return payload.model_copy(update={"targets": tuple(targets)})


def record_load_test(
    session: Session, ctx: Context, claim: Claim[LoadTestPayload], result: LoadTestResult
) -> LoadTestResult:
    """Store the result of a job beside its deployment; a stopped test without a finished level leaves none."""
    if not result.levels:
        return result
    job, payload = session.get_one(Job, claim.job_id), claim.payload
    row = _add(
        session,
        ctx,
        payload,
        LoadOutcome(replicas=result.replicas, levels=result.levels, stopped=result.stopped),
        author=job.created_by,
    )
    row.job_id = job.id
    return LoadTestResult(replicas=result.replicas, stopped=result.stopped, load_test_id=row.id, cpu_s=result.cpu_s)


def run_load_test(
    ctx: Context,
    name: str,
    config: LoadConfig,
    *,
    person: Person,
    gateway_url: str = "",
    key: str = "",
    on_progress: Callable[[str], None] | None = None,
) -> LoadTestView:
    """Run a load test of an endpoint here and store its result. Raises Unavailable without a ready replica or an answer
    of the gateway, and InvalidInput for prompts that its context does not hold.
    """
    require_builder(person)
    with ctx.db.read() as session:
        payload = _payload(session, ctx, name, config)
    _check_prompts(ctx, name, config)
    described = ""

    def report(progress: LoadProgress) -> None:
        nonlocal described
        load = plural(progress.users, "user") if progress.users else "open loop"
        if on_progress is not None and described != (described := f"{progress.target}: {load}"):
            on_progress(described)

    url = gateway_url or ctx.gateway_url
    _targets(ctx, name, config=config, gateway_url=url, key="")
    with _key(ctx, payload, person, key=key) as secret:
        targets = _targets(ctx, name, config=config, gateway_url=url, key=secret)
        levels = run_load(config, targets, on_progress=report)
    result = LoadOutcome(replicas=sum(target.kind == "replica" for target in targets), levels=levels)
    with ctx.db.write() as session:
        row = _add(session, ctx, payload, result, author=person.id)
        session.flush()
        return LoadTestView(row.id, name, row.config, result, row.created_at)


def list_load_tests(ctx: Context, name: str, *, limit: int = 10) -> list[LoadTestView]:
    """Return the load tests of an endpoint, newest first."""
    with ctx.db.read() as session:
        query = (
            select(LoadTest, Deployment.revision, Checkpoint.name, User.name)
            .outerjoin(Deployment, Deployment.id == LoadTest.deployment_id)
            .outerjoin(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
            .outerjoin(User, User.id == LoadTest.created_by)
            .where(LoadTest.endpoint_id == find_endpoint(session, name).id)
        )
        return [
            LoadTestView(row.id, name, row.config, row.result, row.created_at, revision, checkpoint or "", author)
            for row, revision, checkpoint, author in session.execute(
                query.order_by(LoadTest.created_at.desc()).limit(limit)
            )
        ]


def _jobs_of(endpoint_id: str) -> Any:
    of_endpoint = Job.payload["endpoint_id"].as_string() == endpoint_id
    return select(Job).where(Job.kind == JobKind.LOAD_TEST, of_endpoint).order_by(Job.created_at.desc())


def _payload(session: Session, ctx: Context, name: str, config: LoadConfig) -> LoadTestPayload:
    endpoint_id = find_endpoint(session, name).id
    newest = select(Deployment.id).where(Deployment.endpoint_id == endpoint_id, Deployment.stopped_at.is_(None))
    deployment_id = session.scalar(newest.order_by(Deployment.role.desc(), Deployment.created_at.desc()).limit(1))
    if deployment_id is None:
        raise Unavailable(f"No replica of {name!r} is ready.", remedy="Deploy or start it first.")
    return LoadTestPayload(
        endpoint=name,
        endpoint_id=endpoint_id,
        deployment_id=deployment_id,
        config=config,
        uses_key=ctx.sign_in and "gateway" in config.targets,
    )


def _check_prompts(ctx: Context, name: str, config: LoadConfig) -> None:
    """Raise InvalidInput where the longest prompts leave no room in the context. Where its tokenizer can't be read, a
    word counts as one token.
    """
    facts = endpoint_facts(ctx, [name]).get(name)
    if facts is None or facts.context is None:
        return
    words = max(config.prompt_words)
    counted = min(words, facts.context)
    try:
        source = resolve_source(ctx, f"checkpoint:{facts.checkpoint_id}")
        per_word = max(count_tokens(ctx, source, prompts_of_length(config, words=counted, count=COUNTED))) / counted
    except RoundhouseError:
        per_word = 1.0
    tokens, room = round(words * per_word), facts.context - 2  # a token begins the prompt, and one is to be generated
    if tokens <= room:
        return
    fitting = int(room / per_word)
    raise InvalidInput(
        f"Prompts of {plural(words, 'word')} have about {tokens:,} tokens; the context of {name!r} holds"
        f" {facts.context:,}, answer included.",
        remedy=f"Use at most {plural(fitting, 'word')} per prompt." if fitting else "Serve it with a longer context.",
        field="prompt_words",
    )


def _targets(ctx: Context, name: str, *, config: LoadConfig, gateway_url: str, key: str) -> list[LoadTarget]:
    """Return the addresses that a test loads. Raises Unavailable where one does not answer."""
    url = gateway_url.rstrip("/").removesuffix("/v1")
    replicas = _replicas(ctx, name, config)
    direct = [
        LoadTarget(kind="replica", url=target.url, model=name, token=target.internal_token) for target in replicas
    ]
    if "gateway" not in config.targets:
        return direct
    _require_gateway(url)
    return [LoadTarget(kind="gateway", url=url, model=name, token=key), *direct]


def _replicas(ctx: Context, name: str, config: LoadConfig) -> list[Target]:
    """Return the ready replicas of an endpoint; none for a model on another server, which only the gateway reaches."""
    replicas = ready_targets(ctx).get(name, [])
    if not replicas:
        raise Unavailable(f"No replica of {name!r} is ready.", remedy="Deploy or start it first.")
    if not any(target.upstream for target in replicas):
        return replicas
    if "replica" in config.targets:
        raise Conflict(
            f"{name!r} is answered by another server, which only the gateway reaches.",
            remedy="Choose the gateway as target.",
        )
    return []


def _add(
    session: Session, ctx: Context, payload: LoadTestPayload, result: LoadOutcome, *, author: str | None
) -> LoadTest:
    row = LoadTest(
        endpoint_id=payload.endpoint_id,
        deployment_id=payload.deployment_id,
        config=payload.config,
        result=result,
        created_by=author,
        created_at=ctx.now(),
    )
    session.add(row)
    session.flush()
    return row


def _require_gateway(url: str) -> None:
    try:
        httpx2.get(f"{url}/health", timeout=10, trust_env=False).raise_for_status()
    except httpx2.HTTPError as error:
        raise Unavailable(
            f"The gateway at {url} does not answer ({type(error).__name__}).", remedy="Start it with `roundhouse up`."
        ) from error


@contextmanager
def _key(ctx: Context, payload: LoadTestPayload, person: Person, *, key: str) -> Iterator[str]:
    """Give the key of a load test: the one that is given, none where none is needed, else one of its own that is
    revoked at the end.
    """
    if key or not payload.uses_key:
        yield key
        return
    secret = create_key(
        ctx,
        JOB_KEYS[JobKind.LOAD_TEST],
        person=person,
        scopes=scopes_of(payload),
        limits=MANY_AT_ONCE,
        expires_at=ctx.now() + KEY_LASTS,
        is_own=True,
    )
    try:
        yield secret
    finally:
        with ctx.db.write() as session:
            revoke_secrets(session, ctx, [secret])


SPREADS = ("ttft", "itl", "tpot", "e2e")
RATES = (
    "requests",
    "errors",
    "duration_s",
    "requests_per_s",
    "tokens_per_s",
    "goodput_per_s",
    "good_share",
    "late_p99_ms",
)


def read_arrivals(text: str, *, source: str = "The file") -> tuple[float, ...]:
    """Return arrivals in ascending seconds: one per line, or the first column of a CSV whose title is skipped. Raises
    InvalidInput.
    """
    arrivals = []
    for number, line in enumerate(text.split("\n"), 1):
        cell = line.split(",")[0].strip()
        if not cell:
            continue
        try:
            arrivals.append(float(cell))
        except ValueError as error:
            if number == 1:
                continue
            raise InvalidInput(
                f"{source} holds {cell[:40]!r} in line {number}, which is not a number of seconds.", field="arrivals"
            ) from error
    if not arrivals or not all(math.isfinite(arrival) for arrival in arrivals):
        raise InvalidInput(
            f"{source} holds no arrival.", remedy="Write a number of seconds per line.", field="arrivals"
        )
    return tuple(sorted(arrivals))


def load_test_data(test: LoadTestView) -> dict[str, object]:
    """Return a load test as plain values."""
    names = ("id", "endpoint", "revision", "checkpoint", "created_at")
    config, result = test.config.model_dump(mode="json"), test.result.model_dump(mode="json")
    return {name: getattr(test, name) for name in names} | {"config": config} | result


def load_test_json(test: LoadTestView) -> str:
    """Return a load test as a JSON document."""
    return json.dumps(load_test_data(test), indent=1, default=str, ensure_ascii=False)


def load_test_csv(test: LoadTestView) -> str:
    """Return a row per level and target: rates, percentiles in milliseconds with intervals, and the overhead."""
    percentiles = [f"{name}_{part}" for name in SPREADS for quantile in (50, 95, 99) for part in _parts(quantile)]
    added = [f"gateway_adds_{name}_p50_ms{bound}" for name in ("ttft", "itl", "e2e") for bound in ("", "_low", "_high")]
    out = io.StringIO()
    writer = csv.DictWriter(out, ["test", "endpoint", "users", "target", *RATES, *percentiles, *added], restval="")
    writer.writeheader()
    for level in test.result.levels:
        for target in ("gateway", "replica"):
            if level.get(target) is None:
                continue
            row: dict[str, Any] = {
                "test": test.id,
                "endpoint": safe_cell(test.endpoint),
                "users": level["users"] or "open",
                "target": target,
            }
            row |= {name: level[target].get(name) for name in RATES}
            for name in SPREADS:
                row |= _percentiles(name, level[target].get(name))
            if target == "gateway" and level.get("gateway_overhead"):
                row |= _overhead(level["gateway_overhead"])
            writer.writerow(row)
    return out.getvalue()


def _parts(quantile: int) -> tuple[str, str, str]:
    return f"p{quantile}_ms", f"p{quantile}_low_ms", f"p{quantile}_high_ms"


def _percentiles(name: str, spread: Mapping[str, Any] | None) -> dict[str, object]:
    row: dict[str, object] = {}
    for quantile in (50, 95, 99):
        middle, low, high = (f"{name}_{part}" for part in _parts(quantile))
        interval = (spread or {}).get(f"p{quantile}_interval_ms") or (None, None)
        row |= {middle: (spread or {}).get(f"p{quantile}_ms"), low: interval[0], high: interval[1]}
    return row


def _overhead(added: Mapping[str, Any]) -> dict[str, object]:
    row: dict[str, object] = {}
    for name in ("ttft", "itl", "e2e"):
        low, high = added.get(f"{name}_interval_ms") or (None, None)
        head = f"gateway_adds_{name}_p50_ms"
        row |= {head: added.get(f"{name}_p50_ms"), f"{head}_low": low, f"{head}_high": high}
    return row
