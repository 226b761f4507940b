"""`POST /v1/responses`, OpenAI's newer API: bodies, the response, the events of its stream in OpenAI's order, and
stored responses that later requests follow.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, field_validator

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import (
    MAX_LOGPROBS,
    ChatMessage,
    Constraint,
    Effort,
    FinishEvent,
    FinishReason,
    GenerateRequest,
    OpenEvent,
    Role,
    SamplingParams,
    ToolChoice,
)
from backend.errors import InvalidInput, NotFound, Unavailable
from backend.gateway.answers import (
    Block,
    BlockReader,
    Change,
    Closed,
    Grown,
    Opened,
    chat_logprobs,
    encode_stream,
    named_event,
    read_to_end,
)
from backend.gateway.dialects.completions import (
    FunctionName,
    StreamOptions,
    choose_tool,
    schema_constraint,
    template_call,
    template_tool,
    with_own_names,
)
from backend.gateway.dialects.fields import FEW, ModelName, OpenObject, StrictBody, TokenCount
from backend.gateway.directory import Directory, Principal
from backend.gateway.errors import ApiError, unavailable
from backend.gateway.request import ApiExchange, Events
from backend.services.serving.stored_responses import ResponseRecord

LOGPROBS = "message.output_text.logprobs"


class _Item(BaseModel):
    """An item of the input. Ids and states that answers gave to items change nothing."""

    model_config = ConfigDict(extra="ignore")


class TextItem(_Item):
    """Text of a message or of a tool's result."""

    type: Literal["input_text", "output_text", "text"]
    text: str


class MessageItem(_Item):
    """A message."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextItem], FEW]


class CallItem(_Item):
    """A call that an earlier answer made."""

    type: Literal["function_call"]
    call_id: Annotated[str, Field(min_length=1, max_length=200)]
    name: FunctionName
    arguments: str


class ResultItem(_Item):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: Annotated[str, Field(min_length=1, max_length=200)]
    output: str | Annotated[list[TextItem], FEW]


class ReasoningItem(_Item):
    """Reasoning of an earlier answer, which is not shown to the network again."""

    type: Literal["reasoning"]


def _type_of(item: Any) -> str:
    kind = item.get("type", "message") if isinstance(item, dict) else getattr(item, "type", "message")
    return kind if isinstance(kind, str) else "message"


Item = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[ResultItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(_type_of),
]
ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


class ResponseTool(_Item):
    """A tool; only functions, which the client runs itself, are served."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: OpenObject | None = None
    strict: bool | None = None

    def as_template_tool(self) -> dict[str, object]:
        """Return the tool as chat templates expect it."""
        return template_tool(self.name, self.description, self.parameters)


class FunctionChoice(StrictBody):
    """The function that must be called."""

    type: Literal["function"]
    name: FunctionName


class TextFormat(StrictBody):
    """The form of the text."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    json_schema: Annotated[OpenObject | None, Field(alias="schema")] = None


class TextOptions(StrictBody):
    """Options of the text."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {"verbosity": ("medium",)}

    format: TextFormat | None = None


class Reasoning(StrictBody):
    """Effort of the reasoning. No summary of it is made."""

    effort: Effort | None = None
    summary: Any = None
    generate_summary: Any = None


class ResponsesBody(StrictBody):
    """`POST /v1/responses`."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {"background": (False,), "truncation": ("disabled",)}

    model: ModelName
    input: str | Annotated[list[Item], FEW] = Field(default_factory=list)
    instructions: str | None = None
    previous_response_id: Annotated[str, Field(min_length=1, max_length=60)] | None = None
    store: bool | None = None
    metadata: OpenObject | None = None
    max_output_tokens: TokenCount | None = None
    max_tool_calls: Any = None  # limits the provider's own tools, of which there are none
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    include: Annotated[list[str], FEW] | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=128), AfterValidator(with_own_names)] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: Any = None

    @field_validator("tool_choice")
    @classmethod
    def _with_tools(cls, value: Any, info: Any) -> Any:
        _choose(value, info.data.get("tools"))
        return value

    @property
    def items(self) -> list[JsonObject]:
        """Return the input of this turn as items."""
        if isinstance(self.input, str):
            return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": self.input}]}]
        return [item.model_dump() for item in self.input]

    @property
    def wants_logprobs(self) -> bool:
        """Return whether probabilities are asked for."""
        return LOGPROBS in (self.include or ())

    def to_request(self, before: Sequence[dict[str, object]] = ()) -> GenerateRequest:
        """Return the request for a replica; `before` are the items of the turns that it follows. Raises ApiError for an
        empty one.
        """
        messages = to_messages([*before, *self.items], instructions=self.instructions)
        if not messages:
            raise ApiError(400, "input: give at least one message", code="invalid_value", param="input")
        return GenerateRequest(
            messages=tuple(messages),
            tools=tuple(tool.as_template_tool() for tool in self.tools) if self.tools else None,
            tool_choice=_choose(self.tool_choice, self.tools),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            params=SamplingParams(
                max_tokens=self.max_output_tokens,
                temperature=1.0 if self.temperature is None else self.temperature,
                top_p=1.0 if self.top_p is None else self.top_p,
                logprobs=(self.top_logprobs or 0) if self.wants_logprobs else None,
                constraint=self.constraint(),
            ),
            split=True,
            effort=self.reasoning.effort if self.reasoning else None,
        )

    def constraint(self) -> Constraint | None:
        """Return the form that the answer must have. Raises ApiError for a schema that is missing or too long."""
        form = self.text.format if self.text else None
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return Constraint(kind="json_object")
        return schema_constraint(form.json_schema, param="text.format.schema")


def _choose(choice: Any, tools: list[ResponseTool] | None) -> ToolChoice:
    names = {tool.name for tool in tools or ()}
    if isinstance(choice, FunctionChoice):
        return choose_tool("required", choice.name, names)
    return choose_tool(choice or "auto", None, names)


def to_messages(items: Sequence[dict[str, object]], *, instructions: str | None) -> list[ChatMessage]:
    """Return items as messages. System prompts at the beginning are one message, as many templates take one."""
    system = [instructions] if instructions else []
    messages = list(_merged(ITEMS.validate_python(list(items))))
    while messages and messages[0].role is Role.SYSTEM:
        system.append(messages.pop(0).content)
    return [*([ChatMessage(role=Role.SYSTEM, content="\n\n".join(system))] if system else []), *messages]


def _merged(items: Sequence[Item]) -> Iterator[ChatMessage]:
    """Yield messages; an assistant's text and the calls after it are one."""
    text: str | None = None
    calls: list[dict[str, object]] = []

    def take() -> Iterator[ChatMessage]:
        nonlocal text, calls
        if text is not None or calls:
            yield ChatMessage(role=Role.ASSISTANT, content=text or "", tool_calls=tuple(calls))
        text, calls = None, []

    for item in items:
        if isinstance(item, CallItem):
            calls.append(template_call(item.call_id, item.name, item.arguments))
        elif isinstance(item, ResultItem):
            yield from take()
            yield ChatMessage(role=Role.TOOL, content=_text(item.output), tool_call_id=item.call_id)
        elif isinstance(item, MessageItem):
            yield from take()
            if item.role == "assistant":
                text = _text(item.content)
            else:
                yield ChatMessage(role=Role.USER if item.role == "user" else Role.SYSTEM, content=_text(item.content))
    yield from take()


def _text(content: str | Annotated[list[TextItem], FEW]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


Document = JsonObject
Store = Callable[[Document], Awaitable[bool]]
"""Stores a complete response; returns whether it is stored."""
PREFIXES = {"text": "msg", "reasoning": "rs", "call": "fc"}
FAILURES = {429: "rate_limit_exceeded"}


@dataclass
class ResponseAnswer:
    """A response while its events arrive."""

    body: ResponsesBody
    exchange: ApiExchange
    store: Store | None = None
    reader: BlockReader = field(default_factory=BlockReader)
    ids: dict[int, str] = field(default_factory=dict)
    finish: FinishEvent | None = None
    error: ApiError | None = None

    async def collect(self, events: Events) -> Document:
        """Return the whole response."""
        self.finish = await read_to_end(events, self.reader.take)
        self._never_empty()
        return await self._complete()

    async def stream(self, events: Events) -> AsyncGenerator[bytes, None]:
        """Yield the server-sent events. An error before the first one is raised; a later one ends the stream as
        `response.failed`.
        """
        numbers = itertools.count()
        has_begun = False

        def event_of(kind: str, content: Document) -> bytes:
            return named_event(kind, {"sequence_number": next(numbers), **content})

        def changed(changes: Iterable[Change]) -> list[bytes]:
            return [event_of(kind, content) for change in changes for kind, content in self._events(change)]

        def encode(event: OpenEvent | FinishEvent) -> bytes:
            nonlocal has_begun
            parts = []
            if not has_begun:
                has_begun, begun = True, {"response": self.document()}
                parts += [event_of("response.created", begun), event_of("response.in_progress", begun)]
            parts += changed(self.reader.read(event))
            if isinstance(event, FinishEvent):
                self.finish = event
                parts += changed(self._never_empty())
            return b"".join(parts)

        try:
            async with aclosing(encode_stream(events, encode)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ApiError as error:
            if not has_begun:
                raise
            self.error = error
            yield event_of("response.failed", {"response": self.document()})
            return
        document = await self._complete()
        yield event_of(f"response.{document['status']}", {"response": document})

    async def _complete(self) -> Document:
        """Return the response, stored first where the request asks for that."""
        if self.finish is None:
            raise RuntimeError("a generation ended without a finish event")
        document = self.document()
        if self.store is not None:
            document["store"] = await self.store(document)
        return document

    def document(self) -> Document:
        """Return the response as far as it is known."""
        body, finish = self.body, self.finish
        is_cut = finish is not None and finish.finish_reason is FinishReason.LENGTH
        status = (
            "failed" if self.error else "in_progress" if finish is None else "incomplete" if is_cut else "completed"
        )
        form = (
            body.text.format.model_dump(by_alias=True, exclude_none=True)
            if body.text and body.text.format
            else {"type": "text"}
        )
        choice = (
            body.tool_choice
            if isinstance(body.tool_choice, str)
            else body.tool_choice.model_dump()
            if body.tool_choice
            else "auto"
        )
        output = [self.item(block) for block in self.reader.blocks] if finish is not None or self.error else []
        error = self.error and {"code": FAILURES.get(self.error.status, "server_error"), "message": self.error.message}
        return {
            "id": self.exchange.id,
            "object": "response",
            "created_at": int(self.exchange.identity.created_at.timestamp()),
            "completed_at": None if finish is None else int(time.time()),
            "status": status,
            "background": False,
            "error": error or None,
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": self.exchange.endpoint,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "store": self.store is not None,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": form},
            "tool_choice": choice,
            "tools": [tool.model_dump() for tool in body.tools or ()],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None if finish is None else _usage(finish, self.reader.reasoning_tokens),
        }

    def item(self, block: Block, *, is_open: bool = False) -> Document:
        """Return a block as an item of the output."""
        id_ = self.ids.setdefault(block.index, f"{PREFIXES[block.kind]}_{uuid4().hex[:24]}")
        is_cut = self.finish is None or self.finish.finish_reason is FinishReason.LENGTH
        is_last = block is self.reader.blocks[-1]
        status = "in_progress" if is_open else "incomplete" if is_cut and is_last and self._is_over else "completed"
        item = {"id": id_, "status": status}
        if block.kind == "call":
            call = {"call_id": block.call_id, "name": block.name, "arguments": "" if is_open else block.text}
            return item | {"type": "function_call"} | call
        content = [] if is_open else [self._part(block)]
        if block.kind == "reasoning":
            return item | {"type": "reasoning", "summary": [], "content": content}
        return item | {"type": "message", "role": "assistant", "content": content}

    @property
    def _is_over(self) -> bool:
        return self.finish is not None or self.error is not None

    def _part(self, block: Block, *, is_open: bool = False) -> Document:
        text = "" if is_open else block.text
        if block.kind == "reasoning":
            return {"type": "reasoning_text", "text": text}
        return {
            "type": "output_text",
            "text": text,
            "annotations": [],
            "logprobs": [] if is_open else self._logprobs(block.tokens),
        }

    def _logprobs(self, tokens: Any) -> list[Document]:
        return list(chat_logprobs(tokens)["content"]) if self.body.wants_logprobs else []

    def _never_empty(self) -> list[Change]:
        """Give an answer without any token an empty text, as OpenAI does; return what that changes."""
        if self.reader.blocks:
            return []
        block = Block(0, "text")
        self.reader.blocks.append(block)
        return [Opened(block), Closed(block)]

    def _events(self, change: Change) -> Iterator[tuple[str, Document]]:
        """Yield the events of a change: their type and content."""
        block = change.block
        opened = self.item(block, is_open=True)
        place = {"item_id": opened["id"], "output_index": block.index}
        part = {**place, "content_index": 0}
        if isinstance(change, Opened):
            yield "response.output_item.added", {"output_index": block.index, "item": opened}
            if block.kind != "call":
                yield "response.content_part.added", {**part, "part": self._part(block, is_open=True)}
        elif isinstance(change, Grown):
            if block.kind == "call":
                yield "response.function_call_arguments.delta", {**place, "delta": change.text}
            elif block.kind == "reasoning":
                yield "response.reasoning_text.delta", {**part, "delta": change.text}
            else:
                yield (
                    "response.output_text.delta",
                    {**part, "delta": change.text, "logprobs": self._logprobs(change.tokens)},
                )
        else:
            if block.kind == "call":
                yield "response.function_call_arguments.done", {**place, "name": block.name, "arguments": block.text}
            elif block.kind == "reasoning":
                yield "response.reasoning_text.done", {**part, "text": block.text}
            else:
                yield (
                    "response.output_text.done",
                    {**part, "text": block.text, "logprobs": self._logprobs(block.tokens)},
                )
            if block.kind != "call":
                yield "response.content_part.done", {**part, "part": self._part(block)}
            yield "response.output_item.done", {"output_index": block.index, "item": self.item(block)}


def _usage(finish: FinishEvent, reasoning_tokens: int) -> Document:
    usage = finish.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


logger = logging.getLogger(__name__)
SWITCH = "ROUNDHOUSE_KEEP_RESPONSES_DAYS"


def owner_of(principal: Principal | None) -> str:
    """Return whose a response is; empty without a key."""
    return principal.owner if principal else ""


async def read_turns(
    directory: Directory, response_id: str, *, principal: Principal | None, param: str | None
) -> Sequence[ResponseRecord]:
    """Return a response and those that it follows. Raises ApiError, the same for one of another account as for none."""
    try:
        turns = await asyncio.to_thread(directory.list_turns, response_id, owner=owner_of(principal))
    except NotFound as error:
        raise _unknown(response_id, param) from error
    except InvalidInput as error:
        raise ApiError(400, str(error), code="invalid_value", param=param) from error
    except Unavailable as error:
        raise unavailable(error) from error
    if principal is not None and not all(principal.scopes.allows_model(turn.endpoint) for turn in turns):
        raise _unknown(response_id, param)
    return turns


async def items_before(directory: Directory, body: ResponsesBody, *, principal: Principal | None) -> list[JsonObject]:
    """Return the items of the conversation that a request follows."""
    if body.previous_response_id is None:
        return []
    param = "previous_response_id"
    if not directory.keeps_responses:
        message = f"{param}: no response is stored here ({SWITCH}=0); send the whole conversation as input"
        raise ApiError(400, message, code="previous_response_not_found", param=param)
    turns = await read_turns(directory, body.previous_response_id, principal=principal, param=param)
    return [item for turn in turns for item in (*turn.items, *turn.document["output"])]


async def erase_response(directory: Directory, response_id: str, *, principal: Principal | None) -> Document:
    """Erase a response; return what OpenAI returns."""
    await read_turns(directory, response_id, principal=principal, param=None)
    try:
        await asyncio.to_thread(directory.erase_response, response_id, owner=owner_of(principal))
    except NotFound as error:
        raise _unknown(response_id, None) from error
    except Unavailable as error:
        raise unavailable(error) from error
    return {"id": response_id, "object": "response", "deleted": True}


def keeper(
    directory: Directory, body: ResponsesBody, *, principal: Principal | None, exchange: ApiExchange
) -> Store | None:
    """Return what stores the answer to a request; None where it is not to be stored. Raises ApiError where it can't be,
    and must.
    """
    if body.store is False or not directory.keeps_responses:
        if body.store:
            raise ApiError(400, f"store: no response is stored here ({SWITCH}=0)", code="invalid_value", param="store")
        return None
    items = [{"id": f"msg_{uuid4().hex[:24]}", **item} for item in body.items]

    async def store(document: Document) -> bool:
        record = ResponseRecord(
            exchange.id, owner_of(principal), exchange.endpoint, body.previous_response_id, items, document
        )
        try:
            await asyncio.to_thread(partial(directory.keep_response, record))
        except Exception:  # the gateway's edge: the answer must not depend on the database
            logger.exception("The response %s could not be stored.", exchange.id)
            return False
        return True

    return store


def _unknown(response_id: str, param: str | None) -> ApiError:
    message = (
        f"There is no response {response_id!r} of this account; it may have been erased. Send the whole conversation as"
        " input."
    )
    status, code = (400, "previous_response_not_found") if param else (404, "response_not_found")
    return ApiError(status, f"{param}: {message}" if param else message, code=code, param=param)
