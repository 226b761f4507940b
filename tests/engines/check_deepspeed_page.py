"""A whole installation trains by DeepSpeed what was launched from the page's form and by the command.

Run by `make engines`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect, sync_playwright

from backend.domain.jobs.states import Status
from backend.domain.training.config_sections import DeviceConfig
from backend.recipes import RECIPES
from backend.services.jobs.jobs import read_log
from backend.services.tokenizers.tokenizers import get_tokenizer
from backend.services.training.views import get_run
from backend.settings import PROJECT
from tests.support.browser import FLAGS, Visitor, chromium, visit
from tests.support.curves import read_curve
from tests.support.installation import Installation, wait_until


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    running = Installation(tmp_path_factory.mktemp("installation")).start()
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def visitor(installation: Installation) -> Iterator[Visitor]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        with visit(browser, installation.url) as person:
            yield person
        browser.close()


def test_zero3_with_offload_is_launched_from_the_form(installation: Installation, visitor: Visitor) -> None:
    ctx = installation.ctx
    wait_until(lambda: get_tokenizer(ctx, "pebblewick-bpe-2048").folder, what="the starter content")
    visitor.go("/launch")
    visitor.fills("Steps", "20")
    visitor.fills("Name", "By DeepSpeed")
    visitor.page.get_by_text(re.compile("^Advanced")).first.click()
    visitor.settle()
    visitor.page.get_by_role("tab", name="Hardware").click()
    visitor.fills("Devices", "2")
    box = visitor.page.get_by_role("combobox", name=re.compile("Sharding")).first
    box.click()
    box.fill("ZeRO-3")
    visitor.page.get_by_role("option", name="DeepSpeed ZeRO-3").first.click()
    visitor.settle()
    visitor.page.get_by_text("Offload to the CPU", exact=True).first.click()
    visitor.settle()
    ready = visitor.page.get_by_role("button", name=re.compile("^(Launch|Accept the warnings first)$"))
    expect(ready.first).to_be_visible()
    if ready.first.inner_text().endswith("first"):
        visitor.page.get_by_text(re.compile("^Proceed despite")).click()
        visitor.settle()
    visitor.clicks("Launch")
    visitor.page.wait_for_url(re.compile(r"run\?run="))
    run = get_run(ctx, "By DeepSpeed")
    wait_until(lambda: get_run(ctx, run.id).status in (Status.FINISHED, Status.FAILED), what="the end of the run")
    assert get_run(ctx, run.id).status is Status.FINISHED, read_log(ctx, str(run.job_id))
    assert list(read_curve(ctx, run.id, "train_loss").steps) == list(range(1, 21))
    visitor.sees("Finished at step 20")
    assert visitor.findings == []


def test_zero2_is_launched_from_the_command(installation: Installation) -> None:
    recipe = installation.home / "recipe.yaml"
    short = {"max_steps": 4, "eval_every": 4, "checkpoint_every": 4, "micro_batch": 2}
    starter = RECIPES["starter-pretrain"].config.model_copy(
        update={**short, "devices": DeviceConfig(count=2, sharding="zero2")}
    )
    recipe.write_text(starter.to_yaml())
    launch = ["-m", "backend.cli.main", "run", "launch", str(recipe), "--name", "By command", "--wait", "--yes"]
    place = {"env": installation.environment, "cwd": PROJECT}
    ended = subprocess.run([sys.executable, *launch], **place, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    run = get_run(installation.ctx, "By command")
    assert list(read_curve(installation.ctx, run.id, "train_loss").steps) == [1, 2, 3, 4]
