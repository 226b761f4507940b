"""The compiled library, once per session."""

from __future__ import annotations

import pytest

from jobs.serving.native.library import Library, compile_library


@pytest.fixture(scope="session")
def library() -> Library:
    """The arithmetic of decoder layers, compiled for this machine."""
    compiled = compile_library()
    if compiled is None:
        pytest.skip("There is no C++ compiler.")
    return compiled
