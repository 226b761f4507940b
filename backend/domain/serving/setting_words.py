"""Words for the settings of an answer: the playground's chips, and the heads of answers side by side."""

from __future__ import annotations

from backend.domain.serving.chat_settings import AnswerSettings, SideSettings
from backend.domain.wording import plural, shorten

SHOWN_SYSTEM = 80
"""Characters of a system prompt that are shown beside other settings."""

FILTER_LABELS = {
    "top_k": "Top k",
    "min_p": "Min p",
    "frequency_penalty": "Frequency penalty",
    "presence_penalty": "Presence penalty",
    "repetition_penalty": "Repetition penalty",
}


def setting_words(settings: AnswerSettings) -> dict[str, str]:
    """Return what each setting says, by field, without the system prompt."""
    return {
        "temperature": f"Temperature {settings.temperature:g}" if settings.temperature else "Greedy",
        "top_p": f"Top p {settings.top_p:g}",
        "max_tokens": f"At most {plural(settings.max_tokens, 'token')}",
        **{name: f"{label} {getattr(settings, name):g}" for name, label in FILTER_LABELS.items()},
        "seed": "Random seed" if settings.seed is None else f"Seed {settings.seed}",
        "stop": "Stops at " + ", ".join(f"“{escaped(text)}”" for text in settings.stop)
        if settings.stop
        else "No stops",
        "token_view": "Token probabilities" if settings.token_view else "No token probabilities",
        "json_schema": "JSON schema" if settings.json_schema else "No JSON schema",
        "tools": "Tools" if settings.tools else "No tools",
    }


def system_words(settings: AnswerSettings) -> str:
    """Return the beginning of the system prompt."""
    line = " ".join(settings.system.split())
    return f"System prompt: {shorten(line, SHOWN_SYSTEM)}" if line else "No system prompt"


def own_words(own: SideSettings | None) -> list[str]:
    """Return what an answer beside others had of its own."""
    if own is None:
        return []
    words = setting_words(own) | {"system": system_words(own)}
    return [words[field] for field in own.changes]


def escaped(text: str) -> str:
    """Return a stop string on one line."""
    return text.replace("\n", "\\n")
