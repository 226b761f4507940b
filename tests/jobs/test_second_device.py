"""The second device of the tests refuses what a GPU refuses, and the product picks it as it picks a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import copy, json, pickle, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from jobs.modeling.devices import device_name, free_bytes, pick_autocast, pick_device
from tests.support.second_device import SecondDeviceError, install

device, close = install(), lambda one, other: torch.allclose(one, other, atol=1e-5)
on_cpu = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                      num_attention_heads=2, num_key_value_heads=1)).eval()
there, ids = copy.deepcopy(on_cpu).to(device), torch.arange(8)[None]
refusals = {}
for name, act in {
    "another device": lambda: there(ids),
    "numpy": lambda: torch.ones(2, device=device).numpy(),
    "array": lambda: __import__("numpy").asarray(torch.ones(2, device=device)),
    "pickle": lambda: pickle.dumps(torch.ones(2, device=device)),
}.items():
    try:
        refusals[name] = f"returned {act()!r}"
    except SecondDeviceError as error:
        refusals[name] = str(error)
with torch.inference_mode():
    logits = there(ids.to(device)).logits
    answers = [n.generate(ids.to(n.device), max_new_tokens=6, do_sample=False, pad_token_id=0) for n in (on_cpu, there)]
    same = close(logits.cpu(), on_cpu(ids).logits), answers[0].tolist() == answers[1].tolist()
there(ids.to(device), labels=ids.to(device)).loss.backward()
on_cpu(ids, labels=ids).loss.backward()
gradients = [close(mine.grad.cpu(), its.grad) for mine, its in zip(there.parameters(), on_cpu.parameters())]
print(json.dumps({
    "picked": str(pick_device()), "name": device_name(device), "free": free_bytes(device) is not None,
    "autocast": str(pick_autocast("auto", device=device)), "logits": str(logits.device), "same": same,
    "gradients": all(gradients), "refusals": refusals,
}))
"""


def run(**environment: str) -> dict[str, object]:
    """Run the program in a process of its own: a device can't be unregistered."""
    root = Path(__file__).parents[2]
    variables = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=root, env=variables, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize(("held", "picked"), [("0", "second"), ("", "cpu")], ids=["holds a GPU", "holds none"])
def test_a_job_computes_on_the_device_that_it_holds_and_the_device_refuses_what_a_gpu_refuses(
    held: str, picked: str
) -> None:
    answer = run(CUDA_VISIBLE_DEVICES=held)
    assert (answer["picked"], answer["logits"], answer["name"]) == (picked, "second:0", "Second device")
    assert (answer["same"], answer["gradients"], answer["free"]) == ([True, True], True, True)
    assert answer["autocast"] == "torch.bfloat16"
    refusals = answer["refusals"]
    assert isinstance(refusals, dict)
    assert "mixes devices" in refusals["another device"]
    assert all("copy it to the CPU first" in refusals[name] for name in ("numpy", "array", "pickle")), refusals
