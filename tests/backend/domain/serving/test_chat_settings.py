"""Settings of a chat's next turn as the body of a request."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from backend.domain.serving.chat_settings import ChatSettings
from backend.domain.serving.protocol import ChatMessage
from backend.gateway.bodies.completions import ChatBody
from pages.components.serving.chat_form import describe_settings

FILTERS = {
    "top_k": 40,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.5,
    "presence_penalty": -0.5,
}


def body(**values: object) -> dict[str, object]:
    """The body that settings make of one message."""
    settings = ChatSettings.model_validate({"endpoints": ("tales",), **values})
    return settings.body("tales", (ChatMessage(role="user", content="Hello"),))


def test_filters_and_penalties_are_sent_only_if_they_are_not_off() -> None:
    assert set(body()) == {"model", "messages", "temperature", "top_p", "max_tokens"}
    sent = body(**FILTERS, stop=("\n", "###"))
    assert {name: sent[name] for name in FILTERS} == FILTERS
    assert sent["stop"] == ["\n", "###"]


def test_the_gateway_takes_every_setting() -> None:
    taken = ChatBody.model_validate(body(**FILTERS, stop=("###",), seed=3, system="Be brief."))
    assert {name: getattr(taken, name) for name in FILTERS} == FILTERS


@pytest.mark.parametrize("values", [{"top_k": -1}, {"min_p": 1.5}, {"repetition_penalty": 0}, {"stop": ("",)}])
def test_settings_out_of_bounds_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        body(**values)


def test_the_line_of_settings_names_what_is_not_off() -> None:
    def line(**values: object) -> str:
        return describe_settings(ChatSettings.model_validate({"endpoints": ("tales",), **values}))

    assert line() == "Temperature 0.8, top p 0.95 · at most 160 tokens"
    assert line(temperature=0.0, max_tokens=1, top_k=40, stop=("\n",), system="Be\n brief. " * 20) == (
        "Greedy · at most 1 token · top k 40 · stops at “\\n” · system prompt: " + ("Be brief. " * 20)[:80] + "…"
    )
