"""Payloads: one class a kind of job, read as this version writes them and as the one before wrote them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.domain.jobs.payloads import PAYLOADS, EvaluatePayload, ImportPayload, TrainPayload, read_payload
from backend.domain.jobs.states import JobKind
from backend.errors import InvalidInput, NotFound

RUN = {
    "dataset": "tales",
    "architecture": "small",
    "tokenizer": "pieces",
    "max_steps": 10,
    "warmup_steps": 2,
    "trackers": ["tensorboard"],
}
SHAPE = {
    "num_layers": 2,
    "width": 32,
    "num_heads": 2,
    "num_kv_heads": 2,
    "context": 64,
    "vocab_size": 300,
    "feed_forward": 64,
}
TRAINING = {
    "config": RUN,
    "architecture": SHAPE,
    "tokenizer": None,
    "tokenizer_id": "t",
    "dataset": None,
    "dataset_version_id": "v",
    "dataset_kind": "text",
    "base": None,
    "base_id": None,
    "run_folder": "runs/r",
    "threads": 0,
}
BEFORE: dict[JobKind, list[dict[str, Any]]] = {
    JobKind.TRAIN: [{"run_id": "r", **TRAINING}],
    JobKind.PROBE: [
        {**TRAINING, "fingerprint": "f" * 64, "shape": SHAPE},
        {**TRAINING, "fingerprint": "f" * 64, "shape": None},
    ],
    JobKind.EVALUATE: [
        {
            "evaluation_id": "e",
            "checkpoint": "bases/b",
            "dataset": "datasets/d",
            "kind": "multiple_choice",
            "split": "all",
            "config": {"kind": "auto", "shots": 2},
            "fingerprint": "f",
        }
    ],
    JobKind.GENERATE: [
        {
            "checkpoint": "bases/b",
            "prompts": [{"id": "p", "messages": [{"role": "user", "content": "Hello"}]}],
            "max_tokens": 64,
            "temperature": 0.7,
            "top_p": 0.95,
            "seed": 3,
        },
        {
            "checkpoint": "/srv/base",
            "prompts": [],
            "max_tokens": 1,
            "temperature": 0.0,
            "top_p": 1.0,
            "seed": 0,
            "chat": "off",
        },
    ],
    JobKind.CLASSIFY: [{"classifier": "/models/c", "texts_file": "uploads/u/texts.jsonl", "evaluation_id": "e"}],
    JobKind.LOGLIKELIHOOD: [{"checkpoint": "bases/b", "rows_file": "uploads/u/pairs.jsonl"}],
    JobKind.REPLICA: [{"checkpoint": "bases/b", "name": "tales", "internal_token": "secret", "threads": 1}],
    JobKind.IMPORT_DATASET: [
        {
            "source": "uploads/u/rows.jsonl",
            "hub": None,
            "url": None,
            "kind": "text",
            "mapping": {},
            "val_fraction": 0.05,
            "seed": 1,
            "keep_good": True,
            "encoding": None,
            "keep_free_bytes": 10,
            "out_root": "datasets",
        },
        {
            "source": None,
            "hub": {"id": "owner/name", "config": None, "split": "train", "revision": None},
            "url": None,
            "kind": "chat",
            "mapping": {"a": "messages"},
            "val_fraction": 0.1,
            "seed": 7,
            "keep_good": False,
            "encoding": "cp1252",
            "keep_free_bytes": 0,
            "out_root": "datasets",
        },
        {
            "derive": {"folder": "datasets/d", "other": None, "change": {"change": "drop_duplicates", "loose": True}},
            "kind": "chat",
            "out_root": "datasets",
        },
    ],
    JobKind.TRAIN_TOKENIZER: [
        {"dataset": None, "kind": "bpe", "vocab_size": 2048, "out": "tokenizers/t"},
        {"dataset": "datasets/d", "kind": "byte", "vocab_size": 0, "out": "tokenizers/t"},
    ],
    JobKind.ADD_BASE: [
        {"source": "/srv/base", "hub": None, "revision": None, "out": "bases/b", "keep_free_bytes": 5},
        {"source": None, "hub": "owner/name", "revision": "main", "out": "bases/b", "keep_free_bytes": 0},
    ],
    JobKind.EXPORT: [
        {
            "checkpoint": "bases/b",
            "checkpoint_id": "c",
            "format": "gguf",
            "numbers": "q8_0",
            "name": "tales",
            "card": "# Tales",
            "out": "exports/e",
            "push": {"repo": "owner/name", "private": True},
        },
        {
            "checkpoint": "bases/b",
            "checkpoint_id": "c",
            "format": "hf",
            "numbers": "f16",
            "name": "tales",
            "card": "",
            "out": "exports/e",
            "push": None,
        },
    ],
    JobKind.EXPORT_DATASET: [
        {
            "dataset": "datasets/d",
            "version_id": "v",
            "format": "jsonl",
            "name": "tales@1",
            "card": "# Tales",
            "out": "exports/e",
            "push": {"repo": "owner/name", "private": True},
        }
    ],
    JobKind.INSPECT: [
        {"checkpoint": "bases/b", "other": None, "config": {"text": "Hello", "messages": []}, "out": "readings/i"}
    ],
    JobKind.DATA_REPORT: [
        {
            "dataset": "datasets/d",
            "dataset_kind": "chat",
            "tokenizer": None,
            "tokenizer_name": "bytes",
            "question": {"context": 128, "micro_batch": 16, "grad_accum_steps": 1},
            "out": "reports/r",
            "benchmarks": [{"name": "facts", "folder": "datasets/f"}],
        }
    ],
    JobKind.TOKENIZER_REPORT: [
        {
            "tokenizers": [{"name": "bpe", "folder": "tokenizers/t"}],
            "datasets": [{"name": "tales@1", "folder": "datasets/d"}],
        }
    ],
    JobKind.JUDGE: [
        {
            "judge": "referee",
            "checkpoint": "bases/b",
            "items_file": "uploads/u/judged.jsonl",
            "config": {"mode": "rubric"},
        },
        {
            "judge": "m",
            "url": "https://host/v1",
            "model": "m",
            "uses_key": True,
            "items_file": "u",
            "config": {"labels": ["good", "bad"]},
        },
    ],
    JobKind.SERVING_PROBE: [
        {
            "checkpoint": "checkpoints/c",
            "checkpoint_id": "c",
            "users": [1, 8, 32],
            "prompt_tokens": 64,
            "new_tokens": 32,
        }
    ],
    JobKind.LOAD_TEST: [
        {"endpoint": "tales", "endpoint_id": "e", "deployment_id": "d", "config": {"users": [1, 8], "requests": 32}}
    ],
}
"""What the services of the version before these classes stored, for each kind."""


def test_every_kind_of_job_has_a_payload() -> None:
    assert set(PAYLOADS) == set(JobKind) == set(BEFORE)
    assert all(payload.job_kind is kind for kind, payload in PAYLOADS.items())


@pytest.mark.parametrize(("kind", "stored"), [(kind, stored) for kind, rows in BEFORE.items() for stored in rows])
def test_a_job_queued_by_the_previous_version_is_read_completely(kind: JobKind, stored: dict[str, Any]) -> None:
    payload = read_payload(kind, json.loads(json.dumps(stored)))
    again = json.loads(json.dumps(payload.dump()))
    assert read_payload(kind, again) == payload
    assert _lost(stored, again) == []


def _lost(before: Any, after: Any, at: str = "") -> list[str]:
    """Return the paths of values that are not as they were."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [path for name, value in before.items() for path in _lost(value, after.get(name), f"{at}.{name}")]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            path
            for index, (old, new) in enumerate(zip(before, after, strict=True))
            for path in _lost(old, new, f"{at}[{index}]")
        ]
    return [] if before == after else [at]


@pytest.mark.parametrize(
    ("kind", "change", "message", "field"),
    [
        (JobKind.EVALUATE, {"kind": "guess"}, r"payload of this evaluate job can't be read: kind: .*'guess'", "kind"),
        (JobKind.EVALUATE, {"checkpoint": None}, "scores either a checkpoint or an endpoint", None),
        (JobKind.EVALUATE, {"tempo": 3}, "tempo is not a field", "tempo"),
        (JobKind.TRAIN, {"config": {**RUN, "max_steps": 0}}, r"config\.max_steps: .*\(got 0\)", "config.max_steps"),
        (JobKind.IMPORT_DATASET, {"url": "s3://b/p"}, "an import needs one source", None),
    ],
    ids=["unknown value", "missing", "unknown field", "a config out of bounds", "two sources"],
)
def test_a_payload_that_can_not_be_read_names_field_value_and_cure(
    kind: JobKind, change: dict[str, Any], message: str, field: str | None
) -> None:
    with pytest.raises(InvalidInput, match=message) as refusal:
        read_payload(kind, {**BEFORE[kind][0], **change})
    assert refusal.value.field == field
    assert "start the work again" in refusal.value.remedy


def test_an_empty_payload_names_what_is_missing() -> None:
    with pytest.raises(InvalidInput, match="evaluation_id: is missing"):
        EvaluatePayload.read({})


def test_a_folder_that_was_never_made_is_an_error() -> None:
    payload = TrainPayload.read(BEFORE[JobKind.TRAIN][0])
    with pytest.raises(NotFound, match="The dataset of this job was not made"):
        _ = payload.dataset_folder
    with pytest.raises(NotFound, match="The tokenizer of this job was not made"):
        _ = payload.tokenizer_folder


def test_an_import_has_one_default_for_its_split() -> None:
    payload = ImportPayload(source="uploads/a.txt")
    assert (payload.val_fraction, payload.seed) == (0.05, 1)


def test_a_replicas_token_is_not_printed() -> None:
    assert "secret" not in repr(read_payload(JobKind.REPLICA, BEFORE[JobKind.REPLICA][0]))
