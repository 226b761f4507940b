"""Frozen boards: the hash covers everything, and the ratings follow from the votes."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from backend.domain.battles.frozen import document_digest, freeze_document, verify_document
from backend.domain.battles.rating_table import RatingOptions
from backend.domain.battles.votes import VoteRecord, measure_answer
from backend.errors import InvalidInput

AT = datetime(2026, 3, 1, tzinfo=UTC)
SHORT, LONG = measure_answer("Yes."), measure_answer("Yes, and here is a **long** reason.\n\n- one\n- two")


def votes() -> list[VoteRecord]:
    winners = "AABATBAABBATABAABAAB"
    return [
        VoteRecord(
            prompt=f"secret prompt {number % 7}",
            rater=f"jane{number % 3}",
            a="Oak",
            b="Elm",
            winner={"T": "TIE"}.get(winner, winner),
            probability=0.25,
            form_a=SHORT,
            form_b=LONG if number % 2 else SHORT,
        )
        for number, winner in enumerate(winners)
    ]


def document(**options: Any) -> dict[str, Any]:
    frozen, _ = freeze_document(
        votes(), RatingOptions(**options), campaign="Stories", name="first", at=AT, version="1.2.0"
    )
    return frozen


@pytest.mark.parametrize(
    "options", [{}, {"method": "davidson", "cluster_by": "prompt"}, {"control": ("length",), "reweight": True}]
)
def test_a_board_read_from_its_file_verifies(options: dict[str, Any]) -> None:
    frozen = document(**options)
    read = json.loads(json.dumps(frozen))
    result = verify_document(read, digest=document_digest(frozen), version="1.2.0")
    assert (result.passed, result.digest_matches, result.reproduced, result.same_version) == (True, True, True, True)
    assert result.num_votes == 20


def test_a_changed_vote_is_seen_in_hash_and_ratings() -> None:
    frozen = document()
    changed = copy.deepcopy(frozen)
    winner = changed["columns"].index("winner")
    changed["votes"][0][winner] = "B"
    result = verify_document(changed, digest=document_digest(frozen), version="1.2.0")
    assert (result.passed, result.digest_matches, result.reproduced) == (False, False, False)
    assert any("Oak" in difference for difference in result.differences)


def test_a_changed_rating_is_seen_although_its_hash_was_made_again() -> None:
    frozen = document()
    frozen["ratings"][0]["rating"] += 5
    result = verify_document(frozen, digest=document_digest(frozen), version="1.2.0")
    assert (result.passed, result.digest_matches) == (False, True)
    assert "rating is" in result.differences[0]


def test_no_prompt_and_no_rater_is_named() -> None:
    text = json.dumps(document())
    assert "secret" not in text
    assert "jane" not in text


def test_another_file_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not a frozen board"):
        verify_document({"votes": []}, digest=None, version="1.2.0")
