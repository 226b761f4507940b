"""Versions made from other versions: derive, compare, describe in a card. A version itself never changes."""

from __future__ import annotations

from backend.domain.dataset_changes import Change
from backend.services.context import Context, Person
from backend.services.datasets import VersionView


def derive_version(ctx: Context, version_id: str, *, change: Change, person: Person) -> VersionView:
    """Ask for a new version of the same dataset, made from `version_id` (or `name@3`) by a change. A job makes it, as with an import.

    The new version names the one it came from (`parent_id`) and the change (`provenance`). Raises InvalidInput for a change that does
    not fit the kind, Conflict for a version that is not ready, NotAllowed.
    """
    raise NotImplementedError
