"""The pages' server sends to the store what an ended process of its machine left."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.infra.artifacts import Artifacts
from backend.infra.store.outbox import Outbox
from tests.support.installation import wait_until
from tests.support.page_server import page_server


def test_what_an_ended_process_left_is_sent(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    monkeypatch.setattr(Outbox, "start", lambda _: None)  # as one that ends before it has sent
    artifacts = Artifacts(home / "artifacts", url=store.as_uri())
    rows = artifacts.folder("uploads", "left") / "rows.jsonl"
    rows.write_text('{"text": "Mira mended the lamp."}')
    artifacts.send("uploads/left")
    assert artifacts.outbox is not None
    assert list(artifacts.outbox.entries()) != []
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1", ROUNDHOUSE_ARTIFACTS=store.as_uri()):
        wait_until(lambda: not artifacts.outbox.entries(), timeout_s=60, what="the outbox")  # type: ignore[union-attr]
    assert any("uploads" in str(path) for path in store.rglob("*") if path.is_file())
