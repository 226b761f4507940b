"""Files of prepared weights go once no replica starts from them."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta

from backend.services.context import Context, OperatorPolicy
from backend.services.serving.replicas import remove_prepared_weights


def later(ctx: Context, days: float, *, keep: float = 30.0) -> Context:
    now = ctx.now() + timedelta(days=days)
    return replace(ctx, now=lambda: now, policy=OperatorPolicy(keep_job_folders_days=keep))


def test_weights_that_no_replica_starts_from_go_after_as_many_days_as_the_policy_says(ctx: Context) -> None:
    folder = ctx.artifacts.folder("prepared", "bases", "one")
    unused, used, left, lock = (
        folder / name for name in ("int8-a.safetensors", "float32-b.safetensors", ".int8-c.1.partial", ".lock")
    )
    for path in (unused, used, left, lock):
        path.write_text("weights")
        os.utime(path, (ctx.now().timestamp(),) * 2)
    later_s = (ctx.now() + timedelta(days=20)).timestamp()
    os.utime(used, (later_s, later_s))
    assert remove_prepared_weights(later(ctx, 29)) == 0
    assert remove_prepared_weights(later(ctx, 31, keep=0)) == 0
    assert remove_prepared_weights(later(ctx, 31)) == 2
    assert set(folder.iterdir()) == {used, lock}
