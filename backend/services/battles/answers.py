"""Read a campaign's prompts with the answers to them, the votes on each pair, and the raters' notes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session, aliased

from backend.db.tables import Battle, CampaignPrompt, Completion, Rater, Vote
from backend.domain.battles.votes import Label
from backend.services.battles.views import UNDONE, contestant_names, find_campaign
from backend.services.context import Context

Order = Literal["prompt", "votes", "split"]
COUNTED = ("vote", "identical")


@dataclass(frozen=True)
class Remark:
    """A rater's remarks on a battle; `preferred` is the contestant's name, or how the vote was tied."""

    rater: str
    preferred: str
    note: str
    reasons: tuple[str, ...]
    flag: str
    rewrite: str | None


@dataclass(frozen=True)
class AnswerPair:
    """Two answers to a prompt and the votes on them. `is_identical`: the texts are equal, so they tie without being shown."""

    first: str
    second: str
    first_text: str
    second_text: str
    first_wins: int
    second_wins: int
    ties: int
    both_bad: int
    is_identical: bool
    remarks: tuple[Remark, ...]

    @property
    def votes(self) -> int:
        """Number of votes."""
        return self.first_wins + self.second_wins + self.ties + self.both_bad


@dataclass(frozen=True)
class PromptAnswers:
    """A prompt as (role, text) turns, with every pair of answers that has votes, most votes first."""

    prompt_id: str
    number: int
    category: str
    messages: tuple[tuple[str, str], ...]
    pairs: tuple[AnswerPair, ...]


@dataclass(frozen=True)
class AnswersPage:
    """One page of a campaign's prompts. `total` counts those that match the filters; `categories` are all of the campaign's."""

    prompts: tuple[PromptAnswers, ...]
    total: int
    categories: tuple[str, ...]


def list_answers(
    ctx: Context,
    campaign_id: str,
    *,
    order: Order = "prompt",
    category: str | None = None,
    only_remarks: bool = False,
    offset: int = 0,
    limit: int = 10,
) -> AnswersPage:
    """Return a page of voted prompts. `split` puts first the prompts on whose pairs raters disagree most. Raises NotFound."""
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        ids = _ordered_prompts(session, campaign_id, order=order, category=category, only_remarks=only_remarks)
        named = select(CampaignPrompt.category).where(CampaignPrompt.campaign_id == campaign_id, CampaignPrompt.purpose == "vote")
        categories = sorted(filter(None, session.scalars(named.distinct())))
        page = ids[offset : offset + limit]
        rows = {row.id: row for row in session.scalars(select(CampaignPrompt).where(CampaignPrompt.id.in_(page)))}
        pairs = _pairs(session, campaign_id, page)
        prompts = tuple(
            PromptAnswers(
                prompt_id=prompt_id,
                number=rows[prompt_id].position + 1,
                category=rows[prompt_id].category,
                messages=tuple((str(turn["role"]), str(turn["content"])) for turn in rows[prompt_id].messages),
                pairs=tuple(sorted(pairs.get(prompt_id, ()), key=lambda pair: -pair.votes)),
            )
            for prompt_id in page
        )
    return AnswersPage(prompts, len(ids), tuple(categories))


def _ordered_prompts(session: Session, campaign_id: str, *, order: Order, category: str | None, only_remarks: bool) -> list[str]:
    """Return the ids of voted prompts. Votes are counted in SQL, so a campaign of 100,000 votes costs a row per pair and label."""
    later, side_a = aliased(Vote), aliased(Completion)
    query = (
        select(Battle.prompt_id, CampaignPrompt.position, Battle.pair, side_a.contestant_id, Vote.label, func.count())
        .join(Vote, Vote.battle_id == Battle.id)
        .join(CampaignPrompt, CampaignPrompt.id == Battle.prompt_id)
        .join(side_a, side_a.id == Battle.completion_a_id)
        .where(
            Battle.campaign_id == campaign_id,
            Battle.purpose.in_(COUNTED),
            Vote.label.in_([*Label]),
            ~select(later.id).where(later.supersedes_id == Vote.id).exists(),
        )
        .group_by(Battle.prompt_id, CampaignPrompt.position, Battle.pair, side_a.contestant_id, Vote.label)
    )
    if category is not None:
        query = query.where(CampaignPrompt.category == category)
    if only_remarks:
        query = query.where((Vote.note != "") | (Vote.flag != "") | Vote.rewrite.is_not(None))
    counts: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0, 0]))
    positions: dict[str, int] = {}
    for prompt_id, position, pair, contestant_a, label, number in session.execute(query):
        positions[prompt_id] = position
        a_is_first = pair.startswith(f"{contestant_a}:")
        index = 2 if label not in (Label.A, Label.B) else 0 if (label == Label.A) == a_is_first else 1
        counts[prompt_id][pair][index] += number
    total = {prompt_id: sum(map(sum, pairs.values())) for prompt_id, pairs in counts.items()}
    if order == "votes":
        return sorted(positions, key=lambda prompt: (-total[prompt], positions[prompt]))
    if order == "split":
        minority = {prompt_id: sum(min(wins[0], wins[1]) for wins in pairs.values()) for prompt_id, pairs in counts.items()}
        return sorted(positions, key=lambda prompt: (-minority[prompt] / total[prompt], -total[prompt], positions[prompt]))
    return sorted(positions, key=positions.__getitem__)


def _pairs(session: Session, campaign_id: str, prompt_ids: Sequence[str]) -> dict[str, list[AnswerPair]]:
    """Return the voted pairs of some prompts. Several answers of a contestant to a prompt are pairs of their own."""
    later = aliased(Vote)
    query = (
        select(Vote, Battle, Rater.name)
        .join(Battle, and_(Battle.id == Vote.battle_id, Battle.campaign_id == campaign_id))
        .join(Rater, Rater.id == Vote.rater_id)
        .where(
            Battle.prompt_id.in_(prompt_ids),
            Battle.purpose.in_(COUNTED),
            Vote.label != UNDONE,
            ~select(later.id).where(later.supersedes_id == Vote.id).exists(),
        )
        .order_by(Vote.created_at, Vote.id)
    )
    by_texts: dict[tuple[str, str, str], list[tuple[Vote, Battle, str]]] = defaultdict(list)
    for vote, battle, rater in session.execute(query):
        first, second = sorted((battle.completion_a_id, battle.completion_b_id))
        by_texts[battle.prompt_id, first, second].append((vote, battle, rater))
    shown = {completion for _, first, second in by_texts for completion in (first, second)}
    completions = {row.id: row for row in session.scalars(select(Completion).where(Completion.id.in_(shown)))}
    names = contestant_names(session, campaign_id)
    result: dict[str, list[AnswerPair]] = defaultdict(list)
    for (prompt_id, *texts), votes in by_texts.items():
        one, other = sorted((completions[text] for text in texts), key=lambda row: names[row.contestant_id])
        result[prompt_id].append(_pair(one, other, votes, names))
    return result


def _pair(first: Completion, second: Completion, votes: list[tuple[Vote, Battle, str]], names: dict[str, str]) -> AnswerPair:
    counts = dict.fromkeys(("first", "second", "tie", "both bad", "skipped"), 0)
    words = {"first": names[first.contestant_id], "second": names[second.contestant_id]}
    remarks = []
    for vote, battle, rater in votes:
        a_is_first = battle.completion_a_id == first.id
        verdicts = {Label.A: "first" if a_is_first else "second", Label.B: "second" if a_is_first else "first", Label.TIE: "tie"}
        verdict = verdicts.get(Label(vote.label), "both bad") if vote.label in Label.__members__ else "skipped"
        counts[verdict] += 1
        if vote.note or vote.reasons or vote.flag or vote.rewrite:
            remarks.append(Remark(rater, words.get(verdict, verdict), vote.note, tuple(vote.reasons), vote.flag, vote.rewrite))
    return AnswerPair(
        first=words["first"],
        second=words["second"],
        first_text=first.text,
        second_text=second.text,
        first_wins=counts["first"],
        second_wins=counts["second"],
        ties=counts["tie"],
        both_bad=counts["both bad"],
        is_identical=first.text_hash == second.text_hash,
        remarks=tuple(remarks),
    )
