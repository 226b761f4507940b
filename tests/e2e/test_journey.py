"""A newcomer's first hour: train, watch, evaluate, deploy, chat. The way from votes to a promotion is in
`test_loop.py`.

Small numbers of steps: what is tested is that each click leads on, not that the network is good.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import openai
import pytest
from playwright.sync_api import expect

from backend.domain.jobs.states import Status
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.evaluation.evaluations import list_evaluations
from backend.services.tokenizers.tokenizers import get_tokenizer
from backend.services.training.views import get_run
from pages.components import routes
from tests.support.browser import Visitor
from tests.support.installation import Installation, wait_until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A whole installation in an empty folder, as a newcomer starts it."""
    running = Installation(tmp_path_factory.mktemp("installation")).start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(autouse=True)
def _nothing_bad_was_seen(visitor: Visitor) -> Iterator[None]:
    visitor.findings.clear()
    yield
    assert visitor.findings == []


def finished(installation: Installation, name: str) -> None:
    def is_finished() -> bool:
        run = get_run(installation.ctx, name)
        assert run.status is not Status.FAILED, run
        return run.status is Status.FINISHED

    wait_until(is_finished, timeout_s=300, what=f"the end of {name}")


def launch(visitor: Visitor, address: str, *, name: str, steps: int) -> None:
    visitor.go(address)
    visitor.fills("Steps", str(steps))
    visitor.fills("Name", name)
    ready = visitor.page.get_by_role("button", name=re.compile("^(Launch|Accept the warnings first)$"))
    ready.first.wait_for()
    if ready.first.inner_text().endswith("first"):  # such short runs are warned of
        visitor.page.get_by_text(re.compile("^Proceed despite")).click()
        visitor.settle()
    visitor.clicks("Launch")
    visitor.page.wait_for_url(re.compile(r"run\?run="))
    visitor.settle()


def test_a_new_user_trains_and_watches_a_run(installation: Installation, visitor: Visitor) -> None:
    visitor.go("/")
    visitor.sees("Next")
    wait_until(lambda: get_tokenizer(installation.ctx, "pebblewick-bpe-2048").folder, what="the starter content")
    launch(visitor, "/launch", name="First stories", steps=50)
    address = visitor.page.url
    visitor.sees(re.compile(r"step \d+ of 50"), timeout_s=120)
    visitor.go(address.removeprefix(visitor.url))  # a refresh changes nothing
    finished(installation, "First stories")
    visitor.sees("Finished at step 50")
    visitor.sees("Once upon a time")
    launch(visitor, "/launch?base=First stories", name="First chat", steps=8)
    visitor.sees("Finished at step 8", timeout_s=300)
    assert [get_run(installation.ctx, name).last_step for name in ("First stories", "First chat")] == [50, 8]
    assert visitor.page.url != address, "the second run has an address of its own"


def test_a_text_is_seen_in_tokens_while_it_is_typed(installation: Installation, visitor: Visitor) -> None:
    tokenizer = wait_until(
        lambda: (one := get_tokenizer(installation.ctx, "pebblewick-bpe-2048")).folder and one,
        timeout_s=120,
        what="the starter content",
    )
    visitor.go(f"/tokenizers?tokenizer={tokenizer.id}")
    field = visitor.page.get_by_label("Text", exact=True)
    field.fill("")
    visitor.sees("No text, no tokens.")
    field.press_sequentially("<b>The cat</b>")  # never leaves the field
    visitor.sees("14 characters")
    tokens = visitor.page.locator(".rt-token")
    wait_until(lambda: "".join(tokens.all_inner_texts()) == "<b>The·cat</b>", what="the tokens")
    assert field.input_value() == "<b>The cat</b>"


def test_the_checkpoint_is_evaluated_from_the_run_page(installation: Installation, visitor: Visitor) -> None:
    visitor.go("/run?run=First chat")
    visitor.follows("Evaluate")
    visitor.clicks("Evaluate")
    visitor.page.wait_for_url(re.compile("evaluation="))
    visitor.sees(re.compile("95"), timeout_s=180)
    evaluation = wait_until(
        lambda: [e for e in list_evaluations(installation.ctx) if e.scores], timeout_s=180, what="scores"
    )[0]
    accuracy = next(score for score in evaluation.scores if score.metric == "acc")
    assert accuracy.low is not None
    assert accuracy.high is not None
    assert 0 <= accuracy.low <= accuracy.value <= accuracy.high <= 1


def test_the_checkpoint_is_deployed_and_chats_in_the_browser_and_through_the_openai_client(
    installation: Installation, visitor: Visitor
) -> None:
    checkpoint = resolve_checkpoint(installation.ctx, "First chat").id
    visitor.go(f"/endpoints?checkpoint={checkpoint}")
    visitor.fills("Endpoint name", "village")
    visitor.clicks("Deploy")
    visitor.sees("1 of 1", timeout_s=120)
    visitor.go("/playground?endpoint=village")
    box = visitor.page.get_by_placeholder("Write a message")
    box.fill("Tell me a story about Mira.")
    box.press("Enter")
    visitor.sees(re.compile(r"first token \d+ ms"))
    client = openai.OpenAI(base_url=installation.gateway_url, api_key="local")
    assert [model.id for model in client.models.list()] == ["village"]
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in client.chat.completions.create(
            model="village", messages=[{"role": "user", "content": "Hello"}], max_tokens=12, temperature=0, stream=True
        )
        if chunk.choices
    ]
    assert "".join(pieces)


def test_every_page_of_the_navigation_shows_its_content_without_an_error(visitor: Visitor) -> None:
    visitor.go("/")
    for listed in routes.listed_pages():
        if listed.is_hidden:
            continue
        link = visitor.page.locator("[data-testid=stSidebarNavLink]").get_by_text(listed.title, exact=True)
        link.click()
        visitor.page.wait_for_url(visitor.url + routes.address(listed.script))
        visitor.settle()
        expect(visitor.page.locator("h1")).to_have_count(1)
