"""A copy of an installation, made by the commands of the documentation while it writes, opens in another folder."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from backend.bootstrap import build_context
from backend.services.checkpoints.checkpoints import list_checkpoints
from tests.support.scenario import Scenario
from tests.support.settings import make_settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "operation.md"


def documented(number: int) -> str:
    """Return the commands of one block of the chapter on backups."""
    chapter = DOCUMENT.read_text().partition("## Backup and restore")[2]
    return re.findall(r"```sh\n(.*?)```", chapter, flags=re.DOTALL)[number]


def test_a_copy_of_an_installation_that_writes_opens_in_another_folder(tmp_path: Path, migrated_database: Path) -> None:
    home, other = tmp_path / ".roundhouse", tmp_path / "other" / ".roundhouse"
    home.mkdir()
    shutil.copy(migrated_database, home / "models.db")
    ctx = build_context(make_settings(home), migrate=False)
    Scenario(ctx).checkpoint("Oak")
    (ctx.artifacts.root / "checkpoints" / "Oak" / "weights").write_bytes(b"weights")
    wal = home / "models.db-wal"
    assert wal.stat().st_size > 0, "the newest row is in the log of the database alone"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin:/usr/local/bin"}
    subprocess.run(["bash", "-ec", documented(1)], env=environment, check=True)
    Scenario(ctx).checkpoint("Elm")
    restore = documented(2).replace("roundhouse up\n", "")
    (tmp_path / "other").mkdir()
    subprocess.run(["bash", "-ec", restore], env=environment | {"HOME": str(other.parent)}, cwd=tmp_path, check=True)
    ctx.db.engine.dispose()
    shutil.rmtree(home)
    restored = build_context(make_settings(other), migrate=False)
    assert [one.name for one in list_checkpoints(restored)] == ["Oak"]
    assert (restored.artifacts.root / "checkpoints" / "Oak" / "weights").read_bytes() == b"weights"
    assert not any(str(home) in text for text in restored.db.engine.raw_connection().iterdump())
    restored.db.engine.dispose()
