"""Every way of running out of memory is recognised, and nothing else is."""

from __future__ import annotations

import pytest
import torch

from jobs.modeling.devices import is_out_of_memory


def test_the_errors_of_python_and_torch_are_recognised() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_the_error_of_torchs_cpu_allocator_is_recognised() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)
