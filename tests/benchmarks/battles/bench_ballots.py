"""Machine time of a vote and the next battle with many raters: real clients against a real pages' server, on SQLite and
PostgreSQL.

    python -m tests.benchmarks.battles.bench_ballots [RATERS] [VOTES_PER_SECOND] [SECONDS] [EARLIER_VOTES]

Each rater holds a token and votes in a rhythm of their own; together they cast VOTES_PER_SECOND (default 25, by 50
raters, for 40 s) in a campaign of 6 contestants and 200 prompts that has EARLIER_VOTES (default 20,000) votes already.
Afterwards the votes in the database are compared with what the clients were told: none lost, none doubled. The server
is started and stopped here.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from random import Random

import httpx2
from sqlalchemy import func, insert, select

from backend.bootstrap import build_context
from backend.db.base import new_id, utc_now
from backend.db.tables import Battle, Campaign, CampaignPrompt, Completion, Contestant, Rater, Vote
from backend.domain.battles.campaign import CampaignConfig, content_hash, text_hash
from backend.services.battles.campaigns import insert_campaign
from backend.services.battles.raters import ballot_token, create_rater_link
from backend.services.context import LOCAL, Context
from tests.support.page_server import page_server
from tests.support.postgres import run_postgres
from tests.support.settings import make_settings

CONTESTANTS, PROMPTS, EARLIER_RATERS = 6, 200, 100
WARM_UP_S = 8.0


def main(raters: int, rate: float, seconds: float, earlier: int) -> None:
    """Measure on both databases and print."""
    for kind in ("sqlite", "postgresql"):
        with tempfile.TemporaryDirectory() as folder, database(kind, Path(folder)) as url:
            home = Path(folder)
            ctx = build_context(make_settings(home, database_url=url))
            campaign_id = fill(ctx, earlier)
            tokens = [rater_token(ctx, campaign_id, number) for number in range(raters)]
            with page_server(home, ROUNDHOUSE_HOST="127.0.0.1", DATABASE_URL=url) as server:
                asyncio.run(measure(server.url, tokens, rate=rate, seconds=WARM_UP_S))
                result = asyncio.run(measure(server.url, tokens, rate=rate, seconds=seconds))
            print(json.dumps({"database": kind, **result.report(), **compare(ctx, campaign_id, result)}), flush=True)


@contextmanager
def database(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database."""
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'models.db'}"
        return
    with run_postgres() as url:
        yield url


def fill(ctx: Context, earlier: int) -> str:
    """Insert a campaign with completions and earlier votes; return its id."""
    config = CampaignConfig(num_prompts=PROMPTS, votes_per_rater=10_000, votes_per_minute=600, repeat_share=0.05)
    prompts = [
        [{"role": "user", "content": f"Tell a story about the number {number}, in about a hundred words."}]
        for number in range(PROMPTS)
    ]
    with ctx.db.write() as session:
        campaign = insert_campaign(
            session, ctx, name="Load", prompts=prompts, config=config, person=LOCAL, dataset_version_id=None
        )
        contestants = [
            Contestant(campaign_id=campaign.id, kind="file", label=f"writer-{number}") for number in range(CONTESTANTS)
        ]
        session.add_all(contestants)
        session.flush()
        prompt_ids = list(session.scalars(select(CampaignPrompt.id).where(CampaignPrompt.campaign_id == campaign.id)))
        rows = [
            {
                "id": new_id(),
                "prompt_id": prompt,
                "contestant_id": contestant.id,
                "text": text,
                "text_hash": text_hash(text),
            }
            for prompt in prompt_ids
            for contestant in contestants
            for text in [f"{content_hash(prompts[0])} {prompt} {contestant.id} " + "once upon a time " * 30]
        ]
        session.execute(insert(Completion), rows)
        add_earlier(session, campaign, rows, [contestant.id for contestant in contestants], prompt_ids, earlier)
        return campaign.id


def add_earlier(
    session, campaign: Campaign, rows: list[dict[str, str]], names: list[str], prompts: list[str], number: int
) -> None:  # type: ignore[no-untyped-def]
    """Insert votes of earlier raters."""
    rng, now = Random(1), utc_now() - timedelta(days=1)
    raters = [Rater(name=f"earlier {index}", campaign_id=campaign.id) for index in range(EARLIER_RATERS)]
    session.add_all(raters)
    session.flush()
    completions = {(row["prompt_id"], row["contestant_id"]): row["id"] for row in rows}
    pairs = [(one, other) for one in sorted(names) for other in sorted(names) if one < other]
    items = [(rater.id, prompt, pair) for rater in raters for prompt in prompts for pair in pairs]
    battles, votes = [], []
    for rater_id, prompt, pair in rng.sample(items, k=min(number, len(items))):
        battle = new_id()
        battles.append(
            {
                "id": battle,
                "campaign_id": campaign.id,
                "prompt_id": prompt,
                "completion_a_id": completions[prompt, pair[0]],
                "completion_b_id": completions[prompt, pair[1]],
                "rater_id": rater_id,
                "pair": f"{pair[0]}:{pair[1]}",
                "sampling_probability": 0.001,
                "served_at": now,
                "expires_at": now,
            }
        )
        votes.append(
            {
                "id": new_id(),
                "battle_id": battle,
                "rater_id": rater_id,
                "revision": 1,
                "label": rng.choice("AB"),
                "created_at": now,
            }
        )
    for at in range(0, len(battles), 5000):
        session.execute(insert(Battle), battles[at : at + 5000])
        session.execute(insert(Vote), votes[at : at + 5000])


def rater_token(ctx: Context, campaign_id: str, number: int) -> str:
    """Create a link and return the token of its rater."""
    return ballot_token(
        ctx, campaign_id, create_rater_link(ctx, campaign_id, name=f"rater {number}", person=LOCAL).rater
    )


class Result:
    """Times of the requests, and the votes that the server confirmed."""

    def __init__(self) -> None:
        self.times_ms: list[float] = []
        self.confirmed: Counter[str] = Counter()
        self.errors: list[str] = []
        self.sent_again = 0

    def report(self) -> dict[str, object]:
        """Return the figures."""
        times = sorted(self.times_ms)
        return {
            "votes": len(times),
            "median_ms": round(times[len(times) // 2], 1),
            "p95_ms": round(times[int(len(times) * 0.95)], 1),
            "max_ms": round(times[-1], 1),
            "sent_again": self.sent_again,
            "errors": self.errors[:5],
        }


async def measure(url: str, tokens: list[str], *, rate: float, seconds: float) -> Result:
    """Let every rater vote in a rhythm until the time is over."""
    result, ends_at = Result(), time.monotonic() + seconds
    pause_s = len(tokens) / rate

    async def vote(client: httpx2.AsyncClient, number: int) -> None:
        try:
            await vote_until_end(client, number)
        except httpx2.HTTPError as error:  # one rater's end is not that of the others
            result.errors.append(repr(error))

    async def vote_until_end(client: httpx2.AsyncClient, number: int) -> None:
        headers, rng = {"authorization": f"Bearer {tokens[number]}"}, Random(number)
        await asyncio.sleep(pause_s * number / len(tokens))
        ballot = (await client.get("/ballot/api/next", headers=headers)).raise_for_status().json()
        held = [battle["id"] for battle in ballot["battles"]]
        while time.monotonic() < ends_at and held:
            await asyncio.sleep(pause_s * rng.uniform(0.5, 1.5))
            battle = held.pop(0)
            body = {"battle": battle, "label": rng.choice(["A", "B", "TIE"]), "duration_ms": 2000, "holds": held}
            started = time.perf_counter()
            answer = await send(client, headers, body, result)
            result.times_ms.append((time.perf_counter() - started) * 1000)
            if answer.status_code != 200:
                result.errors.append(answer.text[:200])
                return
            result.confirmed[battle] += 1
            if answer.json()["next"] is not None:
                held.append(answer.json()["next"]["id"])

    limits = httpx2.Limits(max_connections=len(tokens), max_keepalive_connections=len(tokens))
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=30) as client:
        await asyncio.gather(*(vote(client, number) for number in range(len(tokens))))
    return result


async def send(
    client: httpx2.AsyncClient, headers: dict[str, str], body: dict[str, object], result: Result
) -> httpx2.Response:
    """Send a vote, and again if the server closed the idle connection at that moment: a browser does the same, and it
    is one vote.
    """
    while True:
        try:
            return await client.post("/ballot/api/vote", headers=headers, json=body)
        except (httpx2.ReadError, httpx2.RemoteProtocolError):
            result.sent_again += 1


def compare(ctx: Context, campaign_id: str, result: Result) -> dict[str, int]:
    """Return how many confirmed votes the database lacks, and how many battles have two."""
    with ctx.db.read() as session:
        query = (
            select(Vote.battle_id, func.count())
            .join(Battle, Battle.id == Vote.battle_id)
            .where(Battle.campaign_id == campaign_id)
        )
        stored = dict(session.execute(query.group_by(Vote.battle_id)).all())
    return {
        "lost": sum(battle not in stored for battle in result.confirmed),
        "doubled": (
            sum(stored.get(battle, 0) > 1 for battle in result.confirmed)
            + sum(n > 1 for n in result.confirmed.values())
        ),
    }


if __name__ == "__main__":
    given = [float(word) for word in sys.argv[1:]]
    raters_, rate_, seconds_, earlier_ = (*given, *(50, 25, 40, 20_000)[len(given) :])
    main(int(raters_), rate_, seconds_, int(earlier_))
