"""`roundhouse tokenizer encode`: the tokens of a text, and a word where it is cut."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from backend.cli.main import app
from backend.services.context import Context
from tests.support.scenario import Scenario


def test_a_text_that_is_too_long_says_that_it_is_cut(command_line: Context) -> None:
    """Only the JSON's `cut` told."""
    scenario = Scenario(command_line)
    scenario.benchmark("tales", [{"text": "Once upon a time."}] * 4, kind="text")
    scenario.tokenizer("bytes", kind="byte", vocab_size=0, dataset="tales")
    short = CliRunner().invoke(app, ["tokenizer", "encode", "bytes", "a" * 50_000, "--json"])
    assert (json.loads(short.stdout)["num_tokens"], short.stderr) == (50_000, "")
    cut = CliRunner().invoke(app, ["tokenizer", "encode", "bytes", "a" * 50_001, "--json"])
    assert (json.loads(cut.stdout)["num_tokens"], json.loads(cut.stdout)["cut"]) == (50_000, True)
    assert cut.stderr == "The text has 50,001 characters; only the first 50,000 are encoded.\n"
