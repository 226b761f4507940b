"""A gateway before a replica of a tiny network whose template knows tools and reasoning, and before a scripted one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from backend.domain.serving.key_limits import KeyLimits, KeyScopes
from backend.gateway.directory import Principal, ReplicaAddress
from tests.support.gateway_fixtures import MemoryDirectory, gateway, scripted
from tests.support.networks.chat_styles import QWEN3
from tests.support.networks.serving_networks import END_ID, make_llama, save_checkpoint
from tests.support.serving.api_place import Place
from tests.support.serving_replica import TOKEN, RunningReplica


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("replica")
    network = make_llama(context=2048)
    with torch.no_grad():
        network.lm_head.weight[END_ID] = 0  # never the most likely token, so that a greedy answer runs to its limit
    save_checkpoint(folder / "checkpoint", network=network, chat_template=QWEN3)
    running = RunningReplica(folder)
    with scripted() as (replica, replica_url):
        endpoints = {
            "tiny": [ReplicaAddress(id="r1", url=running.url, token=TOKEN)],
            "scripted": [ReplicaAddress(id="r2", url=replica_url, token="t")],
        }
        directory = MemoryDirectory(endpoints)
        directory.log_modes["tiny"] = "bodies"
        directory.principals["other"] = Principal(key_id="k2", name="other", user_id="u2")
        directory.principals["colleague"] = Principal(key_id="k3", name="colleague", user_id="u2")
        directory.principals["texts"] = Principal(
            key_id="k4", name="texts", scopes=KeyScopes(endpoints=("completions",))
        )
        directory.principals["once"] = Principal(key_id="k5", name="once", limits=KeyLimits(requests=1))
        with gateway(directory) as url:
            yield Place(url, directory, replica)
    running.stop()


@pytest.fixture(autouse=True)
def _finishing(place: Place) -> Iterator[None]:
    yield
    place.scripted.script = "finish"
