"""Entry of an inspection: what a checkpoint makes of a text, or what its weights look like. Its answer is called an
inspection.

Payload: `config` (a InspectionConfig), `checkpoint` and perhaps `other` (folders), `out` (a folder relative to the
artifacts). `out` then holds `numbers.npz` (plain arrays) and `words.json`; the result is what fits in a row.
"""

from __future__ import annotations

import json
import shutil

import numpy as np

from backend.domain.jobs.payloads import InspectPayload
from backend.domain.jobs.results import InspectResult
from jobs.evaluation.inspection.text import TextInspection
from jobs.evaluation.inspection.weights import inspect_weights
from jobs.modeling.devices import set_threads
from jobs.reporter import JobSpec, Reporter


def run(spec: JobSpec[InspectPayload], reporter: Reporter) -> InspectResult:
    """Make the inspection; see the module's first lines. Raises RoundhouseError subclasses for what can't be read."""
    payload = spec.payload
    set_threads(payload.threads)
    config = payload.config
    subject = spec.path(payload.checkpoint)
    other = spec.path(payload.other) if payload.other else None
    if config.of_text:
        summary, numbers, words = TextInspection(config, reporter).read(subject, other)
    else:
        summary, numbers, words = inspect_weights(subject, other, reporter)
    out = spec.path(payload.out)
    partial = out.with_name(f".{out.name}.{spec.attempt}.partial")
    for leftover in out.parent.glob(f".{out.name}.*.partial"):  # a killed attempt left it
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    np.savez_compressed(partial / "numbers.npz", **numbers)  # type: ignore[arg-type]
    (partial / "words.json").write_text(json.dumps(words, ensure_ascii=True), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return InspectResult(folder=payload.out, **summary)
