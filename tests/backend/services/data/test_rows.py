"""Rows of a version, searched, filtered and sorted: columns give what the rows one by one give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backend.domain.data.rows.display import lay_out, row_text
from backend.domain.data.versions.conditions import field_text, num_turns
from backend.errors import InvalidInput, NotFound
from backend.infra.files.parquet import read_row_page
from backend.infra.files.row_index import read_sizes, sizes_file
from backend.services.context import LOCAL, Context
from backend.services.data import rows as rows_service
from backend.services.data.reports import request_data_report
from backend.services.data.rows import RowQuery, find_rows, place_of_row, read_rows, token_counts
from backend.services.data.views import VersionView
from tests.support.data.dataset_world import imported
from tests.support.job_work import do_job

CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Graz"}'}}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CONVERSATIONS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": f"Hello {n}"}, {"role": "assistant", "content": "ÄRGER " * n + "."}]}
    for n in range(30)
] + [
    {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Weather in \U0001f600?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "rain", "tool_call_id": "1"},
            {"role": "assistant", "content": "Rain."},
        ],
        "tools": TOOLS,
    }
]
PREFERENCES = [
    {"prompt": f"Question {n}", "chosen": "a long answer " * (1 + n % 5), "rejected": "no"} for n in range(20)
]
LABELLED = [{"prompt": f"Q{n}", "completion": "yes" * (n + 1), "label": n % 3 == 0} for n in range(20)]
CHOICES = [
    {"question": f"What is {n}?", "choices": ["one", "two", "three"], "answer": n % 3, "topic": 'a "quoted" word'}
    for n in range(20)
]
ANYTHING = [{"topic": 'a "quoted" word', "lines": f"one\ntwo {n}", "numbers": [1, n]} for n in range(20)]
KINDS = {
    "text": [{"text": f"Über {n} " * n + "x"} for n in range(25)],
    "instruction": [{"instruction": f"Say {n}.", "output": "!" * (n + 1)} for n in range(25)],
    "chat": CONVERSATIONS,
    "preference": PREFERENCES,
    "kto": LABELLED,
    "benchmark": CHOICES,
    "records": ANYTHING,
    "prompts": [{"prompt": f"Say {n}." * (n + 1)} for n in range(20)],
}


def stored(ctx: Context, version: VersionView) -> list[dict[str, Any]]:
    folder = ctx.artifacts.path(str(version.folder))
    return [row for split in ("train", "val") for row in read_row_page(folder, split=split, limit=1000)]


@pytest.mark.parametrize("kind", KINDS)
def test_sizes_and_searches_by_column_are_those_of_the_rows(ctx: Context, kind: str) -> None:
    version = imported(ctx, "things", KINDS[kind], kind=kind)
    rows = stored(ctx, version)
    folder = ctx.artifacts.path(str(version.folder))
    for _ in range(2):  # measured, then read from the file
        sizes = read_sizes(folder, limit=10**9)
        assert sizes.characters.tolist() == [len(row_text(row)) for row in rows]
        if rows_service.has_turns(version):
            assert sizes.turns.tolist() == [num_turns(row) for row in rows]
        assert sizes_file(folder).is_file()
    by_length = find_rows(ctx, version, RowQuery(order="longest")).places
    assert by_length.tolist() == sorted(range(len(rows)), key=lambda place: -len(row_text(rows[place])))
    for part in rows_service.parts_of_rows(version):
        for text in ("ärger", "2", "", 'a "quoted" word', "graz"):
            found = find_rows(ctx, version, RowQuery(text=text, part=part)).places.tolist()
            read = (field_text(row, part) for row in rows)
            if part == "record":  # JSON text: below
                continue
            wanted = [place for place, one in enumerate(read) if (text.casefold() in one.casefold() if text else one)]
            assert found == wanted, (part, text)
    if kind == "records":
        assert len(find_rows(ctx, version, RowQuery(text='A "Quoted"', part="record")).places) == len(rows)
        assert len(find_rows(ctx, version, RowQuery(text="one\ntwo 7")).places) == 1
    shown = read_rows(ctx, version, [3, 0, len(rows) - 1])
    assert [row.layout for row in shown] == [lay_out(rows[3]), lay_out(rows[0]), lay_out(rows[-1])]
    assert [place_of_row(version, row.name) for row in shown] == [3, 0, len(rows) - 1]


def test_filters_join_and_their_order_is_kept(ctx: Context) -> None:
    version = imported(ctx, "marks", LABELLED, kind="kto")
    rows = stored(ctx, version)
    lengths = np.array([len(row_text(row)) for row in rows])
    good = find_rows(ctx, version, RowQuery(label="good", at_least=20, at_most=50, order="shortest")).places
    wanted = [n for n in range(20) if rows[n]["label"] and 20 <= lengths[n] <= 50]
    assert good.tolist() == sorted(wanted, key=lambda n: lengths[n])
    held_out = find_rows(ctx, version, RowQuery(split="val", text="yes")).places
    assert held_out.tolist() == list(range(version.train_rows, 20))


def test_a_wrong_filter_is_refused_with_its_value_and_the_cure(ctx: Context) -> None:
    version = imported(ctx, "marks", LABELLED, kind="kto")
    with pytest.raises(InvalidInput, match="no part “chosen”") as error:
        find_rows(ctx, version, RowQuery(part="chosen"))
    assert "prompt, completion" in error.value.remedy
    with pytest.raises(InvalidInput, match="at least 30 and at most 2 characters"):
        find_rows(ctx, version, RowQuery(at_least=30, at_most=2))
    with pytest.raises(InvalidInput, match="tokens of marks@1 have not been counted") as error:
        find_rows(ctx, version, RowQuery(order="longest", unit="tokens"))
    assert "Run its data report" in error.value.remedy
    for name in (
        "train-0",
        "train-99",
        "val-x",
        "12",
        "test-1",
        "train-" + "9" * 5000,
        "train-0000000000000019",
        "train-²",
    ):
        with pytest.raises(NotFound, match="There is no row") as missing:
            place_of_row(version, name)
        assert f"train-1 to train-{version.train_rows}" in missing.value.remedy


def test_the_newest_report_brings_tokens_of_each_row(ctx: Context) -> None:
    version = imported(ctx, "talks", CONVERSATIONS, kind="chat")
    assert token_counts(ctx, version) is None
    report = request_data_report(ctx, version.id, person=LOCAL, source=None, context=64)
    do_job(ctx, report.job_id)
    tokens, _ = token_counts(ctx, version) or (np.zeros(0), "")
    assert len(tokens) == len(CONVERSATIONS)
    order = find_rows(ctx, version, RowQuery(order="shortest", unit="tokens")).places
    assert tokens[order].tolist() == sorted(tokens.tolist())
    assert [row.tokens for row in read_rows(ctx, version, order[:3].tolist())] == tokens[order[:3]].tolist()
    most = int(tokens[order[4]])
    assert len(find_rows(ctx, version, RowQuery(at_most=most, unit="tokens")).places) == (tokens <= most).sum()


def test_of_a_very_large_version_the_first_rows_are_searched_and_it_is_said(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = imported(ctx, "sayings", KINDS["instruction"])
    monkeypatch.setattr(rows_service, "MAX_SCANNED_BYTES", version.bytes // 2)
    found = find_rows(ctx, version, RowQuery(text="say"))
    assert found.scanned == 12
    assert found.places.tolist() == list(range(12))
    assert len(find_rows(ctx, version, RowQuery(order="longest")).places) == 12
    whole = find_rows(ctx, version, RowQuery())
    assert (whole.scanned, len(whole.places)) == (25, 25)
