"""A dataset's page: versions derived, compared, described and deleted, with hostile text in all of them."""

from __future__ import annotations

import re

import pytest
from streamlit.testing.v1 import AppTest

from backend.domain.data.versions.changes import DropDuplicates, KeepSample
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import get_dataset, list_datasets, resolve_version
from backend.services.data.diff import compare_versions
from backend.services.data.versions import derive_version
from backend.services.data.views import VersionView
from tests.support.data.dataset_world import done, imported
from tests.support.opening import EVIL, assert_sound, cells, open_page, send_labels, words
from tests.support.scenario import Scenario

PAGE = "build/datasets.py"
ROWS = [{"instruction": f"{EVIL} {n % 12}", "output": "word " * (n % 12 + 1)} for n in range(30)]


def opened(version: VersionView, tab: str, **query: str) -> AppTest:
    app = open_page(PAGE, dataset=version.dataset_id, version=str(version.number), **{tab: "1"}, **query)
    assert_sound(app)
    assert not any(EVIL in part.value for part in [*app.markdown, *app.caption]), "nothing of a dataset is Markdown"
    return app


def test_a_filter_is_tried_and_makes_the_next_version(site: Context) -> None:
    first = imported(site, "odd *name*", ROWS)
    app = opened(first, "change")
    app.selectbox(key=f"change_{first.id}").select("filter").run()
    assert app.button(key=f"change_go_{first.id}").disabled, "there is no condition yet"
    key = f"0_filter_{first.id}"
    app.selectbox(key=f"field_{key}").select("completion").run()
    app.selectbox(key=f"test_{key}_False").select("at_least").run()
    app.number_input(key=f"number_{key}").set_value(40).run()
    assert_sound(app)
    assert "**Kept** (examples)" in words(app)
    assert "completion is at least 40 characters" in words(app)
    app.button(key=f"change_go_{first.id}").click().run()
    assert_sound(app)
    waiting = get_dataset(site, "odd *name*").versions[0]
    assert (waiting.number, waiting.is_importing, waiting.parent_id) == (2, True, first.id)
    assert "No worker serves the queue" in words(app), "the page goes on to the version that is being made"
    done(site, waiting)
    assert "only rows kept where completion is at least 40 characters" in words(opened(first, "versions")).replace(
        "\\", ""
    )


@pytest.mark.parametrize(
    ("change", "settings", "description"),
    [
        ("drop_duplicates", {}, "equal rows left out"),
        ("sample", {"rows": 4}, "4 rows drawn with seed 1"),
        ("resplit", {"share": 20}, "split again, 20 % held out with seed 1"),
        ("merge", {}, "rows of more@1 added"),
        ("drop_rows", {"train": "1, 3-5", "reason": "![x](y)"}, "4 listed rows left out: ![x](y)"),
    ],
)
def test_each_change_is_made_from_its_form(
    site: Context, change: str, settings: dict[str, object], description: str
) -> None:
    first = imported(site, "sayings", ROWS)
    imported(site, "more", [{"instruction": "a", "output": "b"}] * 3)
    app = opened(first, "change")
    app.selectbox(key=f"change_{first.id}").select(change).run()
    for name, value in settings.items():
        kind = {"rows": "number_input", "share": "slider", "train": "text_input", "reason": "text_input"}[name]
        getattr(app, kind)(key=f"{name}_{change}_{first.id}").set_value(value).run()
    assert description in words(app).replace("\\", "")
    app.toggle(key=f"change_other_{first.id}").set_value(True).run()
    app.text_input(key=f"change_name_{first.id}").set_value("made").run()
    app.button(key=f"change_go_{first.id}").click().run()
    assert_sound(app)
    made = done(site, get_dataset(site, "made").versions[0])
    assert (made.provenance.dump()["said"], made.is_ready) == (description, True)


def test_missing_row_numbers_are_named_before_anything_is_made(site: Context) -> None:
    first = imported(site, "sayings", ROWS)
    app = opened(first, "change")
    app.selectbox(key=f"change_{first.id}").select("drop_rows").run()
    app.text_input(key=f"train_drop_rows_{first.id}").set_value("900").run()
    assert "There is no row 900" in words(app).replace("\\", "")
    assert app.button(key=f"change_go_{first.id}").disabled


def test_a_failed_change_gives_the_reason_and_a_link_back(site: Context) -> None:
    first = imported(site, "sayings", ROWS)
    failed = derive_version(site, first.id, change=KeepSample(num_rows=900), person=LOCAL)
    done(site, failed)
    app = open_page(PAGE, dataset=first.dataset_id)
    assert "The change failed: The version has 30 rows" in app.error[0].value.replace("\\", "")
    app.button(key=f"delete_version_yes_{failed.id}").click().run()
    assert [version.number for version in get_dataset(site, "sayings").versions] == [1]


def test_more_rows_than_the_pages_should_read_are_left_to_the_command_line(
    site: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = imported(site, "many", ROWS)
    second = done(site, derive_version(site, first.id, change=DropDuplicates(), person=LOCAL))
    monkeypatch.setattr("pages.components.data.compare.MAX_HERE", 41)
    app = opened(second, "versions", against="1")
    assert "42 rows must be read first" in words(app)
    assert "roundhouse data diff many@1 many@2" in words(app)
    compare_versions(site, "many@1", "many@2")  # what the command does
    assert "roundhouse data diff" not in words(opened(second, "versions", against="1"))


def test_versions_are_compared_with_examples(site: Context) -> None:
    imported(site, "sayings", ROWS)
    second = imported(site, "sayings", [{**row, "output": "no"} for row in ROWS[:2]] + ROWS[2:12])
    app = opened(second, "versions", against="1")
    shown = {metric.label: metric.value for metric in app.metric}
    assert (shown["Added"], shown["Removed"], shown["Unchanged"]) == ("2", "20", "10")
    assert any(code.value == f"prompt: {EVIL} 0\ncompletion: no" for code in app.code)


def test_the_card_is_edited_and_drawn_without_loading_anything(site: Context) -> None:
    version = imported(site, "sayings", ROWS)
    app = opened(version, "card")
    app.selectbox(key=f"licence_{version.id}").set_value("mit").run()
    app.text_input(key=f"languages_{version.id}").set_value("English").run()
    app.button(key=f"card_save_{version.id}").click().run()
    assert "not a language code" in app.error[0].value
    app.text_input(key=f"languages_{version.id}").set_value("en").run()
    app.text_area(key=f"card_notes_{version.id}").set_value(f"*Said* {EVIL} and [![a][b]](c)").run()
    app.button(key=f"card_save_{version.id}").click().run()
    assert_sound(app)
    facts = resolve_version(site, "sayings").facts.card
    assert (facts.licence, facts.languages) == ("mit", ("en",))
    drawn = [part for part in app.markdown if "Said" in part.value]
    assert drawn
    assert not any("![" in part.value or part.allow_html for part in app.markdown)
    assert "license: mit" in "".join(code.value for code in app.code)


def test_a_used_version_is_kept_and_its_users_are_links(site: Context, scenario: Scenario) -> None:
    scenario.run()
    (dataset,) = list_datasets(site)
    version = dataset.versions[0]
    app = open_page(PAGE, dataset=dataset.id, versions="1")
    assert_sound(app)
    assert "1 thing needs this version" in words(app)
    assert not any(str(button.key).startswith("delete_version_yes") for button in app.button)
    assert not any(str(button.key).startswith("delete_yes") for button in app.button), (
        "nor is the dataset's deletion offered"
    )
    link = next(button for button in app.button if str(button.key).startswith(f"user_{version.id}_run"))
    link.click().run()
    assert_sound(app)
    assert app.query_params["run"]


def test_a_version_nothing_uses_is_deleted_and_a_link_to_another_is_followed(site: Context) -> None:
    first = imported(site, "sayings", ROWS)
    second = done(site, derive_version(site, first.id, change=DropDuplicates(), person=LOCAL))
    app = opened(second, "versions")
    app.button(key=f"step_{first.id}").click().run()
    assert_sound(app)
    assert app.metric[0].value == "30"
    app = opened(second, "versions")
    app.button(key=f"delete_version_yes_{second.id}").click().run()
    assert [version.number for version in get_dataset(site, "sayings").versions] == [1]


def test_the_mapping_is_stored_with_unused_columns(site: Context) -> None:
    version = imported(site, "sayings", [{**row, "id": "7"} for row in ROWS])
    app = opened(version, "origin")
    table = {row["Source column"]: row["Used as"] for row in cells(app)}
    assert table == {"instruction": "prompt", "output": "completion", "id": "not used"}
    facts = {row["Fact"]: row["Value"] for row in cells(app, 1)}
    assert re.fullmatch(r"\d\.\d{1,3}", facts["Unigram byte entropy bits"])
    assert re.fullmatch(r"\d{1,3}(,\d{3})*", facts["Text bytes"])


def test_the_version_is_chosen_while_its_age_ticks(site: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page became Streamlit's error screen once "59 s ago" was "1 min ago": the callback got the label still shown
    in the browser.
    """
    first = imported(site, "sayings", ROWS)
    done(site, derive_version(site, first.id, change=DropDuplicates(), person=LOCAL))
    app = open_page(PAGE, dataset=first.dataset_id)
    (key, shown), *_ = [(str(box.key), box.options) for box in app.selectbox if box.label == "Version"]
    for age in ("2 min ago", "3 min ago"):  # the label of the drawing before is sent to the next
        monkeypatch.setattr("pages.components.data.dataset.when", lambda moment, age=age: age)
        send_labels(app, monkeypatch, {key: shown[0]})
        assert_sound(app)
        assert app.metric[0].value == "12"
    send_labels(app, monkeypatch, {key: shown[1]})
    assert_sound(app)
    assert dict(app.query_params) == {"dataset": first.dataset_id, "version": "1"}
    assert app.metric[0].value == "30"
