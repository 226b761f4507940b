"""Contexts of chats: facts of endpoints (checkpoint, context length, whether it was trained on chats), the share of a
context that the next prompt takes, and the oldest turns that are left out.

The pages hold no tokenizer of the networks. The last answer's usage counts its prompt and itself exactly; what came
after it is estimated by the characters per token of that prompt. Where an estimate is too low, the replica refuses,
and one turn more is left out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db.tables import Checkpoint, Deployment, Endpoint
from backend.domain.serving.protocol import ChatMessage, Role
from backend.services.checkpoints.networks import bring_small_files, read_network_shape
from backend.services.context import Context
from backend.services.serving.conversations import MessageView, build_prompt
from backend.services.serving.endpoints import endpoints_of_aliases, served_adapters
from backend.services.serving.replicas import SHADOW, STABLE

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


CHARACTERS_PER_TOKEN = 3.5
TOKENS_PER_MESSAGE = 4  # role marks of a template
SHARE_FOR_ANSWER = 0.25


@dataclass(frozen=True)
class ContextUse:
    """Tokens of the line so far, characters per token, how many turns the last answer was not sent, and whether all
    tokens were counted.
    """

    tokens: int
    characters_per_token: float
    left_out: int
    is_exact: bool = False


def measure_line(line: Sequence[MessageView], *, system: str = "", messages: Sequence[MessageView] = ()) -> ContextUse:
    """Return what a line of messages takes, exactly up to its newest answer that counted its tokens. `system` is what
    every prompt holds beside them: the system prompt, and tools. Without such an answer the estimate is by the answers
    of the conversation's `messages`.
    """
    for at in range(len(line) - 1, -1, -1):
        usage = line[at].usage
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        if not prompt:
            continue
        left_out = usage.left_out
        sent = without_oldest(build_prompt(system, line[:at]), left_out)
        ratio = max(
            1.0, sum(len(message.content) for message in sent) / max(1, prompt - TOKENS_PER_MESSAGE * len(sent))
        )
        rest = sum(_estimate(message.content, ratio) for message in line[at + 1 :])
        return ContextUse(int(prompt + completion + rest), ratio, left_out, is_exact=at == len(line) - 1)
    answers = [message for message in messages if message.content and message.usage.completion_tokens]
    written = sum(message.usage.completion_tokens or 0 for message in answers)
    characters = sum(len(message.content) for message in answers)
    ratio = max(1.0, characters / written) if written else CHARACTERS_PER_TOKEN
    tokens = sum(_estimate(text, ratio) for text in [system, *(message.content for message in line)] if text)
    return ContextUse(tokens, ratio, 0)


def turns_to_leave_out(
    messages: Sequence[ChatMessage], *, context: int | None, max_tokens: int, ratio: float, tools: str = ""
) -> int:
    """Return how many of the oldest turns to leave out so that prompt and answer fit; the last question stays."""
    if not context:
        return 0
    room = context - min(max_tokens, int(context * SHARE_FOR_ANSWER)) - (_estimate(tools, ratio) if tools else 0)
    left_out = 0
    shorter: tuple[ChatMessage, ...] | None = tuple(messages)
    while shorter is not None and sum(_estimate(message.content, ratio) for message in shorter) > room:
        shorter = without_oldest_turn(shorter)
        left_out += shorter is not None
    return left_out


def without_oldest(messages: tuple[ChatMessage, ...], number: int) -> tuple[ChatMessage, ...]:
    """Return the messages without a number of their oldest turns, as far as there are that many."""
    for _ in range(number):
        messages = without_oldest_turn(messages) or messages
    return messages


def without_oldest_turn(messages: tuple[ChatMessage, ...]) -> tuple[ChatMessage, ...] | None:
    """Return the messages without the oldest question and its answer; the system prompt stays. None at one question."""
    system = messages[:1] if messages and messages[0].role is Role.SYSTEM else ()
    turns = messages[len(system) :]
    next_question = next((number for number, message in enumerate(turns) if number and message.role is Role.USER), None)
    return None if next_question is None else system + turns[next_question:]


def _estimate(text: str, ratio: float) -> int:
    return TOKENS_PER_MESSAGE + int(len(text) / ratio)
