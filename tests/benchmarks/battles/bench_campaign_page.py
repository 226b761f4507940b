"""Time until the page of a large campaign shows its tabs: a real pages' server, a real database file, Chromium.

    python -m tests.benchmarks.battles.bench_campaign_page [--votes 100000] [--contestants 6 12 20] [--repeats 3]
    [--json FILE]

A simulated campaign of 500 prompts and 100 raters of ordinary pace, 25 % ties and both bad, 5 % repeats, notes on 2 %
of the votes. `cold` is the first visit to a server that has computed nothing, each in a server of its own; `warm` the
median of later visits; `vote` a visit after one more vote. A visit is timed from the address to the end of the page's
script with every element drawn; the processor time of the server is what other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Page, sync_playwright
from sqlalchemy import insert, select, update

from backend.bootstrap import build_context
from backend.db.base import new_id, utc_now
from backend.db.tables import Battle, CampaignPrompt, Completion, Contestant, Rater, Vote
from backend.domain.battles.campaign import CampaignConfig, text_hash
from backend.services.battles.campaigns import insert_campaign
from backend.services.context import LOCAL, Context
from tests.support.browser import DRAWN, FLAGS, chromium
from tests.support.page_server import FreshServer, page_server
from tests.support.settings import make_settings

PROMPTS, RATERS = 500, 100
TABS = ("Board", "Answers", "Raters")
CATEGORIES = ("stories", "facts", "code")
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
)


def fill(ctx: Context, *, num_votes: int, num_contestants: int) -> str:
    """Insert a campaign with answers and votes; return its id."""
    rng = np.random.default_rng(1)
    prompts = [[{"role": "user", "content": f"Tell a story about the number {number}."}] for number in range(PROMPTS)]
    with ctx.db.write() as session:
        campaign = insert_campaign(
            session,
            ctx,
            name=f"{num_votes} votes",
            prompts=prompts,
            categories=[CATEGORIES[number % len(CATEGORIES)] for number in range(PROMPTS)],
            config=CampaignConfig(num_prompts=PROMPTS, votes_per_rater=10_000, repeat_share=0.05),
            person=LOCAL,
            dataset_version_id=None,
        )
        contestants = [
            Contestant(campaign_id=campaign.id, kind="file", label=f"Writer {number}")
            for number in range(num_contestants)
        ]
        raters = [Rater(name=f"Rater {number}", campaign_id=campaign.id) for number in range(RATERS)]
        session.add_all([*contestants, *raters])
        session.flush()
        names = sorted(contestant.id for contestant in contestants)
        prompt_ids = list(session.scalars(select(CampaignPrompt.id).where(CampaignPrompt.campaign_id == campaign.id)))
        answers = {(prompt, name): new_id() for prompt in prompt_ids for name in names}
        completions = [
            {"id": id_, "prompt_id": prompt, "contestant_id": name, "text": text, "text_hash": text_hash(text)}
            for (prompt, name), id_ in answers.items()
            for text in [f"{id_} " + " ".join(rng.choice(WORDS, size=60))]
        ]
        session.execute(insert(Completion), completions)
        battles, votes = simulate(
            rng, campaign.id, [rater.id for rater in raters], prompt_ids, names, answers, num_votes
        )
        for table, rows in ((Battle, battles), (Vote, votes)):
            for start in range(0, len(rows), 5000):
                session.execute(insert(table), rows[start : start + 5000])
        return campaign.id


def simulate(
    rng: np.random.Generator,
    campaign_id: str,
    raters: list[str],
    prompts: list[str],
    names: list[str],
    answers: dict[tuple[str, str], str],
    num_votes: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows of battles and votes: raters in turn, each on items of their own choice, 5 % of them repeated with
    sides swapped.
    """
    strengths = dict(zip(names, rng.normal(0, 0.6, len(names)), strict=True))
    pairs = [(first, second) for at, first in enumerate(names) for second in names[at + 1 :]]
    each = -(-num_votes // len(raters))
    items = [rng.choice(len(prompts) * len(pairs), size=each, replace=False) for _ in raters]
    battles: list[dict[str, Any]] = []
    votes: list[dict[str, Any]] = []
    begins = utc_now() - timedelta(days=30)

    def add(rater: str, item: int, *, purpose: str, swapped: bool, repeat_of: str | None = None) -> str:
        prompt, pair = prompts[item // len(pairs)], pairs[item % len(pairs)]
        side_a, side_b = pair[::-1] if swapped else pair
        chance, at = (
            1 / (1 + np.exp(strengths[side_b] - strengths[side_a])),
            begins + timedelta(seconds=20 * len(votes)),
        )
        label = rng.choice(["TIE", "BOTH_BAD"]) if rng.random() < 0.25 else "A" if rng.random() < chance else "B"
        battle = {
            "id": new_id(),
            "campaign_id": campaign_id,
            "prompt_id": prompt,
            "completion_a_id": answers[prompt, side_a],
            "completion_b_id": answers[prompt, side_b],
            "rater_id": rater,
            "pair": ":".join(pair),
            "purpose": purpose,
            "repeat_of_id": repeat_of,
            "sampling_probability": 1 / (len(prompts) * len(pairs)),
            "served_at": at,
            "expires_at": at + timedelta(hours=1),
        }
        vote = {
            "id": new_id(),
            "battle_id": battle["id"],
            "rater_id": rater,
            "revision": 1,
            "label": str(label),
            "duration_ms": int(rng.lognormal(9.5, 0.6)),
            "note": "The second is clearer." if rng.random() < 0.02 else "",
            "created_at": at,
        }
        battles.append(battle)
        votes.append(vote)
        return str(battle["id"])

    for turn in range(each):
        for rater, own in zip(raters, items, strict=True):
            if len(votes) >= num_votes:
                return battles, votes
            swapped = bool(rng.random() < 0.5)
            battle = add(rater, int(own[turn]), purpose="vote", swapped=swapped)
            if rng.random() < 0.05 and len(votes) < num_votes:
                add(rater, int(own[turn]), purpose="repeat", swapped=not swapped, repeat_of=battle)
    return battles, votes


@contextmanager
def browser_page() -> Iterator[Page]:
    """Yield a page of Chromium with the application's scripts in its cache."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield browser.new_page(viewport={"width": 1440, "height": 900}, bypass_csp=True)
        browser.close()


def visit(page: Page, server: FreshServer, campaign_id: str, tab: str) -> tuple[float, float]:
    """Open a tab of the campaign by its address; return the seconds until it is drawn, and the server's processor
    time.
    """
    started, used = time.perf_counter(), cpu_seconds(server)
    page.goto(f"{server.url}/battles?campaign={campaign_id}&tab={tab}")
    page.get_by_role("tab", name=tab).wait_for(timeout=120_000)
    page.wait_for_function(DRAWN, timeout=120_000, polling=20)
    return time.perf_counter() - started, cpu_seconds(server) - used


def cpu_seconds(server: FreshServer) -> float:
    """Return the processor time that a server has used."""
    times = server.process.cpu_times()
    return float(times.user + times.system)


def measure_tab(ctx: Context, home: Path, campaign_id: str, tab: str, *, repeats: int) -> dict[str, Any]:
    """Return the seconds of visits to a tab in a new server."""
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1") as server, browser_page() as page:
        page.goto(f"{server.url}/battles")
        page.wait_for_function(DRAWN, timeout=60_000)
        cold = visit(page, server, campaign_id, tab)
        warm = [visit(page, server, campaign_id, tab) for _ in range(repeats)]
        voted = []
        for _ in range(repeats):
            undo_one(ctx, campaign_id)
            voted.append(visit(page, server, campaign_id, tab))
    kinds = {"cold": [cold], "warm": warm, "vote": voted}
    return {
        name: dict(zip(("seconds", "server_cpu_s"), map(middle, zip(*times, strict=True)), strict=True))
        for name, times in kinds.items()
    }


def middle(values: Sequence[float]) -> float:
    """Return the median, rounded."""
    return round(statistics.median(values), 2)


def undo_one(ctx: Context, campaign_id: str) -> None:
    """Supersede the newest vote by the opposite one, as a rater's change of mind does."""
    with ctx.db.write() as session:
        newest = session.scalars(
            select(Vote)
            .join(Battle, Battle.id == Vote.battle_id)
            .where(Battle.campaign_id == campaign_id)
            .order_by(Vote.created_at.desc())
        ).first()
        assert newest is not None
        session.add(
            Vote(
                battle_id=newest.battle_id,
                rater_id=newest.rater_id,
                revision=newest.revision + 1,
                supersedes_id=newest.id,
                label="A" if newest.label != "A" else "B",
                duration_ms=9000,
            )
        )
        session.execute(update(Battle).where(Battle.id == newest.battle_id).values(purpose="vote"))


def measure(*, num_votes: int, num_contestants: int, repeats: int) -> dict[str, Any]:
    """Return the figures of one campaign."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        ctx = build_context(make_settings(home, database_url=f"sqlite:///{home / 'models.db'}"))
        campaign_id = fill(ctx, num_votes=num_votes, num_contestants=num_contestants)
        load = os.getloadavg()[0]
        tabs = {tab: measure_tab(ctx, home, campaign_id, tab, repeats=repeats) for tab in TABS}
    return {"votes": num_votes, "contestants": num_contestants, "load_average_before": round(load, 1), **tabs}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--votes", type=int, default=100_000)
    parser.add_argument("--contestants", type=int, nargs="+", default=[6, 12, 20])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    figures = []
    for number in given.contestants:
        figures.append(measure(num_votes=given.votes, num_contestants=number, repeats=given.repeats))
        print(json.dumps(figures[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
