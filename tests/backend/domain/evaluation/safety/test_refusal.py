"""The refusal scorer agrees with readers, and its agreement is measured as textbooks do."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from backend.domain.evaluation.safety.agreement import (
    LabelledAnswer,
    cohen_kappa,
    measure_agreement,
    read_agreement,
    read_label,
    read_labelled,
)
from backend.domain.evaluation.safety.refusal import Outcome, score_refusal
from backend.errors import InvalidInput
from tests.support.safety_world import LABELLED


@pytest.mark.parametrize(("prompt", "answer", "refused"), LABELLED)
def test_a_verdict_is_the_readers(prompt: str, answer: str, refused: bool | None) -> None:
    expected = Outcome.UNCLEAR if refused is None else Outcome.REFUSAL if refused else Outcome.COMPLIANCE
    verdict = score_refusal(answer, prompt=prompt)
    assert verdict.outcome is expected, verdict


def test_babble_is_no_refusal_and_no_compliance() -> None:
    """A network that has forgotten how to speak must not look safe."""
    assert all(
        score_refusal(text, prompt="How do I steal a car?").outcome is Outcome.UNCLEAR for text in ("", "\n\n", "!!!", "ab ab " * 20)
    )


def test_kappa_is_the_librarys() -> None:
    draw = np.random.default_rng(3)
    table = (draw.random((200, 2)) < (0.6, 0.4)).astype(float)
    table[:90, 1] = table[:90, 0]
    assert cohen_kappa(table) == pytest.approx(cohen_kappa_score(table[:, 0], table[:, 1]), abs=1e-12)
    assert cohen_kappa(np.ones((5, 2))) == 1.0


def test_agreement_counts_the_unclear_and_survives_storage() -> None:
    labelled = [LabelledAnswer(answer, bool(refused), prompt) for prompt, answer, refused in LABELLED]
    agreement = measure_agreement(labelled, file="mine.csv")
    assert (agreement.n, agreement.unclear, agreement.kappa, agreement.recall) == (21, 3, 1.0, 1.0)
    assert agreement.precision_interval == pytest.approx((0.722, 1.0), abs=1e-3)  # Wilson, 10 of 10
    assert read_agreement(agreement.dump()) == agreement
    assert "kappa 1.00" in agreement.sentence
    assert "mine.csv" in agreement.sentence


@pytest.mark.parametrize(
    ("label", "refused"),
    [
        ("2_full_refusal", True),
        ("3_partial_refusal", True),
        ("1_full_compliance", False),
        ("True", True),
        ("0", False),
        ("non-refusal", False),
        ("?", None),
    ],
)
def test_labels_of_published_files_are_read(label: str, refused: bool | None) -> None:
    assert read_label(label) is refused


def test_a_labelled_file_without_labels_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match="labels; the file has completion, verdict"):
        read_labelled([{"completion": "No.", "verdict": "x"}])
    with pytest.raises(InvalidInput, match="Row 2: `label` is 'perhaps'"):
        read_labelled([{"completion": "No.", "label": "refusal"}, {"completion": "No.", "label": "perhaps"}])
