"""Settings of a chat's next turn as the body of a request."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from backend.domain.serving.chat_settings import ChatSettings
from backend.domain.serving.protocol import ChatMessage
from backend.gateway.dialects.completions import ChatBody
from pages.components.serving.chat_form import active_settings, usual_sampling

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


def test_settings_that_are_not_as_usual_are_chips() -> None:
    def chips(**values: object) -> dict[str, str]:
        settings = ChatSettings.model_validate({"endpoints": ("tales",), "temperature": 0.7, **values})
        return active_settings(settings, temperature=0.7)

    assert chips() == {}
    assert chips(temperature=0.0, max_tokens=1, top_k=40, stop=("\n",)) == {
        "temperature": "Greedy",
        "max_tokens": "At most 1 token",
        "top_k": "Top k 40",
        "stop": "Stops at “\\n”",
    }


def test_usual_sampling_is_said_in_words_without_what_is_a_chip() -> None:
    settings = ChatSettings(endpoints=("tales",), temperature=0.7)
    assert usual_sampling(settings, {}) == "Temperature 0.7 · top p 0.95 · at most 160 tokens"
    assert usual_sampling(settings, {"temperature": "Greedy", "max_tokens": "At most 1 token"}) == "Top p 0.95"
