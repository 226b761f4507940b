"""OpenAI's request bodies, with vLLM's additions: messages, tools, forms that a client may require of an answer, and
all other supported fields. Those that change nothing are read over, and all others refused.

A field that this gateway does not know might change the answer, so it is refused by name. docs/api.md lists the known
ones.
"""

from __future__ import annotations

import gc
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, Strict, ValidationError, field_validator
from pydantic_core import from_json

from backend.domain.names import nearest_name
from backend.domain.serving.protocol import (
    MAX_BIASES,
    MAX_CHOICES,
    MAX_COUNT,
    MAX_IDS,
    MAX_LOGPROBS,
    MAX_PROMPTS,
    MAX_REPETITION_PENALTY,
    MAX_SEED,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
    MIN_REPETITION_PENALTY,
    ChatMessage,
    Constraint,
    Effort,
    GenerateRequest,
    Role,
    SamplingParams,
    Task,
    ToolChoice,
    first_problem,
)
from backend.gateway.dialects.fields import FEW, MAX_ITEMS, ModelName, OpenObject, StrictBody, TokenCount, TokenId
from backend.gateway.errors import ApiError

FunctionName = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w.-]+$")]


class TextPart(BaseModel):
    """A part of a message; only text is served."""

    type: Literal["text"]
    text: str

    @field_validator("type", mode="before")
    @classmethod
    def _is_text(cls, value: object) -> object:
        if value != "text":
            raise ValueError("only text is served, and no images, audio or files")
        return value


class CalledFunction(BaseModel):
    """The function of a call: its name, and its arguments as JSON text."""

    name: FunctionName
    arguments: str = "{}"


class ToolCallBody(BaseModel):
    """A call that an assistant's message made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class MessageBody(BaseModel):
    """One message, as OpenAI's clients send it."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[str | Annotated[list[TextPart], FEW] | None, Field(validate_default=True)] = None
    tool_calls: Annotated[list[ToolCallBody], FEW] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    @field_validator("content")
    @classmethod
    def _has_content(cls, value: Any, info: Any) -> Any:
        if value is None and info.data.get("role") != "assistant":
            raise ValueError("give a string or a list of text parts")
        return value

    def to_message(self) -> ChatMessage:
        """Return the message with its parts joined; `developer` is what newer clients call `system`."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        return ChatMessage(
            role=Role.SYSTEM if self.role == "developer" else Role(self.role),
            content=text,
            tool_calls=tuple(call.model_dump(exclude_none=True) for call in self.tool_calls or ()),
            tool_call_id=self.tool_call_id,
            name=self.name,
        )


class FunctionBody(BaseModel):
    """A function that an answer may call; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = None
    parameters: OpenObject | None = None


class ToolBody(BaseModel):
    """A tool; only functions are served."""

    type: Literal["function"]
    function: FunctionBody

    def as_template_tool(self) -> dict[str, object]:
        """Return the tool as chat templates expect it."""
        return template_tool(self.function.name, self.function.description, self.function.parameters)


class NamedFunction(BaseModel):
    """The function that must be called."""

    name: FunctionName


class NamedTool(BaseModel):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


ToolChoiceBody = Literal["none", "auto", "required"] | NamedTool


def to_tool_choice(choice: ToolChoiceBody | None, tools: list[ToolBody] | None) -> ToolChoice:
    """Return a body's choice of tools. Raises ValueError if it requires a tool that is not given."""
    names = {tool.function.name for tool in tools or ()}
    if isinstance(choice, NamedTool):
        return choose_tool("required", choice.function.name, names)
    return choose_tool(choice or "auto", None, names)


def choose_tool(
    mode: Literal["none", "auto", "required"], name: str | None, names: Collection[str], *, word: str = "required"
) -> ToolChoice:
    """Return a choice of tools, of which there are `names`; `word` is what the API calls `required`.

    Raises ValueError if it requires a tool that is not given.
    """
    if name is not None and name not in names:
        raise ValueError(f"{name!r} is not one of the tools")
    if mode == "required" and not names:
        raise ValueError(f"{word!r} needs at least one tool")
    return ToolChoice(mode=mode, name=name)


class AnyTool(Protocol):
    """A tool of any dialect."""

    def as_template_tool(self) -> dict[str, Any]:
        """Return the tool as chat templates expect it."""


Tool = TypeVar("Tool", bound=AnyTool)


def with_own_names(tools: list[Tool]) -> list[Tool]:
    """Return tools, or raise ValueError where two have the same name: a call could mean either."""
    counts = Counter(tool.as_template_tool()["function"]["name"] for tool in tools)
    twin = next((name for name, count in counts.items() if count > 1), None)
    if twin is not None:
        raise ValueError(f"two tools are named {twin!r}; give each a name of its own")
    return tools


def template_tool(name: str, description: str | None, parameters: Mapping[str, object] | None) -> dict[str, object]:
    """Return a tool as chat templates expect it."""
    schema = parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": name, "description": description or "", "parameters": schema}}


def template_call(id_: str, name: str, arguments: str) -> dict[str, object]:
    """Return a call of an assistant's message as chat templates expect it; the arguments are JSON."""
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


MAX_FORM_CHARACTERS = 200_000
MAX_FORM_CHOICES = 4096
Expression = Annotated[str, Field(min_length=1, max_length=MAX_FORM_CHARACTERS)]
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_FORM_CHOICES, fail_fast=True)]


class JsonSchema(StrictBody):
    """The `json_schema` of OpenAI's response format. Every schema is enforced, `strict` or not."""

    name: str = "answer"
    description: str | None = None
    strict: bool | None = None
    json_schema: Annotated[OpenObject, Field(alias="schema")]


class ResponseFormat(StrictBody):
    """OpenAI's `response_format`, and `regex` with a `pattern`."""

    type: Literal["text", "json_object", "json_schema", "regex"]
    json_schema: JsonSchema | None = None
    pattern: Expression | None = None


class StructuredOutputs(StrictBody):
    """vLLM's `structured_outputs`: exactly one of a JSON schema, a regular expression, choices and a Lark grammar."""

    json_schema: Annotated[OpenObject | str | None, Field(alias="json")] = None
    regex: Expression | None = None
    choice: Choices | None = None
    grammar: Expression | None = None


def to_constraint(
    response_format: ResponseFormat | None,
    structured: StructuredOutputs | None,
    guided: StructuredOutputs | None = None,
) -> Constraint | None:
    """Return the form that a body requires; `guided` holds vLLM's older fields `guided_json`, `guided_regex`, ...

    Raises ApiError if it requires two, or lacks a schema or pattern.
    """
    constraints = [
        *_of_response_format(response_format),
        *_of_structured(structured, prefix="structured_outputs."),
        *_of_structured(guided, prefix="guided_"),
    ]
    if len(constraints) > 1:
        raise _refused("structured_outputs", "give one form of the answer, not several")
    return constraints[0] if constraints else None


def _of_response_format(form: ResponseFormat | None) -> list[Constraint]:
    if form is None or form.type == "text":
        return []
    if form.type == "json_object":
        return [Constraint(kind="json_object")]
    if form.type == "regex":
        if form.pattern is None:
            raise _refused("response_format.pattern", "give the regular expression")
        return [Constraint(kind="regex", value=form.pattern)]
    if form.json_schema is None:
        raise _refused("response_format.json_schema", "give the schema as json_schema: {name, schema}")
    return [schema_constraint(form.json_schema.json_schema, param="response_format.json_schema")]


def _of_structured(structured: StructuredOutputs | None, *, prefix: str) -> list[Constraint]:
    if structured is None:
        return []
    constraints = []
    if structured.json_schema is not None:
        schema = structured.json_schema
        try:
            schema = json.loads(schema) if isinstance(schema, str) else schema
        except (ValueError, RecursionError) as error:
            raise _refused(f"{prefix}json", f"the schema is not JSON: {error}") from error
        constraints.append(schema_constraint(schema, param=f"{prefix}json"))
    if structured.regex is not None:
        constraints.append(Constraint(kind="regex", value=structured.regex))
    if structured.choice is not None:
        pattern = "|".join(f"(?:{re.escape(choice)})" for choice in structured.choice)
        if len(pattern) > MAX_FORM_CHARACTERS:
            raise _refused(
                f"{prefix}choice",
                f"the choices have {len(pattern):,} characters; at most {MAX_FORM_CHARACTERS:,} are read",
            )
        constraints.append(Constraint(kind="regex", value=pattern))
    if structured.grammar is not None:
        constraints.append(Constraint(kind="lark", value=structured.grammar))
    return constraints


def schema_constraint(schema: Any, *, param: str) -> Constraint:
    """Return the form of a JSON schema. Raises ApiError for none, and for one that is too long."""
    if schema is None:
        raise _refused(param, "give the schema")
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > MAX_FORM_CHARACTERS:
        raise _refused(param, f"the schema has {len(text):,} characters, and at most {MAX_FORM_CHARACTERS:,} are read")
    return Constraint(kind="json_schema", value=text)


MAX_VARIABLES = 32
MAX_NAME = 60  # characters: no field's is longer
MAX_LISTED = 8  # fields that an error names
MAX_REPEATED = 400  # characters of a body in an error
LARGE_BYTES = 2**16
TemplateVariables = Annotated[OpenObject, Field(max_length=MAX_VARIABLES)]
StopString = Annotated[str, Field(min_length=1, max_length=200)]
_Ids = Annotated[list[TokenId], Field(max_length=MAX_IDS, fail_fast=True)]


def _few_prompts(value: Any) -> Any:
    """Refuse a long list before it is read as each of the kinds of prompts."""
    if isinstance(value, list) and value:
        most, what = (MAX_IDS, "token ids") if isinstance(value[0], int) else (MAX_PROMPTS, "prompts")
        if len(value) > most:
            raise ValueError(f"at most {most:,} {what} fit one request, not {len(value):,}")
    return value


Prompts = Annotated[
    str
    | Annotated[list[str], Field(max_length=MAX_PROMPTS, fail_fast=True)]
    | _Ids
    | Annotated[list[_Ids], Field(max_length=MAX_PROMPTS, fail_fast=True)],
    BeforeValidator(_few_prompts),
]
Messages = Annotated[list[MessageBody], Field(min_length=1, max_length=MAX_ITEMS, fail_fast=True)]
DEFAULT_COMPLETION_TOKENS = 16  # OpenAI's default for /v1/completions
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "use_beam_search": (False,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "include_stop_str_in_output": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "prompt_logprobs": (0,),
    "priority": (0,),
}
"""Fields that are not served, with the values that change nothing."""


def _few_biases(value: Any) -> Any:
    """Refuse a long mapping before its entries are read, whose faults would be listed one by one."""
    if isinstance(value, dict) and len(value) > MAX_BIASES:
        raise ValueError(f"at most {MAX_BIASES:,} tokens can be biased, not {len(value):,}")
    return value


def _refused(field: str, message: str) -> ApiError:
    return ApiError(400, f"{field}: {message}", code="invalid_value", param=field)


class StreamOptions(StrictBody):
    """Options of a stream: whether a final chunk carries token counts. `include_obfuscation` pads OpenAI's chunks, and
    none here.
    """

    include_usage: bool = False
    include_obfuscation: bool | None = None


class _Body(StrictBody):
    neutral: ClassVar[dict[str, tuple[Any, ...]]] = NEUTRAL

    model: ModelName
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_COUNT)] | None = None
    seed: Annotated[int, Field(ge=-MAX_SEED, le=MAX_SEED)] | None = None
    stop: StopString | Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[TokenId, Strict(False)], Annotated[float, Field(ge=-100, le=100)]],
            BeforeValidator(_few_biases),
        ]
        | None
    ) = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: OpenObject | str | None = None
    guided_regex: Expression | None = None
    guided_choice: Choices | None = None
    guided_grammar: Expression | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=MIN_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)] | None = None
    min_tokens: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] | None = None
    ignore_eos: bool = False
    user: Any = None  # keeps a user on one variant; any value is accepted, as before

    def _params(self, *, max_tokens: int | None, logprobs: int | None, must_call: bool = False) -> SamplingParams:
        constraint = self.constraint()
        least = self.min_tokens or 0
        if max_tokens is not None and least > max_tokens:
            raise _refused("min_tokens", f"{least} are more than the {max_tokens} tokens that the answer may have")
        if least and (constraint is not None or must_call):
            raise _refused(
                "min_tokens",
                "a form of the answer, or a required call, says itself where it ends; leave one of the two out",
            )
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        return SamplingParams(
            max_tokens=max_tokens,
            temperature=1.0 if self.temperature is None else self.temperature,
            top_p=1.0 if self.top_p is None else self.top_p,
            top_k=max(0, self.top_k or 0),
            min_p=self.min_p or 0.0,
            seed=None if self.seed is None else self.seed % MAX_SEED,
            stop=stop,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
            min_tokens=self.min_tokens or 0,
            stop_token_ids=tuple(self.stop_token_ids or ()),
            ignore_eos=self.ignore_eos,
            logit_bias=tuple((self.logit_bias or {}).items()),
            logprobs=logprobs,
            constraint=constraint,
        )

    def constraint(self) -> Constraint | None:
        """Return the form that the answer must have. Raises ApiError for a schema or expression that can't be read."""
        guided = StructuredOutputs.model_validate(
            {kind: getattr(self, f"guided_{kind}") for kind in ("json", "regex", "choice", "grammar")}
        )
        return to_constraint(self.response_format, self.structured_outputs, guided)

    @property
    def include_usage(self) -> bool:
        """Return whether a stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatBody(_Body):
    """`POST /v1/chat/completions`."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = NEUTRAL | {"verbosity": ("medium",)}

    messages: Messages
    max_tokens: TokenCount | None = None
    max_completion_tokens: TokenCount | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: Annotated[list[ToolBody], Field(max_length=128), AfterValidator(with_own_names)] | None = None
    tool_choice: ToolChoiceBody | None = None
    parallel_tool_calls: bool | None = None
    modalities: Annotated[list[str], FEW] | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None
    chat_template_kwargs: TemplateVariables | None = None
    reasoning_effort: Effort | None = None

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, info: Any) -> int | None:
        if value and not info.data.get("logprobs"):
            raise ValueError("needs logprobs: true beside it")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _with_tools(cls, value: ToolChoiceBody | None, info: Any) -> ToolChoiceBody | None:
        to_tool_choice(value, info.data.get("tools"))
        return value

    @field_validator("continue_final_message")
    @classmethod
    def _after_text(cls, value: bool | None, info: Any) -> bool | None:
        if value and (info.data.get("tools") or info.data.get("response_format")):
            raise ValueError("an answer is continued without tools and response_format")
        if value and (not (messages := info.data.get("messages")) or messages[-1].role != "assistant"):
            raise ValueError("the last message must be the assistant's")
        return value

    @field_validator("add_generation_prompt")
    @classmethod
    def _begins_an_answer(cls, value: bool | None, info: Any) -> bool | None:
        if value is not None and value == bool(info.data.get("continue_final_message")):
            raise ValueError(
                "an answer begins a turn of its own (true) unless continue_final_message continues the last one (false)"
            )
        return value

    @field_validator("modalities")
    @classmethod
    def _only_text(cls, value: list[str] | None) -> list[str] | None:
        if value not in (None, ["text"]):
            raise ValueError("only text is served")
        return value

    def to_request(self) -> GenerateRequest:
        """Return the request for a replica."""
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return GenerateRequest(
            messages=tuple(message.to_message() for message in self.messages),
            tools=tuple(tool.as_template_tool() for tool in self.tools) if self.tools else None,
            tool_choice=to_tool_choice(self.tool_choice, self.tools),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            params=self._params(
                max_tokens=self.max_completion_tokens or self.max_tokens,
                logprobs=logprobs,
                must_call=to_tool_choice(self.tool_choice, self.tools).mode == "required",
            ),
            n=self.n or 1,
            split=not self.continue_final_message,
            continue_final=bool(self.continue_final_message),
            template_variables=self.chat_template_kwargs or {},
            effort=self.reasoning_effort,
        )


class CompletionBody(_Body):
    """`POST /v1/completions`: one or several prompts, as text or token ids."""

    prompt: Prompts
    max_tokens: Annotated[int, Field(ge=0, le=MAX_COUNT)] | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None

    @field_validator("prompt")
    @classmethod
    def _has_prompts(cls, value: Prompts) -> Prompts:
        return check_prompts(value)

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """Return the prompts, one or several."""
        return list_prompts(self.prompt)

    def to_request(self) -> GenerateRequest:
        """Return the request for a replica."""
        max_tokens = DEFAULT_COMPLETION_TOKENS if self.max_tokens is None else self.max_tokens
        return GenerateRequest(
            prompts=tuple(self.prompts),
            params=self._params(max_tokens=max_tokens, logprobs=self.logprobs),
            n=self.n or 1,
            echo=bool(self.echo),
        )


def check_prompts(value: Prompts) -> Prompts:
    """Return prompts, or raise for none or too many."""
    if not value and not isinstance(value, str):
        raise ValueError("give at least one prompt")
    if len(list_prompts(value)) > MAX_PROMPTS:
        raise ValueError(f"at most {MAX_PROMPTS} prompts fit one request")
    return value


def list_prompts(value: Prompts) -> list[str | tuple[int, ...]]:
    """Return one or several prompts as a list."""
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [tuple(token for token in value if isinstance(token, int))]
    return [prompt if isinstance(prompt, str) else tuple(prompt) for prompt in value if not isinstance(prompt, int)]


class EmbeddingsBody(StrictBody):
    """`POST /v1/embeddings`."""

    model: ModelName
    input: Prompts
    encoding_format: Annotated[str, Field(pattern="^(float|base64)$")] = "float"
    dimensions: None = None

    @field_validator("input")
    @classmethod
    def _has_prompts(cls, value: Prompts) -> Prompts:
        return check_prompts(value)

    @field_validator("dimensions", mode="before")
    @classmethod
    def _full(cls, value: Any) -> None:
        if value is not None:
            raise ValueError("an embedding always has the model's hidden size; leave dimensions out")

    def to_request(self) -> GenerateRequest:
        """Return the request for a replica."""
        return GenerateRequest(prompts=tuple(list_prompts(self.input)), task=Task.EMBED)


class TokenizeBody(StrictBody):
    """`POST /v1/tokenize`: a prompt, or messages as the chat template renders them."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {
        "add_generation_prompt": (True,),
        "return_token_strs": (True, False),
    }

    model: ModelName
    prompt: str | None = None
    messages: Messages | None = None
    tools: Annotated[list[ToolBody], Field(max_length=128)] | None = None
    chat_template_kwargs: TemplateVariables | None = None

    @field_validator("messages")
    @classmethod
    def _one_input(cls, value: Any, info: Any) -> Any:
        if value is not None and info.data.get("prompt") is not None:
            raise ValueError("give either prompt or messages")
        return value

    def to_request(self) -> GenerateRequest:
        """Return the request for a replica. Raises ApiError if there is nothing to tokenise."""
        if self.messages is not None:
            tools = tuple(tool.as_template_tool() for tool in self.tools) if self.tools else None
            return GenerateRequest(
                messages=tuple(message.to_message() for message in self.messages),
                tools=tools,
                template_variables=self.chat_template_kwargs or {},
                task=Task.TOKENIZE,
            )
        if not self.prompt:
            raise ApiError(400, "prompt: give a prompt or messages", code="invalid_value", param="prompt")
        return GenerateRequest(prompt=self.prompt, task=Task.TOKENIZE)


Body = TypeVar("Body", bound=BaseModel)


@contextmanager
def _no_collection(size: int) -> Iterator[None]:
    """Read a large body without garbage collections, which would take eight times as long."""
    pauses = size > LARGE_BYTES and gc.isenabled()
    if pauses:
        gc.disable()
    try:
        yield
    finally:
        if pauses:
            gc.enable()


def parse_body(raw: bytes, kind: type[Body]) -> Body:
    """Read a body, or raise ApiError 400 that names the field at fault."""
    try:
        with _no_collection(len(raw)):
            return kind.model_validate_json(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        field, message = (text[:MAX_REPEATED] for text in first_problem(errors))
        is_unknown = errors[0]["type"] == "extra_forbidden"
        if is_unknown:
            is_name = len(field) < MAX_NAME and "." not in field
            near = nearest_name(field, kind.model_fields, cutoff=0.75) if is_name else None
            is_short = len(kind.model_fields) <= MAX_LISTED and "." not in field
            listed = f" (the fields are {', '.join(kind.model_fields)})" if is_short else ""
            message = f"this field is not served here; leave it out{f', or is it {near}?' if near else ''}{listed}"
        code = "unknown_parameter" if is_unknown else "invalid_value"
        if errors[0]["type"] == "model_type" and not field:
            message = "The body must be an object."
        raise ApiError(400, f"{field}: {message}" if field else message, code=code, param=field or None) from error


def named_model(raw: bytes) -> str:
    """Return the model that a body names although it can't be read otherwise; empty where it names none."""
    with suppress(ValueError):
        values = from_json(raw)
        model = values.get("model") if isinstance(values, dict) else None
        return model if isinstance(model, str) else ""
    return ""
