"""Every revision leads to the next without losing a row, and the last one is what the tables say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from backend.bootstrap import alembic_config, newest_revision
from backend.db.engine import Database
from backend.db.tables import Table

FIRST_ROWS = (
    "INSERT INTO datasets (id, name, kind, notes, created_at) VALUES ('d', 'lines', 'text', '', '2026-01-01 00:00:00')",
    (
        "INSERT INTO dataset_versions (id, dataset_id, number, source, mapping, rows, train_rows, val_rows,"
        " rejected_rows, rejected, bytes, facts, provenance, created_at) VALUES ('v', 'd', 1, '', '{}', 3, 2, 1, 0,"
        " '[]', 9, '{}', '{}', '2026-01-01 00:00:00')"
    ),
    (
        "INSERT INTO runs (id, name, objective, config, dataset_version_id, tags, notes, last_step, summary,"
        " curve_resets, created_at) VALUES ('r', 'first', 'pretrain', '{}', 'v', '[]', '', 7, '{}', 0, '2026-01-01"
        " 00:00:00')"
    ),
    (
        "INSERT INTO checkpoints (id, name, origin, run_id, step, source, family, is_adapter, is_final, bytes, metrics,"
        " facts, notes, created_at)"
        " VALUES ('c', 'first@7', 'run', 'r', 7, '', 'llama', false, true, 9, '{}', '{}', '', '2026-01-01 00:00:00')"
    ),
)

FIRST_EVALUATION = (
    (
        "INSERT INTO evaluations (id, checkpoint_id, dataset_version_id, kind, config, fingerprint, created_at)"
        " VALUES ('e', 'c', 'v', 'generation', '{}', 'f', '2026-01-01 00:00:00')"
    ),
    "INSERT INTO scores (evaluation_id, metric, value, n, method) VALUES ('e', 'acc', 0.5, 2, '')",
)

FIRST_CONVERSATIONS = (
    (
        "INSERT INTO conversations (id, title, endpoint, system_prompt, sampling, created_at, updated_at, deleted_at)"
        " VALUES ('a', 'kept', 'e', '', '{}', '2026-01-01 00:00:00', '2026-01-01 00:00:00', NULL),"
        " ('b', 'deleted', 'e', '', '{}', '2026-01-01 00:00:00', '2026-01-01 00:00:00', '2026-01-02 00:00:00')"
    ),
    (
        "INSERT INTO messages (id, conversation_id, position, branch, role, content, usage, created_at)"
        " VALUES ('m', 'a', 0, 0, 'user', 'kept', '{}', '2026-01-01 00:00:00'),"
        " ('n', 'b', 0, 0, 'user', 'deleted', '{}', '2026-01-01 00:00:00')"
    ),
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'models.db'}"
    else:
        server = request.getfixturevalue("postgres_url")
        admin = create_engine(server, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text("CREATE DATABASE migrations"))
        yield server.rsplit("/", 1)[0] + "/migrations"
        with admin.connect() as connection:
            connection.execute(text("DROP DATABASE migrations WITH (FORCE)"))
        admin.dispose()


def test_rows_of_the_first_revision_survive_every_later_one_and_the_last_equals_the_tables(url: str) -> None:
    config = alembic_config(url)
    revisions = [script.revision for script in reversed(list(ScriptDirectory.from_config(config).walk_revisions()))]
    command.upgrade(config, revisions[0])
    database = Database(url)
    with database.write() as session:
        for statement in (*FIRST_ROWS, *FIRST_EVALUATION):
            session.execute(text(statement))
    for revision in revisions[1:]:
        command.upgrade(config, revision)
    with database.engine.connect() as connection:
        assert (
            compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), Table.metadata) == []
        )
    for revision in reversed(revisions[:-1]):
        command.downgrade(config, revision)
    with database.read() as session:
        assert session.execute(text("SELECT last_step FROM runs WHERE id = 'r'")).scalar_one() == 7
        assert session.execute(text("SELECT run_id FROM checkpoints")).scalar_one() == "r"
        joined = "SELECT checkpoint_id, value FROM evaluations JOIN scores ON scores.evaluation_id = evaluations.id"
        assert session.execute(text(joined)).one() == ("c", 0.5)
    database.engine.dispose()


def test_scores_named_by_subgroup_get_a_column_for_it_and_the_perplexity_of_tokens_its_own_name(url: str) -> None:
    config = alembic_config(url)
    command.upgrade(config, "0022")
    database = Database(url)
    task = {"metrics": [{"name": "acc", "options": {}}, {"name": "perplexity", "options": {}}]}
    with database.write() as session:
        for statement in (*FIRST_ROWS, *FIRST_EVALUATION):
            session.execute(text(statement))
        for name in ("acc:micro", "acc:law", "acc:", "perplexity"):
            values = {"name": name}
            session.execute(
                text("INSERT INTO scores (evaluation_id, metric, value, n, method) VALUES ('e', :name, 0.5, 2, '')"),
                values,
            )
        session.execute(
            text("UPDATE evaluations SET config = :config"), {"config": json.dumps({"config": {"task": task}})}
        )
    command.upgrade(config, "head")
    names = "SELECT metric, subgroup FROM scores ORDER BY id"
    with database.read() as session:
        assert [tuple(row) for row in session.execute(text(names))] == [
            ("acc", ""),
            ("acc:micro", ""),
            ("acc", "law"),
            ("acc", "unnamed"),
            ("token_perplexity", ""),
        ]
        (config_of_row,) = session.scalars(text("SELECT config FROM evaluations")).all()
        stored = json.loads(config_of_row) if isinstance(config_of_row, str) else config_of_row
        assert [use["name"] for use in stored["config"]["task"]["metrics"]] == ["acc", "token_perplexity"]
    command.downgrade(config, "0022")
    with database.read() as session:
        metrics = session.scalars(text("SELECT metric FROM scores ORDER BY id")).all()
        assert metrics == ["acc", "acc:micro", "acc:law", "acc:unnamed", "perplexity"]
    database.engine.dispose()


def test_the_newest_revision_by_file_names_is_the_head() -> None:
    script = ScriptDirectory.from_config(alembic_config("sqlite://"))
    assert newest_revision() == script.get_current_head()


def test_conversations_that_were_only_hidden_are_deleted_and_the_others_stay(url: str) -> None:
    config = alembic_config(url)
    command.upgrade(config, "0001")
    database = Database(url)
    with database.write() as session:
        for statement in FIRST_CONVERSATIONS:
            session.execute(text(statement))
    command.upgrade(config, "head")
    with database.read() as session:
        assert session.scalars(text("SELECT title FROM conversations")).all() == ["kept"]
        assert session.scalars(text("SELECT content FROM messages")).all() == ["kept"]
    database.engine.dispose()
