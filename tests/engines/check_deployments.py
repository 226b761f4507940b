"""A whole installation with the real vLLM and SGLang: deploy, stream, cancel, kill, redeploy, a canary.

Run by `make engines`. Each takes about a minute to start on two cores.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import openai
import psutil
import pytest
from sqlalchemy import select

from backend.bootstrap import build_context
from backend.db.tables import Checkpoint, Usage
from backend.domain.serving.canary import CanaryRules
from backend.domain.serving.engines import ENGINE_TITLES
from backend.services.context import LOCAL, Context
from backend.services.serving.canaries import promote_canary, start_canary
from backend.services.serving.deployments import deploy
from backend.services.serving.endpoints import EndpointView, get_endpoint
from tests.support.installation import Installation, is_alive, mark_starter_content, wait_until
from tests.support.networks.serving_networks import make_llama, save_checkpoint
from tests.support.settings import make_settings

START_S = 300.0
CONTEXT = 8192


def variants(ctx: Context) -> set[str]:
    """Return the revisions that answered: "stable", or the id of a canary."""
    with ctx.db.read() as session:
        return set(session.scalars(select(Usage.variant).where(Usage.completion_tokens > 0)))


class Serving:
    """An installation with a checkpoint, its endpoint `m` and clients of it."""

    def __init__(self, up: Installation, checkpoint_id: str, engine: str) -> None:
        self.up, self.checkpoint_id, self.engine = up, checkpoint_id, engine
        self.client = openai.OpenAI(base_url=up.gateway_url, api_key="EMPTY", max_retries=0, timeout=300)

    def deploy(self, **config: Any) -> None:
        deploy(self.up.ctx, checkpoint_id=self.checkpoint_id, name="m", config=config, person=LOCAL)

    def view(self) -> EndpointView:
        return get_endpoint(self.up.ctx, "m")

    def wait_settled(self) -> None:
        """Wait until one revision answers by one replica, and nothing drains."""

        def is_settled() -> bool:
            view = self.view()
            return view.rollout is None and view.canary is None and view.num_ready == 1 == len(view.replicas)

        wait_until(is_settled, timeout_s=START_S, what="the rollout")

    def answer(self, prompt: str = "x", **values: Any) -> str:
        body: dict[str, Any] = {"model": "m", "prompt": prompt, "max_tokens": 30, "temperature": 0, **values}
        return str(self.client.completions.create(**body).choices[0].text)

    def servers(self) -> list[psutil.Process]:
        """The server and its processes. The inner ones hide their environment, by which others are found."""
        keepers = [one for one in self.up.processes(" serve ") if one.cmdline()[0] == "/bin/sh"]
        return [child for keeper in keepers for child in keeper.children(recursive=True)]


@pytest.fixture(scope="module", params=["vllm", "sglang"])
def serving(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    up = Installation(tmp_path_factory.mktemp("up") / "home", ROUNDHOUSE_CANCEL_GRACE_S="5")
    up.home.mkdir()
    ctx = build_context(make_settings(up.home).model_copy(update={"database_url": up.environment["DATABASE_URL"]}))
    mark_starter_content(ctx)
    save_checkpoint(ctx.artifacts.root / "bases" / "tiny", network=make_llama(context=CONTEXT, hidden=128))
    with ctx.db.write() as session:
        row = Checkpoint(name="tiny", origin="added", folder="bases/tiny", family="llama", parameters=10)
        session.add(row)
        session.flush()
        checkpoint_id = row.id
    up.start()
    try:
        serving = Serving(up, checkpoint_id, request.param)
        serving.deploy(engine="roundhouse")
        serving.wait_settled()
        yield serving
    finally:
        up.stop()


@dataclass
class Traffic:
    """Answers and errors of two clients that ask one request after another, while something else happens."""

    serving: Serving
    answers: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    is_over: bool = False

    @staticmethod
    def during(serving: Serving, act: Callable[[], object]) -> Traffic:
        traffic = Traffic(serving)
        clients = [threading.Thread(target=traffic._ask, args=[name]) for name in ("ann", "bob")]
        for client in clients:
            client.start()
        try:
            act()
        finally:
            traffic.is_over = True
            for client in clients:
                client.join()
        return traffic

    def _ask(self, name: str) -> None:
        number = 0
        while not self.is_over:
            number += 1
            try:
                self.answers.append(self.serving.answer(user=f"{name} {number}"))
            except openai.APIError as error:
                self.errors.append(str(error))
            time.sleep(0.3)  # the server starts beside this


def test_a_canary_of_another_engine_beside_ours_answers_alike_and_is_promoted_without_a_cut(serving: Serving) -> None:
    ours = serving.answer()

    def act() -> None:
        rules = CanaryRules(percent=50)
        start_canary(
            serving.up.ctx, "m", checkpoint_id=serving.checkpoint_id, rules=rules, engine=serving.engine, person=LOCAL
        )
        wait_until(lambda: (canary := serving.view().canary) and canary.num_ready, timeout_s=START_S, what="the canary")
        time.sleep(5)

    def promote() -> None:
        promote_canary(serving.up.ctx, "m", person=LOCAL)
        serving.wait_settled()

    beside = Traffic.during(serving, act)
    assert (set(beside.answers), beside.errors) == ({ours}, [])
    wait_until(lambda: len(variants(serving.up.ctx)) == 2, timeout_s=20, what="requests of both engines")
    promoted = Traffic.during(serving, promote)
    assert (set(promoted.answers), promoted.errors) == ({ours}, [])
    wait_until(
        lambda: f"{ENGINE_TITLES[serving.engine]} in float32" in " ".join(serving.view().arithmetics),
        what="the report of the engine",
    )


def test_a_stream_that_its_client_leaves_ends_in_the_server(serving: Serving) -> None:
    body: dict[str, Any] = {"model": "m", "prompt": "x", "max_tokens": 8000, "extra_body": {"ignore_eos": True}}
    stream = serving.client.completions.create(**body, stream=True)
    pieces = iter(stream)
    for _ in range(5):
        next(pieces)
    stream.close()

    def is_idle() -> bool:
        (replica,) = serving.view().replicas
        return replica.gauges.running == 0

    wait_until(is_idle, timeout_s=15, what="the end of the request")
    time.sleep(2)
    before = sum(sum(one.cpu_times()[:2]) for one in serving.servers())
    time.sleep(3)
    spent = sum(sum(one.cpu_times()[:2]) for one in serving.servers()) - before
    assert spent < 1.0, f"it computes on: {spent:.1f} s of 3"


def test_a_killed_server_comes_back_by_itself(serving: Serving) -> None:
    before = serving.answer()
    servers = serving.servers()
    assert len(servers) >= 3
    servers[0].send_signal(signal.SIGKILL)
    wait_until(lambda: not any(map(is_alive, servers)), timeout_s=60, what="the end of all its processes")
    wait_until(lambda: serving.view().num_ready == 0, timeout_s=60, what="the lost replica")
    wait_until(lambda: serving.view().num_ready == 1, timeout_s=START_S, what="its restart")
    assert serving.answer() == before


def test_a_redeployment_cuts_no_answer(serving: Serving) -> None:
    before = serving.answer()

    def act() -> None:
        serving.deploy(engine=serving.engine, max_running=4)
        serving.wait_settled()

    traffic = Traffic.during(serving, act)
    assert (set(traffic.answers), traffic.errors) == ({before}, [])


def test_a_stop_ends_every_process(serving: Serving) -> None:
    serving.deploy(engine="roundhouse")
    serving.wait_settled()
    wait_until(lambda: not serving.servers(), timeout_s=30, what="the end of its processes")
