"""The adapter of transformers' continuous batching: which versions it knows, and what it says of others."""

from __future__ import annotations

import pytest
import transformers

from backend.errors import JobFailed
from jobs.serving import continuous_batching
from jobs.serving.continuous_batching import KNOWN_VERSIONS, check_transformers
from jobs.serving.start import start_engine
from tests.support.networks.serving_networks import make_llama, make_tokenizer


def test_the_installed_version_is_known() -> None:
    check_transformers(transformers.__version__)


@pytest.mark.parametrize("version", ["5.23.1", "5.25.0", "6.0.0.dev0", "4.99"])
def test_another_version_is_refused_with_those_that_are_known(version: str) -> None:
    with pytest.raises(JobFailed, match=rf"transformers 5\.24\.x, and {version} is installed") as caught:
        check_transformers(version)
    assert "engine serial" in caught.value.remedy


def test_an_engine_of_an_unknown_version_is_not_replaced_by_a_slower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous_batching, "KNOWN_VERSIONS", ("5.1", "5.2"))
    with pytest.raises(JobFailed, match=r"5\.1\.x and 5\.2\.x"):
        start_engine(make_llama(), make_tokenizer())
    engine = start_engine(make_llama(), make_tokenizer(), kind="serial")
    engine.close()
    assert engine.name == "serial"
    assert KNOWN_VERSIONS == ("5.24",)
