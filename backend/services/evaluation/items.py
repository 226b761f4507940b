"""Items of an evaluation: recorded as its job reports them; searched, filtered and read page by page."""

from __future__ import annotations

import json
import re
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from sqlalchemy import Text, cast, delete, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from backend.db.tables import Evaluation, EvaluationItem, Score
from backend.domain.evaluation.config import EvaluationKind, is_right
from backend.domain.filters import FilterField, Value, ValueKind, matcher, parse_filter
from backend.domain.jobs.events import ItemEvent
from backend.domain.jobs.payloads import EvaluatePayload
from backend.domain.jobs.results import EvaluateResult
from backend.domain.jobs.states import TERMINAL, Status
from backend.errors import NotFound
from backend.services.context import Context
from backend.services.evaluation.evaluations import EvaluationView, list_evaluations
from backend.services.evaluation.packed_items import packed_key, read_item_values, store_packed
from backend.services.evaluation.pairing import item_metric
from backend.services.jobs.claims import Claim

S = TypeVar("S", bound=Sized)
Which = Literal["all", "wrong", "right", "truncated"]
NUMBER, SCORE = "item", "score"
LABELS = ("subgroup", "category", "outcome")
"""Names of parts of a benchmark, and what a probe found, that items may have."""
LOOKED_AT = 50
SEARCHED = ("question", "text", "completion", "extracted", "answer", "choices", "chosen", "subgroup", "judge", "failed")
"""Parts of an item that a search reads; the examples before a question would be found in every item."""
AT_ONCE = 2_000
MAX_ANSWERS = 12
MAX_REMEMBERED, MAX_REMEMBERED_ITEMS = 200, 400_000


@dataclass(frozen=True)
class ItemView:
    """Outcome of one item."""

    item_hash: str
    position: int
    values: dict[str, float]
    shown: dict[str, Any]

    @property
    def number(self) -> int:
        """The item's number on pages and in addresses, counted from 1."""
        return self.position + 1


@dataclass(frozen=True)
class ItemQuery:
    """A choice of items: outcome by the main metric, text that they contain, expression over their metrics.

    `positions` leaves only items at these positions.
    """

    which: Which = "all"
    text: str = ""
    filter: str = ""
    positions: frozenset[int] | None = None


@dataclass(frozen=True)
class ItemIndex:
    """All items of an evaluation without their texts, a row each in the order of the benchmark.

    `columns` holds the values of each metric and `labels` the names of parts that items belong to, None where an item
    lacks it.
    """

    ids: list[int]
    positions: list[int]
    hashes: list[str]
    columns: dict[str, list[float | None]]
    labels: dict[str, list[str | None]]

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each item by its hash."""
        return {item_hash: row for row, item_hash in enumerate(self.hashes)}

    def __len__(self) -> int:
        return len(self.ids)

    def fields(self, main_metric: str) -> dict[str, FilterField]:
        """Return the fields of filters: item, the labels, score (the main metric), each metric."""
        kinds = {NUMBER: ValueKind.NUMBER} | dict.fromkeys(self.labels, ValueKind.TEXT)
        kinds |= {SCORE: ValueKind.NUMBER} if item_metric(main_metric) in self.columns else {}
        kinds |= {field_name(metric): ValueKind.NUMBER for metric in sorted(self.columns)}
        return {name: FilterField(name, kind) for name, kind in kinds.items()}

    def reader(self, main_metric: str) -> Callable[[str], Callable[[int], Value]]:
        """Return what reads a field of filters in a row."""
        columns: dict[str, Sequence[Value]] = {field_name(name): column for name, column in self.columns.items()}
        columns |= self.labels | {SCORE: self.columns.get(item_metric(main_metric), [])}

        def read(name: str) -> Callable[[int], Value]:
            if name == NUMBER:
                return lambda row: float(self.positions[row] + 1)
            return columns[name].__getitem__

        return read


def field_name(metric: str) -> str:
    """Return the name by which filters know a metric: signs of the filter's language become dots."""
    return re.sub(r"[\s<>=!(),\"']+", ".", metric).lower()


def all_items(ctx: Context, evaluation: EvaluationView) -> list[ItemView]:
    """Return an evaluation's items."""
    index = read_index(ctx, evaluation)
    return read_items(ctx, index, range(len(index)))


def find_items(ctx: Context, evaluation: EvaluationView, index: ItemIndex, query: ItemQuery) -> Sequence[int]:
    """Return the rows of an evaluation's index with the items that a query means, in the order of their display.

    `wrong` and `right` go by the main metric (`is_right`); of texts, `wrong` are those that the network predicts worse
    than its mean, worst first. `truncated` items lost part of their prompt, or their answer ended at its longest
    length. Texts are compared without regard to case. Raises FilterError naming the place at fault.
    """
    rows: Sequence[int] = range(len(index.positions))
    if query.filter.strip():
        fields = index.fields(evaluation.main_metric)
        holds = matcher(parse_filter(query.filter, fields), index.reader(evaluation.main_metric))
        rows = [row for row in rows if holds(row)]
    if query.positions is not None:
        rows = [row for row in rows if index.positions[row] in query.positions]
    rows = _of_outcome(ctx, index, rows, query.which, evaluation)
    if query.text.strip():
        having = search_items(ctx, evaluation, query.text)
        rows = [row for row in rows if index.positions[row] in having]
    return rows


def _of_outcome(
    ctx: Context, index: ItemIndex, rows: Sequence[int], which: Which, evaluation: EvaluationView
) -> Sequence[int]:
    if which == "all":
        return rows
    if which == "truncated":
        truncated = _remembered(ctx, evaluation, TRUNCATED, _read_truncated)
        return [row for row in rows if index.positions[row] in truncated]
    metric = item_metric(evaluation.main_metric)
    column = index.columns.get(metric, [None] * len(index.positions))
    scored = [(row, value) for row in rows if (value := column[row]) is not None]
    if evaluation.kind is not EvaluationKind.PERPLEXITY:
        return [row for row, value in scored if is_right(metric, value) == (which == "right")]
    score = evaluation.main_score
    bound = score.value if score else 0.0
    sign = -1 if which == "wrong" else 1
    chosen = [(row, value) for row, value in scored if (value > bound) == (which == "wrong")]
    return [row for row, _ in sorted(chosen, key=lambda pair: (sign * pair[1], pair[0]))]


def read_items(ctx: Context, index: ItemIndex, rows: Sequence[int]) -> list[ItemView]:
    """Return the items of rows of an evaluation's index, in that order."""
    ids = [index.ids[row] for row in rows]
    items: dict[int, ItemView] = {}
    with ctx.db.read() as session:
        for at in range(0, len(ids), AT_ONCE):
            chosen = select(EvaluationItem).where(EvaluationItem.id.in_(ids[at : at + AT_ONCE]))
            items |= {item.id: view_item(item) for item in session.scalars(chosen)}
    return [items[one] for one in ids if one in items]


def view_item(item: EvaluationItem) -> ItemView:
    """Return a stored item."""
    return ItemView(item.item_hash, item.position, dict(item.values), dict(item.shown))


def get_item(ctx: Context, evaluation: EvaluationView, number: str) -> ItemView:
    """Return an item by its number, counted from 1. Raises NotFound naming the numbers that there are."""
    index = read_index(ctx, evaluation)
    positions = index.positions
    if re.fullmatch(r"[0-9]{1,9}", number):
        position = int(number) - 1
        row = bisect_left(positions, position)
        if row < len(positions) and positions[row] == position:
            return read_items(ctx, index, [row])[0]
    remedy = "No item has been scored yet."
    if positions:
        remedy = f"Its {len(positions):,} items have numbers from {positions[0] + 1:,} to {positions[-1] + 1:,}."
    raise NotFound(
        f"The evaluation of “{evaluation.checkpoint}” on {evaluation.benchmark} has no item “{number[:40]}”.",
        remedy=remedy,
    )


def list_rivals(ctx: Context, evaluation: EvaluationView, item: ItemView) -> list[tuple[EvaluationView, ItemView]]:
    """Return the same item in the newest finished evaluation, scored alike, of every other checkpoint and endpoint."""
    others = [
        other
        for other in list_evaluations(ctx, version_id=evaluation.version_id)
        if other.status is Status.FINISHED
        and other.subject_id != evaluation.subject_id
        and (other.kind, other.main_metric) == (evaluation.kind, evaluation.main_metric)
    ]
    newest = {other.subject_id: other for other in reversed(others)}
    chosen = {other.id: other for other in list(newest.values())[-MAX_ANSWERS:]}
    query = select(EvaluationItem).where(
        EvaluationItem.evaluation_id.in_(chosen), EvaluationItem.item_hash == item.item_hash
    )
    with ctx.db.read() as session:
        answers = {row.evaluation_id: view_item(row) for row in session.scalars(query)}
    return [(other, answers[id_]) for id_, other in reversed(chosen.items()) if id_ in answers]


def read_index(ctx: Context, evaluation: EvaluationView) -> ItemIndex:
    """Return all items of an evaluation without their texts."""
    return _remembered(ctx, evaluation, "", _read_index)


def search_items(ctx: Context, evaluation: EvaluationView, text: str) -> frozenset[int]:
    """Return the positions of the items with a text in question, answers or choices, without regard to case."""
    sought = " ".join(text.split()).casefold()
    return _remembered(ctx, evaluation, sought, lambda ctx, id_: _search(ctx, id_, sought))


def _remembered(ctx: Context, evaluation: EvaluationView, key: str, read: Callable[[Context, str], S]) -> S:
    """Return what was read of an evaluation. The last answers are remembered of one that has ended: it changes only
    when it is resumed or a classifier adds toxicity.
    """
    if evaluation.status not in TERMINAL:
        return read(ctx, evaluation.id)
    full_key = (ctx.db.url, evaluation.id, evaluation.finished_at, evaluation.scores, evaluation.toxicity, key)
    with _LOCK:
        if full_key in _KNOWN:
            _KNOWN.move_to_end(full_key)
            return _KNOWN[full_key]  # type: ignore[return-value]
    answer = read(ctx, evaluation.id)
    with _LOCK:
        _KNOWN[full_key] = answer
        while len(_KNOWN) > MAX_REMEMBERED or (
            len(_KNOWN) > 1 and sum(map(len, _KNOWN.values())) > MAX_REMEMBERED_ITEMS
        ):
            _KNOWN.popitem(last=False)
    return answer


_LOCK = threading.Lock()
_KNOWN: OrderedDict[tuple[object, ...], Sized] = OrderedDict()
TRUNCATED = "\0truncated"


def _read_index(ctx: Context, evaluation_id: str) -> ItemIndex:
    own = EvaluationItem.evaluation_id == evaluation_id
    with ctx.db.read() as session:
        query = select(EvaluationItem.position, EvaluationItem.id, EvaluationItem.item_hash).where(own)
        items = sorted(session.execute(query).all())
        first = session.scalars(select(EvaluationItem.shown).where(own).limit(LOOKED_AT)).all()
        labels = dict[str, dict[int, str]]()
        for name in LABELS:
            if any(name in shown for shown in first):
                named = select(EvaluationItem.id, EvaluationItem.shown[name].as_string()).where(own)
                labels[name] = dict(session.execute(named).all())
    values = read_item_values(ctx, [evaluation_id])[evaluation_id]
    packed = np.searchsorted(values.keys, np.array([packed_key(one[2]) for one in items], dtype=np.uint64))
    table = values.table[np.minimum(packed, len(values.keys) - 1)] if len(values.keys) else values.table
    return ItemIndex(
        ids=[one[1] for one in items],
        positions=[one[0] for one in items],
        hashes=[one[2] for one in items],
        columns={
            name: [None if value != value else value for value in table[:, place].tolist()]
            for place, name in enumerate(values.metrics)
        },
        labels={name: [given.get(one[1]) for one in items] for name, given in labels.items()},
    )


def _search(ctx: Context, evaluation_id: str, sought: str) -> frozenset[int]:
    stored = cast(EvaluationItem.shown, Text)
    query = select(EvaluationItem.position, stored).where(EvaluationItem.evaluation_id == evaluation_id)
    longest = max(sought.split(), key=len, default="")
    if re.fullmatch(r"[a-z0-9.,;:?!()'+*=%&#@$_-]*", longest):  # JSON writes it as it is, or has an escaped letter
        query = query.where(or_(stored.icontains(longest, autoescape=True), stored.contains("\\u", autoescape=True)))
    positions = set()
    with ctx.db.read() as session:
        for position, shown in session.execute(query.execution_options(yield_per=AT_ONCE)):
            if sought in _searched(json.loads(shown)):
                positions.add(position)
    return frozenset(positions)


def _searched(shown: Mapping[str, Any]) -> str:
    parts: list[str] = []
    for name in SEARCHED:
        value = shown.get(name)
        parts += map(str, value) if isinstance(value, list) else [] if value is None else [str(value)]
    return "\0".join(" ".join(part.split()) for part in parts).casefold()


def _read_truncated(ctx: Context, evaluation_id: str) -> frozenset[int]:
    cut = [EvaluationItem.shown["cut"].as_integer() > 0, EvaluationItem.values["cut"].as_float() > 0]
    query = select(EvaluationItem.position).where(
        EvaluationItem.evaluation_id == evaluation_id,
        or_(EvaluationItem.shown["finish_reason"].as_string() == "length", *cut),
    )
    with ctx.db.read() as session:
        return frozenset(session.scalars(query))


def record_item(session: Session, ctx: Context, claim: Claim[EvaluatePayload], event: ItemEvent) -> None:
    """Store the outcome of one item. A repeated one, as after a lost worker, changes nothing."""
    insert = (sqlite.insert if ctx.db.is_sqlite else postgresql.insert)(EvaluationItem)
    row = {
        "evaluation_id": claim.payload.evaluation_id,
        "item_hash": event.item_hash[:64],
        "position": event.position,
        "values": {name: value for name, value in event.values.items() if value is not None},
        "shown": _without_nul(event.shown),
    }
    session.execute(insert.values(row).on_conflict_do_nothing(index_elements=["evaluation_id", "item_hash"]))


def record_scores(session: Session, ctx: Context, claim: Claim[EvaluatePayload], result: EvaluateResult) -> None:
    """Write the scores of a finished evaluation. A score that is not a number (NaN) is left out."""
    row = session.get(Evaluation, claim.payload.evaluation_id)
    if row is None:
        return
    if claim.payload.check is not None:
        row.record = row.record.model_copy(update={"check": result.check})
        return
    session.execute(delete(Score).where(Score.evaluation_id == row.id))
    session.add_all(
        Score(evaluation_id=row.id, **score.model_dump()) for score in result.scores if score.value is not None
    )
    row.record = row.record.model_copy(update={"facts": result.facts})
    store_packed(session, row.id)


def _without_nul(value: Any) -> Any:
    """PostgreSQL holds no NUL in text."""
    if isinstance(value, str):
        return value.replace("\x00", "")
    if isinstance(value, list):
        return [_without_nul(part) for part in value]
    return {key: _without_nul(part) for key, part in value.items()} if isinstance(value, dict) else value
