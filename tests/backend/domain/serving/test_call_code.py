"""The call as code: what is shown runs."""

from __future__ import annotations

import json
import shlex

from backend.domain.serving.call_code import curl_code, python_code

BODY = {
    "model": "tales",
    "messages": [{"role": "user", "content": 'It\'s "quoted"\n`$HOME` \\ ü'}],
    "temperature": 0.5,
    "max_tokens": 8,
}


def test_the_shell_reads_the_body_as_it_is() -> None:
    parts = shlex.split(curl_code("http://127.0.0.1:8100", BODY, key="local").replace("\\\n", " "))
    assert json.loads(parts[parts.index("-d") + 1]) == BODY


def test_python_calls_the_client_with_the_body() -> None:
    code = python_code("http://127.0.0.1:8100", BODY, key="local")
    calls: dict[str, object] = {}

    class Client:
        def __init__(self, **_: str) -> None:
            self.chat = self.completions = self

        def create(self, **body: object) -> list[object]:
            calls.update(body)
            return []

    exec(code.replace("from openai import OpenAI", ""), {"OpenAI": Client})
    assert calls == {**BODY, "stream": True}
