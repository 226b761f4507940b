"""What the product and a network do on the second device: for a process of its own, since a device can't be
unregistered.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jobs.modeling.devices import device_name, free_bytes, pick_autocast, pick_device
from tests.support.second_device import SecondDeviceError, install


def answer(held: str, file: Path) -> None:
    """Install the device in a job that holds these GPUs, and write what is picked, computed and refused."""
    os.environ["CUDA_VISIBLE_DEVICES"] = held
    device = install()
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(**shape, num_attention_heads=2, num_key_value_heads=1)
    on_cpu = LlamaForCausalLM(config).eval()
    there, ids = copy.deepcopy(on_cpu).to(device), torch.arange(8)[None]
    refusals = {}
    for name, act in {
        "another device": lambda: there(ids),
        "numpy": lambda: torch.ones(2, device=device).numpy(),
        "array": lambda: np.asarray(torch.ones(2, device=device)),
        "pickle": lambda: pickle.dumps(torch.ones(2, device=device)),
    }.items():
        try:
            refusals[name] = f"returned {act()!r}"
        except SecondDeviceError as error:
            refusals[name] = str(error)
    with torch.inference_mode():
        logits = there(ids.to(device)).logits
        answers = [
            network.generate(ids.to(network.device), max_new_tokens=6, do_sample=False, pad_token_id=0).tolist()
            for network in (on_cpu, there)
        ]
        same = _close(logits.cpu(), on_cpu(ids).logits), answers[0] == answers[1]
    there(ids.to(device), labels=ids.to(device)).loss.backward()
    on_cpu(ids, labels=ids).loss.backward()
    gradients = [
        _close(mine.grad.cpu(), its.grad) for mine, its in zip(there.parameters(), on_cpu.parameters(), strict=True)
    ]
    told = {
        "picked": str(pick_device()),
        "name": device_name(device),
        "free": free_bytes(device) is not None,
        "autocast": str(pick_autocast("auto", device=device)),
        "logits": str(logits.device),
        "same": same,
        "gradients": all(gradients),
        "refusals": refusals,
    }
    file.write_text(json.dumps(told))


def _close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=1e-5)
