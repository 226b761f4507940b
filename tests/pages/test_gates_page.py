"""Gates on the page: created, judged, required of an endpoint, and the endpoint that refuses."""

from __future__ import annotations

import numpy as np
import pytest

from backend.domain.evaluation.gate_config import GateConfig
from backend.domain.evaluation.tasks.reading import read_task
from backend.services.checkpoints.checkpoints import resolve_checkpoint
from backend.services.context import LOCAL, Context
from backend.services.evaluation.gates import create_gate, judge, list_gates, require_gate
from backend.services.serving.aliases import get_alias
from backend.services.serving.deployments import deploy
from backend.services.serving.promotions import promote
from tests.support.evaluation_world import CHOICES
from tests.support.opening import assert_sound, open_page, plain_words, words
from tests.support.scenario import Scenario

PAGE = "evaluate/evaluations.py"


@pytest.fixture(autouse=True)
def _evaluations(scenario: Scenario) -> None:
    right = np.arange(40) % 4 > 0
    for name, answers in {"Oak": right, "Elm": right & (np.arange(40) % 2 > 0)}.items():
        scenario.evaluation(name, "facts", answers.astype(int).tolist())


def test_a_gate_is_created_judged_and_required_on_the_page(site: Context) -> None:
    app = open_page(PAGE, gates="1")
    assert "No gates yet" in words(app)
    app.text_input(key="gate_name").set_value("release")
    app.selectbox(key="gate_champion").set_value(resolve_checkpoint(site, "Oak").id)
    app.multiselect(key="gate_benchmarks").select("facts@1").run()
    app.button(key="gate_create").click().run()
    assert_sound(app)
    (gate,) = list_gates(site)
    assert (gate.name, gate.config.margin) == ("release", 0.02)


def test_a_gate_may_have_another_margin_on_a_benchmark(site: Context, scenario: Scenario) -> None:
    scenario.benchmark("more facts", CHOICES[:8])
    scenario.evaluation("Oak", "more facts", [1] * 8)
    app = open_page(PAGE, gates="1")
    assert "Votes are weighed at a promotion" in plain_words(app)
    app.text_input(key="gate_name").set_value("release")
    app.multiselect(key="gate_benchmarks").set_value(["facts@1", "more facts@1"]).run()
    app.number_input(key="gate_margin_more facts@1").set_value(5.0).run()
    app.button(key="gate_create").click().run()
    assert_sound(app)
    (gate,) = list_gates(site)
    assert {part.benchmark: part.margin for part in gate.config.benchmarks} == {"facts@1": None, "more facts@1": 0.05}


def test_the_deployment_form_names_the_gates_that_an_endpoint_requires(site: Context) -> None:
    config = GateConfig.model_validate({"champion": "Oak", "benchmarks": [{"benchmark": "facts"}], "margin": 0.02})
    gate = create_gate(site, name="release", config=config, person=LOCAL)
    require_gate(site, "release", endpoint="tales", person=LOCAL)
    elm = resolve_checkpoint(site, "Elm").id
    app = open_page("serve/endpoints.py", checkpoint=elm)
    assert "Not judged yet" not in words(app)
    app.text_input(key="deploy_name").set_value("tales").run()
    assert "Not judged yet" in words(app)
    assert "Gate release" in words(app)
    app.button(key="deploy").click().run()  # refused in words, and the form keeps what was typed
    assert "fails it" in app.error[0].value.replace("\\", "")
    assert app.text_input(key="deploy_name").value == "tales"
    app.checkbox(key="deploy_gate_tales").check().run()
    assert "was never measured" in words(app)
    assert "Failed" in words(app)
    assert list_gates(site)[0].id == gate.id


def test_a_verdict_shows_difference_interval_threshold_and_what_settles_it(site: Context, scenario: Scenario) -> None:
    config = GateConfig.model_validate({"champion": "Oak", "benchmarks": [{"benchmark": "facts"}], "margin": 0.02})
    gate = create_gate(site, name="release", config=config, person=LOCAL)
    deploy(site, checkpoint_id=scenario.checkpoint("Fir"), name="tales", person=LOCAL)
    app = open_page(PAGE, gate=gate.id)
    assert "Champion: Oak. Non-inferiority: the candidate must not be worse by 2 points or more. " in plain_words(app)
    assert "A wrong PASS and a wrong FAIL have a chance of at most 2.5 % each" in plain_words(app)
    box = app.selectbox(key=f"gate_candidate_{gate.id}")
    box.set_value(resolve_checkpoint(site, "Elm").id).run()
    app.button(key=f"gate_judge_{gate.id}").click().run()
    assert_sound(app)
    (gate,) = list_gates(site)
    assert [result.checkpoint for result in gate.results] == ["Elm"]
    assert gate.results[0].verdict == "FAIL"
    assert "that of a comparison is at 95 %, for one look" in plain_words(app), "the comparison has another interval"
    app.selectbox(key=f"gate_endpoint_{gate.id}").select("tales").run()
    app.button(key=f"gate_require_{gate.id}").click().run()
    assert list_gates(site)[0].endpoints == ("tales",)


def test_a_new_gate_begins_with_a_champion_that_was_evaluated(site: Context, scenario: Scenario) -> None:
    newest = scenario.checkpoint("Ash")
    app = open_page(PAGE, gates="1")
    assert app.selectbox(key="gate_champion").value in {resolve_checkpoint(site, name).id for name in ("Oak", "Elm")}
    assert app.selectbox(key="gate_champion").value != newest


def test_the_form_of_a_gate_names_its_benchmark_and_how_likely_it_passes_and_fails(site: Context) -> None:
    app = open_page(PAGE, gates="1")
    app.selectbox(key="gate_champion").set_value(resolve_checkpoint(site, "Oak").id)
    app.multiselect(key="gate_benchmarks").select("facts@1").run()
    assert_sound(app)
    (warned,) = [one.value.replace("\\", "") for one in app.warning if "On facts@1" in one.value]
    assert warned.startswith("On facts@1, 40 items: an equal checkpoint passes in ")
    for words_of in ("worse by 4 points fails in", "worse by 2 points passes in at most 2.3 %", "measured in 1 pair"):
        assert words_of in warned, warned
    assert "items, an equal checkpoint would pass in 80 % of cases." in warned
    app.number_input(key="gate_margin").set_value(60.0).run()
    assert not [one for one in app.warning if "On facts@1" in one.value]


def test_a_benchmark_that_is_scored_in_two_ways_is_offered_with_each(site: Context, scenario: Scenario) -> None:
    """The form named the benchmark alone, and its gate judged the newest scoring."""
    text = "name: law\ntitle: Law\nkind: multiple_choice\nprompt: '{{question}}'\nchoices: choices\nanswer: answer\n"
    for name in ("Oak", "Elm"):
        scenario.evaluation(name, "facts", [1, 0] * 20, task=read_task(text))
    app = open_page(PAGE, gates="1")
    app.text_input(key="gate_name").set_value("release")
    app.multiselect(key="gate_benchmarks").select("facts@1 by Law").run()
    app.button(key="gate_create").click().run()
    (gate,) = list_gates(site)
    assert [(part.benchmark, part.task) for part in gate.config.benchmarks] == [("facts@1", "law")]
    judge(site, candidate="Elm", gate="release", person=LOCAL)
    shown = words(open_page(PAGE, gate=gate.id))
    assert "facts@1 by law" in shown
    assert "not be worse by 2 points or more" in shown


def test_a_gate_says_which_evaluations_count(site: Context, scenario: Scenario) -> None:
    config = GateConfig.model_validate({"champion": "Oak", "benchmarks": [{"benchmark": "facts"}], "margin": 0.02})
    gate = create_gate(site, name="release", config=config, person=LOCAL)
    for name in ("Oak", "Elm"):
        scenario.evaluation(name, "facts", [1, 0, 1, 1] * 5, limit=20)
    app = open_page(PAGE, gate=gate.id)
    (before,) = [one.value.replace("\\", "") for one in app.warning if "On facts@1" in one.value]
    assert "Counted: Oak, " in before
    assert "(all items); a candidate needs one with the same settings." in before
    app.selectbox(key=f"gate_candidate_{gate.id}").set_value(resolve_checkpoint(site, "Elm").id).run()
    (chosen,) = [one.value.replace("\\", "") for one in app.warning if "On facts@1" in one.value]
    assert chosen.startswith("On facts@1, 40 items")
    assert "(all items) and Elm, " in chosen
    app.button(key=f"gate_judge_{gate.id}").click().run()
    assert_sound(app)
    (counted,) = [one for one in app.button if "40 common items" in one.label]
    assert counted.label.replace("\\", "").startswith("facts: Oak, ")
    counted.click().run()
    assert_sound(app)


def test_a_promotion_judges_the_gate_of_a_follower_first_and_offers_none_that_is_refused(
    site: Context, scenario: Scenario
) -> None:
    """ "Promote although the gate is inconclusive" was offered, and pressing it always ended in a refusal."""
    config = GateConfig.model_validate({"champion": "Oak", "benchmarks": [{"benchmark": "facts"}], "margin": 0.02})
    gate = create_gate(site, name="release", config=config, person=LOCAL)
    require_gate(site, "release", endpoint="tales", person=LOCAL)
    elm, fir = resolve_checkpoint(site, "Elm").id, scenario.checkpoint("Fir")
    scenario.evaluation("Fir", "facts", [1] * 40)
    promote(site, "Oak", alias="tales@live", reason="the first", person=LOCAL)
    deploy(site, checkpoint_id=resolve_checkpoint(site, "Oak").id, name="tales", alias="tales@live", person=LOCAL)
    app = open_page("build/checkpoints.py", promote=elm, alias="tales@live")
    assert "tales requires gate release, which has not judged the newest evaluations yet" in plain_words(app)
    assert app.button(key="promote_go").disabled
    app.button(key=f"promotion_judge_{gate.id}").click().run()
    assert_sound(app)
    shown = plain_words(app)
    assert "tales follows tales@live and requires gate release, so Elm can't be promoted: the gate fails it." in shown
    assert "The gate “release” fails it." not in shown, "said once"
    assert not [button for button in app.button if button.key == "promote_go"]
    app = open_page("build/checkpoints.py", promote=fir, alias="tales@live")
    app.button(key=f"promotion_judge_{gate.id}").click().run()
    assert not app.error
    app.button(key="promote_go").click().run()
    assert_sound(app)
    assert get_alias(site, "tales@live").checkpoint_id == fir
