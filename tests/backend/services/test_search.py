"""Search by name over what an installation holds."""

from __future__ import annotations

from datetime import timedelta

import pytest

from backend.db.base import utc_now
from backend.db.tables import Alias, Checkpoint, Conversation, Dataset, Run, User
from backend.services.context import LOCAL, Context, Person
from backend.services.search import MAX_HITS_PER_KIND, MAX_QUERY, SEARCHED, search
from pages.components.routes import OBJECTS
from tests.support.scenario import Scenario, add_rows


def names(ctx: Context, query: str, *, person: Person = LOCAL) -> list[tuple[str, str]]:
    """Kind and name of what is found."""
    return [(hit.kind, hit.name) for hit in search(ctx, query, person=person)]


@pytest.fixture
def tales(ctx: Context, scenario: Scenario) -> Context:
    """Objects of several kinds whose names share words."""
    scenario.run(name="tales small")
    add_rows(ctx, Checkpoint(name="small-tales@100", origin="added"), Dataset(name="letters", kind="chat"))
    return ctx


def test_every_word_is_in_the_name_in_any_order_and_case(tales: Context) -> None:
    assert names(tales, "TALES") == [("dataset", "tales"), ("run", "tales small"), ("checkpoint", "small-tales@100")]
    assert {name for _, name in names(tales, "small tales")} == {"tales small", "small-tales@100"}
    assert names(tales, "tales letters") == []


def test_letters_beyond_ascii_have_a_case_too(ctx: Context) -> None:
    add_rows(ctx, Dataset(name="Übergroße Ästhetik", kind="chat"))
    assert names(ctx, "übergroße ÄSTHETIK") == [("dataset", "Übergroße Ästhetik")]


def test_percent_and_underscore_are_letters(tales: Context) -> None:
    assert names(tales, "%") == names(tales, "_") == []


def test_a_nul_is_left_out(tales: Context) -> None:
    assert names(tales, "ta\0les") == names(tales, "tales")
    assert names(tales, "\0") == names(tales, "")


def test_an_id_finds_its_object(tales: Context) -> None:
    (run, *_) = search(tales, "tales small", person=LOCAL)
    assert names(tales, run.key) == [(run.kind, run.name)]


def test_names_that_begin_with_the_query_come_before_those_that_hold_it(ctx: Context) -> None:
    with ctx.db.write() as session:
        for age, name in enumerate(("bird", "birdsong", "a bird", "blackbird")):
            session.add(Dataset(name=name, kind="text", created_at=utc_now() - timedelta(days=age)))
    assert [name for _, name in names(ctx, "bird")] == ["bird", "birdsong", "a bird", "blackbird"]


def test_many_of_one_kind_hide_no_other(tales: Context) -> None:
    add_rows(tales, *(Run(name=f"tales {number}", objective="pretrain") for number in range(60)))
    kinds = [kind for kind, _ in names(tales, "tales")]
    assert kinds.count("run") == MAX_HITS_PER_KIND
    assert {"dataset", "checkpoint"} < set(kinds)


def test_an_alias_leads_to_the_checkpoint_that_holds_it(tales: Context) -> None:
    """What is in production was found on the page of promotions alone."""
    (checkpoint,) = [hit for hit in search(tales, "small-tales", person=LOCAL) if hit.kind == "checkpoint"]
    add_rows(tales, Alias(name="narrator@production", checkpoint_id=checkpoint.key), Alias(name="narrator@staging"))
    (alias,) = search(tales, "narrator", person=LOCAL)
    assert (alias.kind, alias.key, alias.name) == ("alias", checkpoint.key, "narrator@production")


def test_archived_and_deleted_objects_are_not_found(tales: Context) -> None:
    with tales.db.write() as session:
        for row in (session.query(Run).one(), session.query(Dataset).filter_by(name="tales").one()):
            row.archived_at = utc_now()
        session.query(Checkpoint).one().deleted_at = utc_now()
    assert names(tales, "tales") == []


def test_a_conversation_is_found_by_its_owner_alone(ctx: Context) -> None:
    with ctx.db.write() as session:
        session.add_all(User(id=name, name=name, password_hash="", role="engineer") for name in ("ada", "bo"))
        session.flush()
        session.add(Conversation(title="Ada's letter", endpoint="tales", user_id="ada"))
    assert names(ctx, "letter", person=Person("ada", "ada", "engineer")) == [("conversation", "Ada's letter")]
    assert names(ctx, "letter", person=Person("bo", "bo", "engineer")) == []
    assert names(ctx, "letter") == []


def test_no_query_gives_the_newest_of_all_kinds(tales: Context) -> None:
    hits = search(tales, "  ", person=LOCAL)
    assert len(hits) == MAX_HITS_PER_KIND
    assert len({hit.kind for hit in hits}) > 3
    assert [hit.created_at for hit in hits] == sorted((hit.created_at for hit in hits), reverse=True)


def test_a_long_query_is_cut(tales: Context) -> None:
    assert names(tales, "x" * 100_000) == []
    assert names(tales, "tales" + " " * MAX_QUERY + "nothing of this")


def test_every_kind_has_an_address() -> None:
    assert {searched.kind for searched in SEARCHED} <= set(OBJECTS)
