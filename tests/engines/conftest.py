"""SGLang is left out where it is not installed: its environment is made by hand (docs/decisions/0097-sglang.md)."""

import pytest

from backend.infra.engines import installed_engines


def pytest_runtest_setup(item: pytest.Item) -> None:
    if "sglang" in item.name and "sglang" not in installed_engines():
        pytest.skip("SGLang is not installed; set ROUNDHOUSE_SGLANG to the path of its command.")
