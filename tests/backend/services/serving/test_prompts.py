"""Prompts of the team: versions with author and time, conflicts, who deletes, and what finds them."""

from __future__ import annotations

import pytest
from sqlalchemy import text as sql

from backend.db.tables import PromptMatrix, PromptVersion
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound, RoundhouseError
from backend.services.context import LOCAL, Context, Person
from backend.services.people.accounts import add_user
from backend.services.search import search
from backend.services.serving.prompts import (
    delete_prompt,
    get_prompt,
    get_version,
    list_prompt_names,
    list_team_prompts,
    save_prompt,
)


@pytest.fixture
def ada(ctx: Context) -> Person:
    return add_user(ctx, "ada", "a long password", role="engineer", person=LOCAL)


def test_a_change_is_the_next_version_with_its_author_and_the_same_text_is_none(ctx: Context, ada: Person) -> None:
    save_prompt(ctx, "retell", {"text": "Retell {{tale}}"}, person=LOCAL)
    save_prompt(ctx, "retell", {"text": "Retell {{tale}}"}, note="nothing", person=ada)
    prompt = save_prompt(ctx, "retell", {"system": "Be brief.", "text": "Retell {{tale}}"}, note="terse", person=ada)
    assert [(v.number, v.author, v.note) for v in prompt.versions] == [(2, "ada", "terse"), (1, "", "")]
    (line,) = list_team_prompts(ctx)
    assert (line.name, line.number, line.variables, line.author) == ("retell", 2, ("tale",), "ada")
    assert get_version(ctx, prompt, 1).body.system == ""
    with pytest.raises(NotFound, match="3") as caught:
        prompt.version(3)
    assert "1 to 2" in caught.value.remedy


def test_a_prompt_reads_what_its_newest_version_says_and_of_older_ones_what_is_asked_for(ctx: Context) -> None:
    save_prompt(ctx, "retell", {"text": "one"}, person=LOCAL)
    save_prompt(ctx, "retell", {"text": "two"}, person=LOCAL)
    with ctx.db.write() as session:
        session.execute(sql("""UPDATE prompt_versions SET body = '{"text": 5}' WHERE number = 1"""))
    prompt = get_prompt(ctx, "retell")
    assert (prompt.newest.body.text, [version.number for version in prompt.versions]) == ("two", [2, 1])
    with pytest.raises(RoundhouseError, match="prompt_versions"):
        get_version(ctx, prompt, 1)
    assert list_prompt_names(ctx) == ["retell"]


def test_what_another_saved_meanwhile_is_not_overwritten_unseen(ctx: Context, ada: Person) -> None:
    save_prompt(ctx, "retell", {"text": "one"}, after=0, person=LOCAL)
    save_prompt(ctx, "retell", {"text": "two"}, after=1, person=ada)
    with pytest.raises(Conflict, match="Version 2 was saved since"):
        save_prompt(ctx, "retell", {"text": "three"}, after=1, person=LOCAL)
    with pytest.raises(Conflict, match="already"):
        save_prompt(ctx, "retell", {"text": "new"}, after=0, person=LOCAL)
    assert get_prompt(ctx, "retell").newest.body.text == "two"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("", "x", "needs a name"), ("a@1", "x", "@"), ("x" * 81, "x", "81"), ("ok", "{{tale", "is not a template")],
)
def test_a_wrong_name_or_text_is_refused_and_leaves_nothing(ctx: Context, name: str, text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        save_prompt(ctx, name, {"text": text}, person=LOCAL)
    assert list_team_prompts(ctx) == []


def test_another_account_reads_and_changes_a_prompt_but_does_not_delete_it(ctx: Context, ada: Person) -> None:
    bo = add_user(ctx, "bo", "a long password", role="engineer", person=LOCAL)
    save_prompt(ctx, "retell", {"text": "one"}, person=ada)
    save_prompt(ctx, "retell", {"text": "two"}, person=bo)
    with pytest.raises(NotAllowed, match="made by ada"):
        delete_prompt(ctx, "retell", person=bo)
    with pytest.raises(NotAllowed):
        save_prompt(ctx, "retell", {"text": "three"}, person=Person("r", "rae", "rater"))
    delete_prompt(ctx, "retell", person=ada)
    with pytest.raises(NotFound):
        get_prompt(ctx, "retell")
    with ctx.db.read() as session:
        assert session.query(PromptVersion).count() == session.query(PromptMatrix).count() == 0


def test_prompts_are_found_by_words_of_their_name(ctx: Context) -> None:
    for name in ("retell a tale", "name a tale", "100% sure"):
        save_prompt(ctx, name, {"text": "x"}, person=LOCAL)
    assert [prompt.name for prompt in list_team_prompts(ctx, "TALE re")] == ["retell a tale"]
    assert [prompt.name for prompt in list_team_prompts(ctx, "%")] == ["100% sure"]
    assert [(hit.kind, hit.key) for hit in search(ctx, "retell", person=LOCAL)] == [("prompt", "retell a tale")]
