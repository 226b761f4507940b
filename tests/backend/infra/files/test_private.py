"""What an earlier version left readable for everybody becomes private, and nothing that is not ours is touched."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from backend.infra.files.private import make_private, tighten_database, tighten_home


def mode(path: Path) -> int:
    """Return the permission bits of a path itself."""
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    """A home folder as a version with umask 022 left it."""
    home = tmp_path / "home"
    for folder in ("artifacts/jobs/j/attempt-1", "logs", "run", "broker", "elsewhere"):
        (home / folder).mkdir(parents=True)
    for file in (
        "artifacts/jobs/j/attempt-1/job.json",
        "logs/pages.log",
        "run/up.lock",
        "broker/appendonly.aof",
        "secret.lock",
        "elsewhere/a",
    ):
        (home / file).write_text("x")
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return home


def test_a_readable_installation_becomes_private_and_stays_usable(loose: Path) -> None:
    tighten_home(loose)
    readable = [path.relative_to(loose).as_posix() for path in loose.rglob("*") if mode(path) & 0o077]
    assert readable == ["elsewhere", "elsewhere/a"], "a folder that no installation writes stays as it is"
    assert mode(loose) == 0o700
    assert (loose / "artifacts/jobs/j/attempt-1/job.json").read_text() == "x"


def test_a_link_out_of_the_home_folder_is_not_followed(loose: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data").write_text("x")
    outside.chmod(0o755)
    (outside / "data").chmod(0o644)
    (loose / "artifacts" / "link").symlink_to(outside)
    tighten_home(loose)
    assert (mode(outside), mode(outside / "data")) == (0o755, 0o644)


def test_a_shared_sticky_folder_keeps_its_own_mode(loose: Path) -> None:
    loose.chmod(0o1777)
    tighten_home(loose)
    assert mode(loose) == 0o1777
    assert mode(loose / "logs" / "pages.log") == 0o600


def test_the_database_and_what_sqlite_writes_beside_it_become_private(tmp_path: Path) -> None:
    for name in ("models.db", "models.db-wal", "models.db-shm", "notes.db"):
        (tmp_path / name).write_text("x")
        (tmp_path / name).chmod(0o644)
    tighten_database(tmp_path / "models.db")
    assert {path.name: mode(path) for path in tmp_path.iterdir()} == {
        "models.db": 0o600,
        "models.db-wal": 0o600,
        "models.db-shm": 0o600,
        "notes.db": 0o644,
    }


def test_a_missing_file_is_no_error(tmp_path: Path) -> None:
    make_private(tmp_path / "missing")


def test_a_command_of_an_old_readable_installation_leaves_nothing_readable(loose: Path) -> None:
    database = loose / "models.db"
    environment = {**os.environ, "ROUNDHOUSE_HOME": str(loose), "DATABASE_URL": f"sqlite:///{database}"}
    subprocess.run(
        [sys.executable, "-m", "backend.cli.main", "user", "list"],
        env=environment,
        check=True,
        capture_output=True,
        preexec_fn=lambda: os.umask(0o022),
    )
    assert database.exists()
    readable = [path.name for path in (loose, *loose.iterdir()) if mode(path) & 0o077]
    assert readable == ["elsewhere"]
