"""Sentences on a board for readers without statistics: who leads, whether it is enough to promote, what is missing.

Ranks and verdicts answer different questions, so they may differ; `rank_note` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from backend.domain.battles.rating_table import RatingTable
from backend.domain.battles.verdicts import MANY_VOTES, Needed, PairVerdict
from backend.domain.wording import about, percent, plural

Tone = Literal["decided", "leaning", "open"]

PROBABLE = 0.2
"""Two-sided p value below which a lead is called probable: a chance of one in ten that it is the other way round."""

MIN_VOTES = 10
"""With fewer votes no lead is called probable."""


@dataclass(frozen=True, slots=True)
class Headline:
    """A sentence on a pair, and notes on whom it speaks for and on ranks that seem to contradict it."""

    sentence: str
    notes: tuple[str, ...]
    tone: Tone


def board_headline(
    verdicts: Sequence[PairVerdict], table: RatingTable | None, *, is_closed: bool = False
) -> Headline | None:
    """Return the headline of the first two contestants of a board; None without votes, of which answers that are
    identical are none. `verdicts` list that pair first. Of a closed campaign no more votes are promised.
    """
    if table is None or not verdicts:
        return None
    leading = verdicts[0]
    if len(verdicts) == leading.num_pairs and not any(one.num_cast for one in verdicts):
        return None
    headline = pair_headline(leading, table, is_closed=is_closed)
    if not leading.num_cast:
        headline = Headline(_unmet(leading, table), headline.notes, "open")
    beaten = [one for one in verdicts if one.first == leading.first and one.outcome == "better"]
    others = len(table.contestants) - 1
    if len(beaten) == others > 1:
        headline = Headline(
            f"{leading.first} is better than all {others} others. Enough to promote.", headline.notes, "decided"
        )
    if len(verdicts) > 1:
        decided = sum(one.outcome != "undecided" for one in verdicts)
        nearest = "the nearest " if len(verdicts) < leading.num_pairs else ""
        count = f"{decided:,} of {nearest}{plural(len(verdicts), 'pair')} {'is' if decided == 1 else 'are'} decided."
        headline = Headline(headline.sentence, (count, *headline.notes), headline.tone)
    return headline


def pair_headline(verdict: PairVerdict, table: RatingTable, *, is_closed: bool = False) -> Headline:
    """Return the headline of a pair on a board; of a closed campaign it names no votes to come."""
    is_probable = _is_probable(verdict, table)
    tone: Tone = "decided" if verdict.outcome != "undecided" else "open"
    if tone == "open" and (verdict.for_these_raters != "undecided" or is_probable):
        tone = "leaning"
    notes = [scope_note(verdict), identical_note(verdict), rank_note(verdict, table)]
    missing = ", and the campaign is closed" if is_closed else f": {_missing(verdict, _rating_gap(verdict, table))}"
    sentence = _sentence(verdict, is_probable=is_probable, missing=missing)
    return Headline(sentence, tuple(filter(None, notes)), tone)


def scope_note(verdict: PairVerdict) -> str:
    """Say which raters and prompts a verdict speaks for."""
    if not verdict.num_cast:
        return ""
    raters, prompts = plural(verdict.raters, "rater"), plural(verdict.num_cast_prompts, "prompt")
    if verdict.outcome != "undecided":
        prompts = f"{verdict.num_cast_prompts:,}"
        return f"Speaks for raters like the {verdict.raters:,} who voted, and for prompts like these {prompts}."
    if verdict.for_these_raters != "undecided":
        alone = "the one rater who voted" if verdict.raters == 1 else f"the {verdict.raters:,} raters who voted"
        return f"Speaks for {alone} and no others."
    return f"So far {raters} on {prompts}{' with this pair' if verdict.num_pairs > 1 else ''}."


def identical_note(verdict: PairVerdict) -> str:
    """Say how many battles of a pair had identical answers, which are no votes."""
    if not verdict.num_cast or not verdict.identical:
        return ""
    battles = "1 more battle" if verdict.identical == 1 else f"{verdict.identical:,} more battles"
    return f"{battles} had identical answers and {'counts as a tie' if verdict.identical == 1 else 'count as ties'}."


def rank_note(verdict: PairVerdict, table: RatingTable) -> str:
    """Say why ranks and verdict of a pair seem to contradict each other; "" where they don't."""
    if not {verdict.first, verdict.second} <= set(table.contestants):
        return ""
    above, below = sorted((table.rating(name) for name in (verdict.first, verdict.second)), key=lambda row: -row.rating)
    apart = above.rank_high < below.rank_low
    winner = {"better": verdict.first, "worse": verdict.second, "undecided": above.contestant}[verdict.outcome]
    if winner != above.contestant:
        return f"{above.contestant} ranks higher over all opponents, yet loses the battles against {below.contestant}."
    if apart and verdict.outcome == "undecided":
        return (
            "Their ranks are apart all the same: ranks describe the votes so far, at one look; a verdict must hold at"
            " every look and for other raters and prompts, so it asks for more."
        )
    if not apart and verdict.outcome != "undecided":
        return (
            "Their ranks overlap all the same: ranks are cautious about all pairs at once, the verdict is on these two."
        )
    return ""


def _is_probable(verdict: PairVerdict, table: RatingTable) -> bool:
    """Return whether votes of several raters and ratings point the same way: a chance below 1 in 10 of the opposite."""
    if (
        verdict.num_cast < MIN_VOTES
        or verdict.raters < 2
        or not {verdict.first, verdict.second} <= set(table.contestants)
    ):
        return False
    gap = table.pair(verdict.first, verdict.second)
    return gap.p_value < PROBABLE and (gap.difference > 0) == (verdict.share.value > 0.5)


def _rating_gap(verdict: PairVerdict, table: RatingTable) -> int | None:
    """Return the distance of a pair's ratings on the board."""
    if not {verdict.first, verdict.second} <= set(table.contestants):
        return None
    return abs(table.shown_gap(verdict.first, verdict.second))


def _sentence(verdict: PairVerdict, *, is_probable: bool, missing: str) -> str:
    if not verdict.num_cast:
        equal = " All answers were identical." if verdict.identical else ""
        return f"No vote compares {verdict.first} with {verdict.second} yet.{equal}"
    share, votes = verdict.cast_share.value, plural(verdict.num_cast, "vote")
    leader, other = (verdict.first, verdict.second) if share >= 0.5 else (verdict.second, verdict.first)
    earned = f"{percent(max(share, 1 - share))} of {votes}"
    if verdict.outcome != "undecided":
        return f"{leader} is better than {other}, {earned}. Enough to promote."
    if round(100 * share) == 50:
        return f"{leader} and {other} are even after {votes}. Not enough to promote{missing}."
    if is_probable:
        lead = f"{leader} is probably better than {other}, {earned}"
    elif verdict.for_these_raters != "undecided":
        who = (
            "The one rater who voted prefers"
            if verdict.raters == 1
            else f"The {verdict.raters:,} raters who voted prefer"
        )
        lead = f"{who} {leader} to {other}, {earned}; others may not"
    else:
        lead = f"{leader} is ahead of {other} with {earned}, which may be chance"
    return f"{lead}. Not enough to promote{missing}."


def _unmet(verdict: PairVerdict, table: RatingTable) -> str:
    """Say who leads where the first two never met."""
    if verdict.second not in table.contestants:
        return _sentence(verdict, is_probable=False, missing="")
    is_apart = table.rating(verdict.first).rank_high < table.rating(verdict.second).rank_low
    lead = "ahead of" if is_apart else "not clearly ahead of"
    leads = f"{verdict.first} leads the ratings of {len(table.contestants):,} contestants, {lead} {verdict.second}"
    return f"{leads}. Not enough to promote: no vote compares the two, and a verdict asks for direct votes."


def _missing(verdict: PairVerdict, gap_elo: int | None) -> str:
    """Say what would settle the observed gap, or the smallest one that matters where the votes are even. `gap_elo` is
    that of the board's ratings.
    """
    observed = verdict.needed_at_gap
    needed = observed if observed is not None and observed.gap_elo >= verdict.smallest_gap_elo else verdict.needed
    reading = ""
    if needed is observed:
        is_wider = gap_elo is not None and gap_elo < round(needed.gap_elo)
        reading = ", as the votes on this pair suggest" if is_wider else ", a cautious reading of these votes"
        if gap_elo is not None and gap_elo != round(needed.gap_elo):
            more = ", and a smaller gap needs more" if is_wider else ""
            reading += f" (the board's ratings are {gap_elo} apart{more})"
    at = f"for a gap of {needed.gap_elo:.0f} rating points{reading}"
    if needed.votes > MANY_VOTES:
        return f"over {MANY_VOTES:,} more votes {at}, so treat them as equal"
    if not (needed.votes or needed.raters):
        return (
            "a gap that matters would probably have shown by now"
            if needed is not observed
            else f"a few more votes {at}"
        )
    return f"{_about(needed)} {at}"


def _about(needed: Needed) -> str:
    votes = f"about {about(needed.votes)} more {'vote' if needed.votes == 1 else 'votes'}"
    if not needed.raters:
        return f"{votes}, each on a new prompt," if needed.prompts else votes
    raters = f"by about {about(needed.raters)} new {'rater' if needed.raters == 1 else 'raters'}"
    return f"{votes} {raters} on new prompts" if needed.prompts else f"{votes} {raters}"
