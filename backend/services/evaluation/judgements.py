"""Judge answers by a model, in a job: those of a file or of evaluations, or the voted pairs of a campaign. Verdicts
never become votes. Models favour their own answers, so it is said where a judge is one of their authors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sqlalchemy import select

from backend.db.base import new_id
from backend.db.tables import CampaignPrompt, Completion, Contestant, EvaluationItem, Job
from backend.domain.battles.campaign import prompt_text
from backend.domain.battles.votes import Label
from backend.domain.evaluation.judges import JudgeConfig, JudgeItem, JudgeSummary, VerdictRecord
from backend.domain.jobs.payloads import JudgePayload
from backend.domain.jobs.results import JudgeResult
from backend.domain.jobs.states import JobKind, Status, status_word
from backend.domain.validation import read_values
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.infra.files.paths import text_file
from backend.services.battles.views import CampaignView, ValidVote, contestant_names, find_campaign, valid_votes
from backend.services.checkpoints.generation import find_checkpoint_folder
from backend.services.context import Context, Person, require_builder
from backend.services.evaluation.evaluations import EvaluationView, get_evaluation, list_evaluations
from backend.services.evaluation.judges.records import stored_verdicts
from backend.services.jobs.jobs import JobView, add_job, get_job, view, wake
from backend.services.serving.endpoints import get_endpoint, list_endpoints
from backend.services.serving.own_keys import key_variable

MAX_ITEMS = 20_000
NAMES = {
    "response": "answer",
    "completion": "answer",
    "a": "answer",
    "answer_a": "answer",
    "b": "answer_b",
    "question": "prompt",
}
"""Names of columns in files of others, and ours."""


@dataclass(frozen=True)
class Judge:
    """The judge: a checkpoint, an endpoint of this installation, or a model at `url` (empty: the operator's)."""

    kind: Literal["checkpoint", "endpoint", "model"]
    name: str
    url: str = ""


@dataclass(frozen=True)
class JudgementView:
    """A judgement with its job; `summary` is None until it has finished."""

    job: JobView
    judge: str
    mode: str
    criteria: str
    summary: JudgeSummary | None


def launch_judgement(
    ctx: Context,
    *,
    judge: Judge,
    items: Sequence[JudgeItem],
    config: JudgeConfig,
    person: Person,
    evaluations: Sequence[str] = (),
    campaign_id: str | None = None,
) -> JobView:
    """Queue a judgement of items, which are answers of `evaluations`, or of a campaign that its title then names.

    Raises InvalidInput for items that the mode can't judge, NotFound, NotAllowed.
    """
    require_builder(person)
    _check_items(items, config)
    source = _resolve(ctx, judge, person=person)
    file = ctx.artifacts.folder("uploads", new_id()) / "judged.jsonl"
    file.write_text("".join(item.model_dump_json() + "\n" for item in items), encoding="utf-8")
    payload = JudgePayload(
        **source, items_file=ctx.artifacts.relative(file), config=config, evaluations=tuple(evaluations)
    )
    with ctx.db.write() as session:
        on = f" on {find_campaign(session, campaign_id).name}" if campaign_id else ""
        title = f"Verdicts of {payload.judge}{on}"
        job = view(add_job(session, ctx, payload, title=title, priority=3, created_by=person.id))
    wake(ctx, job.queue)
    return job


def _resolve(ctx: Context, judge: Judge, *, person: Person) -> dict[str, object]:
    if judge.kind == "checkpoint":
        name, folder = find_checkpoint_folder(ctx, judge.name, person=person)
        return {"judge": name, "checkpoint": folder}
    uses_key = ctx.policy.judge_key
    if judge.kind == "endpoint":
        endpoint = get_endpoint(ctx, judge.name)
        return {
            "judge": endpoint.name,
            "url": f"{ctx.gateway_url}/v1",
            "model": endpoint.name,
            "uses_key": key_variable(ctx) is not None,
            "is_own": True,
        }
    if judge.url and judge.url != ctx.policy.judge_url:
        if person.id is not None:
            raise NotAllowed(
                "An account can't name an address that the server calls.",
                remedy="Ask the operator for ROUNDHOUSE_JUDGE_URL.",
            )
        if not judge.url.startswith(("http://", "https://")):
            raise InvalidInput(f"{judge.url!r} is not an API address.", remedy="Write https://host/v1.", field="url")
        return {
            "judge": judge.name,
            "url": judge.url,
            "model": judge.name,
            "uses_key": uses_key and ctx.policy.judge_url is None,
        }
    if ctx.policy.judge_url is None:
        raise InvalidInput(
            "No API for judges is set.",
            remedy="Set ROUNDHOUSE_JUDGE_URL, or give a checkpoint or an endpoint.",
            field="judge",
        )
    return {"judge": judge.name, "url": ctx.policy.judge_url, "model": judge.name, "uses_key": uses_key}


def _check_items(items: Sequence[JudgeItem], config: JudgeConfig) -> None:
    if not items or len(items) > MAX_ITEMS:
        raise InvalidInput(
            f"{len(items)} items can't be judged in one job.", remedy=f"Give 1 to {MAX_ITEMS}.", field="items"
        )
    ids = [item.id for item in items]
    if len(set(ids)) < len(ids):
        twice = next(name for index, name in enumerate(ids) if name in ids[:index])
        raise InvalidInput(f"Two items have the id {twice!r}.", remedy="Give each item an id of its own.", field="id")
    for item in items:
        if config.mode == "pairwise" and item.answer_b is None:
            raise InvalidInput(
                f"Item {item.id} has one answer.", remedy="Give `answer_b`, or grade by a rubric.", field="answer_b"
            )
        for vote in item.human:
            if config.mode == "pairwise" and str(vote).upper() not in Label.__members__:
                raise InvalidInput(
                    f"Item {item.id} has the vote {vote!r}.", remedy="Use A, B, TIE or BOTH_BAD.", field="human"
                )
            if config.mode == "rubric" and not config.labels and isinstance(vote, str):
                raise InvalidInput(
                    f"Item {item.id} has the score {vote!r}, not a number.", remedy="Give numbers.", field="human"
                )


def read_judge_items(lines: Iterable[str]) -> list[JudgeItem]:
    """Read JSON lines {prompt, answer, answer_b, reference, human, group, group_b, id}. Raises InvalidInput with the
    line's number.
    """
    items = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise InvalidInput("it is not an object.")
            values = {NAMES.get(name, name): value for name, value in record.items()}
            human = values.get("human", ())
            values["human"] = human if isinstance(human, list | tuple) else (human,)
        except (ValueError, RecursionError, InvalidInput) as error:
            raise InvalidInput(
                f"Line {number} can't be read: {error}", remedy='Write {"prompt": ..., "answer": ...}.'
            ) from error
        values = {"id": str(values.pop("id", number)), **values}
        remedy = "Write {prompt, answer, answer_b}."
        items.append(read_values(JudgeItem, values, intro=f"Line {number}: ", remedy=remedy))
    return items


def read_judge_file(file: Path) -> list[JudgeItem]:
    """Read a file of items. Raises NotFound, InvalidInput."""
    with text_file(file), file.open(encoding="utf-8-sig") as lines:
        return read_judge_items(lines)


def campaign_items(ctx: Context, campaign_id: str) -> list[JudgeItem]:
    """Return the voted pairs of a campaign: each pair of answers once, with every valid vote on it. An item's id holds
    the ids of its two completions. Raises NotFound, InvalidInput.
    """
    with ctx.db.read() as session:
        find_campaign(session, campaign_id)
        votes = valid_votes(session, campaign_id, purposes=("vote",))
        names = contestant_names(session, campaign_id)
        prompts = session.execute(
            select(CampaignPrompt.id, CampaignPrompt.messages).where(CampaignPrompt.campaign_id == campaign_id)
        )
        conversations = {prompt_id: prompt_text(messages) for prompt_id, messages in prompts}
        answers = select(Completion.id, Completion.text).join(Contestant, Contestant.id == Completion.contestant_id)
        texts = dict(session.execute(answers.where(Contestant.campaign_id == campaign_id)).all())
    by_pair: dict[tuple[str, str], list[ValidVote]] = {}
    for vote in votes:
        first, second = sorted((vote.completion_a_id, vote.completion_b_id))
        by_pair.setdefault((first, second), []).append(vote)
    items = [
        _campaign_item(first, second, pair, conversations, texts, names) for (first, second), pair in by_pair.items()
    ]
    if not items:
        raise InvalidInput(
            "The campaign has no votes to compare with.",
            remedy="Vote first, or judge a file of answers.",
            field="campaign",
        )
    if not any(one.answer.strip() or (one.answer_b or "").strip() for one in items):
        raise InvalidInput(
            "The campaign has no answers to judge: its votes came without texts.",
            remedy="Import the votes with the texts of the answers, or judge a file of answers.",
            field="campaign",
        )
    return items


def _campaign_item(
    first: str,
    second: str,
    votes: list[ValidVote],
    conversations: dict[str, str],
    texts: dict[str, str],
    names: dict[str, str],
) -> JudgeItem:
    authors = {votes[0].completion_a_id: votes[0].a, votes[0].completion_b_id: votes[0].b}
    return JudgeItem(
        id=f"{first}:{second}",
        prompt=conversations[votes[0].prompt_id],
        answer=texts[first],
        answer_b=texts[second],
        human=tuple(_turned(vote, authors[first]) for vote in votes),
        group=names[authors[first]],
        group_b=names[authors[second]],
    )


def _turned(vote: ValidVote, first: str) -> str:
    if vote.winner is None:
        return vote.label
    return "A" if vote.winner == first else "B"


def get_judgement(ctx: Context, job_id: str) -> JudgementView:
    """Return a judgement. Raises NotFound."""
    job = get_job(ctx, job_id)
    if job.kind != JobKind.JUDGE:
        raise NotFound(f"The job {job_id} is not a judgement.")
    with ctx.db.read() as session:
        return _view(job, JudgePayload.read(session.get_one(Job, job_id).payload))


def list_judgements(ctx: Context, *, limit: int = 50) -> list[JudgementView]:
    """Return the newest judgements first."""
    query = select(Job).where(Job.kind == JobKind.JUDGE.value).order_by(Job.created_at.desc()).limit(limit)
    with ctx.db.read() as session:
        return [_view(view(job), JudgePayload.read(job.payload)) for job in session.scalars(query)]


def _view(job: JobView, payload: JudgePayload) -> JudgementView:
    result = job.result_as(JudgeResult)
    summary = None if result is None else result.summary
    return JudgementView(job, payload.judge, payload.config.mode, payload.config.criteria, summary)


def read_verdicts(ctx: Context, job_id: str) -> list[VerdictRecord]:
    """Return each item's verdict with the judge's texts. Raises NotFound."""
    verdicts = stored_verdicts(ctx, job_id)
    if not verdicts:
        raise NotFound("The verdicts are not there.", remedy="Wait until the job has finished, or judge again.")
    return verdicts


Shown = dict[str, Any]


def list_answered(ctx: Context, *, like: EvaluationView | None = None) -> list[EvaluationView]:
    """Return finished evaluations with generated answers, newest first; with `like` others on its benchmark."""
    evaluations = list_evaluations(ctx, version_id=like.version_id if like else None)
    answered = [
        one for one in evaluations if one.status is Status.FINISHED and one.scores and one.kind.value == "generation"
    ]
    return [one for one in answered if like is None or one.id != like.id]


def evaluation_items(ctx: Context, evaluation_id: str, *, against: str | None = None) -> list[JudgeItem]:
    """Return the answers of a finished evaluation, or the pairs of its answers and those of `against` on the items that
    both have.

    Items without an answer are left out. Raises NotFound, Conflict for one that has not finished, InvalidInput without
    answers.
    """
    first = _finished(ctx, evaluation_id)
    second = _finished(ctx, against) if against else None
    if second is not None and second.version_id != first.version_id:
        raise InvalidInput(
            f"{first.benchmark} and {second.benchmark} are two benchmarks, so no item has two answers.",
            remedy="Choose two evaluations of one benchmark.",
            field="against",
        )
    answers = _answers(ctx, first.id)
    others = _answers(ctx, second.id) if second is not None else {}
    items = [
        JudgeItem(
            id=item_hash,
            prompt=_prompt(shown),
            answer=str(shown["completion"]),
            answer_b=str(others[item_hash]["completion"]) if second is not None else None,
            reference=_reference(shown),
            group=first.checkpoint,
            group_b=second.checkpoint if second is not None else "",
        )
        for item_hash, shown in answers.items()
        if second is None or item_hash in others
    ]
    if not items:
        what = "have no item with an answer of both" if second else "has no generated answers"
        raise InvalidInput(
            f"The evaluation{'s' if second else ''} {what}.",
            remedy="Choose one of generated answers.",
            field="evaluation",
        )
    return items


def judged_evaluations(ctx: Context, job_id: str) -> list[EvaluationView]:
    """Return the evaluations whose answers a judgement read, without deleted ones."""
    with ctx.db.read() as session:
        judged = JudgePayload.read(session.get_one(Job, job_id).payload).evaluations
    by_id = {one.id: one for one in list_evaluations(ctx)} if judged else {}
    return [by_id[key] for key in judged if key in by_id]


def _finished(ctx: Context, evaluation_id: str) -> EvaluationView:
    evaluation = get_evaluation(ctx, evaluation_id)
    if evaluation.status is not Status.FINISHED:
        raise Conflict(
            f"The evaluation of “{evaluation.checkpoint}” is {status_word(evaluation.status)}.",
            remedy="Wait until it has finished.",
        )
    return evaluation


def _answers(ctx: Context, evaluation_id: str) -> dict[str, Shown]:
    query = select(EvaluationItem.item_hash, EvaluationItem.shown, EvaluationItem.values)
    query = query.where(EvaluationItem.evaluation_id == evaluation_id).order_by(EvaluationItem.position)
    with ctx.db.read() as session:
        rows = session.execute(query).all()
    return {row.item_hash: dict(row.shown) for row in rows if "completion" in row.shown and "missing" not in row.values}


def _prompt(shown: Shown) -> str:
    return str(shown.get("question") or shown.get("prompt") or "")


def _reference(shown: Shown) -> str:
    answer = shown.get("answer")
    return str(answer[0]) if isinstance(answer, list) and answer else str(answer or "")


class Author(NamedTuple):
    """Writer of answers: a checkpoint, or an endpoint of this installation by name; an API elsewhere is neither."""

    checkpoint_id: str | None
    endpoint: str = ""


def campaign_authors(campaign: CampaignView) -> list[Author]:
    """Return the authors of a campaign's completions."""
    return [Author(one.checkpoint_id, one.endpoint) for one in campaign.contestants]


def evaluation_authors(evaluations: Iterable[EvaluationView]) -> list[Author]:
    """Return the authors of the evaluations' answers."""
    return [
        Author(one.checkpoint_id, one.endpoint.name if one.endpoint is not None and one.endpoint.is_own else "")
        for one in evaluations
    ]


def judges_itself(ctx: Context, judge: Judge, authors: Iterable[Author]) -> bool:
    """Return whether a judge is an author: the same endpoint, the same checkpoint, or one that an endpoint serves."""
    if judge.kind == "model":
        return False
    served = {endpoint.name: endpoint.checkpoint_id for endpoint in list_endpoints(ctx)}
    checkpoint_id = judge.name if judge.kind == "checkpoint" else served.get(judge.name)
    return any(
        (judge.kind == "endpoint" and author.endpoint == judge.name)
        or (checkpoint_id and checkpoint_id in (author.checkpoint_id, served.get(author.endpoint)))
        for author in authors
    )
