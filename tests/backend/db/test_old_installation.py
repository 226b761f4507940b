"""An installation at revision 0023, made by an older commit, opens with its runs, votes, evaluations and endpoints."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, select, type_coerce

from backend.bootstrap import build_context, get_context
from backend.cli.doctor import check_documents
from backend.cli.main import load_command
from backend.db.base import Document, UnreadableDocument
from backend.db.tables import Architecture, Job, Table
from backend.domain.jobs.payloads import read_payload
from backend.domain.jobs.results import RESULTS
from backend.domain.jobs.states import JobKind
from backend.domain.training.config import parse_config
from backend.errors import InvalidInput
from backend.services.architectures import list_architectures
from backend.services.battles.standings import standings
from backend.services.battles.views import list_campaigns
from backend.services.checkpoints.checkpoints import list_checkpoints, list_lineage
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import list_datasets
from backend.services.evaluation.evaluations import list_evaluations
from backend.services.evaluation.gates import list_gates
from backend.services.evaluation.suites import list_suites
from backend.services.overview import get_overview
from backend.services.serving.conversations import list_conversations, list_messages
from backend.services.serving.endpoints import list_endpoints
from backend.services.training.sweeps import list_sweeps
from backend.services.training.views import list_runs, run_detail
from tests.support.jobs import list_jobs
from tests.support.opening import link_tables, open_page, words
from tests.support.settings import make_settings, name_installation

INSTALLATIONS = Path(__file__).parents[2] / "support" / "installations"
ROWS = INSTALLATIONS / "revision_0023.sql"
MORE_ROWS = INSTALLATIONS / "revision_0023_rows.sql"
PRINTED = INSTALLATIONS / "revision_0023_cli.json"
"""JSON of its lists and rows, as the command line of commit e614cbbc printed it."""
BLIND_ROUND = "82p39y3h9g9v"
MADE_ANEW = "workers"
"""A table of heartbeats, which the workers fill again within seconds."""
SINCE = {
    "device_prices",
    "dismissed_steps",
    "duties",
    "gang_members",
    "installation_secret",
    "prompt_matrices",
    "prompt_versions",
    "prompts",
    "providers",
    "saved_views",
    "submissions",
}
"""Tables made after revision 0023."""


@pytest.fixture
def old_home(tmp_path: Path) -> Path:
    """The database of the old installation."""
    with sqlite3.connect(tmp_path / "models.db") as connection:
        connection.executescript(ROWS.read_text())
    connection.close()
    return tmp_path


@pytest.fixture
def opened(old_home: Path) -> Iterator[Context]:
    """The installation, opened by the present code."""
    context = build_context(make_settings(old_home))
    yield context
    context.db.engine.dispose()


def test_runs_keep_config_curves_and_lineage(opened: Context) -> None:
    runs = {run.name: run for run in list_runs(opened)}
    assert {name: (run.objective, run.last_step) for name, run in runs.items()} == {
        "First stories": ("pretrain", 80),
        "First chat": ("sft", 30),
        "DPO on votes of Blind round": ("dpo", 10),
    }
    for run in runs.values():
        detail = run_detail(opened, run.id)
        assert detail.checkpoints, run.name
        assert detail.config.objective == run.objective
    (last,) = [row for row in list_checkpoints(opened) if row.name.startswith("DPO")]
    assert "First stories · step 80" in [row.name for row in list_lineage(opened, last.id)]


def test_data_jobs_scores_and_votes_are_read(opened: Context) -> None:
    assert {dataset.name for dataset in list_datasets(opened)} >= {
        "pebblewick-stories",
        "pebblewick-chat",
        "Blind round votes",
    }
    assert len(list_jobs(opened)) == 17
    (evaluation,) = list_evaluations(opened)
    assert {(score.metric, score.value) for score in evaluation.scores} == {("acc", 0.265), ("acc_norm", 0.265)}
    board = standings(opened, BLIND_ROUND)
    assert {name.split(" · ")[0] for name in board.checkpoints} == {"First stories", "First chat"}
    assert board.num_votes == 5


def test_an_endpoint_and_its_conversation_are_there(opened: Context) -> None:
    (endpoint,) = list_endpoints(opened)
    assert endpoint.name == "village"
    (conversation,) = list_conversations(opened, person=LOCAL)
    assert conversation.title == "Tell me a story about Mira."
    assert len(list_messages(opened, conversation.id, person=LOCAL)) == 2
    assert [run.name for run in get_overview(opened, person=LOCAL).recent]


@pytest.mark.parametrize(
    ("page", "query", "text"),
    [
        ("home/overview.py", {}, "First chat"),
        ("build/run.py", {"run": "c38scfb468wq"}, "First stories"),
        ("evaluate/battles.py", {"campaign": BLIND_ROUND}, "Blind round"),
        ("evaluate/evaluations.py", {"evaluation": "9qp2ay4qjg84"}, "26.5"),
        ("serve/endpoints.py", {}, "village"),
        ("build/datasets.py", {}, "pebblewick"),
    ],
)
def test_its_pages_open(
    old_home: Path, monkeypatch: pytest.MonkeyPatch, page: str, query: dict[str, str], text: str
) -> None:
    name_installation(monkeypatch, old_home)
    try:
        app = open_page(page, **query)
        tables = "\n".join(str(table.value) for table in [*app.table, *app.dataframe]) + str(link_tables(app))
        assert text in words(app).replace("\\", "") + tables
        assert not app.error, words(app)
    finally:
        get_context().db.engine.dispose()
        get_context.cache_clear()


def test_every_job_is_read_by_the_class_of_its_kind(opened: Context) -> None:
    with opened.db.read() as session:
        jobs = list(session.scalars(select(Job)))
    assert len({job.kind for job in jobs}) >= 5
    for job in jobs:
        kind = JobKind(job.kind)
        payload = read_payload(kind, job.payload)
        assert read_payload(kind, payload.dump()) == payload
        if job.result:
            assert RESULTS[kind].model_validate(job.result).dump() == job.result


def _add_more_rows(opened: Context) -> None:
    """Insert a row into each table that the installation left empty, with the columns that it had."""
    with sqlite3.connect(":memory:") as old:
        old.executescript(ROWS.read_text())
        tables = [name for (name,) in old.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {name: [f'"{row[1]}"' for row in old.execute(f'PRAGMA table_info("{name}")')] for name in tables}
    old.close()
    with opened.db.write() as session:
        session.connection().exec_driver_sql("PRAGMA defer_foreign_keys = ON")
        for statement in MORE_ROWS.read_text().split(";\n")[:-1]:
            if f'INTO "{MADE_ANEW}"' in statement:
                continue
            named = re.sub(
                r'INTO "(\w+)" VALUES',
                lambda into: f'INTO "{into[1]}" ({", ".join(columns[into[1]])}) VALUES',
                statement,
            )
            session.connection().exec_driver_sql(named)


def _lost(stored: object, read: object, path: str) -> list[str]:
    """Return the places of a stored document that what was read of it lacks, empty values aside."""
    if isinstance(stored, dict) and isinstance(read, dict):
        return [
            place
            for name, value in stored.items()
            if value not in (None, "", [], {})
            for place in (_lost(value, read[name], f"{path}.{name}") if name in read else [f"{path}.{name}"])
        ]
    if isinstance(stored, list) and isinstance(read, list) and len(stored) == len(read):
        return [place for old, new in zip(stored, read, strict=True) for place in _lost(old, new, f"{path}[]")]
    return [] if stored == read or not (stored or read) else [f"{path}: {stored!r} is {read!r}"]


def test_every_document_of_every_row_is_read_and_nothing_of_it_is_lost(opened: Context) -> None:
    _add_more_rows(opened)
    with opened.db.read() as session:
        empty = [name for name, table in Table.metadata.tables.items() if not session.execute(select(table)).first()]
        assert sorted(empty) == sorted({*SINCE, MADE_ANEW})
        lost: list[str] = []
        for table in Table.metadata.tables.values():
            for column in (one for one in table.columns if isinstance(one.type, Document)):
                raw = session.scalars(select(type_coerce(column, JSON()))).all()
                for stored, read in zip(raw, session.scalars(select(column)).all(), strict=True):
                    back = column.type.adapter.dump_python(read, mode="json")
                    lost += _lost(stored, back, f"{table.name}.{column.name}")
        assert sorted(set(lost)) == []


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ('{"name": "x"', "not JSON"),
        ('["llama"]', "Input should be a valid dictionary or instance of ArchitectureConfig"),
        ('{"num_layers": "many"}', "num_layers: Input should be a valid integer"),
    ],
)
def test_a_damaged_document_is_named_with_table_column_and_row(
    opened: Context, old_home: Path, stored: str, problem: str
) -> None:
    with opened.db.write() as session:
        id_ = session.scalars(select(Architecture.id)).first()
        session.connection().exec_driver_sql("UPDATE architectures SET config = ? WHERE id = ?", (stored, id_))
    with pytest.raises(UnreadableDocument) as caught:
        list_architectures(opened)
    assert f"architectures.config, row {id_}: {problem}" in caught.value.message
    assert list_datasets(opened)  # other tables are read
    finding = check_documents(make_settings(old_home))
    assert finding.state == "problem"
    assert f"architectures.config, row {id_}" in finding.detail


def test_a_run_of_another_version_is_listed_whatever_is_refused_today(opened: Context) -> None:
    """A field that is gone, and a rule that came later: the lists must still open."""
    change = "UPDATE runs SET config = json_set(config, '$.gone', 1, '$.warmup_steps', 900, '$.max_steps', 9)"
    with opened.db.write() as session:
        session.connection().exec_driver_sql(change)
    runs = list_runs(opened)
    assert len(runs) == 3
    config = run_detail(opened, runs[0].id).config
    assert (config.warmup_steps, config.max_steps) == (900, 9)
    with pytest.raises(InvalidInput, match="warmup_steps 900 is longer than the run"):
        parse_config(config.model_dump(mode="json"))


@pytest.mark.parametrize(
    ("table", "column", "changes", "rows"),
    [
        ("architectures", "config", {"$.gone": 1, "$.width": 130, "$.num_heads": 4}, list_architectures),
        ("campaigns", "config", {"$.config.gone": 1, "$.config.reasons": ["", "x"]}, list_campaigns),
        ("gates", "config", {"$.gone": 1, "$.test": "non_inferiority", "$.margin": 0}, list_gates),
        ("suites", "config", {"$.gone": 1, "$.members": [{"benchmark": "a"}, {"benchmark": "a"}]}, list_suites),
        ("deployments", "config", {"$.gone": 1, "$.min_replicas": 3, "$.max_replicas": 2}, list_endpoints),
        ("run_groups", "config", {"$.sweep.gone": 1, "$.sweep.run.warmup_steps": 10**6}, list_sweeps),
    ],
)
def test_a_row_of_another_version_is_listed_whatever_is_refused_today(
    opened: Context, table: str, column: str, changes: dict[str, object], rows: Callable[[Context], Sequence[object]]
) -> None:
    if not rows(opened):
        _add_more_rows(opened)
    num_listed = len(rows(opened))
    sets = "".join(f", '{path}', json('{json.dumps(value)}')" for path, value in changes.items())
    with opened.db.write() as session:
        changed = session.connection().exec_driver_sql(f"UPDATE {table} SET {column} = json_set({column}{sets})")
        assert changed.rowcount
    assert len(rows(opened)) == num_listed > 0


def test_documents_of_an_old_installation_are_found_readable(opened: Context, old_home: Path) -> None:
    assert check_documents(make_settings(old_home)).state == "ok"


def _without_new_keys(value: Any, older: Any) -> Any:
    """Return a document without the keys of objects that an older one did not have: fields may be added."""
    if isinstance(value, dict) and isinstance(older, dict):
        return {key: _without_new_keys(inner, older[key]) for key, inner in value.items() if key in older}
    if isinstance(value, list) and isinstance(older, list) and len(value) == len(older):
        return [_without_new_keys(*pair) for pair in zip(value, older, strict=True)]
    return value


def test_lists_and_rows_are_printed_as_the_older_commit_printed_them(
    old_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name_installation(monkeypatch, old_home)
    try:
        for words_, printed in json.loads(PRINTED.read_text(encoding="utf-8")).items():
            noun, verb, *names = words_.split(" ", 2)
            load_command(noun).main([verb, *names, "--json"], standalone_mode=False)
            shown = json.loads(capsys.readouterr().out)
            if words_.startswith("run show"):  # its config names the version and the base checkpoint that it used
                printed["config"] |= {"dataset": printed["dataset"], "base": printed["base"]}
            assert _without_new_keys(shown, printed) == printed, words_
    finally:
        get_context().db.engine.dispose()
        get_context.cache_clear()
