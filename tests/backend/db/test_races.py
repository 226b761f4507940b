"""Several look, find nothing and insert the same value at once: nobody meets an error of the database, on either
one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import (
    ApiKey,
    Architecture,
    Checkpoint,
    Dataset,
    DatasetVersion,
    EvaluationTask,
    Gate,
    RequiredGate,
    User,
)
from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.data.versions.changes import DropDuplicates
from backend.domain.evaluation.gate_config import GateConfig
from backend.domain.tokenizers.config import TokenizerConfig
from backend.errors import Conflict
from backend.services.architectures import save_architecture
from backend.services.checkpoints.bases import add_base
from backend.services.context import LOCAL, Context
from backend.services.data.imports import add_rows_dataset
from backend.services.data.versions import derive_version
from backend.services.evaluation.gates import create_gate, require_gate
from backend.services.evaluation.tasks import save_task
from backend.services.people.accounts import add_user
from backend.services.serving.own_keys import playground_key
from backend.services.tokenizers.tokenizers import train_tokenizer
from tests.support.scenario import Scenario

TOGETHER = 3
WAIT_S = 0.5
TASK = """
name: capitals
kind: multiple_choice
prompt: "{{question}}"
choices: choices
answer: answer
"""


@contextmanager
def met_before_inserts() -> Iterator[None]:
    """Let the first insert of each thread wait until all threads have looked. On SQLite only one can, so the wait ends
    by itself.
    """
    barrier, seen = threading.Barrier(TOGETHER), threading.local()

    def meet(session: Session, *_: Any) -> None:
        if session.new and not getattr(seen, "met", False):
            seen.met = True
            with suppress(threading.BrokenBarrierError):
                barrier.wait(WAIT_S)

    event.listen(Session, "before_flush", meet)
    try:
        yield
    finally:
        event.remove(Session, "before_flush", meet)


def at_once(function: Callable[[], object]) -> list[object]:
    """Call a function in threads that race; return each one's result or error."""

    def outcome(_: int) -> object:
        try:
            return function()
        except Exception as error:
            return error

    with met_before_inserts(), ThreadPoolExecutor(TOGETHER) as pool:
        return list(pool.map(outcome, range(TOGETHER)))


def count(ctx: Context, table: Any) -> int:
    with ctx.db.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def split(outcomes: list[object]) -> tuple[list[object], list[Conflict]]:
    """Return what was made, and the refusals by name; anything else fails the test."""
    conflicts = [one for one in outcomes if isinstance(one, Conflict)]
    made = [one for one in outcomes if not isinstance(one, Conflict)]
    for one in made:
        if isinstance(one, Exception):
            raise AssertionError(repr(one)) from one
    return made, conflicts


def test_the_playground_has_one_key(any_ctx: Context) -> None:
    made, _ = split(at_once(lambda: playground_key(any_ctx)))
    assert len(set(made)) == 1
    assert count(any_ctx, ApiKey) == 1


def test_one_of_accounts_whose_names_differ_in_case_alone_is_made(any_ctx: Context) -> None:
    names = iter(["Rita", "rita", "RITA"])
    made, conflicts = split(at_once(lambda: add_user(any_ctx, next(names), "correct horse battery", person=LOCAL)))
    assert (len(made), len(conflicts), count(any_ctx, User)) == (1, TOGETHER - 1, 1)
    assert "already an account" in conflicts[0].message


def test_one_of_those_who_add_a_base_of_one_name_is_told_that_it_is_taken(any_ctx: Context) -> None:
    made, conflicts = split(at_once(lambda: add_base(any_ctx, name="oak", source="owner/oak", person=LOCAL).id))
    assert (len(made), len(conflicts), count(any_ctx, Checkpoint)) == (1, TOGETHER - 1, 1)
    assert "“oak”" in conflicts[0].message


def test_a_double_click_adds_one_base(any_ctx: Context) -> None:
    click = at_once(lambda: add_base(any_ctx, name="oak", source="owner/oak", person=LOCAL, idempotency_key="click").id)
    made, conflicts = split(click)
    assert len(set(made)) == 1
    assert not conflicts
    assert count(any_ctx, Checkpoint) == 1


@contextmanager
def stored_between_looks(ctx: Context, other: Callable[[], object]) -> Iterator[list[object]]:
    """Let another do the same in full after this thread's first look for a key. Yields what the other got."""
    outcome: list[object] = []
    thread = threading.get_ident()

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not outcome and threading.get_ident() == thread and "jobs.idempotency_key = " in statement:
            outcome.append(None)
            with ThreadPoolExecutor(1) as pool:
                outcome[0] = pool.submit(other).result()

    event.listen(ctx.db.engine, "after_cursor_execute", look)
    try:
        yield outcome
    finally:
        event.remove(ctx.db.engine, "after_cursor_execute", look)


def add_oak(ctx: Context) -> str:
    return add_base(ctx, name="oak", source="owner/oak", person=LOCAL, idempotency_key="click").id


def train_letters(ctx: Context) -> str:
    return train_tokenizer(
        ctx, name="letters", dataset="facts", config=TokenizerConfig(kind="byte"), person=LOCAL, idempotency_key="click"
    ).id


def derive_part(ctx: Context) -> str:
    return derive_version(ctx, "facts", change=DropDuplicates(), name="part", person=LOCAL, idempotency_key="click").id


@pytest.mark.parametrize("clicked", [add_oak, train_letters, derive_part])
def test_the_second_click_finds_what_the_first_stored_between_its_looks(
    any_ctx: Context, clicked: Callable[[Context], str]
) -> None:
    if any_ctx.db.is_sqlite:
        pytest.skip("SQLite has one writer: nobody stores anything between its looks")
    Scenario(any_ctx).benchmark("facts")
    with stored_between_looks(any_ctx, lambda: clicked(any_ctx)) as others:
        assert [clicked(any_ctx)] == others


def test_equal_architectures_and_tasks_are_stored_once(any_ctx: Context) -> None:
    made, conflicts = split(
        at_once(lambda: save_architecture(any_ctx, name="small", config=ArchitectureConfig(), person=LOCAL).name)
    )
    assert (len(made), conflicts, count(any_ctx, Architecture)) == (TOGETHER, [], 1)
    made, conflicts = split(at_once(lambda: save_task(any_ctx, TASK, person=LOCAL).name))
    assert (len(made), conflicts, count(any_ctx, EvaluationTask)) == (TOGETHER, [], 1)


def test_imports_into_one_new_dataset_get_numbers_of_their_own(any_ctx: Context) -> None:
    def imported() -> object:
        return add_rows_dataset(any_ctx, name="new", kind="text", rows=[{"text": "a"}], person=LOCAL).number

    made, conflicts = split(at_once(imported))
    assert (sorted(made), conflicts) == ([1, 2, 3], [])  # type: ignore[type-var]
    assert (count(any_ctx, Dataset), count(any_ctx, DatasetVersion)) == (1, TOGETHER)


def test_a_gate_has_one_name_and_an_endpoint_requires_it_once(any_ctx: Context) -> None:
    Scenario(any_ctx).benchmark("facts")
    Scenario(any_ctx).checkpoint("Oak")
    config = GateConfig.model_validate({"champion": "Oak", "benchmarks": [{"benchmark": "facts"}]})
    made, conflicts = split(at_once(lambda: create_gate(any_ctx, name="safe", config=config, person=LOCAL).name))
    assert (len(made), len(conflicts), count(any_ctx, Gate)) == (1, TOGETHER - 1, 1)
    made, conflicts = split(at_once(lambda: require_gate(any_ctx, "safe", endpoint="chat", person=LOCAL).name))
    assert (len(made), conflicts, count(any_ctx, RequiredGate)) == (TOGETHER, [], 1)


def test_an_error_that_is_no_race_is_raised_at_once(any_ctx: Context) -> None:
    calls: list[int] = []

    @retry_races
    def stores_nothing() -> None:
        calls.append(1)
        with any_ctx.db.write() as session:
            session.add(User(name=None, password_hash="x", role="rater"))  # NOT NULL

    with pytest.raises(IntegrityError):
        stores_nothing()
    assert len(calls) == 1
