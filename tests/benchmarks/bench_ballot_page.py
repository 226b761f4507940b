"""The ballot in Chromium: from a key to the next battle on the screen, and from a visit to the first battle.

    python -m tests.benchmarks.bench_ballot_page [--votes 100] [--words 250] [--json FILE]

A real server with SQLite, one rater, answers of `--words` words with lists, tables, code and formulas. A vote is timed
from the key's own time stamp to the first task behind the frame that shows another prompt. Needs Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from playwright.sync_api import Page, sync_playwright
from sqlalchemy import func, select

from backend.bootstrap import build_context
from backend.db.tables import Vote
from backend.infra.devices import cpu_name
from backend.services.battles.views import CampaignView
from backend.services.context import Context
from backend.settings import Settings
from tests.support.battle_world import write_all
from tests.support.browser import FLAGS, chromium
from tests.support.installation import wait_until
from tests.support.page_server import page_server
from tests.support.scenario import Scenario

WORDS = (
    "river",
    "boat",
    "harvest",
    "lantern",
    "market",
    "winter",
    "letter",
    "bridge",
    "garden",
    "stone",
    "bread",
    "window",
    "because",
)
TIMER = """
  window.times = [];
  const shown = () => document.querySelector('.bt-turns').textContent;
  window.addEventListener('keydown', (event) => {
    if (event.key !== '1') return;
    const before = shown();
    requestAnimationFrame(() => {
      const channel = new MessageChannel();
      channel.port1.onmessage = () => window.times.push([performance.now() - event.timeStamp, shown() !== before]);
      channel.port2.postMessage(null);
    });
  }, { capture: true });
"""


def write_answer(rng: Random, *, num_words: int) -> str:
    """Return an answer with every kind of block, mostly prose."""
    parts = ["## " + " ".join(rng.choices(WORDS, k=4))]
    while num_words > 0:
        parts.append(
            " ".join(rng.choices(WORDS, k=45))
            + f", so $x_{{{num_words}}} = \\frac{{a}}{{b}}$ and **{rng.choice(WORDS)}**."
        )
        num_words -= 50
    parts.append("\n".join(f"- {' '.join(rng.choices(WORDS, k=6))}" for _ in range(5)))
    parts.append("| a | b |\n|--|--|\n" + "\n".join(f"| {rng.choice(WORDS)} | {rng.random():.3f} |" for _ in range(4)))
    parts.append("```python\nfor n in range(10):\n    print(n)\n```")
    return "\n\n".join(parts)


def prepare(ctx: Context, *, num_votes: int, num_words: int) -> CampaignView:
    """Make a campaign with a battle for every vote."""
    rng = Random(1)
    made = Scenario(ctx).campaign(
        num_prompts=num_votes + 5,
        write=False,
        votes_per_rater=num_votes + 5,
        votes_per_minute=600,
        reasons=("Clearer", "Safer"),
    )
    write_all(ctx, made.id, text=lambda name, prompt: write_answer(rng, num_words=num_words))
    return made


def vote(page: Page, num_votes: int) -> list[float]:
    """Press the key of a vote again and again; return the milliseconds of each until the next battle was shown."""
    for _ in range(num_votes):
        page.wait_for_timeout(450)
        page.keyboard.press("1")
    page.wait_for_timeout(500)
    times = page.evaluate("() => window.times")
    assert all(changed for _, changed in times), (
        f"{sum(not changed for _, changed in times)} of {len(times)} keys showed no next battle"
    )
    return [float(ms) for ms, _ in times]


def measure(*, num_votes: int, num_words: int) -> dict[str, Any]:
    """Return the figures of one run."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ctx = build_context(Settings(home=home, database_url=f"sqlite:///{home / 'models.db'}"))
        campaign = prepare(ctx, num_votes=num_votes, num_words=num_words)
        with page_server(home, ROUNDHOUSE_HOST="127.0.0.1") as server, sync_playwright() as playwright:
            page = playwright.chromium.launch(executable_path=chromium(), args=FLAGS).new_page(
                viewport={"width": 1440, "height": 900}
            )
            page.add_init_script(TIMER)
            visits = []
            for _ in range(3):
                started = time.perf_counter()
                page.goto(f"{server.url}/ballot?campaign={campaign.id}")
                page.get_by_role("heading", name="Answer A").wait_for(timeout=30_000)
                visits.append(time.perf_counter() - started)
            times = sorted(vote(page, num_votes))

            def num_stored() -> int:
                with ctx.db.read() as session:
                    return session.scalar(select(func.count(Vote.id))) or 0

            wait_until(lambda: num_stored() >= num_votes, timeout_s=30, what="the votes")
            return {
                "votes": num_votes,
                "stored": num_stored(),
                "words": num_words,
                "next_battle_median_ms": round(statistics.median(times), 1),
                "next_battle_p95_ms": round(times[int(0.95 * len(times))], 1),
                "next_battle_max_ms": round(times[-1], 1),
                "first_battle_s": [round(seconds, 2) for seconds in visits],
                "machine": f"{os.cpu_count()} cores, {cpu_name()}, Python {platform.python_version()}",
                "load_average": round(os.getloadavg()[0], 1),
            }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", type=int, default=100)
    parser.add_argument("--words", type=int, default=250)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures = measure(num_votes=given.votes, num_words=given.words)
    text = json.dumps(figures, indent=2)
    print(text)
    if given.json:
        given.json.write_text(text)


if __name__ == "__main__":
    main()
