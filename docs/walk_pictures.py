"""Take the pictures of docs/benchmarks/walk.md of installations that run here: `python -m docs.walk_pictures`.

One is new and empty. The other is that of the environment (`roundhouse up`), and what it lacks is made: a starter run
and a short fine-tuning of it, endpoints, a campaign with votes, an evaluation, a run that diverges, and one that trains
while the pictures are taken. Names of pictures choose some; without them all are taken.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from backend.bootstrap import build_context
from backend.settings import PROJECT, Settings
from docs.pictures import QUESTIONS, deploy, roundhouse, shoot, vote, wait_until
from tests.support.browser import FLAGS, chromium, settle, watch
from tests.support.installation import Installation

PICTURES = Path(__file__).parent / "pictures" / "walk"
WIDE, PHONE = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=844)
MAX_BYTES, QUALITIES = 60_000, (82, 70, 55, 40, 25)
FACTS = "pebblewick-facts"
BUSY, BUSY_STEPS = ("Long stories", "More stories"), 20


@dataclass(frozen=True)
class Picture:
    """What is taken: a page in a theme and a size, after `act`."""

    address: str
    is_dark: bool = False
    size: ViewportSize = None  # type: ignore[assignment]
    act: Callable[[Page], None] | None = None


def launched(name: str, recipe: str, *, wait: bool = True, **changes: Any) -> dict[str, Any]:
    """Return the newest run of a name with its checkpoints, launched by a recipe with changes if there is none. Without
    `wait` one that has ended is none.
    """
    runs = [run for run in roundhouse("run", "list")["runs"] if run["name"] == name]
    if not runs or not (wait or is_active(runs[0])):
        values = yaml.safe_load((PROJECT / "backend" / "recipes" / f"{recipe}.yaml").read_text())
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            yaml.safe_dump(values | changes | {"name": name}, file)
            file.flush()
            with contextlib.suppress(subprocess.CalledProcessError):  # one picture shows a run that failed
                roundhouse("run", "launch", file.name, "--yes", *(["--wait"] if wait else []))
        runs = [run for run in roundhouse("run", "list")["runs"] if run["name"] == name]
    shown: dict[str, Any] = roundhouse("run", "show", runs[0]["run"])
    return shown | {"run": runs[0]["run"]}


def is_active(run: dict[str, Any]) -> bool:
    """Return whether a run waits or trains."""
    return run["status"] in ("queued", "running")


def newest_checkpoint(run: dict[str, Any]) -> str:
    """Return the name of a run's newest checkpoint."""
    return str(max(run["checkpoints"], key=lambda row: row["step"])["name"])


def compare_settings(page: Page) -> None:
    """Ask one endpoint twice, the second time without sampling."""
    page.get_by_text("Answer twice", exact=True).click()
    settle(page)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Settings").click()
    page.get_by_role("tab", name="storyteller (2)").click()
    page.get_by_text("Settings of its own").filter(visible=True).click()
    settle(page)
    slider = page.get_by_role("tabpanel").filter(visible=True).get_by_role("slider", name="Temperature")
    slider.focus()
    slider.press("Home")
    settle(page)
    page.keyboard.press("Escape")
    field = page.get_by_label("Message", exact=True)
    field.fill(QUESTIONS[0])
    field.press("Enter")
    page.wait_for_timeout(12_000)


def refuse_learning_rate(page: Page) -> None:
    """Type a learning rate that no run can have."""
    field = page.get_by_label("Learning rate", exact=True).first
    field.fill("50")
    field.press("Enter")  # with Tab the next field's help is over it
    settle(page)
    field.scroll_into_view_if_needed()


def pictures_of(made: dict[str, str]) -> dict[str, Picture]:
    """Return the pictures of an installation with something of everything, by name."""
    return {
        "full-runs": Picture("/runs"),
        "full-run": Picture(f"/run?run={made['chat']}", is_dark=True),
        "full-items": Picture(f"/evaluations?evaluation={made['evaluation']}"),
        "full-board": Picture(f"/battles?campaign={made['campaign']}", is_dark=True),
        "full-playground": Picture("/playground?endpoint=storyteller", act=compare_settings),
        "full-endpoints": Picture("/endpoints", is_dark=True, size=PHONE),
        "broken-run": Picture(f"/run?run={made['broken']}"),
        "broken-form": Picture("/launch", is_dark=True, act=refuse_learning_rate),
        "broken-link": Picture("/datasets?dataset=gone", size=PHONE),
        "phone-ballot": Picture(f"/ballot?campaign={made['campaign']}", size=PHONE),
    }


EMPTY = {"empty-overview": Picture("/"), "empty-runs": Picture("/runs", is_dark=True, size=PHONE)}


def busy_pictures(run: str) -> dict[str, Picture]:
    """Return the pictures of an installation where a run trains, by name."""
    return {"busy-overview": Picture("/"), "busy-run": Picture(f"/run?run={run}", is_dark=True, size=PHONE)}


def prepare() -> dict[str, str]:
    """Make what is missing; return the ids of what pictures show."""
    ctx = build_context(Settings(), migrate=False)
    wait_until(lambda: len(roundhouse("data", "list")["datasets"]) >= 6)
    launched("Village stories", "starter-pretrain")
    chat = launched("Village chat", "starter-sft", max_steps=80, eval_every=20, checkpoint_every=40)
    first = str(min(chat["checkpoints"], key=lambda row: row["step"])["name"])
    deploy({"storyteller": newest_checkpoint(chat), "drafts": first})
    campaign = vote(ctx, [first, newest_checkpoint(chat)])
    done = roundhouse("eval", "list")["evaluations"]
    if not done:
        checkpoint = newest_checkpoint(chat)
        roundhouse("eval", "run", "--checkpoint", checkpoint, "--benchmark", FACTS, "--limit", "60", "--wait")
        done = roundhouse("eval", "list")["evaluations"]
    at_once = {"max_steps": 60, "eval_every": 20, "checkpoint_every": 20}
    broken = launched("Too fast", "starter-pretrain", learning_rate=5.0, **at_once)
    evaluation = done[0].get("id") or done[0]["evaluation"]
    return {"chat": chat["run"], "campaign": campaign, "broken": broken["run"], "evaluation": evaluation}


@contextmanager
def busy_installation() -> Iterator[str]:
    """Let one run train, past its first points, and another wait; yield the id of the first; stop both at the end."""
    runs = [launched(name, "starter-pretrain", wait=False, max_steps=5000)["run"] for name in BUSY]
    try:
        wait_until(lambda: (roundhouse("run", "show", runs[0]).get("step") or 0) >= BUSY_STEPS)
        yield runs[0]
    finally:
        for run in runs:
            stop(run)


@contextmanager
def new_installation() -> Iterator[str]:
    """Start an installation that nobody has used; yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        installation = Installation(Path(folder) / "home")
        installation.home.mkdir()
        installation.start()
        try:
            yield installation.url
        finally:
            installation.stop()


def take(browser: Browser, url: str, name: str, picture: Picture) -> None:
    """Take one picture, as small as it has to be."""
    context = browser.new_context(viewport=picture.size or WIDE, color_scheme="dark" if picture.is_dark else "light")
    watch(context)
    page = context.new_page()
    page.goto(f"{url}{picture.address}")
    page.wait_for_timeout(8_000)  # pages that refresh themselves never settle on a busy machine
    if picture.act:
        picture.act(page)
    image = next(image for quality in QUALITIES if len(image := shoot(page, quality=quality)) < MAX_BYTES)
    (PICTURES / f"{name}.webp").write_bytes(image)
    context.close()


def stop(run: str) -> None:
    """Cancel a run, if it has not ended."""
    if is_active(roundhouse("run", "show", run)):
        roundhouse("run", "cancel", run)


def main(names: list[str]) -> None:
    """Prepare the installations and take the pictures; those of a busy one last, so that the others come in peace."""
    made = prepare()
    PICTURES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)

        def take_chosen(url: str, pictures: dict[str, Picture]) -> None:
            for name in filter(is_chosen, pictures):
                take(browser, url, name, pictures[name])

        def is_chosen(name: str) -> bool:
            return name in names or not names

        take_chosen(Settings().pages_url, pictures_of(made))
        if any(map(is_chosen, EMPTY)):
            with new_installation() as url:
                take_chosen(url, EMPTY)
        if any(map(is_chosen, busy_pictures(""))):
            with busy_installation() as busy:
                take_chosen(Settings().pages_url, busy_pictures(busy))
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1:])
