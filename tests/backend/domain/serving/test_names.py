"""Names of endpoints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.serving.names import check_endpoint_name, suggest_endpoint_name


@pytest.mark.parametrize(
    ("checkpoint", "taken", "name"),
    [
        ("smol-village-chat · step 1,200", [], "smol-village-chat"),
        ("Village chat · step 1,200", ["village-chat"], "village-chat-2"),
        ("Village chat", ["village-chat", "village-chat-2"], "village-chat-3"),
        ("meta-llama/Llama-3.2-1B", [], "meta-llama-llama-3.2-1b"),
        ("Größe!", [], "groesse"),
        ("Märchen für Zoë", [], "maerchen-fuer-zoe"),
        ("Mu\u0308ller", [], "mueller"),
        ("数", [], "endpoint"),
    ],
    ids=str,
)
def test_a_free_name_is_made_of_the_checkpoints(checkpoint: str, taken: list[str], name: str) -> None:
    assert suggest_endpoint_name(checkpoint, taken) == name


@given(st.text(max_size=150), st.lists(st.text(max_size=10), max_size=3))
def test_every_suggestion_is_a_name_that_can_be_deployed(checkpoint: str, taken: list[str]) -> None:
    name = suggest_endpoint_name(checkpoint, taken)
    check_endpoint_name(name)
    assert name not in taken
