"""Progress as lists and pages show it."""

from __future__ import annotations

import pytest

from backend.domain.jobs.artifact_folders import folder_noun
from backend.domain.jobs.events import ProgressEvent
from backend.domain.jobs.progress import format_progress, read_progress


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (
            ProgressEvent(done=0, total=0, unit="", message="Fetching a dataset from the store"),
            "Fetching a dataset from the store",
        ),
        (ProgressEvent(done=0, total=0, unit=""), ""),
        (ProgressEvent(done=0, total=300, unit="step"), "step 0 of 300"),
        (ProgressEvent(done=120, total=300, unit="steps", rate=4.0), "step 120 of 300 · 4.0 steps/s · 45 s left"),
        (ProgressEvent(done=2e6, total=8e6, unit="byte", rate=1e6), "2.0 MB of 8.0 MB · 1.0 MB/s · 6 s left"),
    ],
)
def test_progress_is_one_line_and_a_job_that_counts_nothing_yet_has_words_alone(
    event: ProgressEvent, text: str
) -> None:
    assert format_progress(read_progress(event)) == text


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("datasets/0a1b", "a dataset"),
        ("tokenizers/ndcepxjc5zna", "a tokenizer"),
        ("runs/a/checkpoints/step-000100", "a checkpoint"),
        ("runs/a", "what an earlier attempt left"),
    ],
)
def test_folders_of_the_store_have_words_and_no_id(folder: str, words: str) -> None:
    assert folder_noun(folder) == words
