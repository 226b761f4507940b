"""A chat request as a command of curl, as Python and as JavaScript, for the reader to run elsewhere. Pure text."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping


def first_body(model: str) -> dict[str, object]:
    """Return the body of a first request to a model."""
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}]}


def curl_code(url: str, body: Mapping[str, object], *, key: str) -> str:
    """Return the request as a shell command that prints the answer."""
    data = shlex.quote(json.dumps(body, ensure_ascii=False, indent=2))
    headers = f"-H 'Authorization: Bearer {key}' -H 'Content-Type: application/json'"
    return f"curl {shlex.quote(f'{url}/v1/chat/completions')} \\\n  {headers} \\\n  -d {data}"


def python_code(url: str, body: Mapping[str, object], *, key: str) -> str:
    """Return the request as Python over the official client, streamed."""
    extra = {name: body[name] for name in ("top_k", "min_p", "repetition_penalty") if name in body}
    lines = [f"    {name}={value!r}," for name, value in body.items() if name not in extra]
    if extra:
        lines.append(f"    extra_body={extra!r},")
    return (
        "from openai import OpenAI\n\n"
        f"client = OpenAI(base_url={f'{url}/v1'!r}, api_key={key!r})\n"
        "stream = client.chat.completions.create(\n" + "\n".join(lines) + "\n    stream=True,\n)\n"
        'for chunk in stream:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="")\n'
    )


def javascript_code(url: str, body: Mapping[str, object], *, key: str) -> str:
    """Return the request as JavaScript over the official client, streamed."""
    return (
        'import OpenAI from "openai";\n\n'
        f"const client = new OpenAI({{ baseURL: {json.dumps(f'{url}/v1')}, apiKey: {json.dumps(key)} }});\n"
        "const stream = await client.chat.completions.create("
        f"{json.dumps({**body, 'stream': True}, ensure_ascii=False, indent=2)});\n"
        'for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");'
    )
