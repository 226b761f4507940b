"""`roundhouse data import`: what a source on the command line means."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.cli.data.imports import read_source
from backend.errors import InvalidInput
from backend.services.data.sources import HubChoice, ImportSource


def test_a_source_is_a_path_an_address_or_an_id_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/name").mkdir(parents=True)
    assert read_source("owner/name") == ImportSource(path=Path("owner/name"))
    assert read_source("hf://owner/name", split="test") == ImportSource(hub=HubChoice("owner/name", None, "test"))
    assert read_source("other/name", config="a", revision="v1") == ImportSource(hub=HubChoice("other/name", "a", None, "v1"))
    assert read_source("data/missing.jsonl") == ImportSource(path=Path("data/missing.jsonl"))
    assert read_source("s3://bucket/rows") == ImportSource(url="s3://bucket/rows")
    with pytest.raises(InvalidInput, match="--split is for datasets of the Hub"):
        read_source("s3://bucket/rows", split="train")
