"""Deletion of prepared weights that no replica starts from any more."""

from __future__ import annotations

import logging
from datetime import timedelta

from backend.domain.serving.prepared import FOLDER
from backend.services.context import Context

ENDINGS = (".safetensors", ".gguf", ".partial")

log = logging.getLogger(__name__)


def remove_prepared_weights(ctx: Context) -> int:
    """Delete files that no replica has started from for as long as the policy keeps folders of jobs; return their
    number.

    Replicas that have mapped a file keep its contents. A deleted checkpoint's files are deleted with it.
    """
    days = ctx.policy.keep_job_folders_days
    if days <= 0:
        return 0
    before = (ctx.now() - timedelta(days=days)).timestamp()
    gone = 0
    for path in ctx.artifacts.folder(FOLDER).rglob("*"):
        try:
            if path.suffix in ENDINGS and path.stat().st_mtime < before:
                path.unlink()
                gone += 1
        except OSError as error:  # another machine deletes it at the same moment, or permission is missing
            log.warning("%s can't be deleted: %s", path, error)
    return gone
