"""The number of threads that a network's small products are computed with."""

from __future__ import annotations

import time

import pytest
import torch

from jobs.modeling.devices import faster_threads


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
