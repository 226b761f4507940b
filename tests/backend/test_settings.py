"""Settings that decide who gets in: each way of being reachable asks for accounts, and its links lead where others can
follow.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from backend import settings as settings_module
from backend.bootstrap import build_context
from backend.cli.doctor import check_database, check_exposure
from backend.cli.preparation import prepare_installation
from backend.errors import Conflict
from backend.settings import Settings
from tests.support.settings import make_settings


@pytest.mark.parametrize(
    ("values", "needs"),
    [
        ({}, False),
        ({"host": "0.0.0.0"}, True),
        ({"sign_in": "always"}, True),
        ({"public_url": "https://lab.example.org"}, True),
        ({"public_url": "http://localhost:8501"}, False),
    ],
    ids=["loopback", "everywhere", "always", "behind a proxy", "a loopback name"],
)
def test_whatever_can_be_reached_from_elsewhere_needs_accounts(
    tmp_path: Path, values: dict[str, object], needs: bool
) -> None:
    settings = make_settings(tmp_path, **values)
    assert settings.needs_sign_in is needs
    assert check_exposure(settings).state == ("problem" if needs else "ok")


def test_a_password_that_no_one_is_asked_for_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ROUNDHOUSE_ADMIN_PASSWORD alone made an account, and its setter believed that it was asked for."""
    settings = make_settings(tmp_path, admin_password="a long password")
    finding = check_exposure(settings)
    assert (finding.state, finding.detail) == (
        "warning",
        "ROUNDHOUSE_ADMIN_PASSWORD is set, but no one is asked to sign in on loopback.",
    )
    assert "ROUNDHOUSE_SIGN_IN=always" in finding.cure
    prepare_installation(settings)
    assert "ROUNDHOUSE_ADMIN_PASSWORD is set, but no one is asked to sign in" in capsys.readouterr().err
    assert check_exposure(make_settings(tmp_path, admin_password="a long password", sign_in="always")).state == "ok"


def test_links_use_the_public_url_and_never_lead_to_loopback_where_others_can_connect(tmp_path: Path) -> None:
    behind = make_settings(
        tmp_path, public_url="https://lab.example.org/", public_gateway_url="https://lab.example.org/api/"
    )
    assert (behind.pages_url, behind.gateway_url) == ("https://lab.example.org", "https://lab.example.org/api")
    everywhere = make_settings(tmp_path, host="0.0.0.0", port=8600)
    for link in (everywhere.pages_url, everywhere.gateway_url):
        assert "127.0.0.1" not in link
        assert "localhost" not in link
        assert "0.0.0.0" not in link


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"public_url": "lab.example.org"}, "https://"),
        ({"public_url": "https://lab.example.org/roundhouse"}, "has a path"),
        ({"allowed_hosts": "*"}, "ROUNDHOUSE_SIGN_IN=always"),
        ({"trust_proxy": "10.0.0.1,somewhere"}, "somewhere"),
        ({"sign_in": "never"}, "always"),
    ],
)
def test_an_invalid_setting_is_refused_with_its_cure(tmp_path: Path, values: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make_settings(tmp_path, **values)


def test_hosts_are_read_from_a_list_with_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_ALLOWED_HOSTS", "lab.example.org, *.lan")
    assert make_settings(tmp_path).allowed_hosts == ("lab.example.org", "*.lan")


def test_settings_of_a_file_reach_the_nodes_of_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were set, the environment before the file, and none that nodes have no use for."""
    secret = "s" * 32
    monkeypatch.setenv("ROUNDHOUSE_LEASE_S", "9")
    (tmp_path / ".env").write_text(
        f"ROUNDHOUSE_LEASE_S=8\nROUNDHOUSE_MAX_ATTEMPTS=5\nROUNDHOUSE_RUN_CODE=true\nROUNDHOUSE_SECRET_KEY={secret}\n"
        "HF_TOKEN=hf_1\nROUNDHOUSE_ARTIFACTS=file:///shared\nROUNDHOUSE_PORT=9000\n"
    )
    settings = Settings(_env_file=tmp_path / ".env", home=tmp_path, database_url="postgresql+psycopg://db/rh")
    environment = settings.worker_environment
    expected = {
        "ROUNDHOUSE_HOME": str(tmp_path),
        "DATABASE_URL": "postgresql+psycopg://db/rh",
        "ROUNDHOUSE_LEASE_S": "9.0",
        "ROUNDHOUSE_MAX_ATTEMPTS": "5",
        "ROUNDHOUSE_RUN_CODE": "True",
        "ROUNDHOUSE_SECRET_KEY": secret,
        "HF_TOKEN": "hf_1",
        "ROUNDHOUSE_ARTIFACTS": "file:///shared",
    }
    assert {name: environment.get(name) for name in expected} == expected
    assert "ROUNDHOUSE_PORT" not in environment
    assert "ROUNDHOUSE_TRAIN_NICE" not in environment, "it was not set"
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings(_env_file=None).worker_environment == environment, "a node reads the same"


def test_what_is_in_force_names_its_source_and_shows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ".env"
    file.write_text("ROUNDHOUSE_PORT=8600\nROUNDHOUSE_CPU_JOBS=2\nHF_TOKEN=hf_hush\n")
    monkeypatch.setattr(settings_module, "ENV_FILE", file)
    monkeypatch.setenv("ROUNDHOUSE_CPU_JOBS", "3")
    monkeypatch.setenv("HF_TOKEN", "hf_hush")  # handed on to child processes
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://ada:hu/sh@db/lab?password=hush")
    monkeypatch.setenv("ROUNDHOUSE_DEVICE_PRICES", "H100=2.5,cpu=0.04")
    lines = {variable: (value, source) for variable, value, source, _ in Settings(_env_file=file).describe()}
    assert lines["ROUNDHOUSE_PORT"] == ("8600", str(file))
    assert lines["ROUNDHOUSE_CPU_JOBS"] == ("3", "environment")
    assert lines["HF_TOKEN"] == ("set, hidden", str(file))
    assert lines["DATABASE_URL"] == ("postgresql+psycopg://…@db/lab?…", "environment")
    assert lines["ROUNDHOUSE_DEVICE_PRICES"] == ("H100=2.5, cpu=0.04", "environment")
    assert lines["ROUNDHOUSE_GATEWAY_PORT"] == ("8100", "default")
    assert lines["ROUNDHOUSE_SMTP_URL"] == ("not set", "default")
    assert "hush" not in str(lines)
    assert "hu/sh" not in str(lines)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone as settings see it, whose environment names no database."""
    folder = tmp_path / "clone"
    folder.mkdir()
    monkeypatch.setattr(settings_module, "PROJECT", folder)
    monkeypatch.setattr(settings_module, "USUAL_HOME", folder / ".roundhouse")
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return folder


def test_two_homes_of_a_clone_share_no_database(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The database of every home was the file beside the code."""
    usual = Settings(_env_file=None, home=clone / ".roundhouse")
    assert usual.sqlite_path == clone / "models.db", "named or not, it is the clone's own home"
    for name in ("a", "b"):
        monkeypatch.setenv("ROUNDHOUSE_HOME", str(tmp_path / name))
        settings = Settings(_env_file=None)
        assert settings.sqlite_path == tmp_path / name / "models.db"
        prepare_installation(settings).db.engine.dispose()
        assert f"created the database {tmp_path / name / 'models.db'}" in capsys.readouterr().err
    assert not (clone / "models.db").exists()
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'own.db'}")
    assert Settings(_env_file=None).sqlite_path == tmp_path / "own.db"


def test_a_home_whose_rows_are_beside_the_code_is_refused_until_it_has_its_database(
    clone: Path, tmp_path: Path, migrated_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would open empty, and the rows of its checkpoints would seem lost."""
    home, older = tmp_path / "home", clone / "models.db"
    (home / "artifacts" / "checkpoints").mkdir(parents=True)
    monkeypatch.setenv("ROUNDHOUSE_HOME", str(home))
    older.write_bytes(migrated_database.read_bytes())
    settings = Settings(_env_file=None)
    finding = check_database(settings)
    assert (finding.state, f"DATABASE_URL=sqlite:///{older}" in finding.cure) == ("problem", True)
    for migrate in (True, False):
        with pytest.raises(Conflict, match=f"mv {older}"):
            build_context(settings, migrate=migrate)
    assert [path.name for path in home.iterdir()] == ["artifacts"], "nothing was made"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{older}")
    assert Settings(_env_file=None).older_database is None
    monkeypatch.delenv("DATABASE_URL")
    older.rename(home / "models.db")
    opened = build_context(Settings(_env_file=None))
    assert opened.db.engine.url.database == str(home / "models.db")
    opened.db.engine.dispose()


def test_a_new_home_of_a_clone_in_use_is_not_refused(clone: Path, tmp_path: Path, migrated_database: Path) -> None:
    (clone / "models.db").write_bytes(migrated_database.read_bytes())
    (tmp_path / "home" / "artifacts").mkdir(parents=True)
    assert Settings(_env_file=None, home=tmp_path / "home").older_database is None
