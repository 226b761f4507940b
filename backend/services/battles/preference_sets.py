"""Training rows from votes: read what votes say of the answers, preview rows by the rules, and store them as a dataset
with provenance to each vote. Prompts that a rematch may use are those that no run in its ancestry trained on, and
locked ones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import (
    AnswerRating,
    Battle,
    Campaign,
    CampaignPrompt,
    Checkpoint,
    Completion,
    Contestant,
    DatasetVersion,
    Run,
    Vote,
)
from backend.domain.battles.campaign import Messages, content_hash
from backend.domain.battles.preferences import (
    Answers,
    CastVote,
    LeftOut,
    PairFacts,
    Preference,
    PreferenceRules,
    Resolution,
    SetWarning,
    choose_locked,
    label_answers,
    label_row,
    length_difference,
    preference_row,
    preference_warnings,
    resolve_preferences,
    rewrite_row,
)
from backend.domain.data.versions.provenance import VotedRow, VotesProvenance
from backend.domain.json_values import Row
from backend.domain.statistics.estimates import Estimate
from backend.errors import InvalidInput
from backend.services.battles.campaigns import DrawnPrompt, read_held_out_prompts, sample_prompts
from backend.services.battles.quality import excluded_raters
from backend.services.battles.views import CampaignView, get_campaign, valid_votes
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.data.imports import add_rows_dataset
from backend.services.data.views import VersionView

LABELS = frozenset({"A", "B", "TIE", "BOTH_BAD"})
VOTE = "vote"


@dataclass(frozen=True)
class PromptRow:
    """A prompt of a campaign."""

    id: str
    messages: Messages
    content_hash: str
    category: str


@dataclass(frozen=True)
class AuthoredAnswer:
    """A completion with its author: the contestant's name and, if it is one, its checkpoint."""

    id: str
    prompt_id: str
    text: str
    tokens: int
    author: str
    checkpoint_id: str | None


@dataclass(frozen=True)
class Rewrite:
    """A better answer that a rater wrote."""

    vote_id: str
    prompt_id: str
    text: str


@dataclass(frozen=True)
class CampaignVotes:
    """Everything that training rows are made of. Votes of excluded raters are left out and counted."""

    prompts: dict[str, PromptRow]
    answers: dict[str, AuthoredAnswer]
    votes: list[CastVote]
    rewrites: list[Rewrite]
    ratings: dict[str, list[int]]
    excluded_raters: frozenset[str]
    num_excluded_votes: int

    @property
    def known(self) -> Answers:
        """The texts and categories that the rules look at."""
        return Answers(
            category={prompt.id: prompt.category for prompt in self.prompts.values()},
            text={answer.id: answer.text.strip() for answer in self.answers.values()},
        )


def read_campaign_votes(session: Session, campaign_id: str) -> CampaignVotes:
    """Return a campaign's votes with their prompts and answers. Gold pairs, repeats and equal answers are none."""
    excluded = excluded_raters(session, campaign_id)
    shown = {
        row.id: row
        for row in session.execute(
            select(Battle.id, Battle.completion_a_id, Battle.completion_b_id).where(
                Battle.campaign_id == campaign_id, Battle.purpose == VOTE
            )
        )
    }
    valid = [vote for vote in valid_votes(session, campaign_id) if vote.battle_id in shown]
    counted = [vote for vote in valid if vote.rater_id not in excluded]
    votes = [
        CastVote(
            vote=vote.id,
            rater=vote.rater_id,
            prompt=vote.prompt_id,
            answers=(shown[vote.battle_id].completion_a_id, shown[vote.battle_id].completion_b_id),
            label=vote.label,
        )
        for vote in counted
        if vote.label in LABELS
    ]
    return CampaignVotes(
        prompts=_prompts(session, campaign_id),
        answers=_answers(session, campaign_id),
        votes=votes,
        rewrites=_read_rewrites(session, {vote.id: vote.prompt_id for vote in counted}),
        ratings=_ratings(session, campaign_id, excluded),
        excluded_raters=excluded,
        num_excluded_votes=len(valid) - len(counted),
    )


def _prompts(session: Session, campaign_id: str) -> dict[str, PromptRow]:
    rows = session.scalars(
        select(CampaignPrompt).where(CampaignPrompt.campaign_id == campaign_id).order_by(CampaignPrompt.position)
    )
    return {
        row.id: PromptRow(row.id, list(row.messages), row.content_hash, row.category)
        for row in rows
        if row.purpose == VOTE
    }


def _answers(session: Session, campaign_id: str) -> dict[str, AuthoredAnswer]:
    query = (
        select(Completion, Contestant.label, Checkpoint.id, Checkpoint.name)
        .join(Contestant, Contestant.id == Completion.contestant_id)
        .outerjoin(Checkpoint, Checkpoint.id == Contestant.checkpoint_id)
        .where(Contestant.campaign_id == campaign_id)
    )
    return {
        row.id: AuthoredAnswer(row.id, row.prompt_id, row.text, row.tokens, name or label, checkpoint_id)
        for row, label, checkpoint_id, name in session.execute(query)
    }


def _read_rewrites(session: Session, prompts: dict[str, str]) -> list[Rewrite]:
    rows = session.execute(
        select(Vote.id, Vote.rewrite)
        .where(Vote.id.in_(prompts), Vote.rewrite.is_not(None))
        .order_by(Vote.created_at, Vote.id)
    )
    return [Rewrite(vote, prompts[vote], text.strip()) for vote, text in rows if text and text.strip()]


def _ratings(session: Session, campaign_id: str, excluded: frozenset[str]) -> dict[str, list[int]]:
    rows = session.execute(
        select(AnswerRating.completion_id, AnswerRating.rater_id, AnswerRating.value)
        .where(AnswerRating.campaign_id == campaign_id)
        .order_by(AnswerRating.revision)
    )
    newest = {(completion, rater): value for completion, rater, value in rows if rater not in excluded}
    ratings: dict[str, list[int]] = defaultdict(list)
    for (completion, _), value in newest.items():
        ratings[completion].append(value)
    return dict(ratings)


VoteObjective = Literal["dpo", "sft", "kto"]
KINDS: dict[VoteObjective, str] = {"dpo": "preference", "sft": "chat", "kto": "kto"}
NO_ROWS: dict[VoteObjective, tuple[str, str]] = {
    "dpo": ("No vote in this campaign prefers one completion to another", "Vote on more battles, or loosen the rules."),
    "sft": ("No rater has written a better answer", "Let raters rewrite answers, or train on pairs."),
    "kto": (
        "No answer is rated or called bad by most of its raters",
        "Let raters rate single answers, or train on pairs.",
    ),
}


@dataclass(frozen=True)
class PairPreview:
    """A pair as the page shows it: the prompt's last turn, both answers and their authors."""

    prompt: str
    chosen: str
    rejected: str
    chosen_by: str
    rejected_by: str
    agreement: float
    num_raters: int
    votes: tuple[str, ...]


@dataclass(frozen=True)
class VoteRows:
    """Rows that votes give, with the provenance of each, and the prompts that they use."""

    rows: tuple[Row, ...]
    provenance: tuple[VotedRow, ...]
    prompt_ids: frozenset[str]


@dataclass(frozen=True)
class PreferencePreview:
    """Rows of a campaign's votes. `num_rows` by objective; `length` is chosen minus rejected, in tokens."""

    resolution: Resolution
    pairs: tuple[PairPreview, ...]
    warnings: tuple[SetWarning, ...]
    length: Estimate | None
    num_rows: dict[VoteObjective, int]
    num_locked: int
    num_excluded_votes: int
    categories: tuple[str, ...]


@dataclass(frozen=True)
class VoteDataset:
    """A dataset made from votes. Its import is a job, so `version` may not be ready yet."""

    version: VersionView
    num_rows: int
    prompt_hashes: frozenset[str]


def preview_preferences(ctx: Context, campaign_id: str, rules: PreferenceRules | None = None) -> PreferencePreview:
    """Return the preference pairs of a campaign's votes so far, what was left out, and warnings."""
    rules = rules or PreferenceRules()
    votes, locked = _read(ctx, campaign_id, rules)
    resolution = resolve_preferences(votes.votes, rules, answers=votes.known, locked=locked)
    facts = [_facts(pair, votes) for pair in resolution.preferences]
    others: tuple[VoteObjective, VoteObjective] = ("sft", "kto")
    return PreferencePreview(
        resolution=resolution,
        pairs=tuple(_preview(pair, votes) for pair in resolution.preferences),
        warnings=preference_warnings(facts),
        length=length_difference(facts),
        num_rows={"dpo": len(facts), **{name: len(_ROWS[name](votes, rules, locked).rows) for name in others}},
        num_locked=len(locked),
        num_excluded_votes=votes.num_excluded_votes,
        categories=tuple(sorted({prompt.category for prompt in votes.prompts.values() if prompt.category})),
    )


def make_vote_dataset(
    ctx: Context,
    campaign_id: str,
    *,
    name: str,
    person: Person,
    objective: VoteObjective = "dpo",
    rules: PreferenceRules | None = None,
    idempotency_key: str | None = None,
) -> VoteDataset:
    """Store training rows of a campaign's votes: pairs (`dpo`), rewritten answers (`sft`) or labelled answers (`kto`).

    The version's provenance names the campaign, the rules and, row by row, prompt, authors, votes and agreement. Raises
    InvalidInput when the votes give no row, NotAllowed.
    """
    require_builder(person)
    rules = rules or PreferenceRules()
    campaign = get_campaign(ctx, campaign_id)
    votes, locked = _read(ctx, campaign_id, rules)
    made = _ROWS[objective](votes, rules, locked)
    if not made.rows:
        problem, remedy = NO_ROWS[objective]
        suffix = " by these rules" if objective == "dpo" and votes.votes else " yet"
        raise InvalidInput(f"{problem}{suffix}.", remedy=remedy, field="votes")
    resolution = resolve_preferences(votes.votes, rules, answers=votes.known, locked=locked)
    provenance = VotesProvenance(
        objective=objective,
        campaign_id=campaign_id,
        campaign=campaign.name,
        contestants=tuple({"checkpoint_id": c.checkpoint_id, "name": c.name} for c in campaign.contestants),
        rules=rules.model_dump(mode="json"),
        pairs=len(made.rows) if objective == "dpo" else 0,
        mean_agreement=resolution.agreement,
        left_out={reason.value: count for reason, count in resolution.left_out.items()},
        excluded_raters=tuple(sorted(votes.excluded_raters)),
        excluded_votes=votes.num_excluded_votes,
        locked_prompts=tuple(sorted(locked)),
        rows=made.provenance,
    )
    version = add_rows_dataset(
        ctx,
        name=name,
        kind=KINDS[objective],
        rows=made.rows,
        provenance=provenance,
        person=person,
        idempotency_key=idempotency_key,
    )
    return VoteDataset(
        version, len(made.rows), frozenset(votes.prompts[prompt].content_hash for prompt in made.prompt_ids)
    )


def preview_document(preview: PreferencePreview) -> dict[str, object]:
    """Return a preview as the command line's JSON."""
    return {
        "pairs": len(preview.pairs),
        "rows": preview.num_rows,
        "mean_agreement": preview.resolution.agreement,
        "left_out": {reason.name.lower(): count for reason, count in preview.resolution.left_out.items()},
        "locked_prompts": preview.num_locked,
        "excluded_votes": preview.num_excluded_votes,
        "length": asdict(preview.length) if preview.length else None,
        "warnings": [asdict(warning) for warning in preview.warnings],
    }


def _read(ctx: Context, campaign_id: str, rules: PreferenceRules) -> tuple[CampaignVotes, frozenset[str]]:
    campaign = get_campaign(ctx, campaign_id)
    with ctx.db.read() as session:
        votes = read_campaign_votes(session, campaign_id)
    return votes, locked_prompts(ctx, campaign, votes, rules)


def _pairs(votes: CampaignVotes, rules: PreferenceRules, locked: frozenset[str]) -> VoteRows:
    pairs = resolve_preferences(votes.votes, rules, answers=votes.known, locked=locked).preferences
    texts = {answer.id: answer.text for answer in votes.answers.values()}
    rows = [
        preference_row(votes.prompts[pair.prompt].messages, chosen=texts[pair.chosen], rejected=texts[pair.rejected])
        for pair in pairs
    ]
    provenance: list[VotedRow] = [
        {
            "prompt_id": pair.prompt,
            "chosen": votes.answers[pair.chosen].checkpoint_id or votes.answers[pair.chosen].author,
            "rejected": votes.answers[pair.rejected].checkpoint_id or votes.answers[pair.rejected].author,
            "chosen_id": pair.chosen,
            "rejected_id": pair.rejected,
            "votes": list(pair.votes),
            "raters": pair.num_raters,
            "agreement": pair.agreement,
        }
        for pair in pairs
    ]
    return _vote_rows(rows, provenance)


def _rewrites(votes: CampaignVotes, rules: PreferenceRules, locked: frozenset[str]) -> VoteRows:
    usable = [
        one for one in votes.rewrites if one.prompt_id not in locked and _in_categories(votes, one.prompt_id, rules)
    ]
    rows = [rewrite_row(votes.prompts[one.prompt_id].messages, rewrite=one.text) for one in usable]
    provenance: list[VotedRow] = [{"prompt_id": one.prompt_id, "votes": [one.vote_id]} for one in usable]
    return _vote_rows(rows, provenance)


def _labels(votes: CampaignVotes, rules: PreferenceRules, locked: frozenset[str]) -> VoteRows:
    labels = label_answers(votes.ratings, votes.votes)
    on_answer: dict[str, list[str]] = {}
    for vote in votes.votes:
        for answer_id in vote.answers:
            on_answer.setdefault(answer_id, []).append(vote.vote)
    rows, provenance = [], list[VotedRow]()
    for answer_id, is_good in labels.items():
        answer = votes.answers[answer_id]
        if answer.prompt_id in locked or not _in_categories(votes, answer.prompt_id, rules):
            continue
        rows.append(label_row(votes.prompts[answer.prompt_id].messages, completion=answer.text, is_good=is_good))
        row: VotedRow = {"prompt_id": answer.prompt_id, "answer_id": answer_id}
        if answer_id in votes.ratings:
            row["ratings"] = votes.ratings[answer_id]
        else:
            row["votes"] = on_answer.get(answer_id, [])
        provenance.append(row)
    return _vote_rows(rows, provenance)


_ROWS = {"dpo": _pairs, "sft": _rewrites, "kto": _labels}


def _vote_rows(rows: list[dict[str, object]], provenance: list[VotedRow]) -> VoteRows:
    return VoteRows(tuple(rows), tuple(provenance), frozenset(row["prompt_id"] for row in provenance))


def _in_categories(votes: CampaignVotes, prompt_id: str, rules: PreferenceRules) -> bool:
    prompt = votes.prompts.get(prompt_id)
    return prompt is not None and (not rules.categories or prompt.category in rules.categories)


def _facts(pair: Preference, votes: CampaignVotes) -> PairFacts:
    return PairFacts(
        prompt=votes.prompts[pair.prompt].content_hash,
        chosen_tokens=votes.answers[pair.chosen].tokens,
        rejected_tokens=votes.answers[pair.rejected].tokens,
        agreement=pair.agreement,
        category=votes.prompts[pair.prompt].category,
    )


def _preview(pair: Preference, votes: CampaignVotes) -> PairPreview:
    chosen, rejected = votes.answers[pair.chosen], votes.answers[pair.rejected]
    return PairPreview(
        prompt=votes.prompts[pair.prompt].messages[-1]["content"],
        chosen=chosen.text,
        rejected=rejected.text,
        chosen_by=chosen.author,
        rejected_by=rejected.author,
        agreement=pair.agreement,
        num_raters=pair.num_raters,
        votes=pair.votes,
    )


def describe_left_out(left_out: Iterable[tuple[LeftOut, int]]) -> str:
    """Return the reasons with their counts of pairs: `raters split evenly (4), equal answers (1)`."""
    return ", ".join(f"{reason.value} ({count:,})" for reason, count in left_out if count)


MIN_PROMPTS_LEFT = 8
"""Prompts that a rematch should have at least: with fewer even one that one side wins has no verdict."""


def locked_prompts(
    ctx: Context, campaign: CampaignView, votes: CampaignVotes, rules: PreferenceRules
) -> frozenset[str]:
    """Return the ids of prompts that a campaign's training rows leave out: locked by the rules, or in its rematches."""
    prompts = {prompt.id: prompt.content_hash for prompt in votes.prompts.values()}
    with ctx.db.read() as session:
        in_rematches = _prompts_of_rematches(session, campaign.id)
    already = {prompt for prompt, digest in prompts.items() if digest in in_rematches}
    lacking = 0
    if rules.locked_share is None:
        unseen = unseen_prompts(ctx, campaign, learned=frozenset(prompts.values()))
        lacking = min(campaign.config.num_prompts, MIN_PROMPTS_LEFT) - len(unseen)
    return choose_locked(prompts, rules, lacking=lacking, already=already)


def draw_rematch_prompts(ctx: Context, campaign: CampaignView, *, learned: frozenset[str]) -> list[DrawnPrompt]:
    """Return the prompts of a rematch: the campaign's own and its dataset's without those in `learned` or learned by
    ancestors.

    Raises InvalidInput when none is left.
    """
    unseen = unseen_prompts(ctx, campaign, learned=learned)
    if not unseen:
        raise InvalidInput(
            "Every prompt of this campaign and its dataset would be trained on, so none is left for the rematch.",
            remedy="Lock a share of the prompts, or add prompts to the dataset.",
            field="locked_share",
        )
    return sample_prompts(unseen, num=campaign.config.num_prompts, seed=campaign.config.seed)


def unseen_prompts(ctx: Context, campaign: CampaignView, *, learned: frozenset[str]) -> list[DrawnPrompt]:
    """Return the prompts of a campaign and its dataset neither in `learned` (content hashes) nor in its ancestors'."""
    with ctx.db.read() as session:
        rows = session.scalars(
            select(CampaignPrompt)
            .where(CampaignPrompt.campaign_id == campaign.id, CampaignPrompt.purpose == "vote")
            .order_by(CampaignPrompt.position)
        )
        candidates = {row.content_hash: DrawnPrompt(list(row.messages), row.category) for row in rows}
        learned |= _learned_before(session, campaign.id)
    if campaign.dataset is not None:
        contestants = [contestant.checkpoint_id for contestant in campaign.contestants if contestant.checkpoint_id]
        for prompt in read_held_out_prompts(
            ctx, resolve_version(ctx, campaign.dataset), config=campaign.config, checkpoint_ids=contestants
        ):
            candidates.setdefault(content_hash(prompt.messages), prompt)
    return [prompt for digest, prompt in candidates.items() if digest not in learned]


def _prompts_of_rematches(session: Session, campaign_id: str) -> set[str]:
    query = select(CampaignPrompt.content_hash).join(Campaign, Campaign.id == CampaignPrompt.campaign_id)
    return set(session.scalars(query.where(Campaign.parent_id == campaign_id)))


def _learned_before(session: Session, campaign_id: str) -> set[str]:
    """Return the prompts in the training rows of the runs that made a rematch's and its ancestors' new contestants."""
    trained: set[str] = set()
    current: Campaign | None = session.get(Campaign, campaign_id)
    while current is not None:
        provenance = session.scalar(
            select(DatasetVersion.provenance)
            .join(Run, Run.dataset_version_id == DatasetVersion.id)
            .where(Run.id == (current.run_id or ""))
        )
        if isinstance(provenance, VotesProvenance):
            trained |= {row["prompt_id"] for row in provenance.rows}
        current = session.get(Campaign, current.parent_id) if current.parent_id else None
    return set(session.scalars(select(CampaignPrompt.content_hash).where(CampaignPrompt.id.in_(trained))))
