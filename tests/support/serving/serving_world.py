"""An installation with checkpoints to serve, and its serving worker played by the test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from backend.db.tables import Checkpoint, Job, Replica
from backend.domain.jobs.events import ReadyEvent
from backend.domain.jobs.states import Status
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import Claim, claim_next
from backend.services.serving.deployments import EndpointView, deploy
from backend.services.serving.replicas import ready_targets, record_ready
from tests.support.scenario import add_row


@dataclass
class ServingWorld:
    """An installation with checkpoints, and its serving worker."""

    ctx: Context
    claims: list[Claim[Any]] = field(default_factory=list)

    def checkpoint(self, name: str) -> str:
        return add_row(
            self.ctx, Checkpoint(name=name, origin="added", folder=f"bases/{name}", family="llama", parameters=10)
        )

    def deploy(
        self, checkpoint: str = "oak", name: str = "tales", *, start: bool = True, **values: Any
    ) -> EndpointView:
        """Deploy a new checkpoint, and start its replicas."""
        deployed = deploy(self.ctx, checkpoint_id=self.checkpoint(checkpoint), name=name, person=LOCAL, **values)
        if start:
            self.start_all()
        return deployed

    def start_next(self) -> bool:
        """Start one queued replica; False if there is none."""
        claim = claim_next(self.ctx, "serve", owner="lab/serve#1", host="lab")
        if claim is None:
            return False
        self.claims.append(claim)
        with self.ctx.db.write() as session:
            record_ready(session, self.ctx, claim, ReadyEvent(url=f"http://127.0.0.1:{9000 + len(self.claims)}"))
        return True

    def start_all(self) -> None:
        while self.start_next():
            pass

    def served(self) -> list[str]:
        """Checkpoints of the replicas that get requests."""
        with self.ctx.db.read() as session:
            jobs = {row.id: row.job_id for row in session.scalars(select(Replica))}
            folders = [
                session.get_one(Job, jobs[t.replica_id]).payload["checkpoint"]
                for t in ready_targets(self.ctx).get("tales", [])
            ]
        return sorted(folder.removeprefix("bases/") for folder in folders)

    def num_stopping(self) -> int:
        with self.ctx.db.read() as session:
            return len(
                session.scalars(select(Job).where(Job.status == Status.CANCELLING, Job.stop_request == "drain")).all()
            )
