"""Send what Open WebUI's server sends: the check of a connection, a chat, and the title of a chat; facts go to standard
output.

Open WebUI itself is an application of gigabytes, so its requests are written down here: aiohttp, a JSON content type on
every request, the headers that name its user, `stream_options` added to a stream, lines of up to 4 MB.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any

import aiohttp

ROUND = json.loads(os.environ["ROUND"])
USER = {"Name": "Ada%20L%C3%B6w", "Id": "6f1c", "Email": "ada@example.org", "Role": "admin"}


def headers(key: str) -> dict[str, str]:
    forwarded = {f"X-OpenWebUI-User-{name}": value for name, value in USER.items()}
    return {"Content-Type": "application/json", **forwarded, "Authorization": f"Bearer {key}"}


async def verify(session: aiohttp.ClientSession, key: str) -> tuple[int, Any]:
    async with session.get(f"{ROUND['url']}/models", headers=headers(key)) as response:
        return response.status, await response.json()


async def chat(session: aiohttp.ClientSession, **body: Any) -> list[Any]:
    parts = [{"type": "text", "text": ROUND["prompt"]}]
    payload = {
        "model": ROUND["model"],
        "temperature": 0,
        "max_tokens": 60,
        "messages": [{"role": "user", "content": parts}],
        **body,
    }
    request = session.post(f"{ROUND['url']}/chat/completions", data=json.dumps(payload), headers=headers(ROUND["key"]))
    async with request as response:
        if "text/event-stream" not in response.headers.get("Content-Type", ""):
            return [await response.json()]
        lines = [line.decode().strip() async for line in response.content]
    events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    return [json.loads(event) for event in events[:-1]]


async def ask() -> dict[str, object]:
    async with aiohttp.ClientSession(trust_env=True, read_bufsize=4 * 1024 * 1024) as session:
        _, models = await verify(session, ROUND["key"])
        (title,) = await chat(session, stream=False)
        chunks = await chat(session, stream=True, stream_options={"include_usage": True})
        status, refusal = await verify(session, "wrong")
    return {
        "models": [model["id"] for model in models["data"]],
        "answer": title["choices"][0]["message"]["content"],
        "stream": [
            piece for chunk in chunks for choice in chunk["choices"] if (piece := choice["delta"].get("content"))
        ],
        "completion_tokens": title["usage"]["completion_tokens"],
        "stream_tokens": sum(chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")),
        "refusal": [str(status), refusal["error"]["message"]],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(ask())))
