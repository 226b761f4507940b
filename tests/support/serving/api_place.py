"""What tests of the API speak to."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.gateway_fixtures import MemoryDirectory, ScriptedReplica


@dataclass(frozen=True)
class Place:
    """A gateway with an endpoint `tiny`, a real replica, and one `scripted`."""

    url: str
    directory: MemoryDirectory
    scripted: ScriptedReplica
