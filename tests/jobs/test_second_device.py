"""The second device of the tests refuses what a GPU refuses, and the product picks it as it picks a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.workers.killed_runs import FORKS
from tests.support.workers.second_device_answers import answer


@pytest.mark.parametrize(("held", "picked"), [("0", "second"), ("", "cpu")], ids=["holds a GPU", "holds none"])
def test_a_job_computes_on_the_device_that_it_holds_and_the_device_refuses_what_a_gpu_refuses(
    tmp_path: Path, held: str, picked: str
) -> None:
    child = FORKS.Process(target=answer, args=(held, tmp_path / "told.json"))
    child.start()
    child.join()
    assert child.exitcode == 0
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["picked"], told["logits"], told["name"]) == (picked, "second:0", "Second device")
    assert (told["same"], told["gradients"], told["free"]) == ([True, True], True, True)
    assert told["autocast"] == "torch.bfloat16"
    refusals = told["refusals"]
    assert "mixes devices" in refusals["another device"]
    assert all("copy it to the CPU first" in refusals[name] for name in ("numpy", "array", "pickle")), refusals
