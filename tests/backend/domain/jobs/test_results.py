"""Results and failures: one class a kind of job, read as this version and the one before stored them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.results import RESULTS, ScoreRow
from backend.domain.jobs.states import JobKind
from backend.errors import InvalidInput

TIMES = {"cpu_s": 12.5, "reporter_cpu_s": 0.1}
MEASURED = {
    "measured_bytes": 52_000_000,
    "allocated_bytes": None,
    "tokens_per_s": 900.0,
    "device": "A chip",
    "device_kind": "cpu",
    "step_s": 0.5,
    "step_s_low": 0.4,
    "step_s_high": 0.7,
    "steps_timed": 12.0,
}
CHECKPOINT = {
    "family": "llama",
    "architecture": "LlamaForCausalLM",
    "parameters": 100,
    "context": 64,
    "vocab_size": 320,
    "dtype": "F32",
    "licence": "not stated",
    "has_chat_template": False,
    "adapter": False,
    "bytes": 900,
    "files": ["config.json", "model.safetensors"],
}
IMPORTED = {
    "kind": "text",
    "mapping": {"text": "text"},
    "rows": 30,
    "train_rows": 27,
    "val_rows": 3,
    "rejected_count": 1,
    "rejected": [{"row": 4, "reason": "is empty", "raw": "{}"}],
    "content_hash": "0" * 64,
    "folder": "datasets/0",
    "bytes": 10,
    "text_bytes": 9,
    "columns": ["text"],
    "unigram_byte_entropy_bits": 3.5,
    "reason": "`text` is text",
    "version_id": "v",
    "version": 2,
    "reused": False,
}
BEFORE: dict[JobKind, list[dict[str, Any]]] = {
    JobKind.TRAIN: [
        {
            "final_step": 6,
            "stopped": None,
            "metrics": {"val_loss": 2.5, "train_loss": None},
            "checkpoint": "runs/r/s",
            "measurement": MEASURED,
        },
        {"final_step": 0, "stopped": "cancel", "metrics": {}, "checkpoint": None, "measurement": None},
    ],
    JobKind.PROBE: [{**MEASURED, "longest": 64, "trained": 60, "accumulated": 2, "stopped": None}],
    JobKind.EVALUATE: [
        {
            "scores": [
                {"metric": "acc", "value": 0.6, "stderr": 0.2, "low": 0.2, "high": 0.9, "n": 5, "method": "Wilson 95 %"}
            ],
            "facts": {
                "used_chat_template": True,
                "unit": "items",
                "items": 5,
                "context": 64,
                "number_format": "float32",
                "chance": 0.25,
            },
        },
        {
            "scores": [
                {"metric": "perplexity", "value": None, "stderr": None, "low": None, "high": None, "n": 1, "method": ""}
            ],
            "facts": {},
        },
    ],
    JobKind.GENERATE: [
        {"count": 3, "tokens": 40, "used_chat_template": False, "file": "jobs/j/completions.jsonl", "owed": 0},
        {},
    ],
    JobKind.CLASSIFY: [
        {"count": 3, "failed": 1, "label": "toxic", "items_file": "jobs/j/classified.jsonl", "problem": ""}
    ],
    JobKind.LOGLIKELIHOOD: [{"count": 3, "tokens": 40, "items_file": "jobs/j/loglikelihoods.jsonl"}],
    JobKind.REPLICA: [{"stopped": "cancel", "requests": 3, "generated_tokens": 90}],
    JobKind.IMPORT_DATASET: [
        {**IMPORTED, "files": 1, "ignored": [], "resumed": False, "commit": "c", "revision": "main"},
        {**IMPORTED, "dropped_rows": 5, "is_cut": False, "change": {"change": "sample", "num_rows": 30, "seed": 1}},
    ],
    JobKind.TRAIN_TOKENIZER: [
        {
            "folder": "tokenizers/t",
            "kind": "bpe",
            "vocab_size": 300,
            "asked_vocab_size": 320,
            "bytes_per_token": 2.5,
            "measured_on": "val",
            "sample_rows": 9,
            "sample_bytes": 90,
            "total_rows": 9,
        }
    ],
    JobKind.ADD_BASE: [
        {**CHECKPOINT, "folder": "bases/b"},
        {**CHECKPOINT, "folder": "bases/b", "revision": "0" * 40, "requested_revision": "main"},
    ],
    JobKind.EXPORT: [
        {**CHECKPOINT, "folder": "exports/e", "pushed": None},
        {**CHECKPOINT, "folder": "exports/e", "pushed": {"repo": "o/n", "url": "https://hub/o/n", "commit": "c"}},
    ],
    JobKind.EXPORT_DATASET: [
        {"folder": "exports/e", "rows": {"train": 3, "validation": 1}, "bytes": 9, "pushed": None}
    ],
    JobKind.INSPECT: [
        {"folder": "readings/r", "facts": {"what": "weights"}, "outliers": 3, "changes": {"compared": 9}},
        {
            "folder": "inspections/i",
            "facts": {"what": "text"},
            "loss": {"mean_nats": 1.0},
            "attention": {},
            "lens": {},
            "pair": {},
        },
    ],
    JobKind.DATA_REPORT: [{"folder": "reports/r"}],
    JobKind.TOKENIZER_REPORT: [
        {
            "tokenizers": [{"name": "bpe", "vocab_size": 300, "model": "BPE", "unknown_token": None}],
            "datasets": [
                {
                    "name": "d@1",
                    "rows": 3,
                    "bytes": 9,
                    "total_rows": 3,
                    "languages": [{"code": "en", "bytes": 9, "share": 1.0}],
                }
            ],
            "measures": [{"tokenizer": 0, "dataset": 0, "language": None, "tokens": 4, "used_entries": 4}],
        }
    ],
    JobKind.JUDGE: [
        {
            "judge": "referee",
            "mode": "pairwise",
            "summary": {
                "items": 3,
                "missing": 1,
                "failed": 0,
                "scores": {},
                "label_shares": {},
                "tie_rate": {"value": 0.5, "stderr": None, "interval": [0.1, 0.9], "n": 2, "method": "Wilson"},
                **dict.fromkeys(("inconsistent", "position_bias", "length_bias", "canary", "trusted", "kappa")),
                "human_votes": 0,
                "prompt_tokens": 9,
                "completion_tokens": 4,
                "price": None,
            },
            "verdicts_file": "jobs/j/verdicts.jsonl",
        }
    ],
    JobKind.SERVING_PROBE: [
        {
            "device": "A chip",
            "device_kind": "cpu",
            "engine": "batching",
            "dtype": "float32",
            "threads": 1,
            "load_s": 1.2,
            "memory_bytes": 900_000_000,
            "prompt_tokens": 64,
            "new_tokens": 32,
            "loads": [{"users": 1, "tokens_per_s": 20.5, "ttft_ms": 90.1, "answers": 3}],
        }
    ],
    JobKind.LOAD_TEST: [{"replicas": 2, "load_test_id": "l"}],
}
"""What the rooms of the version before these classes returned, for each kind."""


def test_every_kind_of_job_has_a_result() -> None:
    assert set(RESULTS) == set(JobKind) == set(BEFORE)
    assert all(result.job_kind is kind for kind, result in RESULTS.items())


@pytest.mark.parametrize(
    ("kind", "stored"), [(kind, {**stored, **TIMES}) for kind, rows in BEFORE.items() for stored in rows]
)
def test_a_result_of_the_previous_version_is_read_and_stored_unchanged(kind: JobKind, stored: dict[str, Any]) -> None:
    result = RESULTS[kind].model_validate(stored)
    assert json.loads(json.dumps(result.dump())) == stored
    assert RESULTS[kind].model_validate(result.dump()) == result


def test_a_field_of_another_version_is_left_out() -> None:
    assert RESULTS[JobKind.DATA_REPORT].model_validate({"folder": "reports/r", "of_tomorrow": 1}).dump() == {
        "folder": "reports/r"
    }


@pytest.mark.parametrize(
    "stored",
    [
        {"cause": "Row 3 is broken.", "remedy": "Import it again.", "field": "mapping"},
        {"cause": "The process was killed.", "remedy": "Free memory.", "exit": -9, "tail": "..."},
        {"cause": "Stopped on request."},
    ],
)
def test_a_failure_of_the_previous_version_is_read_and_stored_unchanged(stored: dict[str, Any]) -> None:
    failure = JobFailure.model_validate(stored)
    assert failure
    assert failure.dump() == stored


def test_a_job_without_a_failure_has_an_empty_one() -> None:
    failure = JobFailure.model_validate({})
    assert not failure
    assert (failure.cause, failure.remedy, failure.field) == ("", "", None)


def test_a_failure_is_what_an_error_says() -> None:
    error = InvalidInput("The vocabulary is too small.", remedy="Choose more.", field="vocab_size")
    assert JobFailure.of(error) == JobFailure(
        cause="The vocabulary is too small.", remedy="Choose more.", field="vocab_size"
    )


def test_bounds_of_a_score_beyond_every_float_are_left_out() -> None:
    row = ScoreRow(metric="perplexity", value=1e7, stderr=float("inf"), low=1.0, high=float("inf"), n=2)
    assert (row.value, row.stderr, row.low, row.high) == (1e7, None, 1.0, None)
