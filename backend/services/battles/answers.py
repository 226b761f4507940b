"""Read a campaign's prompts with the answers to them, the votes on each pair, and the raters' notes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from backend.db.tables import Battle, CampaignPrompt, Completion, Rater, Vote
from backend.domain.battles.votes import LABELS, Label
from backend.services.battles.views import UNDONE, VOTES, contestant_names, find_campaign, is_newest
from backend.services.battles.vote_log import VoteLog, read_vote_log
from backend.services.context import Context

IntArray = NDArray[np.int64]
Order = Literal["prompt", "votes", "split"]
Remarks = Literal["all", "remarked", "flagged"]
NUM_PAIRS = 4
"""Pairs of a prompt that are read unless all are asked for: 20 contestants have 190."""


@dataclass(frozen=True)
class Remark:
    """A rater's remarks on a battle; `preferred` is the contestant's name, or how the vote was tied. `flag` says what
    is wrong with the battle.
    """

    rater: str
    preferred: str
    note: str
    reasons: tuple[str, ...]
    flag: str
    rewrite: str | None


class AnswerVote(NamedTuple):
    """A vote on a pair of answers (ids); `purpose` is its battle's."""

    purpose: str
    rater: str
    answer_a: str
    answer_b: str
    label: str
    note: str
    reasons: list[str]
    flag: str
    rewrite: str | None


@dataclass(frozen=True)
class AnswerPair:
    """Two answers to a prompt and the votes on them. `is_identical`: the texts are equal, so they tie without being
    shown. Imported votes may lack the answers: then `has_texts` is false.
    """

    first: str
    second: str
    first_text: str
    second_text: str
    first_wins: int
    second_wins: int
    ties: int
    both_bad: int
    is_identical: bool
    has_texts: bool
    remarks: tuple[Remark, ...]


@dataclass(frozen=True)
class PromptAnswers:
    """A prompt as (role, text) turns, with pairs of answers that have votes, most votes first: `num_pairs` have,
    `pairs` are read. `votes` were cast: ties of identical answers and skipped battles are none.
    """

    prompt_id: str
    number: int
    category: str
    messages: tuple[tuple[str, str], ...]
    pairs: tuple[AnswerPair, ...]
    num_pairs: int
    votes: int


@dataclass(frozen=True)
class AnswersPage:
    """A page of a campaign's prompts. `total` counts those that match; `categories` are all of the campaign's."""

    prompts: tuple[PromptAnswers, ...]
    total: int
    categories: tuple[str, ...]


def list_answers(
    ctx: Context,
    campaign_id: str,
    *,
    order: Order = "prompt",
    category: str | None = None,
    remarks: Remarks = "all",
    offset: int = 0,
    limit: int = 10,
    with_all_pairs: Collection[str] = (),
) -> AnswersPage:
    """Return a page of voted prompts. `split` puts first the prompts on whose pairs raters disagree most. `remarks`
    leaves those with remarks or flags, of skipped battles too; their pairs come first.

    Of a prompt the `NUM_PAIRS` pairs with most votes are read, and all of the prompts `with_all_pairs` (ids). Raises
    NotFound.
    """
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        ids = _ordered_prompts(session, campaign_id, order=order, category=category, remarks=remarks)
        named = select(CampaignPrompt.category).where(
            CampaignPrompt.campaign_id == campaign_id, CampaignPrompt.purpose == "vote"
        )
        categories = sorted(filter(None, session.scalars(named.distinct())))
        page = ids[offset : offset + limit]
        rows = {row.id: row for row in session.scalars(select(CampaignPrompt).where(CampaignPrompt.id.in_(page)))}
        voted = _voted_pairs(session, campaign_id, page, remarks)
        limits = {prompt_id: len(voted[prompt_id]) if prompt_id in with_all_pairs else NUM_PAIRS for prompt_id in page}
        shown = {prompt_id: voted[prompt_id][: limits[prompt_id]] for prompt_id in page}
        pairs = _read_pairs(session, campaign_id, shown)
        prompts = tuple(
            PromptAnswers(
                prompt_id=prompt_id,
                number=rows[prompt_id].position + 1,
                category=rows[prompt_id].category,
                messages=tuple((str(turn["role"]), str(turn["content"])) for turn in rows[prompt_id].messages),
                pairs=tuple(pairs[prompt_id]),
                num_pairs=len(voted[prompt_id]),
                votes=sum(_is_cast(vote) for votes in voted[prompt_id] for vote in votes),
            )
            for prompt_id in page
        )
    return AnswersPage(prompts, len(ids), tuple(categories))


def count_flagged_battles(ctx: Context, campaign_id: str) -> dict[str, int]:
    """Return how many battles each rater flagged, skipped ones too, by the rater's id."""
    query = select(Vote.rater_id, func.count()).join(Battle, Battle.id == Vote.battle_id)
    with ctx.db.read() as session:
        return dict(session.execute(query.where(*_remarked(campaign_id, "flagged")).group_by(Vote.rater_id)).all())


def _ordered_prompts(
    session: Session, campaign_id: str, *, order: Order, category: str | None, remarks: Remarks
) -> list[str]:
    """Return the ids of voted prompts. Votes are counted in arrays that are read once a revision of the campaign."""
    log = read_vote_log(session, campaign_id)
    query = select(CampaignPrompt.id, CampaignPrompt.position).where(CampaignPrompt.campaign_id == campaign_id)
    if category is not None:
        query = query.where(CampaignPrompt.category == category)
    positions = dict(session.execute(query).all())
    total, cast, minority = (dict(zip(log.prompts, counts.tolist(), strict=True)) for counts in _counts(log))
    if remarks == "all":
        listed = {prompt_id for prompt_id, votes in total.items() if votes}
    else:
        remarked = select(Battle.prompt_id).join(Vote, Vote.battle_id == Battle.id)
        listed = set(session.scalars(remarked.where(*_remarked(campaign_id, remarks)).distinct()))
    keys: dict[Order, Callable[[str], tuple[float, ...]]] = {
        "prompt": lambda one: (positions[one],),
        "votes": lambda one: (-cast.get(one, 0), positions[one]),
        "split": lambda one: (-minority.get(one, 0) / (cast.get(one) or 1), -cast.get(one, 0), positions[one]),
    }
    return sorted(listed & positions.keys(), key=keys[order])


def _counts(log: VoteLog) -> tuple[IntArray, IntArray, IntArray]:
    """Return each prompt's battles on the board, how many of them people voted on, and how many votes were for the less
    preferred contestant of their pair.
    """
    counted = log.of_purpose(VOTES)
    prompt, a, b, label = (column[counted] for column in (log.prompt, log.columns.a, log.columns.b, log.columns.label))
    size = max(1, len(log.columns.contestants))
    pairs, pair = np.unique((prompt * size + np.minimum(a, b)) * size + np.maximum(a, b), return_inverse=True)
    preferred = np.where(label == 0, a, b)
    wins = [
        np.bincount(pair[(label < 2) & (preferred == side)], minlength=len(pairs))
        for side in (np.minimum(a, b), np.maximum(a, b))
    ]
    minority = np.bincount(pairs // size**2, np.minimum(*wins), minlength=len(log.prompts)).astype(np.int64)
    total, cast = (
        np.bincount(votes, minlength=len(log.prompts)) for votes in (prompt, log.prompt[counted & log.columns.is_cast])
    )
    return total, cast, minority


def _remarked(campaign_id: str, remarks: Remarks) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a vote that its rater remarked on, or flagged the battle of."""
    flagged = Vote.flag != ""
    condition = flagged if remarks == "flagged" else (Vote.note != "") | flagged | Vote.rewrite.is_not(None)
    return (*_on_board(campaign_id), condition)


def _on_board(campaign_id: str) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions of a vote of a campaign's board that is the newest on its battle and not undone."""
    return (Battle.campaign_id == campaign_id, Battle.purpose.in_(VOTES), Vote.label != UNDONE, is_newest())


def _voted_pairs(
    session: Session, campaign_id: str, prompt_ids: Sequence[str], remarks: Remarks
) -> dict[str, list[list[AnswerVote]]]:
    """Return the votes of some prompts by pair of answers, those with such remarks first, then most votes; those that
    were skipped too, for their remarks.
    """
    columns = (
        Battle.completion_a_id,
        Battle.completion_b_id,
        Vote.label,
        Vote.note,
        Vote.reasons,
        Vote.flag,
        Vote.rewrite,
    )
    query = (
        select(Battle.prompt_id, Battle.purpose, Rater.name, *columns)
        .join(Vote, Vote.battle_id == Battle.id)
        .join(Rater, Rater.id == Vote.rater_id)
        .where(Battle.prompt_id.in_(prompt_ids), *_on_board(campaign_id))
        .order_by(Vote.created_at, Vote.id)
    )
    by_pair: dict[str, dict[tuple[str, str], list[AnswerVote]]] = {
        prompt_id: defaultdict(list) for prompt_id in prompt_ids
    }
    for prompt_id, *values in session.execute(query):
        vote = AnswerVote._make(values)
        by_pair[prompt_id][min(vote.answer_a, vote.answer_b), max(vote.answer_a, vote.answer_b)].append(vote)

    def rank(votes: list[AnswerVote]) -> tuple[bool, int]:
        return (not any(_has_remark(vote, remarks) for vote in votes), -len(votes))

    return {prompt_id: sorted(pairs.values(), key=rank) for prompt_id, pairs in by_pair.items()}


def _has_remark(vote: AnswerVote, remarks: Remarks) -> bool:
    if remarks == "all":
        return False
    return bool(vote.flag) or (remarks == "remarked" and bool(vote.note or vote.rewrite is not None))


def _is_cast(vote: AnswerVote) -> bool:
    return vote.purpose == "vote" and vote.label in LABELS


def _read_pairs(
    session: Session, campaign_id: str, shown: Mapping[str, Sequence[Sequence[AnswerVote]]]
) -> dict[str, list[AnswerPair]]:
    """Read the texts of voted pairs. Several answers of a contestant to a prompt are pairs of their own."""
    ids = {answer for pairs in shown.values() for votes in pairs for answer in (votes[0].answer_a, votes[0].answer_b)}
    answers = {row.id: row for row in session.scalars(select(Completion).where(Completion.id.in_(ids)))}
    names = contestant_names(session, campaign_id)
    result: dict[str, list[AnswerPair]] = {}
    for prompt_id, pairs in shown.items():
        result[prompt_id] = []
        for votes in pairs:
            first, second = sorted(
                (answers[votes[0].answer_a], answers[votes[0].answer_b]), key=lambda row: names[row.contestant_id]
            )
            result[prompt_id].append(_pair(first, second, votes, names))
    return result


def _pair(first: Completion, second: Completion, votes: Sequence[AnswerVote], names: dict[str, str]) -> AnswerPair:
    counts = dict.fromkeys(("first", "second", "tie", "both bad", "skipped"), 0)
    words = {"first": names[first.contestant_id], "second": names[second.contestant_id]}
    remarks = []
    is_imported = first.facts.get("from") == "import"
    for vote in votes:
        a_is_first = vote.answer_a == first.id
        verdicts = {
            Label.A: "first" if a_is_first else "second",
            Label.B: "second" if a_is_first else "first",
            Label.TIE: "tie",
        }
        verdict = verdicts.get(Label(vote.label), "both bad") if vote.label in Label.__members__ else "skipped"
        counts[verdict] += 1
        if vote.note or vote.reasons or vote.flag or vote.rewrite:
            remarks.append(
                Remark(vote.rater, words.get(verdict, verdict), vote.note, tuple(vote.reasons), vote.flag, vote.rewrite)
            )
    return AnswerPair(
        first=words["first"],
        second=words["second"],
        first_text=first.text,
        second_text=second.text,
        first_wins=counts["first"],
        second_wins=counts["second"],
        ties=counts["tie"],
        both_bad=counts["both bad"],
        is_identical=first.text_hash == second.text_hash and not is_imported,
        has_texts=bool(first.text or second.text) or not is_imported,
        remarks=tuple(remarks),
    )
