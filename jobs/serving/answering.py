"""Answer one request of a replica, as one stream of events: its prompts as token ids (by the checkpoint's chat
template, as raw text, or as given), the form of its answers (a constraint, calls of tools and reasoning, by the
template's family), repetitions, echoes and embeddings; and limit what is read and answered.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from backend.domain.checkpoints.chat_templates import PLAIN_TEMPLATE
from backend.domain.json_values import JsonObject
from backend.domain.serving.answer_text import (
    MARKS,
    THINK,
    THINK_END,
    AnswerPiece,
    AnswerSplitter,
    CallStyle,
    call_style,
    forced_call,
    forced_opening,
    write_tools,
)
from backend.domain.serving.protocol import (
    INVALID,
    NOT_RESUMED,
    REQUEST_FAILED,
    Accepted,
    Begun,
    ChoiceEvent,
    Constraint,
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
from backend.domain.template_guard import variables_of
from backend.domain.wording import plural
from backend.errors import InvalidInput, RoundhouseError
from jobs.modeling.chat import encode_answer, encode_completion, render_chat, text_alone
from jobs.modeling.tokenizers import encode_plain_prompt
from jobs.serving.adapters import LoadedAdapter
from jobs.serving.engine import Choice, Engine, Handle, OnEvent, PromptTooLong, QueueFull, TokenTexts
from jobs.serving.grammar import Grammars
from jobs.serving.reading import PromptReader, ScoringEngine, scores_none, writes_no_text

# Limits of what one answer may hold: a request of kilobytes must not lead to an answer of gigabytes.
MAX_TOKENS = 2**19
MAX_PROBABILITIES = 2**18
MAX_VECTOR_VALUES = 2**21
REMEDY = "Ask for fewer prompts, answers (n), tokens or alternatives, or send several requests."
TOOL_NAME = "tool"  # stands in every template that has a place for tools


class PromptLimit:
    """Refuses texts that can't fit a context before they are tokenized: no token spans more characters."""

    def __init__(self, tokenizer: Any, *, context_length: int) -> None:
        longest = max((len(token) for token in tokenizer.get_vocab()), default=1)
        self.context_length, self.max_characters = context_length, context_length * longest

    def check(self, request: GenerateRequest) -> None:
        """Raise PromptTooLong for a prompt that is too long by its characters or token ids."""
        prompts = (request.token_ids or (), request.prompt or "", *(request.prompts or ()))
        ids = max(len(prompt) for prompt in prompts if not isinstance(prompt, str))
        characters = max(len(prompt) for prompt in prompts if isinstance(prompt, str))
        characters = max(characters, *(sum(map(len, pair)) for pair in request.pairs or ((),)))
        characters = max(characters, sum(len(message.content) for message in request.messages or ()))
        is_read = request.echo or request.task is not Task.GENERATE
        if ids >= self.context_length + is_read or characters > self.max_characters:
            size = f"{ids:,} tokens" if ids else f"{characters:,} characters"
            raise PromptTooLong(
                f"The prompt has {size}; this model's context holds {self.context_length:,} tokens, answer included.",
                remedy="Shorten the prompt or the conversation.",
                field="messages" if request.messages else "prompt",
            )


def encode_prompts(tokenizer: Any, request: GenerateRequest, *, opening: str = "") -> list[list[int]]:
    """Return the token ids of each prompt. Raises InvalidInput where the chat template refuses the messages.

    `opening` follows the rendered messages: the beginning of an answer. Templates come with checkpoints and are
    untrusted; backend.domain.template_guard renders them.
    """
    if request.messages is not None:
        return [_encode_messages(tokenizer, request, opening=opening)]
    if request.pairs is not None:
        return [_encode_pair(tokenizer, prompt, answer) for prompt, answer in request.pairs]
    single = request.token_ids if request.token_ids is not None else request.prompt or ""
    prompts = (single,) if request.prompts is None else request.prompts
    return [encode_plain_prompt(tokenizer, prompt) if isinstance(prompt, str) else list(prompt) for prompt in prompts]


def _encode_pair(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    """Encode a prompt and its answer as reward models are trained on them."""
    user, assistant = {"role": "user", "content": prompt}, {"role": "assistant", "content": answer}
    before, after = encode_completion(tokenizer, [user], [assistant])
    return [*before, *after]


def _variables(tokenizer: Any, request: GenerateRequest, tools: list[dict[str, object]] | None) -> dict[str, object]:
    """Return what the chat template gets beside the messages: the request's own variables, and its effort by the switch
    that there is.
    """
    if request.effort is None or not tokenizer.chat_template:
        return request.template_variables
    switches = {"reasoning_effort": request.effort, "enable_thinking": request.effort not in ("none", "minimal")}
    read = variables_of(tokenizer.get_chat_template(tools=tools))
    return {name: value for name, value in switches.items() if name in read} | request.template_variables


def _encode_messages(tokenizer: Any, request: GenerateRequest, *, opening: str) -> list[int]:
    messages, tools = [message.as_dict() for message in request.messages or ()], offered_tools(tokenizer, request)
    if request.continue_final:
        opening = opening + text_alone(tokenizer, str(messages.pop()["content"]))
    if TOOL_NAME not in (tokenizer.get_chat_template(tools=tools) if tokenizer.chat_template else ""):
        messages, tools = write_tools(messages, tools), None
    try:
        text = render_chat(
            tokenizer, messages, tools=tools, generation_prompt=True, variables=_variables(tokenizer, request, tools)
        )
    except RoundhouseError as error:
        raise InvalidInput(error.message, remedy=error.remedy, field=error.field or "messages") from error
    before, after = encode_answer(tokenizer, text, opening)
    return [*before, *after]


def tokens_within_budget(
    request: GenerateRequest, *, prompts: Sequence[int], context: int, width: int = 0
) -> int | None:
    """Return the most tokens that each answer may have: `max_tokens`, or where that is not stated what the budget
    leaves, if less than the context. `prompts` holds the tokens of each prompt, `width` is that of an embedding.

    Raises InvalidInput for a request whose answer could hold more than the budget.
    """
    stated = request.params.max_tokens
    if request.task is Task.EMBED:
        if len(prompts) * width > MAX_VECTOR_VALUES:
            raise InvalidInput(
                f"These embeddings would hold {len(prompts) * width:,} numbers ({len(prompts):,} prompts x {width:,});"
                f" at most {MAX_VECTOR_VALUES:,} fit one answer.",
                remedy="Send several requests.",
                field="input",
            )
        return stated
    has_probabilities = request.params.logprobs is not None
    values = 1 + (request.params.logprobs or 0)
    most = MAX_PROBABILITIES if has_probabilities else MAX_TOKENS
    is_repeated = request.echo or request.task is Task.TOKENIZE
    fixed = sum(prompts) * request.n if is_repeated else 0
    rooms = [max(0, context - count) for count in prompts] if request.task is Task.GENERATE else []
    lengths = [room if stated is None else min(stated, room) for room in rooms]
    new = sum(lengths) * request.n
    if (fixed + new) * values <= most:
        return stated
    left = (most // values - fixed) // max(1, len(prompts) * request.n)
    if stated is None and left > 0 and rooms:
        return left
    longest = max(prompts) * is_repeated + max(lengths, default=0)
    alternatives = f" x (1 + {values - 1} alternatives)" if values > 1 else ""
    raise InvalidInput(
        f"This answer could hold {(fixed + new) * values:,} {'probabilities' if has_probabilities else 'tokens'}:"
        f" {len(prompts):,} {'prompt' if len(prompts) == 1 else 'prompts'} x {request.n:,}"
        f" {'answer' if request.n == 1 else 'answers'} of up to {longest:,}"
        f" tokens{', prompt included' if is_repeated else ''}{alternatives}. At most {most:,} fit one answer.",
        remedy=REMEDY,
        field="n" if request.n > 1 else "max_tokens" if request.task is Task.GENERATE else "prompt",
    )


PROMPT_END = 8  # tokens in which a prompt may open the reasoning


@dataclass(frozen=True)
class AnswerPlan:
    """Constraint and splitting of a request's answers. `opening` is the text that ends the prompt of a forced call."""

    constraint: Constraint | None = None
    style: CallStyle | None = None
    names: frozenset[str] = frozenset()
    opening: str = ""
    is_forced: bool = False
    is_parallel: bool = True
    is_split: bool = False
    marks: Mapping[int, str] | None = None
    tenant: str = ""

    def choice(self, number: int, repetition: int, grammars: Grammars) -> Choice:
        """Return the properties of one answer. Raises InvalidInput for a constraint that can't be enforced."""
        matcher = None if self.constraint is None else grammars.matcher(self.constraint)
        return Choice(number=number, repetition=repetition, matcher=matcher, marks=self.marks, tenant=self.tenant)


def form_of(tokenizer: Any, request: GenerateRequest) -> AnswerPlan:
    """Return the form of a request's answers."""
    constraint = request.params.constraint
    if request.messages is None or not request.split:
        return AnswerPlan(constraint=constraint, tenant=request.tenant)
    tools = offered_tools(tokenizer, request)
    template = tokenizer.get_chat_template(tools=tools) if tokenizer.chat_template else ""
    style = call_style(template) if tools else None
    is_forced = style is not None and request.tool_choice.mode == "required"
    if is_forced and style is not None and tools is not None:
        constraint = forced_call(tools, request.tool_choice, style)
    is_split = style is not None or THINK in template or THINK in tokenizer.get_added_vocab()
    special = {index: token.content for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return AnswerPlan(
        constraint=constraint,
        style=style,
        names=frozenset(tool["function"]["name"] for tool in tools or ()),
        opening=forced_opening(style) if is_forced and style is not None else "",
        is_forced=is_forced,
        is_parallel=request.parallel_tool_calls,
        is_split=is_split,
        tenant=request.tenant,
        marks=(
            {index: text for index, text in special.items() if text in (*MARKS, THINK, THINK_END)} if is_split else None
        ),
    )


def offered_tools(tokenizer: Any, request: GenerateRequest) -> list[JsonObject] | None:
    """Return the tools that the network sees: none where it must not call one, or may without a chat template."""
    if not request.tools or request.tool_choice.mode == "none" or leaves_out_tools(tokenizer, request):
        return None
    return list(request.tools)


def leaves_out_tools(tokenizer: Any, request: GenerateRequest) -> bool:
    """Return whether a network is not offered the tools, though it may call one: it has no chat template."""
    return bool(request.tools) and request.tool_choice.mode == "auto" and tokenizer.chat_template == PLAIN_TEMPLATE


class SplitEvents:
    """Passes the events of one choice on, their text split into reasoning, calls and the rest."""

    def __init__(self, form: AnswerPlan, tokenizer: Any, prompt: Sequence[int], on_event: OnEvent) -> None:
        opened: str = tokenizer.decode(list(prompt[-PROMPT_END:]), skip_special_tokens=False)
        self._splitter = AnswerSplitter(
            form.style, names=form.names, is_reasoning=opened.rstrip().endswith(THINK), is_calling=form.is_forced
        )
        self._form, self._on_event = form, on_event
        self._handle: Handle | None = None
        self._last: TokenEvent | None = None
        self._has_ended_calls = False

    def follow(self, start: Callable[[OnEvent], Handle]) -> Handle:
        """Start the choice; it is cancelled after its first call where calls in parallel are switched off."""
        self._handle = start(self.take)
        if self._has_ended_calls:
            self._handle.cancel()
        return self._handle

    def take(self, event: GenerationEvent) -> None:
        """Take one event of the engine."""
        if isinstance(event, TokenEvent):
            if not self._has_ended_calls:
                self._last = event
                self._emit(event, self._splitter.push(event.text))
                self._end_after_call()
        elif isinstance(event, FinishEvent):
            self._finish(event)
        else:
            self._on_event(event)

    def _emit(self, event: TokenEvent, piece: AnswerPiece) -> None:
        changes = {"text": piece.text, "reasoning": piece.reasoning or None, "tool_calls": piece.calls or None}
        self._on_event(event.model_copy(update=changes))

    def _end_after_call(self) -> None:
        if not self._form.is_parallel and self._splitter.num_complete:
            self._has_ended_calls = True
            if self._handle is not None:
                self._handle.cancel()

    def _finish(self, event: FinishEvent) -> None:
        reason = event.finish_reason
        if self._has_ended_calls:
            self._on_event(event.model_copy(update={"finish_reason": FinishReason.TOOL_CALLS}))
            return
        if reason is not FinishReason.CANCELLED:
            piece = self._splitter.finish()
            if piece != AnswerPiece():
                index = event.usage.completion_tokens
                self._emit(
                    TokenEvent(text="", token_ids=(), index=index, choice=self._last.choice if self._last else 0), piece
                )
            if reason is FinishReason.STOP and self._splitter.num_calls:
                event = event.model_copy(update={"finish_reason": FinishReason.TOOL_CALLS})
        self._on_event(event)


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
