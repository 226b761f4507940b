"""Train, list, rename and delete tokenizers; each is a folder that any Hugging Face tool loads."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from backend.db.base import new_id
from backend.db.engine import retry_races
from backend.db.tables import Analysis, Dataset, DatasetVersion, Job, Tokenizer
from backend.domain.attributes import view_of
from backend.domain.jobs.payloads import TrainTokenizerPayload
from backend.domain.jobs.results import TokenizerFacts, TrainTokenizerResult
from backend.domain.jobs.states import ACTIVE, Status
from backend.domain.names import clean_name
from backend.domain.tokenizers.config import MAX_VOCABULARY, MIN_VOCABULARY, TokenizerConfig
from backend.errors import Conflict, InvalidInput, NotFound
from backend.services.context import Context, Person, require_builder
from backend.services.data.datasets import resolve_version
from backend.services.dependents import Use, mentions, refuse_while_used, users_of_tokenizer
from backend.services.jobs.claims import Claim
from backend.services.jobs.jobs import JobState, add_job, job_state, wake
from backend.services.lookups import find_named
from backend.services.naming import rename


@dataclass(frozen=True, kw_only=True)
class TokenizerView(JobState):
    """A tokenizer. `folder` and `vocab_size` are None until its job has ended. `facts`: bytes_per_token and others."""

    id: str
    name: str
    kind: str
    job_id: str | None
    vocab_size: int | None
    folder: str | None
    dataset: str | None
    dataset_version_id: str | None
    facts: TokenizerFacts
    created_at: datetime

    @property
    def is_ready(self) -> bool:
        """Return whether it can be used."""
        return self.folder is not None


@retry_races
def train_tokenizer(
    ctx: Context,
    *,
    name: str,
    dataset: str,
    person: Person,
    config: TokenizerConfig = TokenizerConfig(),
    idempotency_key: str | None = None,
) -> TokenizerView:
    """Queue the training of a tokenizer, after the dataset's import if that is still running.

    A name whose training failed is free again. Raises InvalidInput for an impossible vocabulary, Conflict for a taken
    name.
    """
    require_builder(person)
    name = clean_name(name, what="A tokenizer")
    _check_vocabulary(config)
    version = resolve_version(ctx, dataset, ready=False)
    with ctx.db.write() as session:
        if (again := _of_key(session, idempotency_key)) is not None:
            return _view(session, again)
        try:
            _require_free_name(session, name)
        except Conflict:
            if (again := _of_key(session, idempotency_key)) is not None:  # stored between the two looks (PostgreSQL)
                return _view(session, again)
            raise
        tokenizer_id = new_id()
        row = session.get_one(DatasetVersion, version.id)
        job = add_job(
            session,
            ctx,
            TrainTokenizerPayload(**dict(config), dataset=row.folder, out=f"tokenizers/{tokenizer_id}"),
            title=f"Train tokenizer {name}",
            device="cpu",
            priority=3,
            idempotency_key=idempotency_key,
            depends_on=None if row.folder else version.job_id,
            created_by=person.id,
        )
        tokenizer = Tokenizer(
            id=tokenizer_id,
            name=name,
            kind=config.kind,
            dataset_version_id=version.id,
            job_id=job.id,
            created_at=ctx.now(),
        )
        session.add(tokenizer)
        session.flush()
        result = _view(session, tokenizer)
    wake(ctx, "cpu")
    return result


def list_tokenizers(ctx: Context, *, ready: bool = False) -> list[TokenizerView]:
    """Return tokenizers, newest first; with `ready` only those that can be used."""
    with ctx.db.read() as session:
        query = select(Tokenizer).order_by(Tokenizer.created_at.desc(), Tokenizer.name)
        if ready:
            query = query.where(Tokenizer.folder.is_not(None))
        return [_view(session, row) for row in session.scalars(query)]


def get_tokenizer(ctx: Context, name_or_id: str) -> TokenizerView:
    """Return a tokenizer by name or id. Raises NotFound with similar names."""
    with ctx.db.read() as session:
        return _view(session, _find(session, name_or_id))


def list_tokenizer_users(ctx: Context, tokenizer_id: str) -> list[Use]:
    """Return the runs that refer to a tokenizer: the reasons why it can't be deleted."""
    with ctx.db.read() as session:
        return users_of_tokenizer(session, tokenizer_id)


def list_running_reports(ctx: Context, tokenizer_id: str) -> list[str]:
    """Return the titles of the jobs that measure a tokenizer, which can't be deleted meanwhile."""
    with ctx.db.read() as session:
        return _running_reports(session, tokenizer_id)


def read_tokenizer_file(ctx: Context, tokenizer_id: str) -> bytes:
    """Return the tokenizer.json of a tokenizer, which `tokenizers` and `transformers` load. Raises NotFound if its file
    is missing.
    """
    view = get_tokenizer(ctx, tokenizer_id)
    path = ctx.artifacts.path(f"{view.folder}/tokenizer.json") if view.folder else None
    if path is None or not path.is_file():
        raise NotFound(f"The files of the tokenizer “{view.name}” are missing.", remedy="Train it again.")
    return path.read_bytes()


def rename_tokenizer(ctx: Context, tokenizer_id: str, name: str, *, person: Person) -> None:
    """Give a tokenizer another name. Raises Conflict if it is taken."""
    require_builder(person)
    with ctx.db.write() as session:
        rename(session, _find(session, tokenizer_id), name, what="a tokenizer")


def delete_tokenizer(ctx: Context, tokenizer_id: str, *, person: Person) -> None:
    """Delete a tokenizer with its files and the reports on it.

    Raises Conflict, naming the runs, while any refers to it, and while it is being trained or measured.
    """
    require_builder(person)
    with ctx.db.write() as session:
        row = _find(session, tokenizer_id)
        refuse_while_used(
            "tokenizer", row.name, users_of_tokenizer(session, row.id), remedy="Delete those runs first, or keep it."
        )
        if _view(session, row).status in ACTIVE:
            raise Conflict(f"“{row.name}” is being trained.", remedy="Wait for its job, or stop it first.")
        refuse_while_used(
            "tokenizer",
            row.name,
            [f"“{title}”, which is running" for title in _running_reports(session, row.id)],
            remedy="Wait, or stop it first.",
        )
        folders = [row.folder, *session.scalars(select(Analysis.folder).where(Analysis.tokenizer_id == row.id))]
        session.execute(delete(Analysis).where(Analysis.tokenizer_id == row.id))
        session.delete(row)
    for folder in filter(None, folders):
        ctx.artifacts.remove(folder)


def record_tokenizer(
    session: Session, ctx: Context, claim: Claim[TrainTokenizerPayload], result: TrainTokenizerResult
) -> None:
    """Store the job's result."""
    row = session.scalars(select(Tokenizer).where(Tokenizer.job_id == claim.job_id)).one()
    row.folder, row.vocab_size = result.folder, result.vocab_size
    row.facts = TokenizerFacts.model_validate(result.dump())


def _check_vocabulary(config: TokenizerConfig) -> None:
    smallest = MIN_VOCABULARY[config.kind]
    if config.vocab_size < smallest:
        letters = ", letters" if config.kind == "unigram" else ""
        raise InvalidInput(
            f"A vocabulary of {config.vocab_size:,} is not possible.",
            remedy=f"Choose {smallest} (256 bytes, special tokens{letters}) to {MAX_VOCABULARY:,}.",
            field="vocab_size",
        )


def _require_free_name(session: Session, name: str) -> None:
    """Raise Conflict if a name is taken; delete a tokenizer of that name whose training failed."""
    row = session.scalar(select(Tokenizer).where(Tokenizer.name == name))
    if row is None:
        return
    if (
        row.folder
        or _view(session, row).status not in {Status.FAILED, Status.CANCELLED}
        or users_of_tokenizer(session, row.id)
    ):
        raise Conflict(f"There is already a tokenizer “{name}”.", remedy="Choose another name.", field="name")
    session.delete(row)
    session.flush()


def _of_key(session: Session, key: str | None) -> Tokenizer | None:
    return (
        session.scalar(select(Tokenizer).join(Job, Job.id == Tokenizer.job_id).where(Job.idempotency_key == key))
        if key
        else None
    )


def _find(session: Session, name_or_id: str) -> Tokenizer:
    return find_named(session, Tokenizer, name_or_id, what="tokenizer", remedy="Train one on the Tokenizers page.")


def _view(session: Session, row: Tokenizer) -> TokenizerView:
    job = session.get(Job, row.job_id) if row.job_id else None
    version = session.get(DatasetVersion, row.dataset_version_id) if row.dataset_version_id else None
    dataset = session.get_one(Dataset, version.dataset_id) if version else None
    return view_of(
        TokenizerView,
        row,
        **job_state(job, is_made=bool(row.folder)),
        dataset=f"{dataset.name}@{version.number}" if dataset and version else None,
    )


def _running_reports(session: Session, tokenizer_id: str) -> list[str]:
    measured = or_(Analysis.tokenizer_id == tokenizer_id, mentions(Analysis.config, [f"tokenizer:{tokenizer_id}"]))
    query = select(Job.title).join(Analysis, Analysis.job_id == Job.id).where(measured, Job.status.in_(ACTIVE))
    return list(session.scalars(query.order_by(Job.title)))
