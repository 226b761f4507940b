"""Forms that a client may require of an answer: JSON, a JSON schema, a regular expression, choices or a grammar."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, Literal

from pydantic import Field

from backend.domain.serving.protocol import Constraint
from backend.gateway.bodies.fields import OpenObject, StrictBody
from backend.gateway.errors import ApiError

MAX_CHARACTERS = 200_000
MAX_OPTIONS = 4096
Expression = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
Choices = Annotated[list[str], Field(min_length=1, max_length=MAX_OPTIONS, fail_fast=True)]


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
        raise _invalid("structured_outputs", "give one form of the answer, not several")
    return constraints[0] if constraints else None


def _of_response_format(form: ResponseFormat | None) -> list[Constraint]:
    if form is None or form.type == "text":
        return []
    if form.type == "json_object":
        return [Constraint(kind="json_object")]
    if form.type == "regex":
        if form.pattern is None:
            raise _invalid("response_format.pattern", "give the regular expression")
        return [Constraint(kind="regex", value=form.pattern)]
    if form.json_schema is None:
        raise _invalid("response_format.json_schema", "give the schema as json_schema: {name, schema}")
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
            raise _invalid(f"{prefix}json", f"the schema is not JSON: {error}") from error
        constraints.append(schema_constraint(schema, param=f"{prefix}json"))
    if structured.regex is not None:
        constraints.append(Constraint(kind="regex", value=structured.regex))
    if structured.choice is not None:
        pattern = "|".join(f"(?:{re.escape(choice)})" for choice in structured.choice)
        if len(pattern) > MAX_CHARACTERS:
            raise _invalid(
                f"{prefix}choice", f"the choices have {len(pattern):,} characters; at most {MAX_CHARACTERS:,} are read"
            )
        constraints.append(Constraint(kind="regex", value=pattern))
    if structured.grammar is not None:
        constraints.append(Constraint(kind="lark", value=structured.grammar))
    return constraints


def schema_constraint(schema: Any, *, param: str) -> Constraint:
    """Return the form of a JSON schema. Raises ApiError for none, and for one that is too long."""
    if schema is None:
        raise _invalid(param, "give the schema")
    text = json.dumps(schema, ensure_ascii=False)
    if len(text) > MAX_CHARACTERS:
        raise _invalid(param, f"the schema has {len(text):,} characters, and at most {MAX_CHARACTERS:,} are read")
    return Constraint(kind="json_schema", value=text)


def _invalid(param: str, message: str) -> ApiError:
    return ApiError(400, f"{param}: {message}", code="invalid_value", param=param)
