"""Launch: drafts, row preview, trial of rewards, published presets, and a page that a wrong value leaves as it is."""

from __future__ import annotations

import pytest

from backend.db.tables import Checkpoint, Run
from backend.domain.architectures.published import PUBLISHED
from backend.domain.training.config import parse_run_config
from backend.services.context import LOCAL, Context
from backend.services.people.drafts import read_draft, save_draft
from backend.services.training.views import list_runs
from pages.components import routes
from pages.components.browser.palette import component
from pages.components.browser.palette.component import Destination
from tests.support.launch_form import add_base, open_form
from tests.support.opening import open_page, open_panel, words
from tests.support.scenario import Scenario
from tests.support.training_rooms import write_dataset


def test_a_half_filled_form_is_there_after_a_reload_and_is_discarded_by_a_click(site: Context) -> None:
    Scenario(site).parts()
    page = open_page("build/launch.py")
    page.run()
    assert read_draft(site, "launch", person=LOCAL) is None  # looking is no draft
    page.selectbox(key="launch_dataset").select("tales").run()
    page.number_input(key="launch_max_steps").set_value(77).run()
    page.text_input(key="launch_name").set_value("my try").run()
    other = open_page("build/launch.py")
    assert "Draft of " in words(other)
    assert other.selectbox(key="launch_dataset").value == "tales"
    assert other.number_input(key="launch_max_steps").value == 77
    assert other.text_input(key="launch_name").value == "my try"
    other.button(key="launch_discard").click().run()
    assert other.text_input(key="launch_name").value == ""
    assert "Draft of " not in words(open_page("build/launch.py"))


def test_a_visit_elsewhere_keeps_the_form(scenario: Scenario) -> None:
    scenario.parts()
    page = open_form()
    page.number_input(key="launch_max_steps").set_value(77).run()
    page.switch_page("../pages/build/runs.py").run()
    page.query_params["dataset"], page.query_params["architecture"] = "tales", "small"
    page.switch_page("../pages/build/launch.py").run()
    assert page.number_input(key="launch_max_steps").value == 77
    assert page.number_input(key="launch_context").value == 32


def test_a_wrong_value_is_kept_in_the_draft_too(scenario: Scenario) -> None:
    scenario.parts()
    page = open_form()
    page.number_input(key="launch_context").set_value(128).run()
    assert open_page("build/launch.py").number_input(key="launch_context").value == 128


def test_an_address_that_asks_for_another_form_leaves_the_draft_to_be_restored(scenario: Scenario) -> None:
    scenario.parts()
    scenario.dataset("fables")
    page = open_page("build/launch.py")
    page.selectbox(key="launch_dataset").select("tales").run()
    page.number_input(key="launch_max_steps").set_value(77).run()
    other = open_page("build/launch.py", dataset="fables")
    assert other.selectbox(key="launch_dataset").value == "fables"
    assert "You have a draft of" in words(other)
    other.button(key="launch_restore").click().run()
    assert other.selectbox(key="launch_dataset").value == "tales"
    assert other.number_input(key="launch_max_steps").value == 77


def test_the_base_of_a_link_goes_before_that_of_a_draft(scenario: Scenario) -> None:
    """“Continue training” opened with the base that was chosen on the form's last visit."""
    scenario.parts()
    linked, other = scenario.checkpoint("elm"), scenario.checkpoint("oak")
    page = open_page("build/launch.py", base=linked)
    page.number_input(key="launch_max_steps").set_value(77).run()
    reloaded = open_page("build/launch.py", base=linked)
    assert reloaded.number_input(key="launch_max_steps").value == 77
    assert "restored" in words(reloaded)
    reloaded.selectbox(key="launch_base").select("oak").run()
    again = open_page("build/launch.py", base=linked)
    assert again.selectbox(key="launch_base").value == "elm"
    assert "You have a draft of" in words(again)
    assert "with base checkpoint “oak”" in words(again)
    again.button(key="launch_restore").click().run()
    assert again.selectbox(key="launch_base").value == "oak"
    assert open_page("build/launch.py", base=other).selectbox(key="launch_base").value == "oak"


def test_a_launch_ends_the_draft(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    page = open_form()
    page.number_input(key="launch_max_steps").set_value(77).run()
    assert read_draft(site, "launch", person=LOCAL) is not None
    page.button(key="launch_go").click().run()
    assert [run.max_steps for run in list_runs(site)] == [77]
    assert read_draft(site, "launch", person=LOCAL) is None


def test_a_launch_leaves_the_draft_of_another_form(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    page = open_page("build/launch.py")
    page.selectbox(key="launch_dataset").select("tales").run()
    page.number_input(key="launch_max_steps").set_value(77).run()
    other = open_page("build/launch.py", run=scenario.run().id, set="seed:2")
    assert "You have a draft of" in words(other)
    other.button(key="launch_go").click().run()
    assert len(list_runs(site)) == 2
    assert read_draft(site, "launch", person=LOCAL) is not None


def test_the_estimate_of_another_form_is_not_shown(scenario: Scenario) -> None:
    scenario.parts()
    open_form().number_input(key="launch_min_learning_rate").set_value(5.0).run()
    other = open_page("build/launch.py", run=scenario.run().id)
    assert "Peak memory" in [metric.label for metric in other.metric]
    other.button(key="launch_restore").click().run()
    assert other.button(key="launch_go").disabled
    assert "Of the last values that can be launched" not in words(other)


def test_a_draft_of_another_version_is_left_out(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    for values in ({}, {"objective": "sft"}, {"objective": "nonsense", "fields": []}):
        save_draft(site, "launch", values, person=LOCAL)
        assert "Draft of " not in words(open_page("build/launch.py"))


def test_a_change_of_objective_and_back_keeps_parts(site: Context, scenario: Scenario) -> None:
    add_base(site)
    add_base(site, "elm")
    for name in ("talks", "chats"):
        scenario.dataset(name, kind="chat")
    scenario.dataset("pairs", kind="preference")
    page = open_page("build/launch.py")
    page.selectbox(key="launch_objective").select("sft").run()
    page.selectbox(key="launch_dataset").select("talks").run()
    page.selectbox(key="launch_base").select("elm").run()
    page.selectbox(key="launch_objective").select("dpo").run()
    assert page.selectbox(key="launch_dataset").value == "pairs"
    assert page.selectbox(key="launch_base").value == "elm"
    page.selectbox(key="launch_objective").select("sft").run()
    assert page.selectbox(key="launch_dataset").value == "talks"


def test_a_wrong_value_leaves_the_estimate_and_the_search_space(scenario: Scenario) -> None:
    scenario.parts()
    page = open_form()
    page.number_input(key="launch_min_learning_rate").set_value(5.0).run()
    assert page.button(key="launch_go").disabled
    assert "Of the last values that can be launched" in words(page)
    assert "Peak memory" in [metric.label for metric in page.metric]
    page.number_input(key="launch_min_learning_rate").set_value(0.0).run()
    page = open_form(mode="Sweep")
    assert page.multiselect(key="sweep_fields").value == ["learning_rate"]
    page.number_input(key="launch_min_learning_rate").set_value(5.0).run()
    assert page.multiselect(key="sweep_fields").value == ["learning_rate"]
    assert page.button(key="sweep_go").disabled


def test_a_published_architecture_is_launched_by_name(scenario: Scenario) -> None:
    scenario.parts()
    page = open_form()
    page.selectbox(key="launch_architecture").select("published: SmolLM2 135M").run()
    yaml = str(open_panel(page, "launch_yaml_panel").code[0].value)
    assert parse_run_config(yaml).architecture == PUBLISHED["SmolLM2 135M"]


def test_the_first_rows_say_what_is_trained_on(site: Context, scenario: Scenario) -> None:
    add_base(site)
    scenario.dataset("talks", kind="chat")
    row = {"messages": [{"role": "user", "content": "Ask **me**"}, {"role": "assistant", "content": "<b>Yes</b>"}]}
    write_dataset(site.artifacts.path("datasets/talks"), train=[row] * 5)
    page = open_panel(open_page("build/launch.py", base="oak", dataset="talks"), "launch_rows")
    codes = [str(code.value) for code in page.code]
    assert codes == ["Ask **me**", "<b>Yes</b>"] * 3
    said = [str(each.value) for each in page.markdown]
    assert sum("Assistant" in text and "trained" in text for text in said) == 3
    assert not any("User" in text and "trained" in text for text in said)


def test_rewards_are_tried_on_the_first_rows(site: Context, scenario: Scenario) -> None:
    add_base(site)
    scenario.dataset("asks", kind="instruction")
    rows = [{"prompt": f"{number} + 1?", "completion": str(number + 1)} for number in range(4)]
    write_dataset(site.artifacts.path("datasets/asks"), train=rows)
    page = open_page("build/launch.py", base="oak")
    page.selectbox(key="launch_objective").select("grpo").run()
    assert [one.value for one in page.caption if one.value.startswith("**exact** reads the row's answers")]
    assert not [one.value for one in page.caption if one.value.startswith("**length**")], "the chosen rules alone"
    page = open_panel(page, "launch_reward_trial")
    table = page.dataframe[-1].value
    assert list(table["Completion"][:3]) == ["1", "The answer is 1.", "(empty)"]
    assert list(table["Reward"][:3]) == [1.0, 0.0, 0.0]
    page.text_input(key="launch_own_completion").set_value(" 2").run()
    assert list(page.dataframe[-1].value["Reward"]).count(1.0) == 5


def test_a_length_that_no_completion_reaches_is_named_where_rewards_are_tried(
    site: Context, scenario: Scenario
) -> None:
    run = scenario.grpo(grpo={"rewards": [{"kind": "length", "target": 24}], "max_new_tokens": 16, "group_size": 4})
    write_dataset(site.artifacts.path("datasets/asks"), train=[{"prompt": "1 + 1?"}] * 4)
    page = open_panel(open_page("build/launch.py", run=run.id), "launch_reward_trial")
    said = "A length reward has a target of 24 tokens, and completions end at 16"
    assert said in words(page)


@pytest.mark.parametrize(("chats", "warns"), [(False, True), (True, False)])
def test_preferences_on_a_base_that_never_saw_a_conversation_are_asked_about(
    site: Context, chats: bool, warns: bool
) -> None:
    with site.db.write() as session:
        facts = {"context": 512, "has_chat_template": chats}
        session.add(Checkpoint(name="oak", origin="added", folder="checkpoints/oak", parameters=1_000_000, facts=facts))
    Scenario(site).dataset("pairs", kind="preference")
    page = open_page("build/launch.py", base="oak", dataset="pairs")
    page.selectbox(key="launch_objective").select("dpo").run()
    assert ("has not been trained on conversations" in words(page)) == warns


@pytest.mark.parametrize(("objective", "warns"), [("pretrain", True), ("sft", False)])
def test_preferences_on_a_run_of_plain_text_are_asked_about(site: Context, objective: str, warns: bool) -> None:
    """A checkpoint of a run holds no fact of a chat template: what it learned says whether it chats."""
    scenario = Scenario(site)
    run = scenario.run(name="text")
    with site.db.write() as session:
        session.get_one(Run, run.id).objective = objective
    base = scenario.checkpoint(run=run, step=1, facts={"context": 512, "vocab_size": 1024}, parameters=1_000_000)
    scenario.dataset("pairs", kind="preference")
    page = open_page("build/launch.py", base=base, dataset="pairs")
    page.selectbox(key="launch_objective").select("dpo").run()
    assert ("has not been trained on conversations" in words(page)) == warns


def test_a_sweep_is_asked_for_on_the_page_itself(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario.parts()
    page = open_page("build/launch.py")
    monkeypatch.setattr(component, "palette", lambda key: Destination(routes.LAUNCH, {"mode": "Sweep"}))
    assert page.run().segmented_control(key="mode").value == "Sweep"
    assert not page.error


def test_a_copy_of_a_run_is_one_run_after_a_sweep(scenario: Scenario) -> None:
    run = scenario.run(name="first")
    page = open_page("build/launch.py")
    page.segmented_control(key="mode").set_value("Sweep").run()
    page.query_params["run"] = run.id
    page.switch_page("../pages/build/run.py").run()
    page.query_params["run"] = run.id
    page.switch_page("../pages/build/launch.py").run()
    assert page.segmented_control(key="mode").value == "One run"
    asked = open_page("build/launch.py", run=run.id, mode="Sweep")
    assert asked.segmented_control(key="mode").value == "Sweep"
