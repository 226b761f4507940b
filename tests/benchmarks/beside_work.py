"""Work of one checkout for `bench_beside.py`, which runs this file with the checkout first among the import paths.

    fill HOME       an installation with one of everything and a thousand runs; prints the addresses of its pages
    gateway HOME    a gateway before a replica that answers at once, until stdin ends; prints address, key and process
    ratings FILE    a file of votes read and rated, a campaign's board, votes cast; prints seconds of processor time

Names that differ between the commits are looked up here, so that both do the same.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.bootstrap import build_context
from tests.support.scenario import Scenario
from tests.support.settings import make_settings

NUM_RUNS, NUM_VOTES, NUM_CAST = 1_000, 10_000, 300


def fill_installation(home: str) -> None:
    """Fill a home folder."""
    from tests.benchmarks.bench_scale import fill_list
    from tests.support.filled_installation import fill

    Path(home).mkdir()
    ctx = build_context(make_settings(Path(home)))
    filled = fill(ctx)
    fill_list(ctx, NUM_RUNS)
    print(json.dumps(filled.addresses))


def serve_gateway(home: str) -> None:
    """Serve a gateway over an installation in a database, as `roundhouse up` does."""
    from tests.benchmarks.serving.bench_gateway import install, start

    replica, replica_url = start("replica")
    key = install(Path(home), replica_url)
    gateway, url = start("gateway", home)
    print(json.dumps({"url": url, "key": key, "process": gateway.pid}), flush=True)
    sys.stdin.read()
    gateway.terminate()
    replica.terminate()


def rate_votes(file: str) -> None:
    """Read and rate votes; rate a campaign; cast votes."""
    from backend.domain.battles.rating_table import RatingOptions
    from backend.domain.battles.ratings import rate
    from backend.domain.battles.vote_files.previews import read_storable_votes
    from backend.services.battles.standings import standings
    from backend.services.battles.vote_imports import import_votes
    from backend.services.context import LOCAL
    from tests.support import battle_world

    data, seconds = Path(file).read_bytes(), {}

    def timed(what: str, act: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = act()
        seconds[what] = time.process_time() - began
        return result

    votes = timed("200,000 votes read", lambda: _reader()(data))
    timed("200,000 votes rated", lambda: rate(votes, RatingOptions()))
    with tempfile.TemporaryDirectory() as home:
        ctx = build_context(make_settings(Path(home)))
        text = "".join(data.decode().splitlines(keepends=True)[: NUM_VOTES + 1])
        imported = timed(
            f"{NUM_VOTES:,} votes imported",
            lambda: import_votes(ctx, name="Imported", read=read_storable_votes(text), person=LOCAL),
        )
        timed(f"board of {NUM_VOTES:,} votes", lambda: standings(ctx, imported.id))
        campaign = Scenario(ctx).campaign("one", "two", "three", num_prompts=60)
        judge = battle_world.prefer("one")
        timed(
            f"{NUM_CAST} votes cast",
            lambda: battle_world.vote_in_turn(ctx, campaign.id, judge, raters=5, each=NUM_CAST // 5),
        )
        ctx.db.engine.dispose()
    print(json.dumps(seconds))


def _reader() -> Callable[[bytes], Any]:
    tables = importlib.import_module("backend.domain.battles.vote_files.tables")
    reader: Callable[[bytes], Any] = getattr(tables, "read_vote_file", None) or tables.read_votes
    return reader


if __name__ == "__main__":
    {"fill": fill_installation, "gateway": serve_gateway, "ratings": rate_votes}[sys.argv[1]](sys.argv[2])
