"""The table of objectives."""

from __future__ import annotations

from backend.domain.training.objectives import OBJECTIVE_FACTS, Objective, label_of, made_by
from jobs.training.objectives.registry import OBJECTIVES


def test_every_objective_has_facts_and_stages() -> None:
    assert set(OBJECTIVE_FACTS) == set(OBJECTIVES) == set(Objective)
    for facts in OBJECTIVE_FACTS.values():
        assert all((facts.name, facts.label, facts.datasets, facts.metrics))


def test_a_name_that_is_not_known_stands_for_itself() -> None:
    assert [label_of("simpo"), label_of("imported thing")] == ["Preference tuning (SimPO)", "imported thing"]
    assert [made_by("simpo"), made_by("reward"), made_by(None)] == ["SimPO-trained", "reward model", "from a run"]
