"""Standings of a campaign: leaderboard, verdict on each pair, rater agreement, and the votes as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from statistics import median

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import CampaignPrompt, Contestant, Rater
from backend.domain.battles.agreement import Agreement, vote_agreement
from backend.domain.battles.campaign import CampaignConfig
from backend.domain.battles.ratings import RatingTable, fit_ratings
from backend.domain.battles.verdicts import PairVerdict, pair_verdict
from backend.domain.battles.votes import VoteRecord
from backend.services.battles.views import ValidVote, contestant_names, find_campaign, valid_votes
from backend.services.context import Context

ALPHA = 0.05
CSV_COLUMNS = ("prompt", "rater", "a", "b", "winner", "seconds", "sampling_probability", "voted_at")


@dataclass(frozen=True)
class Standings:
    """`table` is None without votes. `checkpoints` maps a contestant's name to its checkpoint's id; `unrated` have no votes yet.

    `verdicts` list neighbours on the leaderboard first, then the others; each pair once, at a family-wise error rate of 5 %.
    """

    table: RatingTable | None
    verdicts: tuple[PairVerdict, ...]
    agreement: Agreement | None
    checkpoints: dict[str, str]
    unrated: tuple[str, ...]
    num_votes: int
    median_s: float | None
    both_bad_share: float | None


def standings(ctx: Context, campaign_id: str) -> Standings:
    """Rate the contestants of a campaign by the valid votes. Intervals are clustered by prompt and rater."""
    with ctx.db.read() as session:
        campaign = find_campaign(session, campaign_id)
        gap = CampaignConfig.model_validate(campaign.config.get("config", {})).smallest_gap
        names = _names(session, campaign_id)
        checkpoints = {
            names[row.id]: row.checkpoint_id
            for row in session.scalars(select(Contestant).where(Contestant.campaign_id == campaign_id))
            if row.checkpoint_id is not None
        }
        votes = valid_votes(session, campaign_id)
    records = [_record(vote, names) for vote in votes]
    times = [vote.duration_ms / 1000 for vote in votes if vote.duration_ms is not None]
    pace = median(times) if times else None
    table = fit_ratings(records) if records else None
    rated = table.contestants if table else ()
    order = [*rated, *sorted(set(checkpoints) - set(rated))]
    return Standings(
        table=table,
        verdicts=_verdicts(records, order, gap=gap, pace=pace) if records else (),
        agreement=vote_agreement(records, num_resamples=200) if records else None,
        checkpoints=checkpoints,
        unrated=tuple(name for name in order if name not in rated),
        num_votes=len(records),
        median_s=pace,
        both_bad_share=sum(record.winner == "BOTH_BAD" for record in records) / len(records) if records else None,
    )


def leader_of(ctx: Context, campaign_id: str) -> str | None:
    """Return the checkpoint id of the contestant with the highest rating; None without votes."""
    current = standings(ctx, campaign_id)
    return current.checkpoints[current.table.contestants[0]] if current.table else None


def export_votes_csv(ctx: Context, campaign_id: str) -> str:
    """Return a campaign's votes as CSV that `roundhouse rating fit` reads. Raters are numbered, not named.

    A cell that a spreadsheet would read as a formula is prefixed with an apostrophe.
    """
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        names = _names(session, campaign_id)
        votes = valid_votes(session, campaign_id)
        positions = dict(
            session.execute(select(CampaignPrompt.id, CampaignPrompt.position).where(CampaignPrompt.campaign_id == campaign_id)).all()
        )
        joined = session.execute(select(Rater.id, Rater.created_at).where(Rater.id.in_({vote.rater_id for vote in votes})))
        raters = {row[0]: number for number, row in enumerate(sorted(joined, key=lambda row: (row[1], row[0])), start=1)}
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for vote in votes:
        seconds = "" if vote.duration_ms is None else f"{vote.duration_ms / 1000:.1f}"
        row = [
            f"prompt {positions[vote.prompt_id] + 1}",
            f"rater {raters[vote.rater_id]}",
            names[vote.a],
            names[vote.b],
            vote.label,
            seconds,
            f"{vote.sampling_probability:.6g}",
            f"{vote.created_at:%Y-%m-%dT%H:%M:%SZ}",
        ]
        writer.writerow([_safe_cell(cell) for cell in row])
    return out.getvalue()


def _verdicts(records: list[VoteRecord], order: list[str], *, gap: float, pace: float | None) -> tuple[PairVerdict, ...]:
    places = [(one, other) for one in range(len(order)) for other in range(one + 1, len(order))]
    places.sort(key=lambda pair: (pair[1] - pair[0], pair[0]))
    alpha = ALPHA / len(places)
    return tuple(
        pair_verdict(records, order[one], order[other], smallest_gap_elo=gap, alpha=alpha, seconds_per_vote=pace) for one, other in places
    )


def _record(vote: ValidVote, names: dict[str, str]) -> VoteRecord:
    return VoteRecord(
        prompt=vote.prompt_key, rater=vote.rater_id, a=names[vote.a], b=names[vote.b], winner=vote.label, identical=vote.identical
    )


def _names(session: Session, campaign_id: str) -> dict[str, str]:
    return contestant_names(session, campaign_id)


def _safe_cell(cell: str) -> str:
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell
