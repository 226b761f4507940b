"""The launch form as a new user meets it: defaults that follow the choices, errors beside their fields, the estimate of
a sweep.
"""

from __future__ import annotations

import pytest
from sqlalchemy import select

from backend.db.tables import DatasetVersion, Tokenizer
from backend.services.context import Context
from backend.services.jobs.workers import beat
from pages.components.frame import plain
from tests.support.launch_form import add_base, add_starter, keys, open_form, shown
from tests.support.opening import open_page, words
from tests.support.run_world import SHAPE, make_config, measure
from tests.support.scenario import Scenario


def test_a_new_page_has_the_starter_recipe_and_says_so(site: Context) -> None:
    add_starter(site)
    page = open_page("build/launch.py")
    assert page.selectbox(key="launch_recipe").value == "starter-pretrain"
    assert (shown(page)["max_steps"], shown(page)["learning_rate"], shown(page)["name"]) == (
        1200,
        0.004,
        "Village stories",
    )


def test_defaults_follow_the_objective_and_typed_values_stay(site: Context, scenario: Scenario) -> None:
    """Fine-tuning kept the starter recipe's learning rate, 1,200 steps, context 128, name and prompts, though "recipe:
    None".
    """
    add_starter(site)
    scenario.dataset("chats", kind="chat")
    add_base(site)
    page = open_page("build/launch.py")
    page.number_input(key="launch_seed").set_value(77).run()
    page.selectbox(key="launch_objective").set_value("sft").run()
    assert page.selectbox(key="launch_recipe").value is None
    first = shown(page)
    assert (first["base"], first["dataset"], first["name"], first["seed"]) == ("oak", "chats@1", "", 77)
    assert (first["learning_rate"], first["context"], first["weight_decay"]) == (0.002, 512, 0.0)
    assert first["max_steps"] == 34  # three epochs of 90 rows, 8 a step
    assert "Once upon a time" not in first["sample_prompts"]
    page.number_input(key="launch_max_steps").set_value(60).run()
    page.text_input(key="launch_name").set_value("mine").run()
    page.segmented_control(key="launch_method").set_value("lora").run()
    adapters = shown(page)
    assert (adapters["max_steps"], adapters["name"], adapters["learning_rate"], adapters["lora.rank"]) == (
        60,
        "mine",
        0.004,
        16,
    )


def test_defaults_follow_the_base_and_the_size_of_the_data(site: Context, scenario: Scenario) -> None:
    scenario.dataset("chats", kind="chat")
    scenario.dataset("more", kind="chat")
    add_base(site)
    add_base(site, "tall", parameters=7_000_000_000, context=4096)
    with site.db.write() as session:
        session.query(DatasetVersion).filter_by(folder="datasets/more").one().train_rows = 9000
    page = open_page("build/launch.py", dataset="chats", base="oak")
    small = shown(page)
    page.selectbox(key="launch_base").select("tall").run()
    page.selectbox(key="launch_dataset").select("more").run()
    large = shown(page)
    assert (large["learning_rate"], large["context"]) == (2e-5, 1024)
    assert (small["learning_rate"], small["context"]) == (0.002, 512)
    assert large["max_steps"] == 1700 > small["max_steps"]
    assert large["micro_batch"] * large["grad_accum_steps"] == 16


def test_a_copy_of_a_run_keeps_its_values_on_another_dataset(scenario: Scenario) -> None:
    scenario.parts()
    scenario.dataset("fables")
    scenario.run(name="first", learning_rate=0.0123)
    page = open_page("build/launch.py", run="first")
    page.selectbox(key="launch_dataset").select("fables").run()
    assert (shown(page)["learning_rate"], shown(page)["max_steps"]) == (0.0123, 100)


def test_values_of_pasted_yaml_count_as_typed(site: Context, scenario: Scenario) -> None:
    scenario.dataset("chats", kind="chat")
    scenario.parts()
    add_base(site)
    page = open_page("build/launch.py")
    page.text_area(key="launch_yaml").set_value(
        "dataset: tales\narchitecture: small\ntokenizer: pieces\ncontext: 32\nseed: 5\n"
    ).run()
    page.button(key="launch_use_yaml").click().run()
    page.selectbox(key="launch_objective").set_value("sft").run()
    assert (shown(page)["context"], shown(page)["seed"], shown(page)["max_steps"]) == (32, 5, 34)


def test_a_dataset_of_another_kind_is_named_with_its_kind(scenario: Scenario) -> None:
    """It was said not to be there; then one was named that had not been chosen."""
    scenario.parts()
    scenario.dataset("chats", kind="chat")
    page = open_page("build/launch.py")
    assert page.selectbox(key="launch_dataset").value == "tales"
    page.selectbox(key="launch_objective").set_value("dpo").run()
    assert "is of kind text" not in words(page)
    page = open_page("build/launch.py", dataset="tales")
    page.selectbox(key="launch_objective").set_value("dpo").run()
    assert plain("“tales” is of kind text; Preference tuning (DPO) takes preference.") in words(page)
    page.selectbox(key="launch_objective").set_value("sft").run()
    assert page.selectbox(key="launch_dataset").value == "chats"
    page = open_page("build/launch.py", recipe="starter-pretrain")
    assert plain("There is no dataset “pebblewick-stories”") in words(page)


def test_twenty_steps_are_not_blocked_by_a_warm_up(site: Context) -> None:
    """The starter's hidden warm-up of 40 steps blocked a run of 20."""
    add_starter(site)
    page = open_page("build/launch.py")
    page.number_input(key="launch_max_steps").set_value(20).run()
    assert page.number_input(key="launch_warmup_ratio").label == "Warm-up ratio"
    assert "Warm-up: 1 of 20 steps." in words(page)
    assert page.button(key="launch_go").label == "Launch"


def test_a_warm_up_in_steps_is_visible_and_adapts_unless_it_was_typed(scenario: Scenario) -> None:
    scenario.run(name="first", warmup_steps=50)
    page = open_page("build/launch.py", run="first")
    assert page.number_input(key="launch_warmup_steps").value == 50
    assert "warmup_ratio" not in keys(page)
    page.number_input(key="launch_max_steps").set_value(20).run()
    assert (shown(page)["max_steps"], shown(page)["warmup_steps"]) == (20, None)
    page.number_input(key="launch_warmup_steps").set_value(30).run()
    assert plain("“Warm-up steps” 30 is longer than the run of “Steps” 20") in words(page)
    assert page.button(key="launch_go").disabled


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("learning_rate", 50.0, "Must be less than 10 (got 50)"),
        ("learning_rate", -1.0, "Must be more than 0 (got -1)"),
        ("max_steps", 0, "Must be at least 1 (got 0)"),
        ("context", 4, "Must be at least 8 (got 4)"),
        ("beta1", 1.5, "Must be less than 1 (got 1.5)"),
        ("warmup_ratio", 2.0, "Must be at most 1 (got 2)"),
    ],
)
def test_a_value_out_of_range_stays_with_its_error_and_refuses_the_launch(
    scenario: Scenario, path: str, value: float, text: str
) -> None:
    """A learning rate of 50 turned red, the old value was kept silently, and Launch stayed enabled."""
    scenario.parts()
    page = open_form()
    assert page.button(key="launch_go").label == "Launch"
    page.number_input(key=f"launch_{path}").set_value(value).run()
    assert page.number_input(key=f"launch_{path}").value == value
    assert plain(text) in words(page)
    assert (page.button(key="launch_go").disabled, page.button(key="launch_go").label) == (
        True,
        "Correct the values first",
    )


def test_an_unknown_field_in_yaml_names_the_nearest(scenario: Scenario) -> None:
    scenario.parts()
    page = open_form()
    page.text_area(key="launch_yaml").set_value(
        "dataset: tales\narchitecture: small\ntokenizer: pieces\nmax_stepz: 3\n"
    ).run()
    page.button(key="launch_use_yaml").click().run()
    assert plain("max_stepz is not a field; did you mean max_steps?") in words(page)


def test_an_architecture_selects_its_tokenizer_and_unused_rows_are_reported(site: Context, scenario: Scenario) -> None:
    """The tokenizer of the architecture before stayed, and 38 rows that no token uses went unsupported."""
    scenario.parts()
    add_starter(site)
    page = open_page("build/launch.py", dataset="tales", architecture="small")
    assert page.selectbox(key="launch_tokenizer").value == "pieces"
    assert "stay unused" not in words(page)
    page.selectbox(key="launch_architecture").select("pebblewick-1m").run()
    assert page.selectbox(key="launch_tokenizer").value == "pebblewick-bpe-2048"
    assert "has 2,010 tokens and the vocabulary 2,048 entries: 38 embedding rows will stay unused" in words(page)


def test_an_architecture_brings_the_text_that_its_tokenizer_was_trained_on(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    scenario.dataset("other")
    assert open_page("build/launch.py", architecture="small").selectbox(key="launch_dataset").value is None
    with site.db.write() as session:
        session.scalars(select(Tokenizer)).one().dataset_version_id = scenario.dataset("other")
    assert shown(open_page("build/launch.py", architecture="small"))["dataset"] == "other@1"


def test_the_tokenizer_of_an_architectures_last_run_goes_before_a_larger_one(scenario: Scenario) -> None:
    scenario.parts()
    scenario.tokenizer("other", vocab_size=290)
    scenario.run(tokenizer="other")
    assert (
        open_page("build/launch.py", dataset="tales", architecture="small").selectbox(key="launch_tokenizer").value
        == "other"
    )


def test_the_estimate_of_a_sweep_is_of_all_its_runs(site: Context, scenario: Scenario) -> None:
    """A sweep of 12 runs was estimated as one."""
    scenario.parts()
    measure(site, make_config(max_steps=100), step_s=1.0)
    beat(site, name="w", host="lab", pid=1, slots={"train": 4}, devices=[], gauges={})
    scenario.run(name="first")
    page = open_page("build/launch.py", run="first", mode="Sweep")
    time = next(each.value for each in page.metric if each.label == "Estimated time")
    assert time == "10 min"  # 12 runs of 100 s, two at a time
    assert "12 runs, 2 at a time." in words(page)
    assert "1 min 40 s a run." in words(page)


def test_a_sweep_runs_no_more_at_once_by_itself_than_the_workers_train(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    measure(site, make_config(max_steps=100), step_s=1.0)
    beat(site, name="w", host="lab", pid=1, slots={"train": 1}, devices=[], gauges={})
    scenario.run(name="first")
    page = open_page("build/launch.py", run="first", mode="Sweep")
    assert page.number_input(key="sweep_parallel").value == 1
    assert "12 runs, 1 at a time." in words(page)


def test_without_a_worker_a_sweep_has_one_number_of_parallel_runs(site: Context, scenario: Scenario) -> None:
    """“Parallel runs 2” stood beside “1 at a time, as many as the workers train at once”."""
    scenario.parts()
    scenario.run(name="first")
    page = open_page("build/launch.py", run="first", mode="Sweep")
    assert page.number_input(key="sweep_parallel").value == 2
    assert "12 runs, 2 at a time as far as workers allow." in words(page)


def test_derived_values_follow_in_the_same_rerun(site: Context, scenario: Scenario) -> None:
    """An evaluation every 110 steps was stored for a run of 77 steps."""
    scenario.dataset("chats", kind="chat")
    add_base(site)
    page = open_page("build/launch.py", dataset="chats", base="oak")
    page.number_input(key="launch_max_steps").set_value(1100).run()
    assert (shown(page)["eval_every"], shown(page)["checkpoint_every"]) == (110, 275)
    page.number_input(key="launch_max_steps").set_value(77).run()
    assert page.number_input(key="launch_eval_every").value == 7
    assert (shown(page)["eval_every"], shown(page)["checkpoint_every"]) == (7, 20)


def test_a_recipe_keeps_its_values_and_only_what_no_longer_fits_follows(site: Context) -> None:
    add_starter(site)
    page = open_page("build/launch.py")
    before = shown(page)
    page.number_input(key="launch_max_steps").set_value(20).run()
    after = shown(page)
    assert page.selectbox(key="launch_recipe").value == "starter-pretrain"
    assert (after["learning_rate"], after["context"]) == (before["learning_rate"], before["context"])
    assert (after["eval_every"], after["checkpoint_every"]) == (2, 5)


def test_a_recipe_outlives_another_architecture(site: Context, scenario: Scenario) -> None:
    """Steps, learning rate, micro-batch, warm-up and name became defaults, and the recipe was none, without a word."""
    add_starter(site)
    scenario.parts()
    page = open_page("build/launch.py")
    assert "Changed from the recipe" not in words(page)
    before = shown(page)
    page.selectbox(key="launch_architecture").select("small").run()
    after = shown(page)
    assert page.selectbox(key="launch_recipe").value == "starter-pretrain"
    changed = {path for path in before if before[path] != after[path]}
    assert changed == {"architecture", "tokenizer", "context"}
    assert after["context"] == SHAPE.context
    assert f"Context is {SHAPE.context} now: this architecture's maximum." in words(page)
    assert "Changed from the recipe: Architecture, Tokenizer, Context." in words(page)
    page.selectbox(key="launch_architecture").select("pebblewick-1m").run()
    assert shown(page) == before
    assert "Changed from the recipe" not in words(page)
    assert "Context is" not in words(page)


def test_a_typed_context_outlives_another_architecture_and_is_refused(site: Context, scenario: Scenario) -> None:
    add_starter(site)
    scenario.parts()
    page = open_page("build/launch.py")
    page.number_input(key="launch_context").set_value(200).run()
    page.selectbox(key="launch_architecture").select("small").run()
    assert page.number_input(key="launch_context").value == 200
    assert page.button(key="launch_go").disabled


def test_steps_that_the_run_never_reaches_are_refused_at_their_field(scenario: Scenario) -> None:
    scenario.parts()
    page = open_form()
    page.number_input(key="launch_max_steps").set_value(77).run()
    page.number_input(key="launch_eval_every").set_value(110).run()
    assert page.button(key="launch_go").disabled
    assert "would never come in a run of 77 steps" in words(page)
    assert plain("“Evaluate every” of at most 77") in words(page)
    page.number_input(key="launch_eval_every").set_value(11).run()
    assert "would never come" not in words(page)


def test_the_version_of_the_dataset_is_chosen_and_written(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    with site.db.write() as session:
        old = session.query(DatasetVersion).one()
        facts = {"dataset_id": old.dataset_id, "folder": old.folder, "source": "x", "created_at": old.created_at}
        session.add(DatasetVersion(number=2, rows=50, train_rows=45, val_rows=5, **facts))
    page = open_form()
    assert page.selectbox(key="launch_version_tales").options[0] == "2 · 45 training rows, newest"
    assert shown(page)["dataset"] == "tales@2"
    page.selectbox(key="launch_version_tales").select(1).run()
    assert shown(page)["dataset"] == "tales@1"
    assert shown(open_page("build/launch.py", dataset="tales@1", architecture="small"))["dataset"] == "tales@1"
    lost = open_page("build/launch.py", dataset="tales@7", architecture="small")
    assert "has no version 7" in words(lost)


def test_a_copy_stays_on_the_version_that_was_trained_on(site: Context, scenario: Scenario) -> None:
    scenario.run(name="first")
    with site.db.write() as session:
        old = session.query(DatasetVersion).one()
        facts = {"dataset_id": old.dataset_id, "folder": old.folder, "source": "x", "created_at": old.created_at}
        session.add(DatasetVersion(number=2, rows=50, train_rows=45, val_rows=5, **facts))
    page = open_page("build/launch.py", run="first")
    assert shown(page)["dataset"] == "tales@1"
    assert "Nothing differs from it yet." in words(page)


def test_a_whole_number_is_read_as_it_was_written(scenario: Scenario) -> None:
    """A browser reads `1e5` as 1 in a field of whole numbers."""
    scenario.parts()
    page = open_form()
    field = page.number_input(key="launch_max_steps")
    assert field.proto.data_type == field.proto.FLOAT, "so that the browser reads all of it"
    field.set_value(100_000.0).run()
    assert shown(page)["max_steps"] == 100_000
    page.number_input(key="launch_max_steps").set_value(2.5).run()
    assert page.button(key="launch_go").disabled
    assert "2.5" in words(page)


def test_what_was_typed_counts_as_changed(site: Context, scenario: Scenario) -> None:
    scenario.dataset("chats", kind="chat")
    add_base(site)
    page = open_page("build/launch.py", dataset="chats", base="oak")
    assert any(fold.label == "Advanced · all at their defaults" for fold in page.expander)
    page.number_input(key="launch_eval_every").set_value(5).run()
    assert any(fold.label == "Advanced · Evaluate every differs from the defaults" for fold in page.expander)
