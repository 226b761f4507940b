"""A copy of an installation, made by the commands of the documentation while it writes, opens in another folder."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from backend.bootstrap import build_context
from backend.services.battles.ballots import ballot_progress
from backend.services.battles.raters import rater_for
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import LOCAL
from tests.support.damage import DAMAGES, Damage
from tests.support.scenario import Scenario
from tests.support.settings import make_settings

DOCUMENT = Path(__file__).parents[2] / "docs" / "operation.md"


def documented(number: int) -> str:
    """Return the commands of one block of the chapter on backups."""
    chapter = DOCUMENT.read_text().partition("## Backup and restore")[2]
    return re.findall(r"```sh\n(.*?)```", chapter, flags=re.DOTALL)[number]


def test_a_copy_of_an_installation_that_writes_opens_in_another_folder(
    tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, other = tmp_path / ".roundhouse", tmp_path / "other" / ".roundhouse"
    home.mkdir()
    shutil.copy(migrated_database, home / "models.db")
    ctx = build_context(make_settings(home), migrate=False)
    campaign = Scenario(ctx).campaign("Oak", "Elm", num_prompts=3)
    assert Scenario(ctx).votes(campaign, "Oak", limit=2) == 2
    (ctx.artifacts.root / "checkpoints" / "Oak" / "weights").write_bytes(b"weights")
    wal = home / "models.db-wal"
    assert wal.stat().st_size > 0, "the newest row is in the log of the database alone"
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin:/usr/local/bin"}
    (home / "run").mkdir()
    (home / "run" / "up.lock").write_text("1")
    (home / "broker").mkdir()
    with socket.socket(socket.AF_UNIX) as broker:
        monkeypatch.chdir(home / "broker")  # the path of a socket is short
        broker.bind("valkey.sock")
        made = subprocess.run(["bash", "-ec", documented(0)], env=environment, check=True, capture_output=True)
    assert made.stderr == b"", "a socket is no file to copy"
    assert not (home / "backup.db").exists()
    assert (tmp_path / "backup.tgz").stat().st_mode & 0o077 == 0, "it holds the key that signs sessions"
    Scenario(ctx).checkpoint("Ash")
    restore = documented(1).replace("roundhouse up\n", "")
    (tmp_path / "other").mkdir()
    subprocess.run(["bash", "-ec", restore], env=environment | {"HOME": str(other.parent)}, cwd=tmp_path, check=True)
    assert not (other / "run").exists(), "a copy does not say which processes run the original"
    ctx.db.engine.dispose()
    shutil.rmtree(home)
    restored = build_context(make_settings(other), migrate=False)
    assert {one.name for one in list_checkpoints(restored)} == {"Oak", "Elm"}
    assert ballot_progress(restored, campaign.id, rater_for(restored, LOCAL)).done == 2
    assert Scenario(restored).votes(campaign, "Oak") == 1, "the rater continues with the battle that was left"
    assert (restored.artifacts.root / "checkpoints" / "Oak" / "weights").read_bytes() == b"weights"
    assert not any(str(home) in text for text in restored.db.engine.raw_connection().iterdump())
    restored.db.engine.dispose()


@pytest.mark.parametrize("beside_home", [None, b""], ids=["missing", "empty"])
def test_a_backup_of_a_home_whose_database_is_elsewhere_is_an_error_until_that_is_named(
    tmp_path: Path, migrated_database: Path, beside_home: bytes | None
) -> None:
    home = tmp_path / ".roundhouse"
    home.mkdir()
    if beside_home is not None:
        (home / "models.db").write_bytes(beside_home)
    shutil.copy(migrated_database, tmp_path / "models.db")
    before = sorted(home.iterdir())

    def back_up(commands: str) -> int:
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin:/usr/local/bin"}
        return subprocess.run(["bash", "-c", commands], env=environment, capture_output=True).returncode

    assert back_up(documented(0)) != 0
    assert not (tmp_path / "backup.tgz").exists()
    assert sorted(home.iterdir()) == before
    assert back_up(documented(0).replace("python3 - models.db", "python3 - ../models.db")) == 0
    with tarfile.open(tmp_path / "backup.tgz") as archive:
        archive.extract("./models.db", tmp_path / "restored", filter="data")
    ctx = build_context(make_settings(tmp_path / "restored"), migrate=False)
    assert list_checkpoints(ctx) == []
    ctx.db.engine.dispose()


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_database_is_not_backed_up_and_the_last_good_backup_brings_it_back(
    tmp_path: Path, migrated_database: Path, damage: Damage
) -> None:
    """Exit 0 and an archive of the damaged file, in place of the good one."""
    home = tmp_path / ".roundhouse"
    home.mkdir()
    shutil.copy(migrated_database, home / "models.db")
    ctx = build_context(make_settings(home), migrate=False)
    Scenario(ctx).checkpoint("Oak")
    ctx.db.engine.dispose()

    def run(commands: str) -> subprocess.CompletedProcess[str]:
        environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin:/usr/local/bin"}
        return subprocess.run(["bash", "-c", commands], env=environment, capture_output=True, text=True, cwd=tmp_path)

    made = run(documented(0))
    assert made.returncode == 0, made.stderr
    archive = (tmp_path / "backup.tgz").read_bytes()
    damage(home / "models.db")
    refused = run(documented(0))
    assert refused.returncode != 0
    assert refused.stderr.startswith("No backup was made: models.db: ")
    assert (tmp_path / "backup.tgz").read_bytes() == archive
    assert not (home / "backup.db").exists()
    restored = run(documented(2).replace("roundhouse down\n", "").replace("roundhouse up\n", ""))
    assert restored.returncode == 0, restored.stderr
    ctx = build_context(make_settings(home), migrate=False)
    assert [one.name for one in list_checkpoints(ctx)] == ["Oak"]
    ctx.db.engine.dispose()
