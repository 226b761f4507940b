"""Clients that people bring, unchanged, against a real gateway and a real replica of a tiny network. Each runs in a
process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.gateway.directory import ReplicaAddress
from backend.settings import PROJECT
from tests.support.gateway_fixtures import KEY, MemoryDirectory, gateway
from tests.support.networks.chat_styles import QWEN3
from tests.support.networks.serving_networks import END_ID, make_llama, save_checkpoint
from tests.support.serving_replica import TOKEN, RunningReplica

FOLDER = Path(__file__).parent
NODE_PACKAGES = PROJECT / ".venv" / "node"
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Graz"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "The weather of a city.", "parameters": SCHEMA},
}
REFUSALS = {
    "langchain": "OpenAIAuthenticationError",
    "litellm": "AuthenticationError",
    "llm": "Error",
    "open_webui": "401",
    "node": "AuthenticationError",
}
"""What each client makes of a wrong key."""

Facts = Callable[[str], dict[str, Any]]


def start(client: str, *, environment: dict[str, str]) -> subprocess.Popen[str]:
    command = (
        ["node", str(FOLDER / "ask_node.mjs")]
        if client == "node"
        else [sys.executable, str(FOLDER / f"ask_{client}.py")]
    )
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def is_here(client: str) -> bool:
    return client != "node" or (bool(shutil.which("node")) and (NODE_PACKAGES / "node_modules" / "openai").is_dir())


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facts]:
    """Start all clients at once, and tell what one of them got."""
    folder: Path = tmp_path_factory.mktemp("replica")
    network = make_llama(context=2048)
    with torch.no_grad():
        network.lm_head.weight[END_ID] = 0  # never the most likely token, so that answers have their full length
    save_checkpoint(folder / "checkpoint", network=network, chat_template=QWEN3)
    running = RunningReplica(folder)
    results: dict[str, dict[str, Any]] = {}
    endpoints = {"tiny": [ReplicaAddress(id="r1", url=running.url, token=TOKEN)]}
    with (
        gateway(MemoryDirectory(endpoints)) as url,
        gateway(MemoryDirectory(endpoints, keys_required=False)) as open_url,
    ):
        asked = {
            "url": f"{url}/v1",
            "open_url": f"{open_url}/v1",
            "model": "tiny",
            "key": KEY,
            "prompt": "Weather?",
            "tool": TOOL,
            "schema": SCHEMA,
            "result": "12 degrees",
        }
        environment = {
            **os.environ,
            "ROUND": json.dumps(asked),
            "LLM_USER_PATH": str(tmp_path_factory.mktemp("llm")),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # asks no server of its own for prices
            "NODE_PACKAGES": str(NODE_PACKAGES),
        }
        processes = {client: start(client, environment=environment) for client in REFUSALS if is_here(client)}

        def read(client: str) -> dict[str, Any]:
            if client not in processes:
                pytest.skip("Node or its `openai` package is missing: install nodejs and npm, then `make clients`")
            if client not in results:
                output, errors = processes[client].communicate(timeout=250)
                assert processes[client].returncode == 0, errors[-3000:]
                results[client] = json.loads(output.splitlines()[-1])
            return results[client]

        yield read
        for process in processes.values():
            process.kill()
            process.wait()
    running.stop()


@pytest.mark.parametrize("client", REFUSALS)
def test_a_client_gets_the_same_answer_whole_and_streamed(client: str, facts: Facts) -> None:
    told = facts(client)
    assert told["answer"]
    assert "".join(told["stream"]) == told["answer"]
    assert len(told["stream"]) > 10
    assert told["completion_tokens"] == told["stream_tokens"] == 60


@pytest.mark.parametrize("client", ["litellm", "open_webui", "node"])
def test_a_client_lists_the_models(client: str, facts: Facts) -> None:
    assert any(name.split("/")[-1] == "tiny" for name in facts(client)["models"])


@pytest.mark.parametrize("client", ["langchain", "litellm", "node"])
def test_a_client_calls_a_tool_and_continues_with_its_result(client: str, facts: Facts) -> None:
    assert facts(client)["tool_call"] == ["weather", {"city": "Graz"}]
    assert facts(client)["continued"]


@pytest.mark.parametrize("client", ["langchain", "litellm", "llm", "node"])
def test_a_client_gets_an_answer_by_a_schema(client: str, facts: Facts) -> None:
    assert facts(client)["by_schema"] == {"city": "Graz"}


def test_llm_needs_no_key_where_the_gateway_asks_for_none(facts: Facts) -> None:
    assert facts("llm")["without_key"].strip() == facts("llm")["answer"].strip()


@pytest.mark.parametrize("client", REFUSALS)
def test_a_wrong_key_is_the_clients_own_error_with_the_gateways_words(client: str, facts: Facts) -> None:
    name, message = facts(client)["refusal"]
    assert name == REFUSALS[client]
    assert "key" in message.lower()
