"""`roundhouse endpoint connect` reads options and YAML, and says what it connected."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.services.context import Context
from tests.support.command_line import roundhouse
from tests.support.fake_api import serve_api
from tests.support.settings import name_installation


def test_a_server_is_connected_from_options_and_yaml(
    ctx: Context, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name_installation(monkeypatch, home)
    assert ctx.db
    config = tmp_path / "far.yaml"
    with serve_api() as api:
        config.write_text(f"name: far\nurl: {api.url}\nmodel: qwen\ninput_price: 1\noutput_price: 2\n")
        made = roundhouse("endpoint", "connect", "--config", str(config), "--max-requests", "8")
        assert (made["endpoint"], made["state"], made["upstream"]["max_requests"]) == ("far", "ready", 8)
        assert made["check"]["problem"] == ""
        listed = roundhouse("endpoint", "list")["endpoints"][0]
        assert (listed["upstream"]["model"], listed["upstream"]["output_price"]) == ("qwen", 2.0)
    config.write_text("urll: x\nname: far\nmodel: m\nurl: http://127.0.0.1:1/v1\n")
    assert "urll" in str(roundhouse("endpoint", "connect", "--config", str(config), status=2))
    assert "link-local" in str(
        roundhouse("endpoint", "connect", "http://169.254.169.254/v1", "--name", "far", "--model", "m", status=2)
    )
    assert roundhouse("endpoint", "logs", "far")["replicas"] == []
