"""Two versions compared, and described in a card that the Hub's own tools read."""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet
from starlette.applications import Starlette
from starlette.testclient import TestClient

from backend.domain.data.kinds import DatasetKind
from backend.domain.data.rows.mapping import canonical_json
from backend.domain.data.versions.card import clean_facts, features_of, size_category
from backend.domain.data.versions.changes import DropDuplicates, DropRows, Merge, Resplit
from backend.errors import InvalidInput, NotAllowed
from backend.infra.files.row_index import read_split_index
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import resolve_version
from backend.services.data.diff import compare_versions, rows_to_read
from backend.services.data.exports import download_link, render_card, set_card, stream_zip
from backend.services.data.versions import derive_version
from backend.services.data.views import VersionView
from backend.web.downloads import download_routes
from jobs.data.writing import SCHEMAS
from jobs.modeling.dataset_files import iter_rows
from tests.support.data.dataset_world import RATER, done, imported

ROWS = [{"instruction": f"Say {n}.", "output": f"{n}! " * (1 + n % 5)} for n in range(60)]
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}],
}
TURNS = [
    {"role": "user", "content": "x"},
    CALL,
    {"role": "tool", "content": "1"},
    {"role": "assistant", "content": "one"},
]


def rows_of(ctx: Context, version: VersionView, split: str) -> Counter[str]:
    folder = ctx.artifacts.path(str(version.folder))
    return Counter(canonical_json(row) for row in iter_rows(folder, split=split))  # type: ignore[arg-type]


def unpacked(ctx: Context, version: VersionView, to: Path) -> Path:
    zipfile.ZipFile(io.BytesIO(b"".join(stream_zip(ctx, version)))).extractall(to)
    (folder,) = to.iterdir()
    return folder


def test_added_removed_changed_and_unchanged_rows_are_counted(ctx: Context) -> None:
    first = imported(ctx, "sayings", ROWS)
    edited = [{**row, "output": "better"} if n < 3 else row for n, row in enumerate(ROWS[:50])] + [
        {"instruction": "New.", "output": "!"}
    ]
    second = imported(ctx, "sayings", edited)
    diff = compare_versions(ctx, "sayings@1", second.id)
    assert (diff.removed, diff.added, diff.changed) == (13, 4, 3)
    before, after = (rows_of(ctx, v, "train") + rows_of(ctx, v, "val") for v in (first, second))
    assert diff.unchanged == (before & after).total()
    changed = [example for example in diff.examples if example.what == "changed"]
    assert {(e.before or {})["prompt"] for e in changed} == {"Say 0.", "Say 1.", "Say 2."}
    assert all(
        (e.before or {})["prompt"] == (e.after or {})["prompt"] and (e.after or {})["completion"] == "better"
        for e in changed
    )
    assert [(e.after or {})["prompt"] for e in diff.examples if e.what == "added"] == ["New."]
    assert len([e for e in diff.examples if e.what == "removed"]) == 10
    for count in diff.splits:
        one, two = rows_of(ctx, first, count.split), rows_of(ctx, second, count.split)
        assert (count.before, count.after) == (one.total(), two.total())
        assert (count.removed, count.added) == ((one - two).total(), (two - one).total())


def test_a_new_split_moves_rows_and_copies_count(ctx: Context) -> None:
    first = imported(ctx, "sayings", [*ROWS, *ROWS[:5]])
    resplit = done(ctx, derive_version(ctx, first.id, change=Resplit(val_fraction=0.5, seed=9), person=LOCAL))
    moved = compare_versions(ctx, first.id, resplit.id)
    assert (moved.removed, moved.added) == (0, 0)
    assert moved.moved > 10
    assert not moved.is_empty
    once = done(ctx, derive_version(ctx, first.id, change=DropDuplicates(), person=LOCAL))
    fewer = compare_versions(ctx, first.id, once.id)
    assert (fewer.removed, fewer.added, fewer.unchanged, fewer.moved) == (5, 0, 60, 0)
    assert compare_versions(ctx, first.id, first.id).is_empty


def test_sizes_of_fields_are_those_of_the_rows(ctx: Context) -> None:
    version = imported(ctx, "sayings", ROWS)
    diff = compare_versions(ctx, version.id, version.id)
    folder = ctx.artifacts.path(str(version.folder))
    for field in diff.fields:
        sizes = np.array([len(row[field.field]) for row in iter_rows(folder, split=field.split)])  # type: ignore[arg-type]
        stats = field.before
        assert (stats.rows, stats.total, stats.smallest, stats.largest) == (
            len(sizes),
            sizes.sum(),
            sizes.min(),
            sizes.max(),
        )
        assert stats.median == pytest.approx(np.quantile(sizes, 0.5, method="inverted_cdf"), rel=0.06, abs=1)
        assert stats.p95 == pytest.approx(np.quantile(sizes, 0.95, method="inverted_cdf"), rel=0.06, abs=1)


def test_the_index_is_stored_beside_the_rows(ctx: Context) -> None:
    version = imported(ctx, "sayings", ROWS)
    assert rows_to_read(ctx, (version,)) == 60
    shares: list[float] = []
    compare_versions(ctx, version.id, version.id, progress=shares.append)
    assert shares[-1] == 1.0
    assert rows_to_read(ctx, (version,)) == 0
    folder = ctx.artifacts.path(str(version.folder))
    read = read_split_index(folder, split="train", kind=DatasetKind.INSTRUCTION)
    parquet.write_table(parquet.read_table(folder / "train.parquet").slice(0, 1), folder / "train.parquet")
    assert len(read_split_index(folder, split="train", kind=DatasetKind.INSTRUCTION).hashes) == len(read.hashes), (
        "it is not read again"
    )


def test_versions_of_two_kinds_are_not_compared(ctx: Context) -> None:
    imported(ctx, "sayings", ROWS)
    imported(ctx, "book", [{"text": f"t{n}"} for n in range(12)], kind="text")
    with pytest.raises(InvalidInput, match="sayings@1 holds rows of kind instruction, and book@1 of kind text"):
        compare_versions(ctx, "sayings", "book")


def test_the_card_is_what_the_hubs_own_tools_read(ctx: Context, tmp_path: Path) -> None:
    from datasets import load_dataset
    from huggingface_hub import DatasetCard

    first = imported(ctx, "sayings", ROWS)
    set_card(ctx, first.id, licence="CC-BY-4.0", languages="en, de", notes="Said *often*.", person=LOCAL)
    second = done(ctx, derive_version(ctx, first.id, change=DropRows(train=(0,), reason="<b>odd</b>"), person=LOCAL))
    assert second.facts.card.languages == ("en", "de"), "a derived version inherits what was said"
    folder = unpacked(ctx, second, tmp_path / "out")
    card = DatasetCard.load(folder / "README.md")
    assert (card.data.license, card.data.language, card.data.size_categories) == ("cc-by-4.0", ["en", "de"], ["n<1K"])
    assert "1. sayings@1: imported from sayings.json (60 rows)" in card.text
    assert "2. sayings@2: 1 listed row left out: \\<b\\>odd\\</b\\> (59 rows)" in card.text
    assert f"content: `{second.content_hash}`" in card.text
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: rows.num_rows for name, rows in loaded.items()} == {
        "train": second.train_rows,
        "validation": second.val_rows,
    }
    assert Counter(canonical_json(row) for row in loaded["train"]) == rows_of(ctx, second, "train")


@pytest.mark.parametrize("kind", DatasetKind)
def test_columns_are_named_as_the_hub_names_them(kind: DatasetKind) -> None:
    from datasets import Features

    expected = Features.from_arrow_schema(SCHEMAS[kind])._to_yaml_list()
    assert features_of(SCHEMAS[kind]) == expected


def test_tools_survive_a_round_trip_through_the_hubs_format(ctx: Context, tmp_path: Path) -> None:
    from datasets import load_dataset

    rows: list[dict[str, Any]] = [{"messages": TURNS, "tools": [{"name": "f"}]}, {"messages": [TURNS[0], TURNS[3]]}] * 3
    version = imported(ctx, "calls", rows, kind="chat")
    folder = unpacked(ctx, version, tmp_path / "out")
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), split="train")
    again = imported(ctx, "again", [json.loads(json.dumps(row)) for row in loaded], kind="chat")
    assert rows_of(ctx, again, "train") + rows_of(ctx, again, "val") == rows_of(ctx, version, "train")


def test_a_version_is_downloaded_as_a_zip_of_card_and_rows(ctx: Context) -> None:
    version = imported(ctx, 'odd "name" ünd/..', ROWS)
    client = TestClient(Starlette(routes=download_routes(lambda: ctx)))
    answer = client.get(download_link(ctx, version, person=LOCAL))
    assert answer.headers["content-disposition"] == 'attachment; filename="odd--name---nd-1.zip"'
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    assert [name.partition("/")[2] for name in archive.namelist()] == [
        "README.md",
        "data/train-00000-of-00001.parquet",
        "data/validation-00000-of-00001.parquet",
    ]
    assert not any(".." in name or name.startswith("/") for name in archive.namelist())
    stored = ctx.artifacts.path(str(version.folder)) / "train.parquet"
    assert archive.read(archive.namelist()[1]) == stored.read_bytes()
    assert max(map(len, stream_zip(ctx, version))) < 3 * 2**20
    assert client.get("/download/dataset?token=forged").status_code == 403
    assert client.get("/download/dataset").status_code == 403


def test_card_facts_are_validated(ctx: Context) -> None:
    version = imported(ctx, "sayings", ROWS)
    with pytest.raises(InvalidInput, match="'English' is not a language code"):
        set_card(ctx, version.id, licence="", languages="English", notes="", person=LOCAL)
    with pytest.raises(NotAllowed):
        set_card(ctx, version.id, licence="mit", languages="", notes="", person=RATER)
    set_card(ctx, version.id, licence="Our own: terms & conditions", languages="", notes="", person=LOCAL)
    text = render_card(ctx, version.id)
    assert "license: other\nlicense_name: our-own-terms-conditions\n" in text
    assert resolve_version(ctx, version.id).facts.columns == ("instruction", "output"), "what the import found stays"
    assert clean_facts(licence=" MIT ", languages="en en;pt-BR", notes="").languages == ("en", "pt-BR")
    assert [size_category(rows) for rows in (999, 1000, 10**8)] == ["n<1K", "1K<n<10K", "100M<n<1B"]


def test_a_merged_version_lists_both_its_parents(ctx: Context) -> None:
    first = imported(ctx, "sayings", ROWS[:30])
    imported(ctx, "more", ROWS[30:])
    both = done(ctx, derive_version(ctx, first.id, change=Merge(other="more"), person=LOCAL))
    text = render_card(ctx, both.id)
    assert "sayings@1: imported from sayings.json" in text
    assert "more@1: imported from more.json" in text
    assert "3. sayings@2: rows of more@1 added (60 rows)" in text
