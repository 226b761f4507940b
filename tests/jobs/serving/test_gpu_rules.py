"""Rules of a GPU, with a fake one: bf16 in hardware alone, a cache from the free memory, and no silent fallback."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from backend.domain.serving.memory import PAGE_TOKENS
from backend.errors import InvalidInput, JobFailed
from jobs.modeling.devices import pick_inference_dtype
from jobs.serving import start
from jobs.serving.batching import _num_pages
from jobs.serving.start import start_engine
from tests.support.networks.serving_networks import make_llama, make_tokenizer

PAGE_BYTES = 2 * 2 * 2 * 16 * 2 * PAGE_TOKENS


def fake_network() -> Any:
    """A network of 2 layers with 2 heads of 16 in bf16, as it lies on a GPU."""
    config = SimpleNamespace(
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, head_dim=16, hidden_size=32
    )
    return SimpleNamespace(
        config=SimpleNamespace(get_text_config=lambda: config), dtype=torch.bfloat16, device=torch.device("cuda")
    )


@pytest.mark.parametrize(("in_hardware", "dtype"), [(True, torch.bfloat16), (False, torch.float32)], ids=["A100", "T4"])
def test_bf16_is_chosen_where_the_gpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch, in_hardware: bool, dtype: torch.dtype
) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return in_hardware or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert pick_inference_dtype(device=torch.device("cuda")) is dtype


def test_the_cache_takes_most_of_the_free_memory_and_what_does_not_fit_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = 100 * PAGE_BYTES
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 10**12))
    network = fake_network()
    assert _num_pages(network, tokens=10**6, context_length=1024) == 80
    assert _num_pages(network, tokens=640, context_length=64) == 10
    assert _num_pages(network, tokens=10**6, context_length=90 * PAGE_TOKENS) == 91, "one full context, where it fits"
    with pytest.raises(InvalidInput, match="are free beside the weights") as caught:
        _num_pages(network, tokens=10**6, context_length=200 * PAGE_TOKENS)
    assert "--context" in str(caught.value.remedy)


def test_a_failure_on_a_gpu_or_of_memory_is_no_reason_to_answer_one_request_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(start, "BatchingEngine", fails)
    with pytest.raises(JobFailed, match="failed on cpu: CUDA out of memory"):
        start_engine(make_llama(), make_tokenizer())
    network = make_llama()
    monkeypatch.setattr(type(network), "device", property(lambda _: torch.device("cuda")))
    monkeypatch.setattr(
        start, "BatchingEngine", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("an illegal memory access"))
    )
    with pytest.raises(JobFailed, match="illegal memory access"):
        start_engine(network, make_tokenizer())
