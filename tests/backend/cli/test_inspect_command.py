"""`roundhouse inspect`: one JSON document with all that an inspection holds; where no worker runs the work is done
here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.domain.checkpoints.inspection import InspectionConfig
from backend.services.checkpoints.inspections import launch_inspection
from backend.services.context import LOCAL, Context
from jobs.modeling.checkpoints import save_checkpoint
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.job_work import do_job
from tests.support.networks.inspection_networks import add_network, make_network


def ask(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["inspect", *arguments])
    return done.exit_code, done.stdout


@pytest.mark.usefixtures("command_line", "jobs_done_here")
def test_a_folder_is_inspected_where_no_worker_runs(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "oak", model=make_network("llama"), tokenizer=byte_tokenizer(context=96), meta={})
    status, out = ask(str(tmp_path / "oak"), "--text", "A <b>cat</b>.", "--json", "--maps")
    assert status == 0, out
    result = json.loads(out)
    assert "".join(token["text"] for token in result["tokens"][1:]) == "A <b>cat</b>."
    assert sum(token["nats"] for token in result["tokens"][1:]) == pytest.approx(result["loss"]["sum_nats"], rel=1e-5)
    np.testing.assert_allclose(np.array(result["attention"]["maps"]).sum(-1), 1, atol=1e-5)
    assert result["lens"]["error"] < 1e-5


def test_stored_inspections_are_printed_in_full(command_line: Context) -> None:
    add_network(command_line, "oak")
    add_network(command_line, "elm", seed=1)
    for config in (InspectionConfig(text="A cat."), InspectionConfig()):
        do_job(
            command_line,
            launch_inspection(command_line, checkpoint="oak", config=config, against="elm", person=LOCAL).job_id,
        )
    arguments = ("oak", "--text", "A cat.", "--against", "elm", "--weights")
    status, out = ask(*arguments, "--json")
    assert status == 0
    result = json.loads(out)
    assert [len(result["pair"]["after"]), len(result["tokens"])] == [7, 7]
    assert len(result["lens"]["texts"]) == 4
    assert "maps" not in result["attention"]
    assert sum(tensor["values"] for tensor in result["weights"]["tensors"]) == result["weights"]["values"]
    assert len(result["weights"]["changes"]["by_tensor"]) == result["weights"]["changes"]["compared"]
    status, out = ask(*arguments)
    assert status == 0
    assert "nats per token" in out
    assert "mean KL" in out
    assert "weights changed by" in out


def test_an_impossible_inspection_is_reported(command_line: Context, tmp_path: Path) -> None:
    bad = tmp_path / "chat.json"
    bad.write_text("[{")
    cases: list[tuple[tuple[Any, ...], str]] = [
        (("gone", "--text", "x"), "gone"),
        (("x", "--chat", str(bad)), "not JSON"),
        (("x", "--text", "a" * 20_001), "20,000"),
    ]
    for arguments, words in cases:
        status, out = ask(*arguments, "--json")
        assert status == 2
        assert words in json.loads(out)["error"]
