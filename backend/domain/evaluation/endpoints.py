"""Endpoints as the subject of an evaluation: their config, what their API offers, and what they can't score. Pure
rules.

A key is never part of any of these: `key_env` and `key_file` name the place where the process that calls the endpoint
reads it.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, field_validator

from backend.domain.evaluation.config import EvaluationConfig, EvaluationKind
from backend.domain.evaluation.tasks.definition import RequestForm
from backend.domain.fields import setting
from backend.domain.openai_servers import Capabilities, check_url
from backend.errors import InvalidInput

ENGINE = "openai_http"
"""The engine that asks endpoints."""
READING_VERSION = 2
"""Bumped whenever an endpoint's scores change and a checkpoint's do not, so that no old one is returned for a new."""


class EndpointConfig(BaseModel):
    """An OpenAI-compatible API and the model asked of it. An empty `url` is this installation's gateway."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = setting(
        "", "Address", "OpenAI-compatible API, such as https://host/v1.", max_length=300, empty="https://host/v1"
    )
    model: str = Field(min_length=1, max_length=200, title="Model", description="Model that is asked for.")
    key_env: str | None = setting(
        None,
        "Key variable",
        "Environment variable of pages and workers that holds the key. The key itself is not stored.",
        empty="OPENAI_API_KEY",
    )
    key_file: str | None = setting(
        None,
        "Key file",
        "File on the workers that holds the key, instead of a variable.",
        max_length=500,
        empty="/path/to/key",
    )
    concurrency: int = setting(8, "Requests at once", "Requests at once.", ge=1, le=64)
    input_price: float | None = setting(
        None, "Price of prompt tokens", "US dollars for a million prompt tokens.", ge=0, empty="Not set"
    )
    output_price: float | None = setting(
        None, "Price of answer tokens", "US dollars for a million answer tokens.", ge=0, empty="Not set"
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        return check_url(url) if url else ""

    @property
    def is_own(self) -> bool:
        """Return whether this installation's gateway serves it."""
        return not self.url


class EndpointTarget(BaseModel):
    """An endpoint as a job calls it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    url: str
    model: str
    key_env: str | None = None
    key_file: str | None = None
    concurrency: int = Field(default=8, ge=1, le=64)
    capabilities: Capabilities = Capabilities()
    input_price: float | None = None
    output_price: float | None = None
    is_own: bool = False
    """Whether it is served by this installation, whose gateway adds the cost of its requests to the job."""


class JudgeTarget(BaseModel):
    """The judge of a task as a job asks it: a checkpoint's folder, or an endpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    checkpoint: str | None = None
    endpoint: EndpointTarget | None = None


def request_form(config: EvaluationConfig, kind: EvaluationKind) -> RequestForm:
    """Return the request that one item of an evaluation makes."""
    if config.task is not None:
        return config.task.form
    by_kind = {EvaluationKind.GENERATION: RequestForm.GENERATE, EvaluationKind.MULTIPLE_CHOICE: RequestForm.CHOICES}
    return by_kind.get(kind, RequestForm.ROLLING)


def uses_chat_api(config: EvaluationConfig, form: RequestForm, capabilities: Capabilities) -> bool:
    """Return whether an endpoint is asked by messages: as its config says, else where the API has chats."""
    setting = config.task.chat if config.task is not None and config.chat == "auto" else config.chat
    if form is not RequestForm.GENERATE:
        return setting == "on"
    return capabilities.chat if setting == "auto" else setting == "on"


def check_request(name: str, config: EvaluationConfig, kind: EvaluationKind, capabilities: Capabilities) -> None:
    """Raise InvalidInput, naming the cure, where an endpoint's API can't give what an evaluation needs."""
    if config.engine != "fast" or config.dtype != "auto":
        field = "engine" if config.engine != "fast" else "dtype"
        raise InvalidInput(
            f"{field} is {getattr(config, field)}, and an endpoint computes by its own engine in its own number"
            " format.",
            remedy=f"Leave {field} at its default.",
            field=field,
        )
    form = request_form(config, kind)
    if form is RequestForm.ROLLING:
        raise InvalidInput(
            f"“{name}” is an endpoint, and the loss on whole texts needs the tokenizer and the context of its model.",
            remedy="Evaluate the checkpoint itself, or choose a benchmark of questions.",
            field="kind",
        )
    chat = uses_chat_api(config, form, capabilities)
    if form is not RequestForm.GENERATE:
        _check_likelihoods(name, capabilities, chat=chat)
    elif chat and not capabilities.chat:
        raise InvalidInput(f"The API of “{name}” has no chat completions.", remedy="Set chat to off.", field="chat")
    elif not chat and not capabilities.completions:
        raise InvalidInput(f"The API of “{name}” has no completions of a text.", remedy="Set chat to on.", field="chat")


def _check_likelihoods(name: str, capabilities: Capabilities, *, chat: bool) -> None:
    if not capabilities.echo:
        raise InvalidInput(
            f"This task needs log-likelihoods, and the API of “{name}” does not echo a prompt with its"
            " log-probabilities.",
            remedy=(
                "Score generated answers, evaluate the checkpoint itself, or serve the model by a server whose"
                " /completions takes echo and logprobs, such as vLLM."
            ),
            field="kind",
        )
    if chat:
        raise InvalidInput(
            "An endpoint scores texts, not a chat template's tokens.", remedy="Set chat to off.", field="chat"
        )
