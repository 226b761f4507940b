"""What tests of rooms start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.training_rooms import Rooms


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    """An artifacts folder with datasets, tokenizers and bases for jobs, shared by the tests of a module."""
    from tests.support.training_rooms import Rooms

    return Rooms(tmp_path_factory.mktemp("artifacts"))
