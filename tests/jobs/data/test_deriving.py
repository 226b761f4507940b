"""Versions made from versions: what each change keeps, against a plain reading in memory; nothing leaks between the
splits.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.mapping import canonical_json
from backend.domain.data.versions.changes import (
    Change,
    DropDuplicates,
    DropRows,
    Filter,
    KeepSample,
    Merge,
    Resplit,
    RowCondition,
    parse_change,
)
from backend.domain.data.versions.conditions import (
    FIELDS_OF_KIND,
    check_change,
    describe_change,
    field_text,
    meets,
    num_turns,
    row_key,
)
from backend.errors import InvalidInput, JobFailed
from jobs.data.deriving import derive
from jobs.modeling.dataset_files import iter_rows, read_meta
from tests.support.data.data_reporter import RememberingReporter, import_rows

Rows = list[dict[str, Any]]


def make(tmp_path: Path, rows: Rows, *, name: str = "rows", **options: Any) -> Path:
    source = tmp_path / f"{name}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Path(import_rows(source, tmp_path / "datasets", **options).folder)


def change(folder: Path, requested: Change, **options: Any) -> dict[str, Any]:
    return derive(
        folder,
        change=requested,
        out_root=folder.parent,
        reporter=options.pop("reporter", RememberingReporter()),
        **options,
    )


def rows_of(folder: Path | str, split: str | None = None) -> Rows:
    splits = [split] if split else ["train", "val"]
    return [row for one in splits for row in iter_rows(Path(folder), split=one)]  # type: ignore[arg-type]


def pairs(count: int) -> Rows:
    return [{"prompt": f"Say {n}", "completion": f"{n} " * (n % 7 + 1)} for n in range(count)]


def test_listed_rows_are_left_out_by_their_place_in_each_split(tmp_path: Path) -> None:
    folder = make(tmp_path, pairs(40), val_fraction=0.25)
    train, val = rows_of(folder, "train"), rows_of(folder, "val")
    result = change(folder, DropRows(train=(0, 2, 2), val=(1,), reason="near duplicates"))
    assert rows_of(result.folder, "train") == [row for place, row in enumerate(train) if place not in (0, 2)]
    assert rows_of(result.folder, "val") == [row for place, row in enumerate(val) if place != 1]
    assert (result.rows, result.dropped_rows, result.reason) == (
        37,
        3,
        "3 listed rows left out: near duplicates",
    )
    with pytest.raises(InvalidInput, match="no row 99: the version has 30 train and 10 val rows"):
        change(folder, DropRows(train=(99,)))


def test_the_first_of_equal_rows_is_kept_and_validation_rows_stay_out_of_train(tmp_path: Path) -> None:
    folder = make(tmp_path, pairs(30), val_fraction=0.2)
    more = make(tmp_path, [*pairs(30), *pairs(30)], name="more", val_fraction=0.2, seed=7)
    both = change(folder, Merge(other="more"), other=more)
    train, val = (Counter(map(canonical_json, rows_of(both.folder, split))) for split in ("train", "val"))
    assert not train.keys() & val.keys()
    assert sum(train.values()) + sum(val.values()) < 90, "rows that one version holds out are trained on in neither"
    once = change(Path(both.folder), DropDuplicates())
    assert once.dropped_rows == both.rows - 30
    assert Counter(map(canonical_json, rows_of(once.folder))) == dict.fromkeys(map(canonical_json, pairs(30)), 1)
    again = change(Path(once.folder), DropDuplicates())
    assert (again.content_hash, again.dropped_rows) == (
        once.content_hash,
        0,
    ), "nothing to change gives the version itself"


def test_loosely_equal_rows_differ_in_case_and_spaces_alone(tmp_path: Path) -> None:
    texts = ["A story of Mira.", "a  story\nof mira.", "Another.", "A story of Mira!"] + [f"text {n}" for n in range(8)]
    folder = make(tmp_path, [{"text": text} for text in texts], val_fraction=0)
    assert change(folder, DropDuplicates()).dropped_rows == 0
    assert {row["text"] for row in rows_of(change(folder, DropDuplicates(loose=True)).folder)} == {*texts} - {texts[1]}
    labelled = [{"prompt": f"p{n % 2}", "completion": "same", "label": n < 2} for n in range(4)]
    assert change(make(tmp_path, labelled, name="kto", val_fraction=0), DropDuplicates(loose=True)).dropped_rows == 0


def test_a_filter_keeps_what_meets_every_condition_or_leaves_it_out(tmp_path: Path) -> None:
    rows = pairs(60)
    folder = make(tmp_path, rows, val_fraction=0.1)
    short = RowCondition(field="completion", test="at_most", value=6)
    three = RowCondition(field="prompt", test="contains", value="SAY 3")
    matching = rows_of(change(folder, Filter(conditions=(short, three))).folder)
    expected = [row for row in rows if len(row["completion"]) <= 6 and "Say 3" in row["prompt"]]
    assert Counter(map(canonical_json, matching)) == Counter(map(canonical_json, expected))
    rest = rows_of(change(folder, Filter(conditions=(short, three), keep=False)).folder)
    assert len(rest) + len(matching) == len(rows)
    with pytest.raises(InvalidInput, match="no train row is left"):
        change(folder, Filter(conditions=(RowCondition(test="contains", value="nowhere"),)))


def test_a_sample_has_its_size_follows_from_its_seed_and_leaves_rows_where_they_are(tmp_path: Path) -> None:
    folder = make(tmp_path, pairs(200), val_fraction=0.2)
    one, two, other = (change(folder, KeepSample(num_rows=50, seed=seed)) for seed in (1, 1, 2))
    assert one.content_hash == two.content_hash != other.content_hash
    assert one.rows == 50
    for split in ("train", "val"):
        drawn = list(map(canonical_json, rows_of(one.folder, split)))
        whole = list(map(canonical_json, rows_of(folder, split)))
        assert set(drawn) < set(whole)
        assert drawn == [row for row in whole if row in set(drawn)]
    with pytest.raises(InvalidInput, match="has 200 rows, so 201"):
        change(folder, KeepSample(num_rows=201))


@pytest.mark.parametrize("count", [200, 1500], ids=["exact", "by hash"])
def test_a_new_split_has_its_share_and_keeps_every_row(tmp_path: Path, count: int) -> None:
    folder = make(tmp_path, pairs(count), val_fraction=0.1)
    result = change(folder, Resplit(val_fraction=0.3, seed=5))
    assert abs(result.val_rows / count - 0.3) < (0.001 if count == 200 else 0.05)
    assert sorted(map(canonical_json, rows_of(result.folder))) == sorted(map(canonical_json, pairs(count)))
    assert change(Path(result.folder), Resplit(val_fraction=0.3, seed=5)).content_hash == result.content_hash


@pytest.mark.parametrize("count", [200, 1500], ids=["exact", "by hash"])
def test_a_new_split_holds_out_what_an_import_with_its_share_and_seed_does(tmp_path: Path, count: int) -> None:
    folder = make(tmp_path, pairs(count), val_fraction=0)
    result = change(folder, Resplit(val_fraction=0.2, seed=3))
    assert rows_of(result.folder) == rows_of(make(tmp_path, pairs(count), val_fraction=0.2, seed=3))


def test_texts_that_were_cut_are_not_split_again(tmp_path: Path) -> None:
    folder = make(tmp_path, [{"text": f"{n} " + "once upon a time " * 40} for n in range(3)], val_fraction=0.2)
    with pytest.raises(InvalidInput, match="too few to divide: each was cut in two"):
        change(folder, Resplit(val_fraction=0.1))
    fewer = change(folder, DropRows(train=(0,), val=(0,)))
    assert read_meta(Path(fewer.folder))["is_cut"]
    with pytest.raises(InvalidInput, match="too few to divide"):
        change(Path(fewer.folder), Resplit(val_fraction=0.1))


def test_tools_and_labels_survive_a_change(tmp_path: Path) -> None:
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }
    turns = [
        {"role": "user", "content": "x"},
        call,
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "one"},
    ]
    rows = [
        {"messages": turns, "tools": json.dumps([{"type": "function", "function": {"name": "f"}}])},
        {"messages": [turns[0], turns[3]]},
    ]
    folder = make(tmp_path, rows, val_fraction=0)
    assert rows_of(folder) == rows
    assert (
        rows_of(
            change(folder, Filter(conditions=(RowCondition(field="assistant", test="contains", value="f({"),))).folder
        )
        == rows[:1]
    )
    assert (
        rows_of(change(folder, Filter(conditions=(RowCondition(field="turns", test="at_most", value=2),))).folder)
        == rows[1:]
    )


def test_a_change_stops_on_request_and_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path, pairs(300))
    monkeypatch.setattr("jobs.data.deriving.REPORT_EVERY_S", -1.0)
    before = sorted(path.name for path in folder.parent.iterdir())
    with pytest.raises(JobFailed, match="stopped on request"):
        change(folder, KeepSample(num_rows=10), reporter=RememberingReporter(stop_after=0))
    assert sorted(path.name for path in folder.parent.iterdir()) == before


ROWS_OF_KIND: dict[DatasetKind, dict[str, Any]] = {
    DatasetKind.TEXT: {"text": "Once."},
    DatasetKind.INSTRUCTION: {"prompt": "a", "completion": "b"},
    DatasetKind.CHAT: {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    DatasetKind.PREFERENCE: {
        "prompt": [{"role": "user", "content": "a"}],
        "chosen": [{"role": "assistant", "content": "b"}],
        "rejected": [{"role": "assistant", "content": "c"}],
    },
    DatasetKind.KTO: {
        "prompt": [{"role": "user", "content": "a"}],
        "completion": [{"role": "assistant", "content": "b"}],
        "label": True,
    },
    DatasetKind.BENCHMARK: {"question": "a", "choices": ["b", "c"], "answer": 1},
    DatasetKind.PROMPTS: {"prompt": "a"},
    DatasetKind.RECORDS: {"record": '{"text": "a"}'},
}


@pytest.mark.parametrize("kind", DatasetKind)
def test_every_field_of_every_kind_can_be_tested_by_a_condition(kind: DatasetKind) -> None:
    row = ROWS_OF_KIND[kind]
    texts = {field: field_text(row, field) for field in FIELDS_OF_KIND[kind]}
    assert any(texts.values())
    assert row_key(row).startswith("Once." if kind is DatasetKind.TEXT else "a")
    for field in (*FIELDS_OF_KIND[kind], ""):
        requested = RowCondition(field=field, test="at_least", value=0)
        check_change(Filter(conditions=(requested,)), kind=kind)
        assert meets(row, requested)
        assert meets(
            row,
            RowCondition(
                field=field, test="equals", value=str(num_turns(row)) if field == "turns" else field_text(row, field)
            ),
        )
    with pytest.raises(InvalidInput, match="have no field 'nose'"):
        check_change(Filter(conditions=(RowCondition(field="nose", test="contains", value="x"),)), kind=kind)


def test_answers_and_labels_are_compared_as_text() -> None:
    assert field_text(ROWS_OF_KIND[DatasetKind.BENCHMARK], "answer") == "c"
    assert field_text({"question": "a", "answers": ["x", "y"]}, "answer") == "x\ny"
    assert field_text(ROWS_OF_KIND[DatasetKind.KTO], "label") == "good"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"change": "drop_rows"}, "no row is listed"),
        ({"change": "drop_rows", "train": [-1]}, "at least 0"),
        ({"change": "filter", "conditions": []}, "at least 1 entry"),
        ({"change": "filter", "conditions": [{"test": "at_least", "value": "many"}]}, "'many' is not a number"),
        ({"change": "filter", "conditions": [{"test": "contains", "value": ""}]}, "the text to look for is empty"),
        ({"change": "sample", "num_rows": 0}, "at least 1"),
        ({"change": "resplit", "val_fraction": 0.9}, "at most 0.5"),
        ({"change": "improve"}, "improve"),
        ({}, "change"),
    ],
)
def test_an_invalid_change_is_refused(data: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_change(data)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("requested", "description"),
    [
        (DropDuplicates(), "equal rows left out"),
        (KeepSample(num_rows=1000, seed=3), "1,000 rows drawn with seed 3"),
        (Merge(other="b@2"), "rows of b@2 added"),
        (Resplit(val_fraction=0.1, seed=2), "split again, 10 % held out with seed 2"),
        (
            Filter(conditions=(RowCondition(field="completion", test="at_least", value=20),)),
            "only rows kept where completion is at least 20 characters",
        ),
        (
            Filter(conditions=(RowCondition(test="contains", value="As an AI"),), keep=False),
            "rows left out where the whole row contains “As an AI”",
        ),
        (
            Filter(conditions=(RowCondition(field="text", test="lacks", value="CREATED", match_case=True),)),
            "only rows kept where text does not contain “CREATED” (match case)",
        ),
        (DropRows(train=(1,)), "1 listed row left out"),
    ],
)
def test_a_change_is_described_and_survives_json(requested: Change, description: str) -> None:
    assert describe_change(requested) == description
    assert parse_change(requested.model_dump(mode="json")) == requested


def test_benchmarks_and_prompts_are_never_split() -> None:
    with pytest.raises(InvalidInput, match="no validation split"):
        check_change(Resplit(val_fraction=0.1), kind=DatasetKind.BENCHMARK)
