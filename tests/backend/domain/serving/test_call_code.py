"""The call as code: what is shown runs."""

from __future__ import annotations

import ast
import inspect
import json
import shlex

import pytest
from openai.resources.chat.completions import Completions

from backend.domain.serving.call_code import curl_code, first_body, javascript_code, python_code

BODY = {
    "model": "tales",
    "messages": [{"role": "user", "content": 'It\'s "quoted"\n`$HOME` \\ ü'}],
    "temperature": 0.5,
    "max_tokens": 8,
}


def test_the_shell_reads_the_body_as_it_is() -> None:
    parts = shlex.split(curl_code("http://127.0.0.1:8100", BODY, key="local").replace("\\\n", " "))
    assert json.loads(parts[parts.index("-d") + 1]) == BODY


@pytest.mark.parametrize("name", ["tales", "it's", 'a"b', "café\\n"])
def test_the_code_parses_and_names_the_model(name: str) -> None:
    python = python_code("http://h:1", first_body(name), key="rh-1")
    assert name in [node.value for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Constant)]
    words = shlex.split(curl_code("http://h:1", first_body(name), key="local").replace("\\\n", " "))
    assert json.loads(words[-1])["model"] == name
    assert "Authorization: Bearer local" in words
    assert json.dumps(name, ensure_ascii=False) in javascript_code("http://h:1", first_body(name), key="rh-1")


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


def test_python_passes_what_the_official_client_does_not_know_as_extra_body() -> None:
    settings = {**BODY, "top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "frequency_penalty": 0.5}
    code = python_code("http://127.0.0.1:8100", settings, key="local")
    known = inspect.signature(Completions.create).parameters
    call = ast.parse(code.split("stream = ")[1].split("for chunk")[0]).body[0]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    assert {str(keyword.arg) for keyword in call.value.keywords} <= set(known)
    extra = next(keyword.value for keyword in call.value.keywords if keyword.arg == "extra_body")
    assert ast.literal_eval(extra) == {"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1}
