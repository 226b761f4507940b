"""The form of a request's answers: a constraint, calls of tools and reasoning, by the template's family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.domain.checkpoints.chat_templates import PLAIN_TEMPLATE
from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import (
    Constraint,
    FinishEvent,
    FinishReason,
    GenerateRequest,
    GenerationEvent,
    TokenEvent,
)
from backend.domain.serving.splitting import THINK, THINK_END, AnswerPiece, AnswerSplitter
from backend.domain.serving.tool_calls import MARKS, CallStyle, call_style, forced_call, forced_opening
from jobs.serving.engine import Choice, Handle, OnEvent
from jobs.serving.grammar import Grammars

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
