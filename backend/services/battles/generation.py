"""Generate the completions of a campaign's contestants by jobs, before any vote."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Campaign, CampaignPrompt, Checkpoint, Completion, Contestant, Job
from backend.domain.attributes import attributes_of
from backend.domain.battles.campaign import text_hash
from backend.domain.jobs.events import CompletionEvent
from backend.domain.jobs.payloads import GeneratePayload, GenerationPrompt, require_folder
from backend.domain.jobs.results import GenerateResult
from backend.domain.jobs.states import ACTIVE, QUEUE_OF, JobKind
from backend.errors import Conflict, InvalidInput
from backend.services.battles.views import CampaignView, campaign_view, find_campaign
from backend.services.checkpoints.checkpoints import require_writer
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import add_job, wake
from backend.services.serving.own_keys import key_variable


def usable_checkpoint(session: Session, checkpoint_id: str) -> Checkpoint:
    """Return a checkpoint whose files exist. Raises InvalidInput."""
    checkpoint = session.get(Checkpoint, checkpoint_id)
    if checkpoint is None or checkpoint.deleted_at is not None or checkpoint.folder is None:
        shown = f"“{checkpoint.name}”" if checkpoint else "This checkpoint"
        raise InvalidInput(
            f"{shown} has no files to generate with.", remedy="Choose another checkpoint.", field="contestants"
        )
    require_writer(session, checkpoint_id, field="contestants")
    return checkpoint


def start_generation(
    session: Session, ctx: Context, campaign: Campaign, contestant: Contestant, *, person_id: str | None
) -> Job | None:
    """Queue the job that generates a contestant's missing completions, in the caller's transaction; None of a file."""
    if contestant.kind not in ("checkpoint", "endpoint"):
        return None
    config = campaign.config
    name, source = _source_of(session, ctx, contestant)
    payload = GeneratePayload(
        **attributes_of(config, "max_tokens", "temperature", "top_p", "seed"),
        **source,
        prompts=tuple(
            GenerationPrompt(id=prompt.id, messages=tuple(prompt.messages), sample=sample)
            for prompt, sample in _missing(session, campaign, contestant)
        ),
    )
    job = add_job(session, ctx, payload, title=f"Completions of {name} for {campaign.name}", created_by=person_id)
    contestant.job_id = job.id
    session.flush()
    return job


def _source_of(session: Session, ctx: Context, contestant: Contestant) -> tuple[str, dict[str, object]]:
    """Return a contestant's name, and what its payload says of its source."""
    if contestant.kind == "checkpoint":
        checkpoint = usable_checkpoint(session, contestant.checkpoint_id or "")
        return checkpoint.name, {"checkpoint": require_folder(checkpoint.folder, what="checkpoint")}
    if contestant.source.get("endpoint"):
        return contestant.label, {
            "url": f"{ctx.gateway_url}/v1",
            "model": contestant.source["endpoint"],
            "key_env": key_variable(ctx) or "",
            "is_own": True,
        }
    return contestant.label, {name: contestant.source.get(name, "") for name in ("url", "model", "key_env")}


def retry_generation(ctx: Context, contestant_id: str, *, person: Person) -> CampaignView:
    """Queue a contestant's missing completions. Raises Conflict while they are generated or if none is missing."""
    require_builder(person)
    with ctx.db.write() as session:
        contestant = session.get(Contestant, contestant_id)
        if contestant is None:
            raise InvalidInput("There is no such contestant.")
        campaign = find_campaign(session, contestant.campaign_id)
        refuse_closed(campaign)
        job = session.get(Job, contestant.job_id) if contestant.job_id else None
        if job is not None and job.status in ACTIVE:
            raise Conflict("This contestant's completions are being generated.")
        if contestant.kind not in ("checkpoint", "endpoint") or not _missing(session, campaign, contestant):
            raise Conflict("This contestant has answered every prompt that it can.")
        start_generation(session, ctx, campaign, contestant, person_id=person.id)
        result = campaign_view(session, campaign)
    wake(ctx, QUEUE_OF[JobKind.GENERATE])
    return result


def record_completion(session: Session, ctx: Context, claim: Claim[GeneratePayload], event: CompletionEvent) -> None:
    """Store one completion of a contestant. A repeated one (a lost worker) is ignored: the first may have votes."""
    contestant = session.scalar(select(Contestant).where(Contestant.job_id == claim.job_id))
    if contestant is None:
        return  # a generation that belongs to no campaign, such as the command line's
    prompt = session.get(CampaignPrompt, event.prompt_id)
    if prompt is None or prompt.campaign_id != contestant.campaign_id:
        return
    same = (
        Completion.prompt_id == prompt.id,
        Completion.contestant_id == contestant.id,
        Completion.sample == event.sample,
    )
    if session.scalar(select(Completion.id).where(*same)):
        return
    facts = {"finish_reason": event.finish_reason}
    add_completion(
        session, ctx, prompt, contestant, text=event.text, sample=event.sample, tokens=event.tokens, facts=facts
    )


def add_completion(
    session: Session,
    ctx: Context,
    prompt: CampaignPrompt,
    contestant: Contestant,
    *,
    text: str,
    sample: int = 0,
    tokens: int = 0,
    facts: dict[str, str | None],
) -> Completion:
    """Insert a contestant's completion of a prompt."""
    text = text.replace("\x00", "")  # PostgreSQL holds no NUL
    row = Completion(
        prompt_id=prompt.id,
        contestant_id=contestant.id,
        sample=sample,
        text=text,
        text_hash=text_hash(text),
        tokens=tokens,
        facts=facts,
        created_at=ctx.now(),
    )
    session.add(row)
    session.flush()
    return row


def record_generated(
    session: Session, ctx: Context, claim: Claim[GeneratePayload], result: GenerateResult
) -> GenerateResult:
    """Record at the end of a generation how many prompts the contestant left unanswered."""
    contestant = session.scalar(select(Contestant).where(Contestant.job_id == claim.job_id))
    if contestant is None:
        return result
    campaign = session.get_one(Campaign, contestant.campaign_id)
    return result.model_copy(update={"owed": len(_missing(session, campaign, contestant))})


def refuse_closed(campaign: Campaign) -> None:
    """Raise Conflict for a closed campaign."""
    if campaign.closed_at is not None:
        raise Conflict(f"“{campaign.name}” is closed.", remedy="Reopen it first.")


def _missing(session: Session, campaign: Campaign, contestant: Contestant) -> list[tuple[CampaignPrompt, int]]:
    """Return the prompts, with the number of the answer, that a contestant has not answered."""
    config = campaign.config
    answered = {
        (prompt, sample)
        for prompt, sample in session.execute(
            select(Completion.prompt_id, Completion.sample).where(Completion.contestant_id == contestant.id)
        )
    }
    prompts = session.scalars(
        select(CampaignPrompt)
        .where(CampaignPrompt.campaign_id == campaign.id, CampaignPrompt.purpose == "vote")
        .order_by(CampaignPrompt.position)
    ).all()
    return [
        (prompt, sample)
        for sample in range(config.answers_per_prompt)
        for prompt in prompts
        if (prompt.id, sample) not in answered
    ]
