"""Search by name over what an installation holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, literal, or_, select, true, union_all

from backend.db.base import Table
from backend.db.tables import (
    Alias,
    Architecture,
    Campaign,
    Checkpoint,
    Conversation,
    Dataset,
    Endpoint,
    EvaluationTask,
    Gate,
    Prompt,
    Run,
    RunGroup,
    Suite,
    Tokenizer,
)
from backend.services.context import Context, Person
from backend.services.scaling.studies import KIND as STUDY
from backend.services.serving.conversations import owned_by
from backend.services.training.open_sweeps import KIND as SWEEP

MAX_QUERY = 200
MAX_CANDIDATES = 50
"""Newest rows of a kind that are ranked."""
MAX_HITS = 24
MAX_HITS_PER_KIND = 6


@dataclass(frozen=True)
class SearchHit:
    """An object whose name holds every word of a query. `key` is what its page's address names it by."""

    kind: str
    key: str
    name: str
    created_at: datetime


@dataclass(frozen=True)
class _Searched:
    """Rows of a kind that may be found, and the columns of their key, name and age."""

    kind: str
    table: type[Table]
    condition: ColumnElement[bool] = field(default_factory=true)
    key: str = "id"
    name: str = "name"
    age: str = "created_at"


SEARCHED: Sequence[_Searched] = (
    _Searched("run", Run, Run.archived_at.is_(None)),
    _Searched("checkpoint", Checkpoint, and_(Checkpoint.archived_at.is_(None), Checkpoint.deleted_at.is_(None))),
    _Searched("alias", Alias, Alias.checkpoint_id.is_not(None), key="checkpoint_id", age="updated_at"),
    _Searched("dataset", Dataset, Dataset.archived_at.is_(None)),
    _Searched("endpoint", Endpoint, key="name"),
    _Searched("campaign", Campaign),
    _Searched("architecture", Architecture, Architecture.archived_at.is_(None), key="name"),
    _Searched("tokenizer", Tokenizer),
    _Searched("sweep", RunGroup, and_(RunGroup.kind == SWEEP, RunGroup.archived_at.is_(None))),
    _Searched("study", RunGroup, and_(RunGroup.kind == STUDY, RunGroup.archived_at.is_(None))),
    _Searched("task", EvaluationTask, key="name"),
    _Searched("suite", Suite, Suite.archived_at.is_(None)),
    _Searched("gate", Gate),
    _Searched("prompt", Prompt, key="name"),
    _Searched("conversation", Conversation, name="title", age="updated_at"),
)


def search(ctx: Context, query: str, *, person: Person) -> list[SearchHit]:
    """Return the objects whose name holds every word of `query`, in any order, or whose id it is; the best match of
    their name first, then the newest. Without a query, the newest of all kinds.

    Of each kind the newest 50 that match are ranked, and 6 are returned. Another person's conversations are not found.
    """
    words = query[:MAX_QUERY].replace("\0", "").split()  # PostgreSQL has no text with a NUL
    with ctx.db.read() as session:
        rows = session.execute(union_all(*(_matching(one, words, person).subquery().select() for one in SEARCHED)))
        hits = [SearchHit(*row) for row in rows]
    phrase = " ".join(words).lower()
    hits.sort(key=lambda hit: hit.created_at, reverse=True)
    hits.sort(key=lambda hit: _rank(hit.name.lower(), phrase))
    shown: list[SearchHit] = []
    for hit in hits:
        if not words or sum(other.kind == hit.kind for other in shown) < MAX_HITS_PER_KIND:
            shown.append(hit)
    return shown[:MAX_HITS] if words else shown[:MAX_HITS_PER_KIND]


def _matching(searched: _Searched, words: Sequence[str], person: Person) -> Any:
    key, name, age = (getattr(searched.table, column) for column in (searched.key, searched.name, searched.age))
    is_allowed = owned_by(person) if searched.table is Conversation else searched.condition
    holds_words = and_(true(), *(name.icontains(word, autoescape=True) for word in words))
    return (
        select(literal(searched.kind).label("kind"), key.label("key"), name.label("name"), age.label("age"))
        .where(is_allowed, or_(holds_words, searched.table.id.in_(words)))  # type: ignore[attr-defined]
        .order_by(age.desc())
        .limit(MAX_CANDIDATES if words else MAX_HITS_PER_KIND)
    )


def _rank(name: str, query: str) -> int:
    """Return 0 for the name itself, then for its beginning, for a beginning of a word in it, and for any place."""
    if name == query:
        return 0
    if name.startswith(query):
        return 1
    return 2 if any(not name[at - 1].isalnum() for at in _places(name, query)) else 3


def _places(name: str, query: str) -> list[int]:
    return [at for at in range(1, len(name)) if name.startswith(query, at)]
