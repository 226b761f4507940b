"""Requests as bodies of the OpenAI API, for servers that are not replicas of this installation."""

from __future__ import annotations

import json
from typing import Any

from backend.domain.json_values import JsonObject
from backend.domain.serving.protocol import ChatMessage, Constraint, GenerateRequest, SamplingParams, Task


def to_call(request: GenerateRequest, *, model: str) -> tuple[str, dict[str, object]]:
    """Return the path below `/v1` and the body of a request.

    Fields outside OpenAI's API (`top_k`, `min_p`, `ignore_eos`, `continue_final_message`, `structured_outputs`, ...)
    are sent where a request sets them, in vLLM's names; a server that does not know them refuses or ignores them.
    """
    if request.task is Task.EMBED:
        return "embeddings", {"model": model, "input": _prompts(request), "encoding_format": "float"}
    if request.task is Task.SCORE:
        first, second = zip(*(request.pairs or ()), strict=True)
        return "score", {"model": model, "text_1": list(first), "text_2": list(second)}
    if request.task is Task.TOKENIZE:
        subject = (
            {"messages": _messages(request), "tools": _tools(request)}
            if request.messages
            else {"prompt": _prompts(request)[0]}
        )
        return "tokenize", {"model": model, **{key: value for key, value in subject.items() if value is not None}}
    body = {"model": model, **_sampling(request.params), **({"n": request.n} if request.n > 1 else {})}
    if not request.echo:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    if request.messages is None:
        body |= {"prompt": _prompts(request)} | ({"echo": True} if request.echo else {})
        return "completions", body | ({} if request.params.logprobs is None else {"logprobs": request.params.logprobs})
    if request.params.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.params.logprobs}
    if request.continue_final:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.template_variables:
        body["chat_template_kwargs"] = request.template_variables
    if request.effort is not None:
        body["reasoning_effort"] = request.effort
    return "chat/completions", body | {"messages": _messages(request)} | _tool_fields(request)


def _prompts(request: GenerateRequest) -> Any:
    """Return one prompt as a text or its ids, several as a list of them."""
    if request.prompts is None:
        return [request.prompt if request.token_ids is None else list(request.token_ids)]
    prompts = [prompt if isinstance(prompt, str) else list(prompt) for prompt in request.prompts]
    return prompts[0] if len(prompts) == 1 else prompts


def _messages(request: GenerateRequest) -> list[JsonObject]:
    return [_message(message) for message in request.messages or ()]


def _message(message: ChatMessage) -> JsonObject:
    body = message.as_dict()
    if "tool_calls" in body:
        body["tool_calls"] = [_called(call, number) for number, call in enumerate(body["tool_calls"])]
    return body


def _called(call: JsonObject, number: int) -> JsonObject:
    function = dict(call.get("function") or call)
    arguments = function.get("arguments", "{}")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call.get("id") or f"call_{number}",
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": text},
    }


def _tools(request: GenerateRequest) -> list[JsonObject] | None:
    return list(request.tools) if request.tools else None


def _tool_fields(request: GenerateRequest) -> dict[str, object]:
    tools = _tools(request)
    if tools is None:
        return {}
    choice = request.tool_choice
    named = {"type": "function", "function": {"name": choice.name}} if choice.name else choice.mode
    return {"tools": tools, "tool_choice": named} | (
        {} if request.parallel_tool_calls else {"parallel_tool_calls": False}
    )


def _sampling(params: SamplingParams) -> JsonObject:
    body: dict[str, object] = {"temperature": params.temperature, "top_p": params.top_p}
    if params.max_tokens is not None:
        body["max_tokens"] = params.max_tokens
    if params.top_k:
        body["top_k"] = params.top_k
    if params.seed is not None:
        body["seed"] = params.seed
    if params.stop:
        body["stop"] = list(params.stop)
    for name in ("presence_penalty", "frequency_penalty", "min_p", "min_tokens"):
        if value := getattr(params, name):
            body[name] = value
    if params.repetition_penalty != 1.0:
        body["repetition_penalty"] = params.repetition_penalty
    if params.stop_ids:
        body["stop_token_ids"] = list(params.stop_ids)
    if params.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in params.logit_bias}
    if params.ignore_end:
        body["ignore_eos"] = True
    return body | (_form(params.constraint) if params.constraint else {})


def _form(constraint: Constraint) -> dict[str, object]:
    if constraint.kind == "json_object":
        return {"response_format": {"type": "json_object"}}
    if constraint.kind == "json_schema":
        schema = {"name": "answer", "schema": json.loads(constraint.value), "strict": True}
        return {"response_format": {"type": "json_schema", "json_schema": schema}}
    return {"structured_outputs": {"regex" if constraint.kind == "regex" else "grammar": constraint.value}}
