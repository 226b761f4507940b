"""A playground with a gateway and scripted replicas: endpoints by name, and the browser's requests to the pages'
server.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from starlette.applications import Starlette
from starlette.testclient import TestClient

from backend.db.tables import Checkpoint, Deployment, Endpoint
from backend.domain.serving.chat import ChatSettings
from backend.gateway.directory import Principal, ReplicaAddress
from backend.services.context import LOCAL, Context, Person
from backend.services.people.keys import check_key
from backend.services.serving.chat.generation import ANSWERS
from backend.services.serving.conversations import MessageView, chat_token, list_messages
from backend.web.chat import chat_routes
from tests.support.gateway_fixtures import MemoryDirectory, ScriptedReplica, eventually, gateway, scripted


class CheckedDirectory(MemoryDirectory):
    """A directory that knows the keys of an installation."""

    def __init__(self, ctx: Context, endpoints: dict[str, list[ReplicaAddress]]) -> None:
        super().__init__(endpoints)
        self._ctx = ctx

    def authenticate(self, key: str) -> Principal | None:
        """Return the holder of a key of the installation."""
        grant = check_key(self._ctx, key)
        return Principal(key_id=grant.id, name=grant.name) if grant else None


@dataclass
class ChatWorld:
    """`replicas` by endpoint; `ctx` speaks to the gateway before them."""

    ctx: Context
    directory: CheckedDirectory
    replicas: dict[str, ScriptedReplica]

    def settings(self, *endpoints: str, **values: Any) -> ChatSettings:
        """Return settings for endpoints, for the first one if none is named."""
        return ChatSettings(endpoints=endpoints or (next(iter(self.replicas)),), **values)

    def messages(self, conversation: str, *, person: Person = LOCAL) -> list[MessageView]:
        """Return the messages of a conversation once no answer is on its way."""
        done: Callable[[], list[MessageView] | None] = lambda: self._settled(conversation, person)  # noqa: E731
        return eventually(done)  # type: ignore[no-any-return]

    def _settled(self, conversation: str, person: Person) -> list[MessageView] | None:
        messages = list_messages(self.ctx, conversation, person=person)
        return None if any(message.is_running for message in messages) else messages

    @contextmanager
    def browser(self, *, person: Person = LOCAL) -> Iterator[TestClient]:
        """Return a client of the pages' routes with a person's token."""
        app = Starlette(routes=chat_routes(lambda: self.ctx))
        with TestClient(app, headers={"authorization": f"Bearer {chat_token(self.ctx, person)}"}) as client:
            yield client


@contextmanager
def chat_world(ctx: Context, *endpoints: str) -> Iterator[ChatWorld]:
    """Return a world of endpoints, each with a checkpoint of its own and one scripted replica."""
    with ExitStack() as stack:
        stack.callback(ANSWERS.close)
        serving = {name: stack.enter_context(scripted()) for name in endpoints}
        _deploy(ctx, list(endpoints))
        directory = CheckedDirectory(
            ctx, {name: [ReplicaAddress(name, url, "t")] for name, (_, url) in serving.items()}
        )
        address = stack.enter_context(gateway(directory))
        yield ChatWorld(
            replace(ctx, gateway_url=address), directory, {name: replica for name, (replica, _) in serving.items()}
        )


def _deploy(ctx: Context, endpoints: list[str]) -> None:
    with ctx.db.write() as session:
        for name in endpoints:
            checkpoint, endpoint = (
                Checkpoint(name=f"{name}-network", origin="added", folder=f"bases/{name}"),
                Endpoint(name=name),
            )
            session.add_all([checkpoint, endpoint])
            session.flush()
            session.add(Deployment(endpoint_id=endpoint.id, checkpoint_id=checkpoint.id))
            folder = ctx.artifacts.root / "bases" / name
            folder.mkdir(parents=True, exist_ok=True)
            shape = {
                "model_type": "llama",
                "vocab_size": 64,
                "hidden_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
            }
            (folder / "config.json").write_text(
                json.dumps({**shape, "intermediate_size": 16, "max_position_embeddings": 64})
            )
