"""Take the README's pictures of an installation that runs here: `python docs/pictures.py`.

It makes what is missing: the starter networks, endpoints of four of their checkpoints, a campaign with the votes of
ten scripted raters, and requests by an OpenAI client. The installation is that of the environment (`roundhouse up`).
"""

from __future__ import annotations

import base64
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from openai import OpenAI
from playwright.sync_api import Page, sync_playwright

from backend.bootstrap import build_context
from backend.domain.battles.votes import Label
from backend.services.battles.raters import create_rater_link, rater_from_link
from backend.services.context import LOCAL, Context
from backend.settings import PROJECT, Settings
from tests.support.battle_world import vote_all
from tests.support.browser import FLAGS, chromium, settle, watch

PICTURES = Path(__file__).parent / "pictures"
CAMPAIGN = "Bedtime stories"
QUESTIONS = ("Tell me a bedtime story about Mira.", "How is Juno's fox called?", "Who lives at the old mill?")
SIZE = {"width": 1280, "height": 760}
QUALITY = 82


def roundhouse(*arguments: str) -> Any:
    """Run a command of this installation and return its JSON document."""
    command = [sys.executable, "-m", "backend.cli.main", *arguments, "--json"]
    shown = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(shown.stdout)


def trained(objective: str, recipe: str) -> tuple[str, list[str]]:
    """Return the newest finished run of an objective, trained if there is none, and its checkpoints in their order."""
    finished = [run for run in roundhouse("run", "list")["runs"] if run["status"] == "finished"]
    if not any(run["objective"] == objective for run in finished):
        roundhouse("run", "launch", f"backend/recipes/{recipe}.yaml", "--wait")
        return trained(objective, recipe)
    run = next(run["run"] for run in finished if run["objective"] == objective)
    rows = roundhouse("run", "show", run)["checkpoints"]
    return run, [row["name"] for row in sorted(rows, key=lambda row: row["step"])]


def deploy(checkpoints: dict[str, str]) -> None:
    """Deploy checkpoints by the names of their endpoints, unless they are there."""
    there = {endpoint["endpoint"] for endpoint in roundhouse("endpoint", "list")["endpoints"]}
    for name, checkpoint in checkpoints.items():
        if name not in there:
            roundhouse("endpoint", "deploy", "--checkpoint", checkpoint, "--name", name, "--threads", "1", "--wait")


def vote(ctx: Context, contestants: list[str]) -> str:
    """Return a campaign of two checkpoints with votes of ten raters, who like answers that name people."""
    known = {row["campaign"]: row["id"] for row in roundhouse("campaign", "list")["campaigns"]}
    if CAMPAIGN in known:
        campaign_id: str = known[CAMPAIGN]
    else:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            lines = [f"name: {CAMPAIGN}", "dataset: pebblewick-prompts", "num_prompts: 30", "contestants:"]
            file.write("\n".join([*lines, *(f"  - {{checkpoint: '{name}'}}" for name in contestants)]) + "\n")
            file.flush()
            campaign_id = roundhouse("campaign", "create", file.name)["id"]
    wait_until(lambda: is_answered(roundhouse("campaign", "show", CAMPAIGN)))
    if roundhouse("campaign", "show", CAMPAIGN)["votes"]:
        return campaign_id
    for number in range(10):
        link = create_rater_link(ctx, campaign_id, name=f"Rater {number + 1}", person=LOCAL)
        rater, draw = rater_from_link(ctx, link.url.split("link=")[1]), random.Random(number)

        def judge(a: str, b: str, draw: random.Random = draw) -> Label:
            lead = len(set(re.findall(r"[A-Z]\w+", a))) - len(set(re.findall(r"[A-Z]\w+", b))) + draw.gauss(0, 2)
            return Label.TIE if abs(lead) < 0.5 else Label.A if lead > 0 else Label.B

        vote_all(ctx, campaign_id, rater, judge, limit=18, seed=number)
    return campaign_id


def is_answered(campaign: Any) -> bool:
    """Return whether all contestants have answered all prompts."""
    return campaign["completions"] == campaign["expected_completions"] > 0


def ask(gateway: str, endpoints: list[str]) -> None:
    """Send a few minutes of requests."""
    client = OpenAI(base_url=gateway, api_key="none")
    for number in range(80):
        question = [{"role": "user", "content": QUESTIONS[number % 3]}]
        client.chat.completions.create(model=endpoints[number % 2], messages=question, max_tokens=48, seed=number)  # type: ignore[call-overload]
        time.sleep(0.5)


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 900.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(2)


def shoot(page: Page, *, quality: int = QUALITY) -> bytes:
    """Return a picture of what the page shows, as WebP."""
    session = page.context.new_cdp_session(page)
    shot = session.send("Page.captureScreenshot", {"format": "webp", "quality": quality})
    return base64.b64decode(shot["data"])


def beside(page: Page, pictures: list[bytes], file: str) -> None:
    """Save pictures as one, beside each other."""
    sources = [f"data:image/webp;base64,{base64.b64encode(picture).decode()}" for picture in pictures]
    images = "".join(f'<img src="{source}" style="width:50%">' for source in sources)
    page.set_content(f'<body style="margin:0;display:flex;gap:6px;background:#888">{images}')
    page.set_viewport_size({"width": 2 * SIZE["width"], "height": SIZE["height"]})
    page.wait_for_timeout(500)
    (PICTURES / file).write_bytes(shoot(page))
    page.set_viewport_size(SIZE)


def main() -> None:
    """Prepare the installation and take the pictures."""
    settings = Settings()
    ctx = build_context(settings, migrate=False)
    run, stories = trained("pretrain", "starter-pretrain")
    _, chat = trained("sft", "starter-sft")
    deploy({"stories": stories[-1], "drafts": chat[0], "storyteller": chat[-1], "second": chat[-1]})
    campaign = vote(ctx, [chat[0], chat[-1]])
    ask(f"{settings.gateway_url}/v1", ["storyteller", "second"])
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        context = browser.new_context(viewport=SIZE, color_scheme="light")  # type: ignore[arg-type]
        watch(context)
        page = context.new_page()

        def opened(path: str) -> bytes:
            page.goto(f"{settings.pages_url}{path}")
            page.wait_for_timeout(20_000)  # pages that refresh themselves never settle on a busy machine
            return shoot(page)

        (PICTURES / "run.webp").write_bytes(opened(f"/run?run={run}"))
        beside(page, [opened(f"/ballot?campaign={campaign}"), opened(f"/battles?campaign={campaign}")], "battles.webp")
        beside(page, [opened("/endpoints?name=storyteller"), opened("/monitor")], "serving.webp")
        opened("/playground?endpoint=storyteller")
        for name in ("second", "drafts", "stories"):
            page.get_by_role("combobox", name="Endpoints").fill(name)
            page.get_by_role("option", name=name, exact=True).wait_for()
            page.get_by_role("combobox", name="Endpoints").press("Enter")
            settle(page)
        page.keyboard.press("Escape")
        page.get_by_label("Message", exact=True).fill(QUESTIONS[0])
        page.get_by_label("Message", exact=True).press("Enter")
        page.wait_for_timeout(15_000)
        (PICTURES / "playground.webp").write_bytes(shoot(page))
        browser.close()


if __name__ == "__main__":
    main()
