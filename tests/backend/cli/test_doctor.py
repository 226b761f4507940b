"""`roundhouse doctor` on the compiled library (for what processor it is, and the cure where there is none) and on the
store of artifacts.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from sqlalchemy import create_engine, make_url, text

from backend.bootstrap import build_context, make_providers
from backend.cli.doctor import (
    check_alerts,
    check_disk,
    check_files,
    check_library,
    check_provider,
    check_stored,
    check_variables,
    send_tests,
    start_checks,
    try_store,
)
from backend.cli.failures import explain
from backend.infra.store.objects import MARK
from backend.services.context import Context
from backend.services.serving.monitoring.alerts import AlertCondition, settle_alerts
from backend.settings import Settings
from tests.support.native.completeness import skip_unless_complete
from tests.support.scenario import Scenario
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


def test_a_disk_without_space_for_jobs_is_a_warning_that_names_the_setting(tmp_path: Path) -> None:
    """`up` refused to start, so nothing could be deleted to make room."""
    finding = check_disk(make_settings(tmp_path, keep_free_mb=900_000_000))
    assert finding.state == "warning"
    assert "900,000,000 MB are to stay free" in finding.detail
    assert "ROUNDHOUSE_KEEP_FREE_MB" in finding.cure


def test_a_misspelt_variable_is_named_with_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_variables().state == "ok"
    monkeypatch.setenv("ROUNDHOUSE_PROT", "1")
    finding = check_variables()
    assert finding.state == "warning"
    assert "ROUNDHOUSE_PROT is no setting: did you mean ROUNDHOUSE_PORT?" in finding.detail


def test_a_setting_at_fault_is_named_by_its_variable_and_a_secret_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUNDHOUSE_PORT", "abc")
    monkeypatch.setenv("ROUNDHOUSE_SECRET_KEY", "hush-hush")
    with pytest.raises(ValidationError) as caught:
        Settings()
    explained = explain(caught.value)
    assert explained is not None
    assert "ROUNDHOUSE_PORT: must be a whole number (got 'abc')" in explained[0]
    assert "ROUNDHOUSE_SECRET_KEY: must have at least 32 characters" in explained[0]
    assert "hush" not in explained[0]


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


@pytest.mark.parametrize(
    ("settings", "state", "detail"),
    [
        ({}, "ok", "no channel is set"),
        ({"alert_webhook": "https://hooks.example/secret"}, "ok", "sent by webhook"),
        ({"alert_webhook": "ftp://nowhere/secret"}, "problem", "ROUNDHOUSE_ALERT_WEBHOOK begins with neither http://"),
        ({"alert_webhook": "hooks.example/secret"}, "problem", "begins with neither http:// nor https://"),
        ({"alert_webhook": "http://[::1/secret"}, "problem", "ROUNDHOUSE_ALERT_WEBHOOK is no valid address"),
        ({"alert_webhook": "http:///secret"}, "problem", "is no valid address"),
        ({"alert_email_to": "a@b.c", "smtp_url": "imap://u:secret@b"}, "problem", "ROUNDHOUSE_SMTP_URL begins with"),
        ({"alert_email_to": "a@b.c"}, "problem", "ROUNDHOUSE_ALERT_EMAIL_TO needs ROUNDHOUSE_SMTP_URL"),
    ],
)
def test_an_address_for_alerts_that_can_not_be_one_is_named_before_the_start(
    tmp_path: Path, settings: dict[str, str], state: str, detail: str
) -> None:
    finding = check_alerts(make_settings(tmp_path, **settings))
    assert finding.state == state
    assert detail in finding.detail
    assert "secret" not in finding.detail
    assert finding in start_checks(make_settings(tmp_path, **settings), [])


def test_an_alert_that_is_not_delivered_is_a_warning(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, alert_webhook="http://127.0.0.1:1/secret")
    settle_alerts(build_context(settings), [AlertCondition("disk:warning", "disk", "warning", "1 GB of disk left")])
    (warning,) = [finding for finding in check_stored(settings) if finding.name == "alerts"]
    assert warning.state == "warning"
    assert warning.detail == "1 alert message not delivered by webhook: connection refused."
    (tested,) = send_tests(settings)
    assert (tested.state, tested.detail) == ("problem", "The test was not taken by webhook: connection refused.")


def test_a_home_without_a_database_gets_no_secret_and_alerts_are_tested_without_one(tmp_path: Path) -> None:
    environment = {**os.environ, "ROUNDHOUSE_HOME": str(tmp_path), "ROUNDHOUSE_ALERT_WEBHOOK": "http://127.0.0.1:1/x"}
    command = [sys.executable, "-m", "backend.cli.main", "doctor", "--test-alerts", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    details = [finding["detail"] for finding in json.loads(done.stdout)["findings"] if finding["name"] == "alerts"]
    assert "The test was not taken by webhook: connection refused." in details
    assert done.returncode == 1
    assert not (tmp_path / "secret.key").exists()


def test_a_folder_that_can_not_be_read_is_named(ctx: Context, scenario: Scenario) -> None:
    scenario.dataset("tales", train=[{"text": "Once."}])
    folder = ctx.artifacts.root / "datasets/tales"
    shutil.rmtree(folder)
    folder.symlink_to(folder)
    assert check_files(ctx).detail == f"{folder} can't be read: Too many levels of symbolic links."


def test_files_that_a_copy_lacks_are_named_by_object(ctx: Context, scenario: Scenario) -> None:
    scenario.dataset("tales", train=[{"text": "Once."}], val=[{"text": "Twice."}])
    root = ctx.artifacts.root
    (root / "tokenizers/pieces").mkdir(parents=True)
    (root / "tokenizers/pieces/tokenizer.json").touch()
    scenario.tokenizer()
    for name in ("whole", "adapter", "sharded", "gone"):
        scenario.checkpoint(name, is_adapter=name == "adapter")
    files = {
        "whole": ["config.json", "model.safetensors"],
        "adapter": ["adapter_config.json", "adapter_model.safetensors"],
        "sharded": ["config.json", *(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))],
        "gone": ["config.json", "model.safetensors"],
    }
    for name, names in files.items():
        for each in names:
            (root / "checkpoints" / name).mkdir(parents=True, exist_ok=True)
            (root / "checkpoints" / name / each).touch()
    assert check_files(ctx).state == "ok"
    (root / "datasets/tales/val.parquet").unlink()
    (root / "tokenizers/pieces/tokenizer.json").unlink()
    (root / "checkpoints/adapter/adapter_model.safetensors").unlink()
    (root / "checkpoints/sharded/model-00002-of-00003.safetensors").unlink()
    shutil.rmtree(root / "checkpoints/gone")
    finding = check_files(ctx)
    assert finding.state == "problem"
    for what in (
        "dataset tales@1 (val.parquet)",
        "tokenizer pieces (tokenizer.json)",
        "checkpoint “adapter” (weights: *.safetensors)",
        "checkpoint “sharded” (1 of 3 files of weights)",
        "checkpoint “gone” (config.json, weights: *.safetensors)",
    ):
        assert what in finding.detail
    assert "whole" not in finding.detail
    for number in range(20):
        scenario.checkpoint(f"empty {number}")
    assert check_files(ctx).detail.endswith(" and 19 more.")
