"""Passwords as argon2id hashes. Neither passwords nor hashes are ever logged."""

from __future__ import annotations

import secrets
import threading
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from backend.domain.wording import plural
from backend.errors import InvalidInput

MIN_LENGTH, MAX_LENGTH = 10, 1000
_hasher = PasswordHasher()
_slots = threading.BoundedSemaphore(4)  # a check takes 64 MiB, and needs no sign-in


def hash_password(password: str) -> str:
    """Return a password's hash. Raises InvalidInput for one that is too short or too long."""
    if not MIN_LENGTH <= len(password) <= MAX_LENGTH:
        raise InvalidInput(
            f"The password has {plural(len(password), 'character')}.",
            remedy=f"Use {MIN_LENGTH} to {MAX_LENGTH}.",
            field="password",
        )
    with _slots:
        return _hasher.hash(password)


def matches(password_hash: str | None, password: str) -> bool:
    """Return whether a password belongs to a hash. None (no account) takes as long and never matches."""
    unknown = _dummy_hash()  # the same hash for every name
    with _slots:
        try:
            _hasher.verify(password_hash or unknown, password[: MAX_LENGTH + 1])
        except (VerifyMismatchError, InvalidHashError):
            return False
    return password_hash is not None


@lru_cache(maxsize=1)
def _dummy_hash() -> str:
    return _hasher.hash(secrets.token_hex(8))
