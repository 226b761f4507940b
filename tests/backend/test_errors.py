"""A library of an optional extra that is missing is named with the command that installs it."""

from __future__ import annotations

import sys

import pytest

from backend.domain.evaluation.config import EvaluationConfig
from backend.errors import Unavailable, require_library
from tests.support.scenario import Scenario


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    require_library("json", extra="none", needed_for="Nothing")
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(Unavailable) as error:
        require_library("lm_eval", extra="harness", needed_for="The engine lm_eval")
    assert error.value.message == "The engine lm_eval needs the library lm_eval, which is not installed."
    assert error.value.remedy.endswith("pip install 'roundhouse[harness]'")


def test_an_evaluation_that_could_not_run_is_refused_at_its_launch(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    config = EvaluationConfig(engine="lm_eval")
    with pytest.raises(Unavailable, match=r"roundhouse.harness."):
        scenario.evaluation("none", "none", config=config)
