"""Versions of datasets: derived, traced back, and kept while anything needs them."""

from __future__ import annotations

import pytest

from backend.db.tables import Analysis, Campaign, Checkpoint, DatasetVersion, Evaluation, Job, Run, RunGroup, Tokenizer
from backend.domain.data.versions.changes import (
    DropDuplicates,
    DropRows,
    Filter,
    KeepSample,
    Merge,
    Resplit,
    RowCondition,
)
from backend.domain.data.versions.provenance import DerivedProvenance
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import delete_dataset, get_dataset, resolve_version
from backend.services.data.preview import preview_rows
from backend.services.data.versions import delete_version, derive_version, list_dataset_users, version_lineage
from backend.services.data.views import VersionView
from tests.support.data.dataset_world import RATER, done, imported
from tests.support.job_work import do_job
from tests.support.scenario import add_row


def provenance(version: VersionView) -> DerivedProvenance:
    assert isinstance(version.provenance, DerivedProvenance)
    return version.provenance


ROWS = [{"instruction": f"Say {n % 15}.", "output": f"{n % 15}!"} for n in range(20)]


def test_a_derived_version_names_its_parent_the_change_and_the_person(ctx: Context) -> None:
    first = imported(ctx, "sayings", ROWS)
    derived = derive_version(ctx, "sayings@1", change=DropDuplicates(), person=LOCAL)
    with ctx.db.read() as session:
        assert session.get_one(Job, derived.job_id).title == "Change sayings@1", "as the page calls it"
    assert (derived.number, derived.is_importing, derived.parent_id) == (2, True, first.id)
    second = done(ctx, derived)
    assert (second.label, second.rows, second.facts.dropped_rows) == ("sayings@2", 15, 5)
    assert provenance(second).version_id == first.id
    assert provenance(second).said == "equal rows left out"
    assert provenance(second).by == LOCAL.name
    assert resolve_version(ctx, "sayings@1").rows == 20, "the version before is what it was"
    third = done(ctx, derive_version(ctx, second.id, change=DropRows(train=(0,), reason="wrong"), person=LOCAL))
    assert provenance(third).change == {"change": "drop_rows", "train": 1, "val": 0, "reason": "wrong"}
    assert len(preview_rows(ctx, third, limit=20)) == third.train_rows == second.train_rows - 1


def test_a_change_without_effect_makes_no_version(ctx: Context) -> None:
    first = imported(ctx, "sayings", ROWS[:15])
    again = done(ctx, derive_version(ctx, first.id, change=DropDuplicates(), person=LOCAL))
    assert (again.id, again.reused) == (first.id, True)
    assert len(get_dataset(ctx, "sayings").versions) == 1


def test_a_click_twice_is_one_version_and_another_name_another_dataset(ctx: Context) -> None:
    first = imported(ctx, "sayings", ROWS)
    one, two = (
        derive_version(ctx, first.id, change=KeepSample(num_rows=5), name="few", person=LOCAL, idempotency_key="k")
        for _ in range(2)
    )
    assert one.id == two.id
    assert (done(ctx, one).label, resolve_version(ctx, "few").rows) == ("few@1", 5)
    with pytest.raises(Conflict, match="already a dataset “few”"):
        derive_version(ctx, first.id, change=KeepSample(num_rows=6), name="few", person=LOCAL)


def test_versions_of_one_kind_are_merged_and_the_lineage_shows_both(ctx: Context) -> None:
    first, other = imported(ctx, "sayings", ROWS[:10]), imported(ctx, "more", ROWS[10:15])
    both = done(ctx, derive_version(ctx, first.id, change=Merge(other="more"), person=LOCAL))
    assert both.rows == 15
    assert (provenance(both).with_, provenance(both).said) == ("more@1", "rows of more@1 added")
    lineage = {step.label: step for step in version_lineage(ctx, first.dataset_id)}
    assert lineage["sayings@2"].parents == (first.id, other.id)
    assert (lineage["more@1"].is_own, lineage["sayings@1"].said) == (False, "imported from sayings.json")
    assert [step.label for step in version_lineage(ctx, other.dataset_id)] == ["more@1"]
    book = imported(ctx, "book", [{"text": f"t{n}"} for n in range(12)], kind="text")
    with pytest.raises(InvalidInput, match="book@1 holds rows of kind text"):
        derive_version(ctx, first.id, change=Merge(other="book"), person=LOCAL)
    with pytest.raises(InvalidInput, match="merged with itself"):
        derive_version(ctx, first.id, change=Merge(other="sayings@1"), person=LOCAL)
    assert book.parent_id is None


def test_an_impossible_change_is_refused_before_a_job_is_queued(ctx: Context) -> None:
    first = imported(ctx, "sayings", ROWS)
    with pytest.raises(NotAllowed):
        derive_version(ctx, first.id, change=DropDuplicates(), person=RATER)
    with pytest.raises(InvalidInput, match="have no field 'user'"):
        derive_version(
            ctx,
            first.id,
            change=Filter(conditions=(RowCondition(field="user", test="contains", value="x"),)),
            person=LOCAL,
        )
    questions = imported(ctx, "q", [{"question": f"{n}?", "answers": ["1"]} for n in range(5)], kind="benchmark")
    with pytest.raises(InvalidInput, match="no validation split"):
        derive_version(ctx, questions.id, change=Resplit(val_fraction=0.1), person=LOCAL)
    with pytest.raises(NotFound):
        derive_version(ctx, "nothing", change=DropDuplicates(), person=LOCAL)


def test_a_change_that_fails_leaves_a_failed_version_that_can_be_deleted(ctx: Context) -> None:
    first = imported(ctx, "sayings", ROWS)
    derived = derive_version(ctx, first.id, change=KeepSample(num_rows=500), person=LOCAL)
    do_job(ctx, derived.job_id)
    with pytest.raises(Conflict, match="did not finish: The version has 20 rows, so 500 can't be drawn"):
        resolve_version(ctx, "sayings@2")
    assert list_dataset_users(ctx, first.dataset_id, version_id=first.id) == []
    delete_version(ctx, derived.id, person=LOCAL)
    assert [version.number for version in get_dataset(ctx, "sayings").versions] == [1]


def use_everywhere(ctx: Context, version: VersionView) -> None:
    with ctx.db.write() as session:
        checkpoint = Checkpoint(name="tiny", origin="added")
        session.add(checkpoint)
        session.flush()
        session.add_all(
            [
                Run(name="first try", objective="sft", config={}, dataset_version_id=version.id),
                Tokenizer(name="words", kind="bpe", dataset_version_id=version.id),
                Campaign(name="contest", dataset_version_id=version.id),
                Evaluation(checkpoint_id=checkpoint.id, dataset_version_id=version.id, kind="perplexity"),
                RunGroup(name="study", kind="scaling", config={"parts": {"dataset": version.id}}),
                Analysis(kind="data_report", dataset_version_id=version.id),
            ]
        )


def test_a_used_version_is_kept_and_every_user_is_named(ctx: Context) -> None:
    first = imported(ctx, "sayings", ROWS)
    other = done(ctx, derive_version(ctx, first.id, change=KeepSample(num_rows=5), name="few", person=LOCAL))
    use_everywhere(ctx, first)
    add_row(ctx, Analysis(kind="data_report", dataset_version_id=other.id, config={"benchmarks": [first.id]}))
    users = list_dataset_users(ctx, first.dataset_id)
    assert sorted(map(str, users)) == [
        "campaign “contest”",
        "evaluation of “tiny”",
        "report of “few@1”",
        "report of “sayings@1”",
        "run group “study”",
        "run “first try”",
        "tokenizer “words”",
        "version “few@1”",
    ]
    assert all(use.id for use in users)
    for delete in (
        lambda: delete_dataset(ctx, first.dataset_id, person=LOCAL),
        lambda: delete_version(ctx, first.id, person=LOCAL),
    ):
        with pytest.raises(Conflict, match=r"is in use: run “first try”, tokenizer “words”, .* and 3 more"):
            delete()
    delete_dataset(ctx, other.dataset_id, person=LOCAL, with_reports=True)
    assert len(list_dataset_users(ctx, first.dataset_id)) == 6
    with pytest.raises(Conflict, match="in use"):
        delete_dataset(ctx, first.dataset_id, person=LOCAL, with_reports=True)
    with ctx.db.read() as session:
        assert session.query(Analysis).count() == 1, "a refusal deletes nothing"


def test_versions_of_a_dataset_are_deleted_together_and_shared_files_stay(ctx: Context) -> None:
    first = imported(ctx, "sayings", ROWS)
    second = done(ctx, derive_version(ctx, first.id, change=DropDuplicates(), person=LOCAL))
    done(ctx, derive_version(ctx, second.id, change=KeepSample(num_rows=5), person=LOCAL))
    twin = imported(ctx, "twin", ROWS)
    with pytest.raises(Conflict, match="in use: version “sayings@3”"):
        delete_version(ctx, second.id, person=LOCAL)
    add_row(ctx, Analysis(kind="data_report", dataset_version_id=second.id, folder=None))
    with pytest.raises(Conflict, match="report of “sayings@2”"):
        delete_dataset(ctx, first.dataset_id, person=LOCAL)
    delete_dataset(ctx, first.dataset_id, person=LOCAL, with_reports=True)
    assert ctx.artifacts.path(str(twin.folder)).is_dir()
    assert not ctx.artifacts.path(str(second.folder)).exists()
    with ctx.db.read() as session:
        assert session.query(DatasetVersion).count() == 1
