"""Endpoints that evaluations score: those of this installation by name, and models behind other OpenAI-compatible APIs.

Another API is registered once, by the operator, because the server calls its address and sends it a key; every builder
may then evaluate it. Registering asks the API what it offers.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.engine import retry_races
from backend.db.tables import EvaluatedEndpoint, Evaluation, Job
from backend.domain.attributes import view_of
from backend.domain.evaluation.endpoints import READING_VERSION, EndpointConfig, EndpointTarget, JudgeTarget
from backend.domain.jobs.payloads import EvaluatePayload
from backend.domain.jobs.states import Status
from backend.domain.names import nearest_name
from backend.domain.openai_servers import Capabilities, check_key_source, check_url
from backend.domain.validation import read_values
from backend.errors import Conflict, InvalidInput, NotAllowed, NotFound
from backend.infra.keys import read_key
from backend.infra.openai_api.calls import ask_capabilities
from backend.services.context import Context, Person, require_builder
from backend.services.jobs.jobs import add_job
from backend.services.serving.endpoints import EndpointView, get_endpoint, list_endpoints
from backend.services.serving.own_keys import key_variable

OWN = Capabilities(chat=True, completions=True, echo=True)
"""Capabilities of this installation's gateway for a checkpoint; a model on another server has that server's."""


@dataclass(frozen=True)
class EvaluatedEndpointView:
    """An endpoint as a subject. `id` is empty for one of this installation that was never evaluated."""

    id: str
    name: str
    config: EndpointConfig
    capabilities: Capabilities
    created_at: datetime | None = None

    @property
    def key(self) -> str:
        """Its name in a form or an address: the id, of an own one the name, since its row comes with an evaluation."""
        return self.name if self.is_own else self.id

    @property
    def is_own(self) -> bool:
        """Return whether this installation serves it."""
        return self.config.is_own


@retry_races
def add_endpoint(ctx: Context, *, name: str, config: EndpointConfig, person: Person) -> EvaluatedEndpointView:
    """Register a model behind another API under a name, after asking the API what it offers (up to three requests of
    one token).

    Raises NotAllowed for accounts, Conflict for a name in use, InvalidInput, and Unavailable if the API or the key is
    not there.
    """
    require_builder(person)
    if person.id is not None:
        raise NotAllowed(
            "An account can't name an address that the server calls, nor a key that it sends.",
            remedy="Ask the operator for `roundhouse eval endpoint add`.",
        )
    name = name.strip()
    if not name or len(name) > 80 or not name.isprintable():
        raise InvalidInput(f"{name!r} is not a name.", remedy="Give 1 to 80 characters.", field="name")
    if config.is_own:
        raise InvalidInput("An API needs an address.", remedy="Write https://host/v1.", field="url")
    check_key_source(key_env=config.key_env, key_file=config.key_file)
    if name in _own_names(ctx) or any(view.name == name for view in _registered(ctx)):
        raise Conflict(f"There is an endpoint “{name}” already.", remedy="Choose another name, or remove that one.")
    key = read_key(key_env=config.key_env, key_file=config.key_file)
    capabilities = Capabilities(**ask_capabilities(config.url, model=config.model, key=key))
    with ctx.db.write() as session:
        return _view(_insert(session, ctx, name, config, capabilities, person))


def read_endpoint_config(
    *, url: str, model: str, key_env: str | None = None, key_file: str | None = None, **others: Any
) -> EndpointConfig:
    """Return the config of an API, with `others` of its fields. Raises InvalidInput naming the field, and no value that
    may be a key.
    """
    key_env, key_file = (key_env or "").strip() or None, (key_file or "").strip() or None
    check_key_source(key_env=key_env, key_file=key_file)
    checked = check_url(url)
    if not model.strip():
        raise InvalidInput("The API has many models.", remedy="Name the one to evaluate.", field="model")
    values = {"url": checked, "model": model.strip(), "key_env": key_env, "key_file": key_file, **others}
    return read_values(EndpointConfig, values)


def remove_endpoint(ctx: Context, name: str, *, person: Person) -> None:
    """Take another API off the list; its evaluations stay. Raises NotFound, NotAllowed."""
    require_builder(person)
    view = next((one for one in _registered(ctx) if name in (one.id, one.name) and not one.is_own), None)
    if view is None:
        raise NotFound(
            f"No API is registered as {name!r}.", remedy=_known(one.name for one in _registered(ctx) if not one.is_own)
        )
    with ctx.db.write() as session:
        session.get_one(EvaluatedEndpoint, view.id).archived_at = ctx.now()


def list_evaluated(ctx: Context) -> list[EvaluatedEndpointView]:
    """Return what can be evaluated: this installation's running endpoints, then the registered APIs, each by name."""
    stored = _registered(ctx)
    ids = {view.name: view.id for view in stored if view.is_own}
    own = [_own_view(endpoint, ids.get(endpoint.name, "")) for endpoint in list_endpoints(ctx, include_stopped=False)]
    return [*own, *(view for view in stored if not view.is_own)]


def resolve_evaluated(ctx: Context, name_or_id: str, *, model: str = "") -> EvaluatedEndpointView:
    """Return an endpoint by name or id, or a registered API by address and model.

    Raises NotFound with what there is, Conflict for one that has no replica ready.
    """
    registered = _registered(ctx)
    stored = next((view for view in registered if view.id == name_or_id), None)
    own = (
        stored.name
        if stored and stored.is_own
        else name_or_id
        if stored is None and name_or_id in _own_names(ctx)
        else None
    )
    if own is not None:
        return _ready(ctx, own, next((view.id for view in registered if view.is_own and view.name == own), ""))
    if stored is not None:
        return stored
    bare = name_or_id.rstrip("/")
    others = [view for view in registered if not view.is_own and (view.name == name_or_id or view.config.url == bare)]
    fitting = [view for view in others if not model or view.config.model == model]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise Conflict(
            f"{name_or_id} has several registered models.",
            remedy=f"Give --model: {_joined(v.config.model for v in fitting)}.",
        )
    names = [view.name for view in list_evaluated(ctx)]
    near = nearest_name(name_or_id, names)
    raise NotFound(
        f"There is no endpoint {name_or_id!r}{f' with the model {model!r}' if model and others else ''}.",
        remedy=f"Did you mean {near}?" if near else f"{_known(names)} Another API: `roundhouse eval endpoint add`.",
        field="endpoint",
    )


def find_own(ctx: Context, name: str) -> EvaluatedEndpointView:
    """Return an endpoint of this installation, ready or not. Raises NotFound."""
    stored = next((view for view in _registered(ctx) if view.is_own and view.name == name), None)
    return _own_view(get_endpoint(ctx, name), stored.id if stored else "")


def store_own(session: Session, ctx: Context, view: EvaluatedEndpointView, *, person: Person) -> str:
    """Return the id of an endpoint's row, inserting that of an own one that has none."""
    if view.id:
        return view.id
    query = select(EvaluatedEndpoint.id).where(EvaluatedEndpoint.name == view.name, EvaluatedEndpoint.url == "")
    existing = session.scalar(query)
    return existing or _insert(session, ctx, view.name, view.config, view.capabilities, person).id


def target_of(ctx: Context, view: EvaluatedEndpointView) -> EndpointTarget:
    """Return an endpoint as a job calls it: one of this installation through its gateway, with the key of
    the job's attempt where it asks for one.
    """
    config = view.config
    own_key = key_variable(ctx) if view.is_own else None
    return view_of(
        EndpointTarget,
        config,
        name=view.name,
        url=f"{ctx.gateway_url}/v1" if view.is_own else config.url,
        key_env=own_key or config.key_env,
        capabilities=view.capabilities,
        is_own=view.is_own,
    )


def identity_of(ctx: Context, view: EvaluatedEndpointView) -> str:
    """Return what stands for the weights in a fingerprint: address and model, of an own endpoint its checkpoint; and
    the version of how answers are read.
    """
    if view.is_own:
        endpoint = get_endpoint(ctx, view.name)
        return f"endpoint {view.name} of checkpoint {endpoint.checkpoint_id}, read {READING_VERSION}"
    return f"endpoint {view.id} at {view.config.url} model {view.config.model}, read {READING_VERSION}"


def _insert(
    session: Session, ctx: Context, name: str, config: EndpointConfig, capabilities: Capabilities, person: Person
) -> EvaluatedEndpoint:
    clause = (
        EvaluatedEndpoint.name == name,
        EvaluatedEndpoint.url == config.url,
        EvaluatedEndpoint.model == config.model,
    )
    # an endpoint that was removed comes back with its evaluations
    row = session.scalar(select(EvaluatedEndpoint).where(*clause))
    if row is None:
        row = EvaluatedEndpoint(
            name=name, url=config.url, model=config.model, created_by=person.id, created_at=ctx.now()
        )
        session.add(row)
    row.config, row.capabilities, row.archived_at = config, capabilities, None
    session.flush()
    return row


def _registered(ctx: Context) -> list[EvaluatedEndpointView]:
    query = (
        select(EvaluatedEndpoint)
        .where(EvaluatedEndpoint.archived_at.is_(None))
        .order_by(EvaluatedEndpoint.name, EvaluatedEndpoint.id)
    )
    with ctx.db.read() as session:
        return [_view(row) for row in session.scalars(query)]


def read_subjects(session: Session, ids: Iterable[str]) -> dict[str, EvaluatedEndpointView]:
    """Return endpoints by id, removed ones too."""
    return {
        row.id: _view(row)
        for row in session.scalars(select(EvaluatedEndpoint).where(EvaluatedEndpoint.id.in_(set(ids))))
    }


def _view(row: EvaluatedEndpoint) -> EvaluatedEndpointView:
    return EvaluatedEndpointView(row.id, row.name, row.config, row.capabilities, row.created_at)


def _own_view(endpoint: EndpointView, id_: str) -> EvaluatedEndpointView:
    upstream = endpoint.config.upstream
    at_once = upstream.max_requests // 4 if upstream else 4 * endpoint.num_ready
    config = EndpointConfig(model=endpoint.name, concurrency=max(1, min(64, at_once)))
    offered = upstream.capabilities if upstream else OWN.model_copy(update={"chat": endpoint.chats})
    return EvaluatedEndpointView(id_, endpoint.name, config, offered)


def _ready(ctx: Context, name: str, id_: str) -> EvaluatedEndpointView:
    endpoint = get_endpoint(ctx, name)
    if endpoint.state == "stopped" or not endpoint.num_ready:
        remedy = (
            "Start it on the page of endpoints, or by `roundhouse endpoint start`."
            if endpoint.state == "stopped"
            else "Wait for it."
        )
        raise Conflict(f"The endpoint “{name}” is {endpoint.state}.", remedy=remedy)
    return _own_view(endpoint, id_)


def _own_names(ctx: Context) -> Sequence[str]:
    return [endpoint.name for endpoint in list_endpoints(ctx)]


def _known(names: Iterable[str]) -> str:
    return f"There are: {_joined(names) or 'none yet'}."


def _joined(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:8])


LEDGER = "items.jsonl"
"""File of a job's folder with the items that it has scored."""


def resume_evaluation(
    session: Session,
    ctx: Context,
    *,
    fingerprint: str,
    target: EndpointTarget,
    judge: JudgeTarget | None,
    person: Person,
) -> str | None:
    """Continue the newest failed or stopped evaluation of a fingerprint by a new job; return its id, None without."""
    query = (
        select(Evaluation, Job)
        .join(Job, Job.id == Evaluation.job_id)
        .where(
            Evaluation.fingerprint == fingerprint,
            Evaluation.endpoint_id.is_not(None),
            Job.status.in_([Status.FAILED, Status.CANCELLED]),
        )
        .order_by(Evaluation.created_at.desc())
        .limit(1)
    )
    newest = session.execute(query).first()
    if newest is None:
        return None
    row, ended = newest
    payload = EvaluatePayload.read(ended.payload).model_copy(update={"endpoint": target, "judge": judge})
    job = add_job(session, ctx, payload, title=ended.title, device="cpu", created_by=person.id)
    folder = ctx.artifacts.job_folder(job.id)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):  # nothing was scored, or the folder has been cleared
        shutil.copyfile(ctx.artifacts.path(f"jobs/{ended.id}/{LEDGER}"), folder / LEDGER)
        ctx.artifacts.send(f"jobs/{job.id}")
    row.job_id, row.record = job.id, row.record.model_copy(update={"resumed": True})
    session.flush()
    return str(row.id)
