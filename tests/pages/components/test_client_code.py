"""Client code is code, whatever the endpoint's name holds."""

from __future__ import annotations

import ast
import json
import shlex

import pytest

from pages.components.serving.client_code import client_code


@pytest.mark.parametrize("name", ["tales", "it's", 'a"b', "café\\n"])
def test_the_code_parses_and_names_the_model(name: str) -> None:
    python = client_code("Python", url="http://h:1", model=name, key="rh-1")
    assert name in [node.value for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Constant)]
    words = shlex.split(client_code("curl", url="http://h:1", model=name, key="local").replace("\\\n", " "))
    assert json.loads(words[-1])["model"] == name
    assert "Authorization: Bearer local" in words
    assert json.dumps(name, ensure_ascii=False) in client_code("JavaScript", url="http://h:1", model=name, key="rh-1")
