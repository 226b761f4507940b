"""Ask through LangChain's ChatOpenAI, as an application does; facts go to standard output."""

from __future__ import annotations

import json
import os

import openai
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

ROUND = json.loads(os.environ["ROUND"])


def connect(key: str) -> ChatOpenAI:
    return ChatOpenAI(
        model=ROUND["model"],
        base_url=ROUND["url"],
        api_key=key,
        temperature=0,
        max_tokens=60,
        max_retries=0,
        stream_usage=True,
    )


def ask() -> dict[str, object]:
    model = connect(ROUND["key"])
    answer = model.invoke(ROUND["prompt"])
    pieces = list(model.stream(ROUND["prompt"]))
    asking = model.bind_tools([ROUND["tool"]], tool_choice="required").invoke(ROUND["prompt"])
    (call,) = asking.tool_calls
    result = ToolMessage(ROUND["result"], tool_call_id=call["id"])
    continued = model.bind_tools([ROUND["tool"]]).invoke([HumanMessage(ROUND["prompt"]), asking, result])
    try:
        connect("wrong").invoke(ROUND["prompt"])
    except openai.AuthenticationError as error:
        refusal = [type(error).__name__, str(error)]
    return {
        "answer": answer.content,
        "stream": [piece.content for piece in pieces if piece.content],
        "completion_tokens": answer.usage_metadata["output_tokens"],
        "stream_tokens": sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata),
        "tool_call": [call["name"], call["args"]],
        "continued": continued.content,
        "by_schema": model.with_structured_output({"title": "city", **ROUND["schema"]}, method="json_schema").invoke(
            ROUND["prompt"]
        ),
        "refusal": refusal,
    }


if __name__ == "__main__":
    print(json.dumps(ask()))
