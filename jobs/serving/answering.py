"""Answer one request of a replica: its prompts, repetitions, echoes and embeddings, as one stream of events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.domain.serving.protocol import (
    INVALID,
    NOT_RESUMED,
    REQUEST_FAILED,
    Accepted,
    Begun,
    ChoiceEvent,
    EmbeddingEvent,
    FinishEvent,
    FinishReason,
    GenerateRequest,
    GenerationErrorEvent,
    GenerationEvent,
    PromptEvent,
    ScoreEvent,
    Task,
    TokenEvent,
    TokenUsage,
)
from backend.domain.wording import plural
from backend.errors import InvalidInput, RoundhouseError
from jobs.serving.adapters.weights import LoadedAdapter
from jobs.serving.detokenize import TokenTexts
from jobs.serving.engine import Choice, Engine, Handle, OnEvent, PromptTooLong, QueueFull
from jobs.serving.forming import AnswerPlan, SplitEvents, form_of, leaves_out_tools
from jobs.serving.grammar import Grammars
from jobs.serving.prompts import encode_prompts, tokens_within_budget
from jobs.serving.reading import PromptReader
from jobs.serving.scoring import ScoringEngine, scores_none, writes_no_text

MAX_AT_ONCE = 4  # choices of one request that an engine works on together, so that others keep their share
ECHO_TOKENS = 128  # tokens of a prompt in one event
RETRY_S = 0.05


@dataclass(frozen=True)
class ServedNetwork:
    """Parts that answer requests: an engine, its tokenizer, and the network itself for prompts that are only read."""

    engine: Engine
    tokenizer: Any
    texts: TokenTexts
    grammars: Grammars
    reader: PromptReader | None = None
    load_adapter: Callable[[str], LoadedAdapter] | None = None  # by its folder among the artifacts


@dataclass(frozen=True)
class Prepared:
    """A request that can be started, with the size of its prompts."""

    accepted: Accepted
    start: Callable[[], Handle]


def prepare_answer(
    served: ServedNetwork, request: GenerateRequest, on_event: OnEvent, *, has_room: Callable[[], bool] = lambda: True
) -> Prepared:
    """Check and encode a request; `has_room` says whether events are read as fast as they are made.

    Raises InvalidInput, PromptTooLong and QueueFull.
    """
    if request.begun is not None:
        on_event = Continuation(request.begun, on_event)
    is_scorer = served.engine.name == ScoringEngine.name
    if is_scorer and request.task not in (Task.SCORE, Task.TOKENIZE):
        raise writes_no_text()
    if request.task is Task.SCORE and not is_scorer:
        raise scores_none()
    if served.reader is None and (request.task is Task.EMBED or (request.echo and request.params.logprobs is not None)):
        what = "embeddings" if request.task is Task.EMBED else "log-probabilities of a prompt (echo with logprobs)"
        raise InvalidInput(
            f"engine {served.engine.name} gives no {what}.",
            remedy="Ask an endpoint with engine roundhouse.",
            field="model" if request.task is Task.EMBED else "echo",
        )
    adapter = None
    if request.adapter is not None:
        if served.load_adapter is None:
            raise InvalidInput("This replica serves no adapters.", field="model")
        adapter = served.load_adapter(request.adapter)
        if adapter.tokenizer is not None:
            served = replace(served, tokenizer=adapter.tokenizer)
    form = form_of(served.tokenizer, request)
    prompts = encode_prompts(served.tokenizer, request, opening=form.opening)
    prompt_tokens = sum(len(ids) for ids in prompts)
    if request.tools and prompt_tokens >= served.engine.context_length:
        _refuse_tools(served, request, prompt_tokens)
    accepted = Accepted(prompt_tokens, leaves_out_tools(served.tokenizer, request))
    request = _within_budget(served, request, [len(ids) for ids in prompts])
    first = replace(
        form.choice(0, 0, served.grammars),
        begun=() if request.begun is None else request.begun.token_ids,
        adapter=adapter,
    )
    is_simple = len(prompts) == 1 and request.n == 1 and request.task is Task.GENERATE and not request.echo
    if is_simple and request.params.max_tokens != 0:
        return Prepared(accepted, lambda: submit_choice(served, request, form, prompts[0], first, on_event))
    _check(served, request, prompts)
    return Prepared(
        accepted, ManyAnswers(served, request, form, prompts, on_event, adapter=adapter, has_room=has_room).start
    )


def submit_choice(
    served: ServedNetwork, request: GenerateRequest, form: AnswerPlan, ids: list[int], choice: Choice, on_event: OnEvent
) -> Handle:
    """Submit one answer to the engine; its text is split where the request asks for it."""
    if not form.is_split:
        return served.engine.submit(ids, request.params, on_event, choice=choice)
    events = SplitEvents(form, served.tokenizer, ids, on_event)
    return events.follow(lambda take: served.engine.submit(ids, request.params, take, choice=choice))


def _within_budget(served: ServedNetwork, request: GenerateRequest, prompts: Sequence[int]) -> GenerateRequest:
    """Return a request whose answer has a limit. Raises InvalidInput if it asks for more than one answer may hold."""
    width = 0 if served.reader is None else served.reader.width
    tokens = tokens_within_budget(request, prompts=prompts, context=served.engine.context_length, width=width)
    if tokens == request.params.max_tokens:
        return request
    return request.model_copy(update={"params": request.params.model_copy(update={"max_tokens": tokens})})


def _refuse_tools(served: ServedNetwork, request: GenerateRequest, prompt_tokens: int) -> None:
    """Raise PromptTooLong with the tokens that the tools take, where the prompt would fit without."""
    alone = len(encode_prompts(served.tokenizer, request.model_copy(update={"tools": None}))[0])
    if alone < served.engine.context_length:
        raise PromptTooLong(
            f"The prompt has {prompt_tokens:,} tokens, {prompt_tokens - alone:,} of them for"
            f" {plural(len(request.tools or ()), 'tool')}; this model's context holds"
            f" {served.engine.context_length:,}, answer included.",
            remedy="Offer fewer tools.",
            field="tools",
        )


class Continuation:
    """Passes the events on that follow the beginning of an answer, or an error where that was not what was sent."""

    def __init__(self, begun: Begun, on_event: OnEvent) -> None:
        self._begun, self._on_event = begun, on_event
        self._characters = 0
        self._is_refused = False

    def __call__(self, event: GenerationEvent) -> None:
        """Take one event."""
        if isinstance(event, TokenEvent) and event.token_ids and event.index < len(self._begun.token_ids):
            self._characters += event.num_characters
        elif self._characters == self._begun.characters or isinstance(event, GenerationErrorEvent):
            self._on_event(event)
        elif not self._is_refused:
            self._is_refused = True
            self._on_event(GenerationErrorEvent(message="The answer can't be continued exactly.", code=NOT_RESUMED))


def _check(served: ServedNetwork, request: GenerateRequest, prompts: Sequence[Sequence[int]]) -> None:
    """Raise for prompts that can't be read, before the first of them is."""
    served.engine.limits.check_params(request.params)
    for ids in prompts:
        served.engine.limits.check_ids(ids)
        if request.task is not Task.TOKENIZE and len(ids) > served.engine.context_length:
            raise PromptTooLong(
                f"The prompt has {len(ids)} tokens; this model's context holds {served.engine.context_length}.",
                remedy="Shorten it.",
                field="prompt",
            )
    if request.task is Task.GENERATE and request.params.max_tokens != 0:
        served.engine.check_room(request.tenant)


class ManyAnswers:
    """Works through the choices of one request on a thread of its own."""

    def __init__(
        self,
        served: ServedNetwork,
        request: GenerateRequest,
        form: AnswerPlan,
        prompts: list[list[int]],
        on_event: OnEvent,
        *,
        adapter: LoadedAdapter | None = None,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._has_room = has_room
        self._served, self._request, self._form = served, request, form
        self._prompts, self._on_event, self._adapter = prompts, on_event, adapter
        self._changed = threading.Condition()
        self._open: dict[int, Handle] = {}
        self._failure: GenerationErrorEvent | None = None
        self._finishes: list[FinishEvent] = []
        self._cached_tokens = 0
        self._cancelled = False

    def start(self) -> Handle:
        """Begin, and return the handle that cancels all."""
        threading.Thread(target=self._run, name="answers", daemon=True).start()
        return self

    def cancel(self) -> None:
        """Stop every choice."""
        with self._changed:
            self._cancelled = True
            handles = list(self._open.values())
            self._changed.notify_all()
        for handle in handles:
            handle.cancel()

    def _run(self) -> None:
        try:
            for number, ids in enumerate(self._prompts):
                if self._is_over():
                    break
                self._read(number, ids)
                if self._request.task is Task.GENERATE:
                    self._generate(number, ids)
            self._wait(0)
            self._end()
        except InvalidInput as error:
            self._end(GenerationErrorEvent(message=str(error), code=INVALID))
        except RoundhouseError as error:
            self._end(GenerationErrorEvent(message=str(error)))
        except BaseException as error:  # the thread's edge: a client must see an end
            self._end(
                GenerationErrorEvent(
                    message=f"The replica failed on this request: {type(error).__name__}", code=REQUEST_FAILED
                )
            )
            raise

    def _is_over(self) -> bool:
        return self._cancelled or self._failure is not None

    def _read(self, number: int, ids: list[int]) -> None:
        """Emit a prompt's embedding, or its tokens, once for all its choices."""
        request = self._request
        if request.task is Task.EMBED and self._served.reader is not None:
            self._on_event(
                EmbeddingEvent(vector=tuple(self._served.reader.embed(ids, adapter=self._adapter)), choice=number)
            )
            return
        if request.task is Task.SCORE and self._served.reader is not None:
            self._on_event(ScoreEvent(score=self._served.reader.judge(ids), choice=number))
            return
        if not request.echo and request.task is not Task.TOKENIZE:
            return
        top = request.params.logprobs
        records = (
            None
            if top is None or self._served.reader is None
            else self._served.reader.score(ids, top=top, adapter=self._adapter)
        )
        scored = [
            (
                self._served.texts.scored(token, None, ())
                if record is None
                else self._served.texts.scored(token, record.logprob, record.top)
            )
            for token, record in zip(ids, records or [None] * len(ids), strict=True)
        ]
        for start in range(0, len(scored), ECHO_TOKENS):
            while not self._has_room() and not self._is_over():
                time.sleep(RETRY_S)
            self._on_event(
                PromptEvent(
                    tokens=tuple(scored[start : start + ECHO_TOKENS]), choice=number * request.n, choices=request.n
                )
            )

    def _generate(self, number: int, ids: list[int]) -> None:
        for repetition in range(self._request.n):
            choice = self._form.choice(number * self._request.n + repetition, repetition, self._served.grammars)
            choice = replace(choice, adapter=self._adapter)
            if self._request.params.max_tokens == 0 or len(ids) == self._served.engine.context_length:
                self._on_event(ChoiceEvent(choice=choice.number, finish_reason=FinishReason.LENGTH))
                continue
            self._wait(MAX_AT_ONCE - 1)
            if self._is_over():
                return
            self._submit(ids, choice)

    def _submit(self, ids: list[int], choice: Choice) -> None:
        """Submit a choice as soon as the engine has room."""
        while not self._is_over():
            try:
                with self._changed:  # so that its end is handled after it is noted as open
                    self._open[choice.number] = submit_choice(
                        self._served,
                        self._request,
                        self._form,
                        ids,
                        choice,
                        lambda event: self._take(event, choice.number),
                    )
                return
            except QueueFull:
                time.sleep(RETRY_S)

    def _take(self, event: GenerationEvent, number: int) -> None:
        """Pass an event of a choice on; its end is counted."""
        if isinstance(event, FinishEvent):
            if event.finish_reason is not FinishReason.CANCELLED:
                self._on_event(ChoiceEvent(choice=number, finish_reason=event.finish_reason, stop=event.stop))
        elif not isinstance(event, GenerationErrorEvent):
            self._on_event(event)
            return
        with self._changed:
            self._open.pop(number, None)
            if isinstance(event, FinishEvent):
                self._finishes.append(event)
                self._cached_tokens += 0 if number % self._request.n else event.usage.cached_tokens
            else:
                self._failure = self._failure or event
            self._changed.notify_all()

    def _wait(self, count: int) -> None:
        """Wait until at most `count` choices are open."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._open) <= count or (self._is_over() and not self._open))

    def _end(self, failure: GenerationErrorEvent | None = None) -> None:
        failure = failure or self._failure
        if failure is not None:
            self.cancel()
            self._on_event(failure)
            return
        finishes = self._finishes
        reason = finishes[-1].finish_reason if finishes else FinishReason.LENGTH
        usage = TokenUsage(
            prompt_tokens=sum(map(len, self._prompts)),
            completion_tokens=sum(event.usage.completion_tokens for event in finishes),
            cached_tokens=self._cached_tokens,
        )
        first = min((event.ttft_ms for event in finishes if event.ttft_ms is not None), default=None)
        queue = min((event.queue_ms for event in finishes if event.queue_ms is not None), default=None)
        rate = sum(event.tok_per_sec or 0.0 for event in finishes[-MAX_AT_ONCE:]) or None
        if self._cancelled:
            reason = FinishReason.CANCELLED
        self._on_event(FinishEvent(finish_reason=reason, usage=usage, ttft_ms=first, tok_per_sec=rate, queue_ms=queue))
