"""Log-probabilities of a run's answers under the reference network, computed once before training so that only one
network is in memory.

They are saved in the run's folder under a hash of each answer's tokens: a resumed run reads the same numbers on any
machine, and a run that is extended computes only those of new answers.
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
from jobs.reporter import PROGRESS_EVERY_S, StopRequested
from jobs.training.context import TrainingContext
from jobs.training.losses.output_head import OutputHead
from jobs.training.network.load import load_reference

KEY_BYTES = 16


def reference_logprobs(ctx: TrainingContext, answers: Sequence[Answered]) -> Floats:
    """Return the base's log-probability of each answer, (answers,), computing those that the run's folder lacks.

    Raises StopRequested if the job is asked to stop meanwhile, JobFailed if a log-probability is not finite.
    """
    file = ctx.run_folder / f"reference-{_base_hash(ctx)[:24]}.safetensors"
    known = _read(file)
    answer_by_key = {_key(answer): answer for answer in answers}
    missing = [key for key in answer_by_key if key not in known]
    if missing:
        network = load_reference(ctx)
        values = _compute(ctx, network, [answer_by_key[key] for key in missing])
        if not np.isfinite(values).all():
            raise JobFailed(
                "The base's log-probabilities of some answers are not finite.",
                remedy="Choose another base.",
                field="base",
            )
        known |= dict(zip(missing, values.tolist(), strict=True))
        _write(file, known, writer=ctx.process_group.machine)
    return np.array([known[_key(answer)] for answer in answers], dtype=np.float32)


def _read(file: Path) -> dict[bytes, float]:
    if not file.is_file():
        return {}
    arrays = load_file(file)
    return dict(zip([key.tobytes() for key in arrays["keys"]], arrays["logprobs"].tolist(), strict=True))


def _write(file: Path, known: dict[bytes, float], *, writer: int) -> None:
    """Replace the file. Other machines of the run may do so at the same moment, where they share the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    keys = sorted(known)
    partial = file.with_name(f".{file.name}.{writer}.partial")
    packed = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), KEY_BYTES)
    save_file({"keys": packed.copy(), "logprobs": np.array([known[key] for key in keys], dtype=np.float32)}, partial)
    os.replace(partial, file)


@torch.inference_mode()
def _compute(ctx: TrainingContext, network: Any, answers: Sequence[Answered]) -> Floats:
    """Run all answers, longest first so that memory runs out at once, two rows for each pair of a micro-batch."""
    values = np.zeros(len(answers), dtype=np.float32)
    order = sorted(range(len(answers)), key=lambda index: -len(answers[index].ids))
    rows, pad_id, last_progress = 2 * ctx.config.micro_batch, padding_id(ctx.tokenizer), 0.0
    head = OutputHead(network)
    for at in range(0, len(order), rows):
        part = order[at : at + rows]
        batch = pad([answers[index] for index in part], pad_id=pad_id).to(ctx.device)
        with torch.autocast(ctx.device.type, dtype=ctx.autocast) if ctx.autocast else nullcontext():
            values[part] = head.answer_logprobs(network, batch).float().cpu().numpy()
        if ctx.reporter.should_stop():
            raise StopRequested
        if time.perf_counter() - last_progress > PROGRESS_EVERY_S:
            last_progress = time.perf_counter()
            ctx.reporter.progress(at, len(order), unit="answer", message="Computing the reference's log-probabilities")
    return values


def _key(answer: Answered) -> bytes:
    return hashlib.blake2b(
        np.asarray([answer.start, *answer.ids], dtype=np.int64).tobytes(), digest_size=KEY_BYTES
    ).digest()


def _base_hash(ctx: TrainingContext) -> str:
    """Hash the base's files, but neither device nor batch size: a run that moves keeps its numbers."""
    assert ctx.base is not None
    card = read_card(ctx.base)
    files = card.get("files") or {
        path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(ctx.base.iterdir())
    }
    return hashlib.sha256(json.dumps([files, card.get("base")], sort_keys=True, default=str).encode()).hexdigest()
