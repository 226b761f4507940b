"""The reference's log-probabilities of the answers of a run, computed once before training: no second network is in memory afterwards.

They lie in the run's folder, each under a hash of its tokens, so that a resumed run reads the very same numbers wherever it goes on, and
one that is to do more steps asks only for what is new.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from backend.errors import JobFailed
from jobs.batches.preference import Floats, pad
from jobs.batches.preference_rows import Answered
from jobs.modeling.checkpoints import read_card
from jobs.modeling.tokenizers import padding_id
from jobs.reporter import PROGRESS_EVERY_S
from jobs.training.context import Parts
from jobs.training.losses.output_head import OutputHead
from jobs.training.network.load import load_base

KEY_BYTES = 16


class Stopped(Exception):
    """Somebody asked the job to stop before its first step."""


def reference_logprobs(parts: Parts, answers: Sequence[Answered], *, folder: Path) -> Floats:
    """Return the base's log-probability of each answer, (answers,). What the folder's file has already is not asked again.

    Raises Stopped if the job is asked to stop meanwhile, JobFailed if the base gives an answer no finite probability.
    """
    file = folder / f"reference-{_base_hash(parts)[:24]}.safetensors"
    known = _read(file)
    asked = {_key(answer): answer for answer in answers}
    missing = [key for key in asked if key not in known]
    if missing:
        network = load_base(parts).to(parts.device)
        values = _compute(parts, network, [asked[key] for key in missing])
        if not np.isfinite(values).all():
            raise JobFailed("The base gives some answers no finite probability.", remedy="Choose another base.", field="base")
        known |= dict(zip(missing, values.tolist(), strict=True))
        _write(file, known)
    return np.array([known[_key(answer)] for answer in answers], dtype=np.float32)


def _read(file: Path) -> dict[bytes, float]:
    if not file.is_file():
        return {}
    held = load_file(file)
    return dict(zip([key.tobytes() for key in held["keys"]], held["logprobs"].tolist(), strict=True))


def _write(file: Path, known: dict[bytes, float]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    keys = sorted(known)
    partial = file.with_name(f".{file.name}.partial")
    packed = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES)
    save_file({"keys": packed.copy(), "logprobs": np.array([known[key] for key in keys], dtype=np.float32)}, partial)
    os.replace(partial, file)


@torch.inference_mode()
def _compute(parts: Parts, network: Any, answers: Sequence[Answered]) -> Floats:
    """Run all answers, longest first (a lack of memory shows at once), twice as many at a time as a micro-batch has pairs."""
    values = np.zeros(len(answers), dtype=np.float32)
    order = sorted(range(len(answers)), key=lambda index: -len(answers[index].ids))
    rows, pad_id, last = 2 * parts.config.micro_batch, padding_id(parts.tokenizer), 0.0
    network.eval()
    head = OutputHead(network)
    for at in range(0, len(order), rows):
        chosen = order[at : at + rows]
        batch = pad([answers[index] for index in chosen], pad_id=pad_id).to(parts.device)
        with torch.autocast(parts.device.type, dtype=parts.autocast) if parts.autocast else nullcontext():
            values[chosen] = head.answer_logprobs(network, batch).float().cpu().numpy()
        if parts.reporter.should_stop():
            raise Stopped
        if time.perf_counter() - last > PROGRESS_EVERY_S:
            last = time.perf_counter()
            parts.reporter.progress(at, len(order), unit="answer", message="Asking the reference about every answer")
    return values


def _key(answer: Answered) -> bytes:
    return hashlib.blake2b(np.asarray([answer.start, *answer.ids], dtype=np.int64).tobytes(), digest_size=KEY_BYTES).digest()


def _base_hash(parts: Parts) -> str:
    """Return a hash of the base's files. Device and batch are not in it: a run that moves keeps its numbers."""
    assert parts.base is not None
    card = read_card(parts.base)
    files = card.get("files") or {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(parts.base.iterdir())}
    return hashlib.sha256(json.dumps([files, card.get("base")], sort_keys=True, default=str).encode()).hexdigest()
