"""Ask through LiteLLM's `openai/` provider; facts go to standard output."""

from __future__ import annotations

import json
import os
from typing import Any

import litellm

ROUND = json.loads(os.environ["ROUND"])


def complete(*, key: str = ROUND["key"], messages: list[Any] | None = None, **params: Any) -> Any:
    return litellm.completion(
        model=f"openai/{ROUND['model']}",
        api_base=ROUND["url"],
        api_key=key,
        messages=messages or [{"role": "user", "content": ROUND["prompt"]}],
        temperature=0,
        max_tokens=60,
        max_retries=0,
        **params,
    )


def ask() -> dict[str, object]:
    answer = complete()
    chunks = list(complete(stream=True, stream_options={"include_usage": True}))
    asking = complete(tools=[ROUND["tool"]], tool_choice="required").choices[0].message
    (call,) = asking.tool_calls
    result = {"role": "tool", "tool_call_id": call.id, "content": ROUND["result"]}
    continued = complete(
        messages=[{"role": "user", "content": ROUND["prompt"]}, asking.model_dump(), result], tools=[ROUND["tool"]]
    )
    form = {"type": "json_schema", "json_schema": {"name": "city", "schema": ROUND["schema"], "strict": True}}
    try:
        complete(key="wrong")
    except litellm.AuthenticationError as error:
        refusal = [type(error).__name__, str(error)]
    return {
        "models": litellm.get_valid_models(
            check_provider_endpoint=True, custom_llm_provider="openai", api_key=ROUND["key"], api_base=ROUND["url"]
        ),
        "answer": answer.choices[0].message.content,
        "stream": [piece for chunk in chunks for choice in chunk.choices if (piece := choice.delta.content)],
        "completion_tokens": answer.usage.completion_tokens,
        "stream_tokens": sum(chunk.usage.completion_tokens for chunk in chunks if getattr(chunk, "usage", None)),
        "tool_call": [call.function.name, json.loads(call.function.arguments)],
        "continued": continued.choices[0].message.content,
        "by_schema": json.loads(complete(response_format=form).choices[0].message.content),
        "refusal": refusal,
    }


if __name__ == "__main__":
    print(json.dumps(ask()))
