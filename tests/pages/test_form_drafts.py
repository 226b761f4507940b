"""Drafts of other forms than Launch's: a search space, an architecture, a campaign, an evaluation, a gate and a suite
outlive a reload and are gone once sent or discarded.
"""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from backend.services.checkpoints.checkpoints import delete_checkpoint
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import delete_dataset, list_datasets
from backend.services.evaluation.gates import list_gates
from backend.services.evaluation.suites import list_suites
from backend.services.people.drafts import read_draft
from tests.support.evaluation_world import CHOICES
from tests.support.opening import assert_sound, open_page, words
from tests.support.scenario import Scenario


def test_a_search_space_is_there_after_a_reload_and_is_discarded_by_a_click(site: Context, scenario: Scenario) -> None:
    scenario.parts()

    def opened() -> AppTest:
        page = open_page("build/launch.py", mode="Sweep", dataset="tales", architecture="small")
        assert_sound(page)
        return page

    page = opened()
    page.run()
    assert read_draft(site, "sweep_of_pretrain", person=LOCAL) is None, "looking is no draft"
    page.multiselect(key="sweep_fields").set_value(["learning_rate", "seed"]).run()
    page.segmented_control(key="sweep_method").set_value("grid").run()
    page.text_input(key="sweep_values_seed").set_value("5, 6").run()
    page.text_input(key="sweep_name").set_value("two seeds").run()
    other = opened()
    assert other.multiselect(key="sweep_fields").value == ["learning_rate", "seed"]
    assert other.segmented_control(key="sweep_method").value == "grid"
    assert other.text_input(key="sweep_values_seed").value == "5, 6"
    assert other.text_input(key="sweep_name").value == "two seeds"
    assert "Draft of " in words(other)
    other.button(key="sweep_of_pretrain_draft_discard").click().run()
    assert_sound(other)
    assert other.multiselect(key="sweep_fields").value == ["learning_rate"]
    assert other.text_input(key="sweep_name").value == ""
    assert read_draft(site, "sweep_of_pretrain", person=LOCAL) is None


def test_an_architecture_is_kept_until_it_is_saved(site: Context) -> None:
    page = open_page("build/architectures.py")
    page.text_input(key="architecture_num_layers").set_value("3").run()
    page.text_input(key="architecture_width").set_value("100").run()
    page.text_input(key="architecture_name").set_value("mine").run()
    page.switch_page("../pages/build/runs.py").run()
    page.switch_page("../pages/build/architectures.py").run()
    other = open_page("build/architectures.py")
    for one in (page, other):
        assert_sound(one)
        assert [one.text_input(key=f"architecture_{name}").value for name in ("num_layers", "width", "name")] == [
            "3",
            "100",
            "mine",
        ]
    assert "Draft of " in words(other)
    other.text_input(key="architecture_width").set_value("128").run()
    other.button(key="architecture_save").click().run()
    assert_sound(other)
    assert read_draft(site, "architecture", person=LOCAL) is None
    assert open_page("build/architectures.py").text_input(key="architecture_name").value == ""


def test_an_evaluation_of_a_link_is_of_its_checkpoint(site: Context, scenario: Scenario) -> None:
    """A draft of the same link that chose another checkpoint was restored over it."""
    linked, other = scenario.checkpoints("Elm", "Oak")
    scenario.benchmark()
    key = f"eval_checkpoints_{linked}_None"
    page = open_page("evaluate/evaluations.py", checkpoint=linked, new="1")
    page.multiselect(key=key).set_value([linked, other]).run()
    assert open_page("evaluate/evaluations.py", checkpoint=linked, new="1").multiselect(key=key).value == [
        linked,
        other,
    ]
    page.multiselect(key=key).set_value([other]).run()
    assert open_page("evaluate/evaluations.py", checkpoint=linked, new="1").multiselect(key=key).value == [linked]


@pytest.mark.parametrize("is_gone", [False, True], ids=["both there", "one gone"])
def test_a_campaign_is_kept_without_what_no_longer_exists(site: Context, scenario: Scenario, is_gone: bool) -> None:
    oak, elm, _ = scenario.checkpoints("Oak", "Elm", "Yew")
    scenario.benchmark("asked", [{"prompt": f"Tell {n}."} for n in range(40)], kind="prompts")
    page = open_page("evaluate/battles.py")
    page.text_input(key="campaign_name").set_value("Autumn").run()
    page.multiselect(key="campaign_contestants").set_value([oak, elm]).run()
    page.number_input(key="campaign_num_prompts").set_value(7).run()
    if is_gone:
        delete_checkpoint(site, elm, person=LOCAL)
    other = open_page("evaluate/battles.py")
    assert_sound(other)
    assert other.text_input(key="campaign_name").value == "Autumn"
    assert other.number_input(key="campaign_num_prompts").value == 7
    if not is_gone:
        assert other.multiselect(key="campaign_contestants").value == [oak, elm]
        other.button(key="campaign_create").click().run()
        assert read_draft(site, "campaign", person=LOCAL) is None


@pytest.mark.parametrize("is_gone", [False, True], ids=["all there", "one gone"])
def test_an_evaluation_is_kept_without_what_no_longer_exists(site: Context, scenario: Scenario, is_gone: bool) -> None:
    oak, elm, _ = scenario.checkpoints("Oak", "Elm", "Yew")
    scenario.benchmark("facts")
    scenario.benchmark("more facts")
    ids = {dataset.name: dataset.id for dataset in list_datasets(site)}
    page = open_page("evaluate/evaluations.py", new="1")
    page.run()
    assert read_draft(site, "evaluation", person=LOCAL) is None, "looking is no draft"
    chosen, benchmarks = page.multiselect
    chosen.set_value([oak, elm]).run()
    benchmarks.set_value([ids["more facts"]]).run()
    page.number_input(key="eval_limit").set_value(7).run()
    if is_gone:
        delete_checkpoint(site, elm, person=LOCAL)
        delete_dataset(site, ids["more facts"], person=LOCAL)
    other = open_page("evaluate/evaluations.py", new="1")
    assert_sound(other)
    assert "Draft of " in words(other)
    assert other.number_input(key="eval_limit").value == 7
    if is_gone:
        assert elm not in other.multiselect[0].value
        return
    assert [box.value for box in other.multiselect] == [[oak, elm], [ids["more facts"]]]
    other.button(key="evaluation_draft_discard").click().run()
    assert_sound(other)
    assert (other.number_input(key="eval_limit").value, len(other.multiselect[0].value)) == (None, 1)
    assert read_draft(site, "evaluation", person=LOCAL) is None
    other.number_input(key="eval_limit").set_value(3).run()
    assert read_draft(site, "evaluation", person=LOCAL) is not None
    other.button(key="eval_launch").click().run()
    assert read_draft(site, "evaluation", person=LOCAL) is None
    assert open_page("evaluate/evaluations.py", new="1").number_input(key="eval_limit").value is None


def test_gates_and_suites_are_kept_until_they_are_created(site: Context, scenario: Scenario) -> None:
    oak = scenario.checkpoint("Oak")
    for benchmark in ("facts", "more facts"):
        scenario.evaluation("Oak", scenario.benchmark(benchmark), [1] * len(CHOICES))
    gates, suites = {"gates": "1"}, {"suites": "1"}
    for number in range(2):  # a list of the same page, with and without rows
        gate = open_page("evaluate/evaluations.py", **gates)
        gate.run()
        assert read_draft(site, "gate", person=LOCAL) is None, "looking is no draft"
        gate.multiselect(key="gate_benchmarks").set_value(["facts@1", "more facts@1"]).run()
        gate.number_input(key="gate_margin_more facts@1").set_value(5.0).run()
        gate.text_input(key="gate_name").set_value("release").run()
        gate = open_page("evaluate/evaluations.py", **gates)
        assert_sound(gate)
        assert gate.text_input(key="gate_name").value == "release"
        assert gate.number_input(key="gate_margin_more facts@1").value == 5.0
        assert gate.selectbox(key="gate_champion").value == oak
        suite = open_page("evaluate/evaluations.py", **suites)
        suite.run()
        suite.multiselect(key="suite_members").set_value(["facts"]).run()
        suite.number_input(key="suite_shots").set_value(1).run()
        suite.text_input(key="suite_name").set_value("core").run()
        suite = open_page("evaluate/evaluations.py", **suites)
        assert_sound(suite)
        assert suite.multiselect(key="suite_members").value == ["facts"]
        assert suite.number_input(key="suite_shots").value == 1
        for app, form in ((gate, "gate"), (suite, "suite")):
            assert "Draft of " in words(app)
            is_open = next(one.proto.expanded for one in app.expander if one.label == f"New {form}")
            assert is_open, "a draft is in view"
            app.button(key=f"{form}_draft_discard").click().run()
            assert read_draft(site, form, person=LOCAL) is None
            app.text_input(key=f"{form}_name").set_value(f"{form} {number}").run()
        gate.multiselect(key="gate_benchmarks").set_value(["facts@1"]).run()
        gate.button(key="gate_create").click().run()
        suite.multiselect(key="suite_members").set_value(["facts"]).run()
        suite.button(key="suite_create").click().run()
        assert (read_draft(site, "gate", person=LOCAL), read_draft(site, "suite", person=LOCAL)) == (None, None)
    assert (len(list_gates(site)), len(list_suites(site))) == (2, 2)
