"""`roundhouse data | architecture | base | export`: one JSON document on stdout, 0 for done, 1 for failed, 2 for
misused.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer

from backend.bootstrap import get_context
from backend.cli.doctor import CheckResult
from backend.cli.main import main
from backend.cli.output import command, emit
from backend.domain.estimates.memory import estimate_memory
from backend.domain.estimates.setting import setting_of
from backend.domain.serving.deployment import ScalingEvent
from backend.domain.training.config import RunConfig
from backend.services.architectures import parse_architecture
from backend.services.context import Context


@pytest.fixture
def roundhouse(
    command_line: Context, jobs_done_here: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Any]:
    """Run the script's entry on an installation of its own. Returns (status, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["roundhouse", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    mask = os.umask(0o022)
    yield run
    os.umask(mask)


def test_an_import_without_a_worker_is_done_by_child_processes(home: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Say it", "output": "yes"}\n' * 10)
    environment = {
        **os.environ,
        "ROUNDHOUSE_HOME": str(home),
        "DATABASE_URL": f"sqlite:///{home / 'models.db'}",
        "REDIS_URL": "redis://127.0.0.1:1/0",
    }
    command = [sys.executable, "-m", "backend.cli.main", "data", "import", str(tmp_path / "rows.jsonl")]
    done = subprocess.run([*command, "--name", "sayings", "--json"], capture_output=True, env=environment, check=True)
    result = json.loads(done.stdout)
    assert (result["dataset"], result["version"], result["kind"], result["rows"]) == ("sayings", 1, "instruction", 10)
    assert b"running the job here" in done.stderr


def test_data_import_waits_and_reports_every_rejected_row(roundhouse: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(json.dumps({"instruction": f"Say {n}", "output": "yes"}) + "\n" for n in range(10)) + "not json\n"
    )
    command = ("data", "import", str(file), "--name", "sayings", "--max-rejected", "0.1")
    status, out, _ = roundhouse(*command, "--json")
    assert status == 0
    result = json.loads(out)
    assert (result["dataset"], result["version"], result["kind"], result["rows"]) == ("sayings", 1, "instruction", 10)
    assert [item["row"] for item in result["rejected"]] == [11]
    status, out, _ = roundhouse(*command)
    assert status == 0
    assert "already" in out
    status, out, _ = roundhouse("data", "list", "--json")
    assert [entry["dataset"] for entry in json.loads(out)["datasets"]] == ["sayings"]


def test_misuse_exits_with_2_and_a_json_error(roundhouse: Any, tmp_path: Path) -> None:
    status, out, err = roundhouse("data", "import", str(tmp_path / "none.txt"), "--name", "x", "--json")
    assert status == 2
    assert "none.txt" in json.loads(out)["error"]
    assert "Traceback" not in err


def test_rows_that_do_not_fit_end_with_1_and_the_reason(roundhouse: Any, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"a": 1}\n')
    status, out, err = roundhouse("data", "import", str(file), "--name", "x", "--kind", "preference", "--json")
    assert status == 1
    assert "preference" in json.loads(out)["error"]
    assert "Traceback" not in err


def test_architecture_describe_counts_and_explains(roundhouse: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("num_layers: 4\nwidth: 128\nnum_heads: 4\nnum_kv_heads: 4\n")
    status, out, _ = roundhouse("architecture", "describe", str(file), "--json")
    assert status == 0
    report = json.loads(out)
    assert (
        report["parameters"]
        == 1_115_264
        == sum(n for part, n in report["parameters_by_component"].items() if part != "total")
    )
    assert {"flops_per_token", "kv_cache_bytes_per_token", "memory_bytes"} <= report.keys()
    file.write_text("width: 130\n")
    status, _, err = roundhouse("architecture", "describe", str(file))
    assert status == 2
    assert "130 / 4 is not whole" in err


def test_architecture_describe_estimates_the_memory_of_a_launch(roundhouse: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("num_layers: 5\nwidth: 132\nnum_heads: 6\nnum_kv_heads: 2\nvocab_size: 3001\n")
    shape = parse_architecture(file.read_text())
    run = RunConfig(dataset="d", architecture=shape, tokenizer="t", micro_batch=12, context=200)
    options = ("architecture", "describe", str(file), "--micro-batch", "12", "--context", "200")
    on_cpu = json.loads(roundhouse(*options, "--json")[1])
    assert on_cpu["memory_bytes"]["total"] == estimate_memory(setting_of(run, shape, device="cpu")).total
    on_gpu = json.loads(roundhouse(*options, "--precision", "bf16", "--json")[1])
    assert on_gpu["memory_bytes"]["total"] == estimate_memory(setting_of(run, shape, device="gpu")).total
    assert "12 x 200 tokens in fp32 on a CPU\nwith 4 sequences per forward pass" in roundhouse(*options)[1]
    assert "in fp32 on a GPU" in roundhouse(*options, "--device", "gpu")[1]


def test_architecture_describe_covers_every_family_and_its_limits(roundhouse: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("family: deepseek_v3\nnum_layers: 2\nkv_rank: 16\nrope_head_size: 8\n")
    status, out, _ = roundhouse(
        "architecture", "describe", str(file), "--precision", "bf16", "--lora-rank", "4", "--json"
    )
    report = json.loads(out)
    assert status == 0
    assert report["kv_cache_bytes_per_token"] == 2 * (16 + 8) * 2
    assert report["trainable_parameters"] < report["active_parameters"] < report["parameters"]
    assert "router" in report["parameters_by_component"]
    parts = {key: value for key, value in report["memory_bytes"].items() if key != "total"}
    assert sum(parts.values()) == report["memory_bytes"]["total"]
    status, out, _ = roundhouse("architecture", "describe", str(file))
    assert "DeepSeek-V3 (DeepseekV3ForCausalLM)" in out
    assert "are used for a token" in out
    file.write_text("family: gpt2\nwindow: 9\n")
    status, _, err = roundhouse("architecture", "describe", str(file))
    assert status == 2
    assert (
        "window 9 can't be given: GPT-2 lets every layer see the whole context; Mistral or Gemma 3 can. Leave"
        " window out" in err
    )


def test_an_invalid_base_is_refused(roundhouse: Any) -> None:
    status, out, _ = roundhouse("base", "add", "/no/such/folder", "--name", "b", "--json")
    assert status == 2
    assert "/no/such/folder" in json.loads(out)["error"]
    status, out, _ = roundhouse("export", "nothing", "--to", "/tmp/never", "--json")
    assert status == 2
    assert "nothing" in json.loads(out)["error"]


@pytest.mark.parametrize(
    "arguments",
    [("architecture", "describe"), ("run", "launch"), ("run", "list", "--limit", "0"), ("nosuch",), ("run",)],
)
def test_usage_errors_are_json_with_the_option(roundhouse: Any, arguments: tuple[str, ...]) -> None:
    status, out, err = roundhouse(*arguments, "--json")
    assert status == 2
    assert json.loads(out)["error"]
    assert "Traceback" not in err


def test_a_binary_recipe_is_a_usage_error(roundhouse: Any, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_bytes(b"\xa7\x00\xff")
    status, out, err = roundhouse("run", "launch", str(file), "--json")
    assert status == 2
    assert "UTF-8" in json.loads(out)["error"]
    assert "Traceback" not in err


def test_an_unreachable_database_is_reported(roundhouse: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get_context().db.engine.dispose()
    get_context.cache_clear()
    with monkeypatch.context() as patch:
        patch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'no' / 'such' / 'folder' / 'm.db'}")
        status, out, err = roundhouse("run", "list", "--json")
    assert status == 1
    assert "DATABASE_URL" in json.loads(out)["error"]
    assert "Traceback" not in err


def test_an_unreadable_file_is_reported(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    @command
    def broken() -> None:
        (tmp_path / "no" / "such").mkdir()

    with pytest.raises(typer.Exit) as ended:
        broken(as_json=True)
    assert ended.value.exit_code == 1
    assert str(tmp_path / "no" / "such") in json.loads(capsys.readouterr().out)["error"]


def test_models_and_dataclasses_within_a_result_are_objects(capsys: pytest.CaptureFixture[str]) -> None:
    """Events of an endpoint's history were strings of Python."""
    event = ScalingEvent(at=datetime(2026, 12, 3, tzinfo=UTC), text="restarted")

    @command
    def show() -> None:
        emit({"events": (event,), "loss": math.nan, "check": CheckResult("disk", "ok", "9 GB")}, text="")

    show(as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["events"][0]["text"] == "restarted"
    assert (printed["loss"], printed["check"]["state"]) == (None, "ok")
