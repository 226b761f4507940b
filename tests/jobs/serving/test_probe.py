"""The probe of a checkpoint's serving speed: real engines on a tiny network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from backend.domain.jobs.serving_probe import ServingProbeResult
from jobs.serving import probe
from tests.support.jobs import MemoryReporter, make_spec
from tests.support.networks.serving_networks import make_llama, make_tokenizer


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    make_llama().save_pretrained(folder / "net")
    make_tokenizer().save_pretrained(folder / "net")
    return folder


def measure(
    root: Path, reporter: MemoryReporter, monkeypatch: pytest.MonkeyPatch, **payload: object
) -> ServingProbeResult:
    monkeypatch.setattr(probe, "TIMED_S", 0.4)
    given = {"checkpoint": "net", "checkpoint_id": "c", "new_tokens": 8, "prompt_tokens": 16, **payload}
    return probe.run(make_spec("serving_probe", given, root=root), reporter)


@pytest.mark.parametrize("engine", ["batching", "serial"])
def test_each_number_of_users_is_timed_until_all_have_answers(
    root: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    result = measure(root, MemoryReporter(), monkeypatch, engine=engine, users=(1, 4))
    assert [load.users for load in result.loads] == [1, 4]
    assert result.engine == engine
    assert (result.prompt_tokens, result.new_tokens) == (16, 8)
    for load in result.loads:
        assert load.answers >= load.users
        assert load.ttft_ms is not None
        assert 0 < load.ttft_ms < 60_000
        assert load.tokens_per_s > 0
    assert result.memory_bytes is not None
    assert result.memory_bytes > 50_000_000


@pytest.mark.skipif(torch.accelerator.is_available(), reason="int8 is computed on the CPU alone")
def test_int8_is_timed_beside_float32_with_its_quality(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = measure(root, MemoryReporter(), monkeypatch, users=(1,), precisions=("float32", "int8"))
    assert [(load.precision, load.users) for load in result.loads] == [("float32", 1), ("int8", 1)]
    assert result.precision_check is not None
    assert 0.5 < result.precision_check.perplexity_ratio < 2


def test_a_stopped_probe_keeps_what_it_has_measured(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter = MemoryReporter()
    monkeypatch.setattr(
        reporter, "should_stop", lambda: "cancel" if any("4 at once" in str(e) for e in reporter.all) else None
    )
    result = measure(root, reporter, monkeypatch, users=(1, 4))
    assert [load.users for load in result.loads] == [1]
    assert result.stopped == "cancel"


def test_prompt_and_answer_are_cut_to_the_context(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = measure(root, MemoryReporter(), monkeypatch, users=(1,), prompt_tokens=100_000, new_tokens=100_000)
    assert result.prompt_tokens + result.new_tokens == make_llama().config.max_position_embeddings
