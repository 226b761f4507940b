"""LangChain's ChatOpenAI, LiteLLM, `llm` and the requests of Open WebUI, unchanged, against the gateway at BASE_URL (see run.sh)."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

URL, MODEL, KEY = os.environ["BASE_URL"], os.environ["MODEL"], os.environ["OPENAI_API_KEY"]
PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Graz"]}}, "required": ["city"], "additionalProperties": False}
WEATHER: dict[str, Any] = {"type": "function", "function": {"name": "weather", "description": "Weather.", "parameters": PARAMETERS}}


def check_langchain() -> str:
    """Ask, stream, call a tool and answer by a schema."""
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL, base_url=URL, api_key=KEY, temperature=0, max_tokens=60, max_retries=0)
    answer = model.invoke("Hello")
    assert answer.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in model.stream("Hello")) == answer.content
    call = model.bind_tools([WEATHER], tool_choice="required").invoke("Weather in Graz?").tool_calls[0]
    assert (call["name"], call["args"]) == ("weather", {"city": "Graz"})
    schema = {"title": "weather", **PARAMETERS}
    assert model.with_structured_output(schema, method="json_schema").invoke("Weather?") == {"city": "Graz"}
    return "LangChain ChatOpenAI: chat, stream, tools, schema"


def check_litellm() -> str:
    """Ask, stream and embed through LiteLLM's `openai/` provider."""
    import litellm

    asked: dict[str, Any] = {
        "model": f"openai/{MODEL}",
        "api_base": URL,
        "api_key": KEY,
        "messages": [{"role": "user", "content": "Hello"}],
    }
    answer = litellm.completion(**asked, temperature=0, max_tokens=8)
    assert answer.usage.completion_tokens > 0
    pieces = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**asked, temperature=0, max_tokens=8, stream=True)]
    assert "".join(pieces) == answer.choices[0].message.content
    vector = litellm.embedding(model=f"openai/{MODEL}", api_base=URL, api_key=KEY, input=["a cat"]).data[0]["embedding"]
    assert len(vector) > 1
    return "LiteLLM: chat, stream, embeddings"


def check_llm() -> str:
    """Ask through the `llm` command with a model in its extra-openai-models.yaml."""
    folder = Path(os.environ["LLM_USER_PATH"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "extra-openai-models.yaml").write_text(f"- model_id: here\n  model_name: {MODEL}\n  api_base: {URL}\n  api_key_name: here\n")
    command = [str(Path(sys.executable).parent / "llm"), "-m", "here", "-o", "max_tokens", "8", "--key", KEY, "Hello"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return "llm: a prompt, streamed"


async def check_open_webui() -> str:
    """Send what Open WebUI's connection check and its first chat send: models with a bearer token, then a stream with usage."""
    import aiohttp

    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "stream": True, "stream_options": {"include_usage": True}}
    async with aiohttp.ClientSession(trust_env=True) as session:
        async with session.get(f"{URL}/models", headers=headers) as response:
            assert MODEL in [entry["id"] for entry in (await response.json())["data"]]
        async with session.post(f"{URL}/chat/completions", headers=headers, data=json.dumps({**body, "max_tokens": 8})) as response:
            assert "text/event-stream" in response.headers["Content-Type"]
            lines = [line.decode().strip() async for line in response.content if line.strip()]
    assert lines[-1] == "data: [DONE]"
    assert json.loads(lines[-2][6:])["usage"]["completion_tokens"] > 0
    return "Open WebUI: connection check, first chat"


if __name__ == "__main__":
    for result in (check_langchain(), check_litellm(), check_llm(), asyncio.run(check_open_webui())):
        sys.stdout.write(result + "\n")
