"""Code of a client in three languages. Pure."""

from __future__ import annotations

import json
import shlex


def client_code(language: str, *, url: str, model: str, key: str) -> str:
    """Return a program that asks a model and prints its answer: Python, curl or JavaScript."""
    body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    if language == "curl":
        return (
            f"curl -N {shlex.quote(f'{url}/v1/chat/completions')} \\\n"
            f"  -H 'Content-Type: application/json' -H 'Authorization: Bearer {key}' \\\n"
            f"  -d {shlex.quote(json.dumps({**body, 'stream': True}, ensure_ascii=False))}"
        )
    if language == "JavaScript":
        return (
            'import OpenAI from "openai";\n\n'
            f"const client = new OpenAI({{ baseURL: {json.dumps(f'{url}/v1')}, apiKey: {json.dumps(key)} }});\n"
            "const stream = await client.chat.completions.create({\n"
            f'  model: {json.dumps(model, ensure_ascii=False)}, messages: [{{ role: "user", content: "Hello" }}],'
            " stream: true,\n"
            '});\nfor await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");'
        )
    return (
        "from openai import OpenAI\n\n"
        f"client = OpenAI(base_url={json.dumps(f'{url}/v1')}, api_key={json.dumps(key)})\n"
        "stream = client.chat.completions.create(\n"
        f'    model={json.dumps(model, ensure_ascii=False)}, messages=[{{"role": "user", "content": "Hello"}}],'
        " stream=True\n"
        ")\nfor chunk in stream:\n    if chunk.choices:\n"
        '        print(chunk.choices[0].delta.content or "", end="")'
    )
