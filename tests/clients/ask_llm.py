"""Ask through `llm`: its library, and its command as a person types it; facts go to standard output."""

from __future__ import annotations

import json
import os
from pathlib import Path

import yaml

ROUND = json.loads(os.environ["ROUND"])
ENTRY = {
    "model_id": "here",
    "model_name": ROUND["model"],
    "api_base": ROUND["url"],
    "api_key_name": "here",
    "supports_schema": True,
}
OPEN = {
    "model_id": "open",
    "model_name": ROUND["model"],
    "api_base": ROUND["open_url"],
}  # a server that asks for no key: `llm` sends its own
Path(os.environ["LLM_USER_PATH"], "extra-openai-models.yaml").write_text(yaml.safe_dump([ENTRY, OPEN]))

import llm  # noqa: E402  it reads the file above
from click.testing import CliRunner  # noqa: E402
from llm.cli import cli  # noqa: E402


def ask() -> dict[str, object]:
    model = llm.get_model("here")
    params = {"key": ROUND["key"], "temperature": 0, "max_tokens": 60}
    answer = model.prompt(ROUND["prompt"], stream=False, **params)
    stream = model.prompt(ROUND["prompt"], **params)
    pieces = list(stream)
    command = CliRunner().invoke(cli, ["-m", "here", "--no-log", "--key", "wrong", ROUND["prompt"]])
    assert command.exit_code == 1
    unasked = CliRunner().invoke(
        cli, ["-m", "open", "--no-log", "-o", "temperature", "0", "-o", "max_tokens", "60", ROUND["prompt"]]
    )
    return {
        "answer": answer.text(),
        "stream": [piece for piece in pieces if piece],
        "completion_tokens": answer.usage().output,
        "stream_tokens": stream.usage().output,
        "by_schema": json.loads(model.prompt(ROUND["prompt"], schema=ROUND["schema"], **params).text()),
        "refusal": ["Error", command.output],
        "without_key": unasked.output,
    }


if __name__ == "__main__":
    print(json.dumps(ask()))
