"""The compiled library, once per session."""

from __future__ import annotations

import pytest

from jobs.serving.native.library import Library, try_library
from tests.support.native.completeness import skip_unless_complete


@pytest.fixture(scope="session")
def library() -> Library:
    """The arithmetic of decoder layers, compiled for this machine."""
    compiled = try_library()
    if compiled.library is None:
        skip_unless_complete(f"The library is not compiled: {compiled.problem}")
    return compiled.library
