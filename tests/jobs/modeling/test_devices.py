"""The number of threads that a network's small products are computed with; every way of running out of memory is
recognised, and nothing else is.
"""

from __future__ import annotations

import time

import pytest
import torch

from jobs.modeling.devices import faster_threads, is_out_of_memory


@pytest.mark.parametrize(("slow", "chosen"), [(2, 1), (1, 2)])
def test_the_faster_number_of_threads_computes_and_the_usual_one_returns(slow: int, chosen: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with faster_threads(lambda: time.sleep(0.2 if torch.get_num_threads() == slow else 0)):
            assert torch.get_num_threads() == chosen
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_errors_of_python_and_torch_are_recognised() -> None:
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))
    assert not is_out_of_memory(RuntimeError("shapes differ"))
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_the_error_of_torchs_cpu_allocator_is_recognised() -> None:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(refused.value)
