"""The interface of the engines that compute an evaluation's numbers, and what they take and return.

An engine scores continuations, generates answers and scores whole texts. Results come in batches of (index, result), in
any order, each request exactly once: the ledger records a batch before the next is computed, so a lost worker costs one
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

from jobs.modeling.scores import ContinuationScore, Pair, TextNll

R = TypeVar("R")
Batch = list[tuple[int, R]]
"""Results with the indices of their requests."""

Messages = tuple[dict[str, str], ...]
"""A conversation, each message {role, content}: the prompt of an engine that renders chats itself."""
WindowPolicy = Literal["each_window", "first_window"]
CheckStop = Callable[[], None]
"""Raises to end the work; engines call it between forward passes."""


@dataclass(frozen=True)
class ScoreRequest:
    """Continuations to score, each after its own context: as texts, or as token ids of both."""

    pairs: tuple[Pair, ...]


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters. `temperature` 0 is greedy."""

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True)
class PromptRequest:
    """A prompt to answer, as text, as token ids or as messages; `samples` answers are drawn, with seeds derived from
    the sampling's.

    An answer ends before the first stop string, at an end token, or at `sampling.max_tokens`. Messages are for
    endpoints alone.
    """

    prompt: str | list[int] | Messages
    stop: tuple[str, ...] = ()
    sampling: Sampling = Sampling()
    samples: int = 1


@dataclass(frozen=True)
class Answer:
    """A completion: text without special tokens, its token count (an end token counts), and its finish reason.

    `cut` counts prompt tokens dropped from the beginning to leave room for the answer. `failed` says why there is none;
    such an answer is missing, not wrong.
    """

    text: str
    tokens: int
    prompt_tokens: int
    finish_reason: Literal["stop", "length", "failed"]
    cut: int = 0
    failed: str = ""


Scores = tuple[ContinuationScore, ...]
Answers = tuple[Answer, ...]


def renumbered(batches: Iterable[Batch[R]], indices: Sequence[int]) -> Iterator[Batch[R]]:
    """Yield batches of some of the requests, numbered as these are among all."""
    for batch in batches:
        yield [(indices[place], result) for place, result in batch]


@dataclass(frozen=True)
class EngineFacts:
    """Facts about an engine's computation, which affect a score.

    `name` may differ from the requested engine, with the reason in `fallback`. `bos` says whether a text begins with
    the begin token.
    """

    name: str
    dtype: str | None = None
    device: str | None = None
    devices: int = 1
    batch_tokens: int | None = None
    context: int | None = None
    bos: bool | None = None
    weights_hash: str | None = None
    fallback: str = ""


class EvaluationEngine(Protocol):
    """Computes what an evaluation needs of a network."""

    name: str

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[Batch[Scores]]:
        """Yield the log-likelihood of every continuation, in nats, in the order of a request's pairs.

        Contexts too long for the network lose their beginning. Raises InvalidInput for an empty continuation.
        """

    def generate(self, requests: Sequence[PromptRequest]) -> Iterator[Batch[Answers]]:
        """Yield the answers to every prompt. The same prompt and seed give the same text, regardless of the other
        requests.

        Raises InvalidInput for an empty prompt, or if `max_tokens` alone fills the context.
        """

    def roll(self, texts: Sequence[str], *, policy: WindowPolicy = "each_window") -> Iterator[Batch[TextNll]]:
        """Yield the negative log-likelihood of every text, each token scored once; for `policy` see `rolling_nll`."""

    def facts(self) -> EngineFacts:
        """Return what the engine computes with."""


def never_stop() -> None:
    """Do nothing: a stop check that never stops."""
