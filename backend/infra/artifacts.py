"""Artifacts: datasets, tokenizers, checkpoints and job folders under one root. Rows store paths relative to it. The
root is a local folder or a shared mount.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from backend.errors import InvalidInput, Unavailable


class Artifacts:
    """The artifacts' root. No stored path may leave it."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def path(self, relative: str) -> Path:
        """Return the absolute path of a stored path. Raises InvalidInput if it leaves the root."""
        full = (self.root / relative).resolve()
        if not full.is_relative_to(self.root):
            raise InvalidInput(f"The path {relative!r} leaves the artifacts folder.")
        return full

    def relative(self, path: Path) -> str:
        """Return a path relative to the root, as rows store it."""
        return path.resolve().relative_to(self.root).as_posix()

    def folder(self, *parts: str) -> Path:
        """Return a folder below the root, creating it if needed."""
        full = self.path("/".join(parts))
        full.mkdir(parents=True, exist_ok=True)
        return full

    def job_folder(self, job_id: str) -> Path:
        """Return the folder of a job, kept between attempts."""
        return self.folder("jobs", job_id)

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of a run, which holds its checkpoints."""
        return self.folder("runs", run_id)

    def free_bytes(self) -> int:
        """Return the disk space left under the root."""
        return shutil.disk_usage(self.root).free

    def disk_share(self) -> float:
        """Return the share of the disk under the root that is in use, with what is reserved for the system."""
        usage = shutil.disk_usage(self.root)
        return 1 - usage.free / usage.total

    def require_free(self, needed: int, *, keep: int, purpose: str) -> None:
        """Raise Unavailable unless `needed` bytes fit and `keep` bytes stay free."""
        free = self.free_bytes()
        if free - needed < keep:
            raise Unavailable(
                f"{purpose} needs {needed / 1e6:.0f} MB, and only {free / 1e6:.0f} MB are free under {self.root}.",
                remedy="Delete checkpoints or datasets you no longer need, or move ROUNDHOUSE_HOME to a larger disk.",
            )

    def remove(self, relative: str) -> None:
        """Delete a folder or file below the root, if it exists."""
        full = self.path(relative)
        if full == self.root:
            raise InvalidInput("The artifacts folder itself can't be deleted.")
        if full.is_dir():
            shutil.rmtree(full)
        elif full.exists():
            full.unlink()
