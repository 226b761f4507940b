"""Who may change what others build on."""

from __future__ import annotations

from backend.errors import NotAllowed
from backend.services.context import Person


def require_builder(person: Person) -> None:
    """Raise NotAllowed unless the person may launch, deploy, change and delete."""
    if not person.may_build:
        raise NotAllowed(f"{person.name} may not do this.", remedy="Ask an admin for the role of an engineer.")
