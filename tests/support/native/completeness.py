"""Parts of the machine that tests need. Where nothing may be left out, as in continuous integration, a skip is a
failure.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def skip_unless_complete(reason: str) -> NoReturn:
    """Skip a test whose machine lacks something; fail it where `ROUNDHOUSE_TEST_ALL` is set."""
    if os.environ.get("ROUNDHOUSE_TEST_ALL"):
        pytest.fail(f"{reason} Nothing is skipped where ROUNDHOUSE_TEST_ALL is set.")
    pytest.skip(reason)
