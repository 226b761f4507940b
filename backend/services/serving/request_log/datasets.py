"""Traffic to training rows: filter and sample logged requests, scrub, review, store as a dataset with provenance."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import select

from backend.db.tables import Feedback, LoggedRequest, Usage
from backend.domain.battles.preferences import label_row, preference_row, rewrite_row
from backend.domain.data.versions.provenance import TrafficProvenance, TrafficRow
from backend.domain.json_values import JsonObject, Row
from backend.domain.serving.request_log import MAX_ANSWER_CHARS, RequestLogConfig, TrafficRules, redact
from backend.errors import InvalidInput
from backend.services.context import Context, Person, require_builder
from backend.services.data.imports import add_rows_dataset
from backend.services.data.views import VersionView
from backend.services.serving.endpoints import find_endpoint, find_own_endpoint
from backend.services.serving.feedback import given_feedback
from backend.services.serving.request_log.policies import redact_messages

TrafficObjective = Literal["sft", "kto", "preference"]
KINDS: dict[TrafficObjective, str] = {"sft": "chat", "kto": "kto", "preference": "preference"}
NEEDS: dict[TrafficObjective, str] = {
    "sft": "an answer that was completed and is not rated down, or a correction",
    "kto": "a thumb down, or a thumb up on an answer that was completed",
    "preference": "a correction, or a thumb up on a completed answer and a thumb down on another answer to its prompt",
}


@dataclass(frozen=True)
class Exchange:
    """A prompt with its answer, and what was said of it. `is_cut`: the answer ended at its max tokens, or at the log's
    limit, so nothing is to learn to write it.
    """

    id: str
    source: str
    messages: list[JsonObject]
    answer: str
    rating: int | None
    correction: str
    checkpoint_id: str | None
    created_at: datetime
    is_cut: bool


@dataclass(frozen=True)
class TrafficPreview:
    """Exchanges that the rules admit, the rows they give, and how many were left out, by reason."""

    exchanges: tuple[Exchange, ...]
    rows: tuple[Row, ...]
    provenance: tuple[TrafficRow, ...]
    left_out: dict[str, int]
    scrubbed: int


def preview_traffic(
    ctx: Context, name: str, *, objective: TrafficObjective, rules: TrafficRules, person: Person
) -> TrafficPreview:
    """Return what a dataset of an endpoint's traffic would hold. Only its owner and admins may see it."""
    with ctx.db.read() as session:
        find_own_endpoint(session, name, person=person)
    left_out: Counter[str] = Counter()
    admitted = [exchange for exchange in _read(ctx, name, rules) if _admits(exchange, rules, left_out)]
    if rules.sample is not None and len(admitted) > rules.sample:
        left_out["not sampled"] = len(admitted) - rules.sample
        admitted = random.Random(rules.seed).sample(sorted(admitted, key=lambda exchange: exchange.id), rules.sample)
    admitted.sort(key=lambda exchange: (exchange.created_at, exchange.id))
    scrubbed, count = _scrub(admitted, RequestLogConfig(redact=rules.redact, patterns=rules.patterns))
    rows, sources = _ROWS[objective](scrubbed)
    used = {id_ for source in sources for id_ in source["requests"]}
    unused = Counter(exchange.is_cut for exchange in scrubbed if exchange.id not in used)
    left_out |= {"answer cut off": unused[True], f"no row: needs {NEEDS[objective]}": unused[False]}
    left_out = +left_out
    return TrafficPreview(tuple(scrubbed), tuple(rows), tuple(sources), dict(left_out), count)


def make_traffic_dataset(
    ctx: Context, endpoint: str, *, name: str, objective: TrafficObjective, rules: TrafficRules, person: Person
) -> tuple[VersionView, int]:
    """Store an endpoint's traffic as a dataset; return its version and the number of rows. Raises InvalidInput where
    there are none.

    The provenance names endpoint and rules, and row by row the requests, checkpoints, thumbs and whether a correction
    was used.
    """
    require_builder(person)
    preview = preview_traffic(ctx, endpoint, objective=objective, rules=rules, person=person)
    if not preview.rows:
        raise InvalidInput(
            f"No request of {endpoint!r} gives a row.",
            remedy=f"A row of this kind needs {NEEDS[objective]}. Log bodies, or loosen the rules.",
        )
    provenance = TrafficProvenance(
        endpoint=endpoint,
        objective=objective,
        rules=rules.model_dump(mode="json"),
        left_out=preview.left_out,
        scrubbed=preview.scrubbed,
        rows=preview.provenance,
    )
    version = add_rows_dataset(
        ctx, name=name, kind=KINDS[objective], rows=preview.rows, provenance=provenance, person=person
    )
    return version, len(preview.rows)


def _read(ctx: Context, name: str, rules: TrafficRules) -> list[Exchange]:
    """Return logged requests with their feedback, and thumbs that hold a copy of their own."""
    since = ctx.now() - timedelta(days=rules.days)
    with ctx.db.read() as session:
        endpoint = find_endpoint(session, name)
        logged = session.scalars(
            select(LoggedRequest).where(
                LoggedRequest.endpoint_id == endpoint.id,
                LoggedRequest.created_at >= since,
                LoggedRequest.messages.is_not(None),
                LoggedRequest.status == "finished",
            )
        ).all()
        query = given_feedback(Feedback).where(Feedback.endpoint == name, Feedback.created_at >= since)
        given = [(request, row) for request, row in session.execute(query)]
        cut = set(
            session.scalars(
                select(Usage.id).where(
                    Usage.endpoint_id == endpoint.id, Usage.created_at >= since, Usage.finish_reason == "length"
                )
            )
        )
    feedback = dict(given)
    exchanges = {}
    for row in logged:
        said = feedback.get(row.id)
        source, rating, correction = ("api", None, "") if said is None else (said.source, said.rating, said.correction)
        exchanges[row.id] = Exchange(
            row.id,
            source,
            list(row.messages or []),
            row.answer or "",
            rating,
            correction,
            row.checkpoint_id,
            row.created_at,
            row.id in cut or len(row.answer or "") >= MAX_ANSWER_CHARS,
        )
    for request, said in given:
        if said.messages and said.answer is not None and request not in exchanges:
            exchanges[request] = Exchange(
                said.request_id,
                said.source,
                list(said.messages),
                said.answer,
                said.rating,
                said.correction,
                said.checkpoint_id,
                said.created_at,
                request in cut,
            )
    listed = set(rules.only) or exchanges.keys()
    merged: dict[tuple[str, str], Exchange] = {}
    for id_, exchange in exchanges.items():
        if id_ not in listed:
            continue
        # a logged request and a thumb on its copy are one exchange
        key = json.dumps(exchange.messages, sort_keys=True), exchange.answer
        if key not in merged or not (merged[key].rating or merged[key].correction):
            merged[key] = exchange
    return list(merged.values())


def _admits(exchange: Exchange, rules: TrafficRules, left_out: Counter[str]) -> bool:
    reason = ""
    if exchange.id in rules.exclude:
        reason = "left out in the review"
    elif rules.source not in ("any", exchange.source):
        reason = "other source"
    elif rules.rating == "rated" and not exchange.rating:
        reason = "not rated"
    elif (rules.rating == "up" and exchange.rating != 1) or (rules.rating == "down" and exchange.rating != -1):
        reason = "other rating"
    elif len(exchange.answer) < rules.min_answer_chars:
        reason = "short answer"
    if reason:
        left_out[reason] += 1
    return not reason


def _scrub(exchanges: Sequence[Exchange], config: RequestLogConfig) -> tuple[list[Exchange], int]:
    scrubbed, total = [], 0
    for exchange in exchanges:
        messages, count = redact_messages(exchange.messages, config)
        answer, in_answer = redact(exchange.answer, config)
        correction, in_correction = redact(exchange.correction, config)
        total += count + in_answer + in_correction
        scrubbed.append(replace(exchange, messages=messages, answer=answer, correction=correction))
    return scrubbed, total


Made = tuple[list[Row], list[TrafficRow]]


def _source(*exchanges: Exchange, correction: bool = False) -> TrafficRow:
    return {
        "requests": [exchange.id for exchange in exchanges],
        "checkpoints": [exchange.checkpoint_id for exchange in exchanges],
        "ratings": [exchange.rating for exchange in exchanges],
        "correction": correction,
    }


def _sft(exchanges: Collection[Exchange]) -> Made:
    used = [
        exchange
        for exchange in exchanges
        if exchange.correction or (exchange.answer and exchange.rating != -1 and not exchange.is_cut)
    ]
    rows = [rewrite_row(exchange.messages, rewrite=exchange.correction or exchange.answer) for exchange in used]
    return rows, [_source(exchange, correction=bool(exchange.correction)) for exchange in used]


def _kto(exchanges: Collection[Exchange]) -> Made:
    used = [exchange for exchange in exchanges if exchange.rating == -1 or (exchange.rating and not exchange.is_cut)]
    rows = [label_row(exchange.messages, completion=exchange.answer, is_good=exchange.rating == 1) for exchange in used]
    return rows, [_source(exchange) for exchange in used]


def _preference(exchanges: Collection[Exchange]) -> Made:
    rows, sources = [], []
    by_prompt: dict[str, list[Exchange]] = defaultdict(list)
    for exchange in exchanges:
        if exchange.correction and exchange.correction != exchange.answer:
            rows.append(preference_row(exchange.messages, chosen=exchange.correction, rejected=exchange.answer))
            sources.append(_source(exchange, correction=True))
        by_prompt[json.dumps(exchange.messages, sort_keys=True)].append(exchange)
    for group in by_prompt.values():
        good = [exchange for exchange in group if exchange.rating == 1 and not exchange.is_cut]
        bad = [exchange for exchange in group if exchange.rating == -1]
        # each answer in one pair, so that no prompt outweighs the others
        for chosen, rejected in zip(good, bad, strict=False):
            if chosen.answer != rejected.answer:
                rows.append(preference_row(chosen.messages, chosen=chosen.answer, rejected=rejected.answer))
                sources.append(_source(chosen, rejected))
    return rows, sources


_ROWS = {"sft": _sft, "kto": _kto, "preference": _preference}
