"""Facts of endpoints that a chat needs: checkpoint, context length, and whether it was trained on chats."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint, Deployment, Endpoint
from backend.services.checkpoints.networks import bring_small_files, read_network_shape
from backend.services.context import Context
from backend.services.serving.endpoints import endpoints_of_aliases, served_adapters
from backend.services.serving.rollout import SHADOW, STABLE

MAX_TEMPLATE = 20_000
MAX_FILE_BYTES = 2**20
MAX_FOLDERS = 256
_folders: dict[Path, tuple[int | None, str | None]] = {}


@dataclass(frozen=True)
class EndpointFacts:
    """`context` is None where the network's shape is not known, as behind an address of another server; `template` is
    the checkpoint's own chat template, untrusted text.
    """

    checkpoint_id: str | None
    checkpoint: str
    context: int | None
    template: str | None = None


def endpoint_facts(ctx: Context, names: Collection[str]) -> dict[str, EndpointFacts]:
    """Return the facts of running endpoints and aliases by name; unknown and stopped ones are left out."""
    with ctx.db.read() as session:
        return context_of_endpoints(session, ctx, names)


def context_of_endpoints(session: Session, ctx: Context, names: Collection[str]) -> dict[str, EndpointFacts]:
    """Return the facts as `endpoint_facts` does, in a session that is open."""
    aliases = endpoints_of_aliases(session) if names else {}
    adapters = (
        {model: adapter for model, adapter in served_adapters(session).items() if model in names} if names else {}
    )
    targets = {name: adapters[name].endpoint if name in adapters else aliases.get(name, name) for name in names}
    rows = session.execute(
        select(Endpoint.name, Checkpoint, Deployment.config)
        .join(Deployment, Deployment.endpoint_id == Endpoint.id)
        .join(Checkpoint, Checkpoint.id == Deployment.checkpoint_id)
        .where(Endpoint.name.in_(set(targets.values())), Deployment.stopped_at.is_(None), Deployment.role != SHADOW)
        .order_by(Deployment.role == STABLE, Deployment.created_at)
    )
    answering: dict[str, list[EndpointFacts]] = {}
    for endpoint, checkpoint, config in rows:
        answering.setdefault(endpoint, []).append(_facts(ctx, checkpoint, config.context))
    facts = {name: _of_all(answering[target]) for name, target in targets.items() if target in answering}
    ids = [adapter.checkpoint_id for adapter in adapters.values()]
    checkpoints = (
        dict(session.execute(select(Checkpoint.id, Checkpoint.name).where(Checkpoint.id.in_(ids))).all()) if ids else {}
    )
    for model, adapter in adapters.items():
        if model in facts:
            id_ = adapter.checkpoint_id
            template = _read_template(bring_small_files(ctx, adapter.folder)) or facts[model].template
            facts[model] = replace(
                facts[model], checkpoint_id=id_, checkpoint=checkpoints.get(id_, ""), template=template
            )
    return facts


def _of_all(answering: Sequence[EndpointFacts]) -> EndpointFacts:
    """Return the facts of the stable deployment, the last, with the shortest context: a canary may answer, too."""
    return replace(answering[-1], context=min((one.context for one in answering if one.context), default=None))


def _facts(ctx: Context, checkpoint: Checkpoint, limit: int | None) -> EndpointFacts:
    context, template = _read_folder(ctx, checkpoint.folder) if checkpoint.folder else (None, None)
    if (upstream := checkpoint.facts.upstream) is not None:
        context = upstream.context
    if limit is not None:
        context = min(limit, context or limit)
    return EndpointFacts(checkpoint.id, checkpoint.name, context, template)


def _read_folder(ctx: Context, folder: str) -> tuple[int | None, str | None]:
    """Return context and template. A checkpoint's folder does not change, so what was read once is remembered."""
    place = ctx.artifacts.root / folder
    if (facts := _folders.get(place)) is None:
        shape = read_network_shape(ctx, folder)
        facts = (shape.context if shape else None, _read_template(place))
        if shape is not None:
            if len(_folders) >= MAX_FOLDERS:
                _folders.clear()
            _folders[place] = facts
    return facts


def _read_template(folder: Path) -> str | None:
    try:
        if (file := folder / "chat_template.jinja").is_file():
            return file.read_text(encoding="utf-8")[:MAX_TEMPLATE]
        file = folder / "tokenizer_config.json"
        if file.stat().st_size > MAX_FILE_BYTES:
            return None
        template = json.loads(file.read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return None
    return template[:MAX_TEMPLATE] if isinstance(template, str) else None
