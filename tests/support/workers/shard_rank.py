"""A rank that shares a network out, and measures the memory that it takes for it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from backend.domain.training.config import RunConfig
from jobs.modeling.checkpoints import load_network
from jobs.training.network import load
from jobs.training.network.adapters import add_adapters, hold_frozen


def share_out(folder: Path, config: RunConfig, *, reads_whole: bool, variables: Mapping[str, str], told: Path) -> None:
    """Share the network of a folder out with the other rank, read whole before or as shares. The first rank writes all
    weights to `whole.pt` in the folder, each writes to `told` by how many bytes it grew and whether the head is tied.
    """
    os.environ.update(variables)
    dist.init_process_group("gloo")
    before, peak, ended = _used_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.002):
            peak = max(peak, _used_bytes())

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    model = load_network(folder) if reads_whole else load.build_unread(folder, config)
    assert model is not None
    if config.method == "lora":
        plain = model
        model = load.add_to_unread(plain, lambda: add_adapters(plain, config, resume_from=None))
    if config.precision == "bf16":
        hold_frozen(model, torch.bfloat16)
    load.share_out(model, device=torch.device("cpu"), count=2)
    if load.is_unread(model):
        load.read_weights(model, folder, device=torch.device("cpu"))
    dist.barrier()
    ended.set()
    watching.join()
    grown = max(peak, _used_bytes()) - before
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if dist.get_rank() == 0:
        torch.save(whole, folder / "whole.pt")
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    told.write_text(json.dumps({"grown": grown, "head": is_tied}))
    dist.barrier()
    dist.destroy_process_group()


def _used_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
