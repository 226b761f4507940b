"""An exported checkpoint is read by JAX, which computes its logits, and by TensorFlow.

Run by `make interchange`, which installs both in an environment of their own.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs.modeling.checkpoints import load_network
from jobs.modeling.entries import export
from jobs.training import run as training
from tests.support.training_rooms import Recorder, Rooms

IDS = [1, 5, 9, 2, 30, 17, 4, 4, 8, 21]


@pytest.mark.parametrize("method", ["full", "lora"])
@torch.inference_mode()
def test_jax_computes_the_logits_of_an_export_and_tensorflow_reads_its_tensors(tmp_path: Path, method: str) -> None:
    rooms = Rooms(tmp_path)
    steps: dict[str, Any] = {"max_steps": 3, "checkpoint_every": 3, "learning_rate": 3e-2, "method": method}
    with torch.inference_mode(False), torch.enable_grad():
        training.run(rooms.training("sft", run="tuned", job="tuned", **steps), Recorder())
    checkpoint = "tuned/checkpoints/step-000003"
    fields = {"checkpoint_id": "c", "checkpoint": checkpoint, "format": "merged", "name": "tuned", "out": "out"}
    export.run(rooms.spec({**fields, "card": "# Tuned\n"}, job="out", kind="export"), Recorder())
    command = [os.environ["ROUNDHOUSE_INTERCHANGE"], "tests/engines/read_elsewhere.py", str(tmp_path / "out")]
    reading = json.loads(subprocess.run([*command, json.dumps(IDS)], check=True, capture_output=True).stdout)
    ours = load_network(rooms.root / checkpoint)(input_ids=torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(torch.tensor(reading["logits"]), ours.float(), atol=1e-4, rtol=0)
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert reading["sums"] == pytest.approx(
        {name: float(one.double().sum()) for name, one in tensors.items()}, abs=1e-6
    )
    assert float(ours.std()) > 0.1
