"""Names of contestants never reach a rater; words that only look like them do."""

from __future__ import annotations

import pytest

from backend.domain.battles.masking import Masker

NAMES = ("Oak", "PaLM", "story-12M step 500", "GPT", "Acme Writer")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("As Oak, I think so.", "As [name], I think so."),
        ("I am Oak. The oak tree stands.", "I am [name]. The oak tree stands."),
        ("Oak: hello", "[name]: hello"),
        ("My name is oak!", "My name is [name]!"),
        ("PaLM wrote this under a palm tree, by PaLM2.", "[name] wrote this under a palm tree, by PaLM2."),
        ("I'm STORY-12m  step 500.", "I'm [name]."),
        ("acme writer here", "[name] here"),
        ("as strong as oak wood", "as strong as oak wood"),
        ("an egpt, GPT", "an egpt, [name]"),
    ],
)
def test_self_identification_is_masked_and_running_text_is_not(text: str, masked: str) -> None:
    assert Masker(NAMES).mask(text) == masked


def test_without_names_a_text_stays_as_it_is() -> None:
    assert Masker(["", "ab"]).mask("As ab, I am I") == "As ab, I am I"
