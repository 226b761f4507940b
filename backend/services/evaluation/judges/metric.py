"""The judge that a task names as a metric: resolved at the launch, and part of what decides the score."""

from __future__ import annotations

from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.endpoints import JudgeTarget
from backend.domain.jobs.payloads import require_folder
from backend.errors import InvalidInput
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import Context
from backend.services.evaluation.endpoints import identity_of, resolve_evaluated, target_of


def resolve_task_judge(ctx: Context, config: EvaluationConfig) -> tuple[JudgeTarget, str] | None:
    """Return a task's judge and its identity in a fingerprint, None for a task without one.

    Raises NotFound, Conflict for one that is not ready, InvalidInput for an API without chats.
    """
    metric = config.task.judge if config.task is not None else None
    if metric is None:
        return None
    if metric.endpoint:
        view = resolve_evaluated(ctx, metric.endpoint)
        if not view.capabilities.chat:
            raise InvalidInput(
                f"The API of “{view.name}” has no chat completions.", remedy="Name another judge.", field="metrics"
            )
        return JudgeTarget(name=view.name, endpoint=target_of(ctx, view)), identity_of(ctx, view)
    checkpoint = resolve_checkpoint(ctx, metric.checkpoint)
    folder = require_folder(checkpoint.folder, what="checkpoint")
    return JudgeTarget(name=checkpoint.name, checkpoint=folder), checkpoint.id
