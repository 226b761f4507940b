"""`roundhouse doctor` on the compiled library (for what processor it is, and the cure where there is none) and on the
store of artifacts.
"""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from backend.bootstrap import make_providers
from backend.cli.doctor import check_disk, check_library, check_provider, start_checks, try_store
from backend.infra.store.objects import MARK
from tests.support.native.completeness import skip_unless_complete
from tests.support.settings import make_settings


def test_the_compiled_library_is_named_with_its_processor() -> None:
    if shutil.which("c++") is None:
        skip_unless_complete("There is no C++ compiler.")
    finding = check_library()
    assert (finding.state, finding.cure) == ("ok", "")
    assert finding.detail.startswith(f"compiled for {platform.machine()}")


def test_without_a_compiler_the_loss_and_the_cure_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # no library of an earlier compilation
    monkeypatch.setenv("PATH", "")
    finding = check_library()
    assert finding.state == "warning"
    assert "bfloat16 and drafts are refused: there is no C++ compiler" in finding.detail
    assert "apt install g++" in finding.cure


def test_a_store_is_tried_and_left_empty(tmp_path: Path) -> None:
    settings, store = make_settings(tmp_path / "home"), tmp_path / "store"
    assert try_store(settings, store.as_uri()).state == "ok"
    assert [path.name for path in store.rglob("*") if path.is_file()] == [MARK]
    (tmp_path / "file").write_text("no folder")
    assert try_store(settings, (tmp_path / "file").as_uri()).state == "problem"
    assert "without keys" in try_store(settings, "s3://key:secret@bucket").cure


def test_the_free_space_is_that_of_the_overview(tmp_path: Path) -> None:
    """It was counted in powers of two: 65.7 GB where the overview had 70.7 GB."""
    finding = check_disk(make_settings(tmp_path))
    shown = re.search(r"([\d.]+) (MB|GB|TB) free", finding.detail)
    assert shown is not None
    free = float(shown[1]) * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[shown[2]]
    assert free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.02)


def test_a_cluster_that_can_not_be_used_is_a_warning_with_the_cure(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, kubernetes_queues="h100:8")
    (provider,) = make_providers(settings)
    finding = check_provider(provider)
    assert (finding.name, finding.state) == ("kubernetes", "warning")
    assert ("names no manifest" in finding.detail, "docs/kubernetes.md" in finding.cure) == (True, True)


def test_a_database_of_another_encoding_is_named_before_anything_reads_it(tmp_path: Path, postgres_url: str) -> None:
    """psycopg returns bytes from such a server, which fails deep inside SQLAlchemy."""
    server = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text("create database ascii encoding 'SQL_ASCII' locale 'C' template template0"))
    url = make_url(postgres_url).set(database="ascii").render_as_string(hide_password=False)
    try:
        settings = make_settings(tmp_path, database_url=url, sign_in="always")
        findings = {finding.name: finding for finding in start_checks(settings, [])}
        assert findings["database"].state == "problem"
        assert "its encoding is SQL_ASCII, not UTF8" in findings["database"].detail
        assert "sign-in" not in findings
    finally:
        with server.connect() as connection:
            connection.execute(text("drop database ascii with (force)"))
        server.dispose()
