"""The launch page: every field where it applies, errors by field, warnings to accept, what differs from a run before,
and sweeps.
"""

from __future__ import annotations

import pytest
from sqlalchemy import select

from backend.db.tables import DatasetVersion, Provider, RunGroup, Submission
from backend.domain.jobs.placement import Partition
from backend.domain.jobs.states import Status
from backend.domain.training.config_fields import default_at, form_groups, list_paths, traits_of
from backend.services.context import LOCAL, Context
from backend.services.jobs.jobs import get_job
from backend.services.training import parts
from backend.services.training.sweeps import advance_sweeps, get_sweep, launch_sweep, read_sweep, sweep_detail
from backend.services.training.views import get_run, list_runs, run_detail
from pages.components.training.config_fields import fields_in, with_labels
from pages.components.training.sweep_form import split_values
from tests.support.launch_form import keys, open_form, shown
from tests.support.opening import cells, open_page, open_panel, plain_words, send_labels, words
from tests.support.run_world import claim, end, report
from tests.support.scenario import Scenario, add_row

SWEEP = """
name: rates
run: {dataset: tales, architecture: small, tokenizer: pieces, context: 32, max_steps: 100, warmup_steps: 5, eval_every: 10}
vary: {learning_rate: {low: 1e-4, high: 1e-2, log: true}, schedule: [cosine, linear]}
runs: 3
"""  # noqa: E501


def test_every_field_of_a_run_can_be_set_somewhere_on_the_page() -> None:
    """Fields that a form has no room for are fields that nobody finds."""
    elsewhere = {
        "name",
        "dataset",
        "architecture",
        "tokenizer",
        "base",
        "objective",
        "method",
        "sample_prompts",
        "grpo.rewards",
    }
    assert {path for path in list_paths() if traits_of(path).group is None} - elsewhere == {"queue"}


def test_only_fields_that_apply_are_shown_and_set_values_come_back(scenario: Scenario) -> None:
    scenario.parts()
    page = open_form()
    assert {"optimizer", "z_loss", "freeze_blocks", "trackers"} <= keys(page)
    assert not {"packing", "decay_steps", "devices_sharding", "lora_rank", "preference_beta"} & keys(page)
    page.number_input(key="launch_z_loss").set_value(0.5).run()
    page.selectbox(key="launch_schedule").select("wsd").run()
    page.number_input(key="launch_decay_steps").set_value(40).run()
    assert "Advanced · " in page.expander[0].label
    assert (shown(page)["z_loss"], shown(page)["decay_steps"]) == (0.5, 40)
    page.selectbox(key="launch_schedule").select("constant").run()
    assert not {"decay_steps", "min_learning_rate"} & keys(page)
    assert shown(page)["decay_steps"] == 0
    page.selectbox(key="launch_schedule").select("wsd").run()
    assert page.number_input(key="launch_decay_steps").value == 40


def test_zero_is_chosen_beside_fsdp_and_refused_without_its_library(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "find_spec", lambda name: None)  # `make engines` installs it
    scenario.parts()
    page = open_form()
    page.number_input(key="launch_devices_count").set_value(2).run()
    assert "devices_offload" not in keys(page)
    page.selectbox(key="launch_devices_sharding").select("zero3").run()
    page.toggle(key="launch_devices_offload").set_value(True).run()
    assert "“Sharding” zero3 needs the library deepspeed, which is not installed here" in words(page)
    assert "pip install 'roundhouse\\[deepspeed\\]'" in words(page)
    assert page.button(key="launch_go").label == "Correct the values first"


def test_the_advanced_part_counts_what_differs_from_the_defaults(scenario: Scenario) -> None:
    scenario.parts()
    page = open_page("build/launch.py")
    page.text_area(key="launch_yaml").set_value(
        "dataset: tales\narchitecture: small\ntokenizer: pieces\ncontext: 32\n"
    ).run()
    page.button(key="launch_use_yaml").click().run()
    assert page.expander[0].label == "Advanced · all at their defaults"
    page.number_input(key="launch_dropout").set_value(0.1).run()
    assert page.expander[0].label == "Advanced · Dropout differs from the defaults"
    page.selectbox(key="launch_optimizer").select("lion").run()
    assert page.expander[0].label == "Advanced · Optimizer, Dropout differ from the defaults"


@pytest.mark.parametrize(
    ("objective", "method", "there", "absent"),
    [
        (
            "sft",
            "full",
            {"packing", "label_smoothing", "freeze_blocks"},
            {"preference.beta", "grpo.group_size", "lora.rank"},
        ),
        ("sft", "qlora", {"lora.rank", "lora.bits", "lora.variant"}, {"freeze_blocks", "lora.frozen_base"}),
        (
            "dpo",
            "lora",
            {"preference.beta", "preference.loss", "preference.label_smoothing", "lora.frozen_base"},
            {"preference.gamma", "z_loss", "lora.bits"},
        ),
        ("kto", "full", {"preference.beta", "preference.desirable_weight"}, {"preference.loss", "packing"}),
        ("orpo", "full", {"preference.beta"}, {"preference.loss", "preference.gamma"}),
        ("simpo", "full", {"preference.gamma", "preference.sft_weight"}, {"preference.loss"}),
        ("reward", "full", {"dropout"}, {"preference.beta", "z_loss"}),
        ("grpo", "full", {"grpo.group_size", "grpo.kl_weight"}, {"preference.beta"}),
    ],
)
def test_each_objective_has_its_own_fields(objective: str, method: str, there: set[str], absent: set[str]) -> None:
    chosen = {"objective": objective, "method": method}
    groups = form_groups(lambda path: chosen.get(path, default_at(path)))
    drawn = {path for paths in groups.values() for path in paths}
    assert there <= drawn
    assert not absent & drawn


def test_rewards_are_a_table(scenario: Scenario) -> None:
    scenario.parts()
    scenario.dataset("questions", kind="prompts")
    page = open_page("build/launch.py")
    recipe = (
        "objective: grpo\ndataset: questions\nbase: b\ngrpo:\n  group_size: 4\n"
        "  rewards: [{kind: regex, pattern: '[0-9]+'}, {kind: length, target: 20, weight: 0.5}]\n"
    )
    page.text_area(key="launch_yaml").set_value(recipe).run()
    page.button(key="launch_use_yaml").click().run()
    assert not page.exception
    assert page.number_input(key="launch_grpo_group_size").value == 4
    assert page.selectbox(key="launch_dataset").value == "questions"
    table = page.dataframe[0].value
    assert list(table["kind"]) == ["regex", "length"]
    assert list(table["target"]) == [0, 20]


def test_pretraining_continues_from_a_base(site: Context, scenario: Scenario) -> None:
    run = scenario.run(name="first")
    taken = claim(site, run)
    scenario.checkpoint(run=run, step=100)
    end(site, taken, Status.FINISHED)
    page = open_form()
    page.segmented_control(key="launch_start").set_value("Continue from a checkpoint").run()
    scenario.run(name="still-learning")
    assert "Not offered, since no checkpoint is saved yet: still-learning." in words(page.run()).replace("\\", "")
    page.selectbox(key="launch_base").select("first · step 100").run()
    config = shown(page)
    assert (config["objective"], config["base"], config["architecture"], config["tokenizer"]) == (
        "pretrain",
        "first · step 100",
        None,
        None,
    )


@pytest.mark.parametrize("step", [60, 80])
def test_the_checkpoint_of_a_link_is_the_base_whatever_the_length_of_its_name(
    site: Context, scenario: Scenario, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Their labels were cut to the same text, and Streamlit took the other checkpoint."""
    run = scenario.run(name="Alice Größe 1 – first run, small")
    taken = claim(site, run)
    ids = {step: scenario.checkpoint(run=run, step=step, parameters=37_104) for step in (60, 80)}
    end(site, taken, Status.FINISHED)
    page = open_page("build/launch.py", base=ids[step])
    label = page.selectbox(key="launch_base").proto.raw_value
    assert f"step {step}" in label
    send_labels(page, monkeypatch, {"launch_base": label})
    assert page.selectbox(key="launch_base").value == f"{run.name} · step {step}"


def test_an_error_names_its_fields_in_the_forms_words_and_marks_them(scenario: Scenario) -> None:
    scenario.parts()
    page = open_form()
    page.number_input(key="launch_max_steps").set_value(1200).run()
    page.number_input(key="launch_warmup_steps").set_value(9999).run()
    assert "“Warm\\-up steps” 9999 is longer than the run of “Steps” 1200" in words(page)
    assert page.number_input(key="launch_warmup_steps").label == "Warm-up steps", "read out as it is written"
    assert page.number_input(key="launch_max_steps").label == "Steps"
    assert page.button(key="launch_go").label == "Correct the values first"
    page.number_input(key="launch_warmup_steps").set_value(10).run()
    assert page.number_input(key="launch_warmup_steps").label == "Warm-up steps"


def test_fields_are_found_in_errors_by_their_whole_names() -> None:
    assert fields_in("lora.rank: Input should be at most 1024; context 9 is longer") == ("lora.rank", "context")
    assert fields_in("no such schedule_thing") == ()
    assert with_labels("decay_steps 9 does not fit") == "“Decay steps” 9 does not fit"
    assert fields_in("grpo.rewards, entry 2: a length reward needs a target") == ()
    assert with_labels("grpo.rewards, entry 2: needs a target") == "“Rewards”, entry 2: needs a target"


def test_warnings_ask_once_and_again_when_they_change(scenario: Scenario) -> None:
    scenario.parts()
    page = open_form()
    page.number_input(key="launch_warmup_ratio").set_value(0.6).run()
    assert page.button(key="launch_go").disabled
    (tick,) = [box for box in page.checkbox if str(box.key).startswith("launch_proceed")]
    assert tick.label == "Proceed despite 1 warning"
    tick.check().run()
    assert page.button(key="launch_go").label == "Launch"
    page.number_input(key="launch_warmup_ratio").set_value(0.7).run()
    assert page.button(key="launch_go").label == "Accept the warnings first"
    page.number_input(key="launch_warmup_ratio").set_value(0.1).run()
    assert page.button(key="launch_go").label == "Launch"


def test_a_copied_run_shows_its_differences_and_stores_its_parent(site: Context, scenario: Scenario) -> None:
    before = scenario.run(name="first", learning_rate=0.0123, weight_decay=0.02)
    page = open_page("build/launch.py", run="first")
    assert "Nothing differs from it yet." in words(page)
    assert page.expander[0].label == "Advanced · all as copied", "not as many as differ from the defaults"
    page.number_input(key="launch_weight_decay").set_value(0.03).run()
    assert page.expander[0].label == "Advanced · Weight decay differs from the copied run"
    page.number_input(key="launch_weight_decay").set_value(0.02).run()
    page.number_input(key="launch_learning_rate").set_value(0.005).run()
    assert cells(page) == [{"Field": "Learning rate", "Before": "0.0123", "Now": "0.005"}]
    page.button(key="launch_go").click().run()
    child = next(run for run in list_runs(site) if run.id != before.id)
    assert run_detail(site, child.id).parent == (before.id, "first")
    assert run_detail(site, before.id).children == ((child.id, child.name),)


def test_another_method_keeps_the_steps_and_the_batch_of_a_copied_run(site: Context, scenario: Scenario) -> None:
    """Full fine-tuning of 25 K tokens was compared with LoRA of 369 K."""
    scenario.dataset("asks", kind="chat")
    scenario.checkpoint(facts={"context": 128, "vocab_size": 512})
    parts = {"architecture": None, "tokenizer": None, "objective": "sft", "dataset": "asks", "base": "Oak"}
    cadence = {"eval_every": 7, "checkpoint_every": 25}
    scenario.run(name="first", max_steps=50, micro_batch=4, context=96, learning_rate=0.0123, **cadence, **parts)
    page = open_page("build/launch.py", run="first")
    page.segmented_control(key="launch_method").set_value("lora").run()
    assert [each["Field"] for each in cells(page)] == ["Method", "Learning rate"]
    assert page.number_input(key="launch_lora_rank").value == 16
    page.segmented_control(key="launch_method").set_value("full").run()
    assert [each["Field"] for each in cells(page)] == ["Learning rate"]


def test_the_range_that_a_sweep_proposes_is_within_the_fields_bounds(scenario: Scenario) -> None:
    """A learning rate of 5 proposed 1.7 to 15, which the form itself refuses from 10 on."""
    scenario.parts()
    page = open_form()
    page.number_input(key="launch_learning_rate").set_value(5.0).run()
    page.segmented_control(key="mode").set_value("Sweep").run()
    page.multiselect(key="sweep_fields").set_value(["learning_rate"]).run()
    assert page.number_input(key="sweep_low_learning_rate").value == 1.7
    assert page.number_input(key="sweep_high_learning_rate").value == 9.9


def test_a_sweep_is_launched_from_the_form(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    page = open_form(mode="Sweep")
    page.multiselect(key="sweep_fields").set_value(["learning_rate", "optimizer"]).run()
    page.number_input(key="sweep_low_learning_rate").set_value(0.5).run()
    assert "is not below high" in words(page)
    assert page.button(key="sweep_go").disabled
    page.number_input(key="sweep_low_learning_rate").set_value(0.001).run()
    page.segmented_control(key="sweep_method").set_value("grid").run()
    page.number_input(key="sweep_points_learning_rate").set_value(3).run()
    assert page.button(key="sweep_go").label == "Launch 6 runs"
    page.button(key="sweep_go").click().run()
    assert page.title[0].value == "tales sweep"
    sweep = get_sweep(site, "tales sweep")
    assert (sweep.num_planned, sweep.num_launched, sweep.config.run.context) == (6, 2, 32)
    assert set(sweep.config.vary) == {"learning_rate", "optimizer"}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0,002; 0,02;", ["0.002", "0.02"]),
        ("0.002, 0.02", ["0.002", "0.02"]),
        ("0,002, 0,02", ["0.002", "0.02"]),  # was 0, 2, 0 and 2
        ("0,002 0,02,", ["0.002", "0.02"]),
        ("1,5e-4, 3,0e-4", ["1.5e-4", "3.0e-4"]),
        ("1e-4,3e-4", ["1e-4", "3e-4"]),
        ("0.1,1,2", ["0.1", "1", "2"]),
        ("1, 2, 4", ["1", "2", "4"]),
        ("0,5", ["0,5"]),
        ("0,002,0,02", ["0,002,0,02"]),
        ("0,5, 1", ["0,5", "1"]),
    ],
)
def test_decimal_commas_are_read_where_nothing_else_can_be_meant(text: str, values: list[str]) -> None:
    assert split_values(text, fractions=True) == values


def test_commas_between_whole_numbers_separate_them() -> None:
    assert split_values("8,16, 32", fractions=False) == ["8", "16", "32"]


def test_a_value_of_a_sweep_that_is_no_number_is_named_with_the_cure(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    page = open_form(mode="Sweep")
    page.multiselect(key="sweep_fields").set_value(["learning_rate"]).run()
    page.segmented_control(key="sweep_shape_learning_rate").set_value("List").run()
    page.text_input(key="sweep_values_learning_rate").set_value("0,002; 0,02; abc").run()
    shown = words(page).replace("\\", "")
    assert "can't be 'abc'; separate numbers by commas" in shown
    assert "decimal commas by semicolons (0,002; 0,02)" in shown
    page.text_input(key="sweep_values_learning_rate").set_value("0,5").run()
    assert "can't be '0,5'; separate numbers by commas" in words(page).replace("\\", "")


def test_the_metric_of_a_sweep_is_chosen_and_its_goal_follows(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    page = open_form(mode="Sweep")
    assert page.selectbox(key="sweep_val_loss_goal").value == "lowest"
    page.selectbox(key="sweep_metric_pretrain").select("tok_per_sec").run()
    assert page.selectbox(key="sweep_tok_per_sec_goal").value == "highest"
    page.button(key="sweep_go").click().run()
    config = get_sweep(site, "tales sweep").config
    assert (config.metric, config.goal) == ("tok_per_sec", "highest")
    panel = open_panel(open_page("build/runs.py"), "runs_sweeps")
    assert "tales sweep" in [button.label for button in panel.button]
    assert "2 queued or running" in words(panel)


def test_a_sweep_without_validation_rows_is_ranked_by_what_is_measured(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    with site.db.write() as session:
        session.scalars(select(DatasetVersion)).one().val_rows = 0
    page = open_form(mode="Sweep")
    assert page.selectbox(key="sweep_metric_pretrain_train").value == "train_loss"
    assert "no validation rows: runs are compared by what is measured in training" in words(page)


def test_a_sweeps_page_shows_its_best_run_stops_it_and_is_never_blank(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    assert "No sweep selected" in words(open_page("build/sweep.py"))
    assert "There is no sweep" in words(open_page("build/sweep.py", sweep="none"))
    sweep = launch_sweep(site, read_sweep(SWEEP), person=LOCAL)
    page = open_page("build/sweep.py", sweep=sweep.id)
    assert "The first results" in words(page)
    first, second = (each.run for each in sweep_detail(site, sweep.id).runs)
    for run, loss in ((first, 2.0), (second, 1.5)):
        taken = claim(site, run)
        report(site, taken, {"type": "metrics", "step": 100, "time": 1000.0, "values": {"val_loss": loss}})
        end(site, taken, Status.FINISHED)
    advance_sweeps(site)
    page = open_page("build/sweep.py", sweep=sweep.id)
    assert "Best validation loss 1.5000" in words(page)
    assert len(page.get("plotly_chart")) == 2
    assert list(page.dataframe[0].value["Best validation loss"].dropna()) == [2.0, 1.5]
    page.button(key="sweep_stop").click().run()
    assert "stopped" in page.get("progress")[0].proto.text
    assert get_run(site, "rates 3").status is Status.CANCELLED
    page.button(key="sweep_archive").click().run()
    assert page.title[0].value == "Runs"
    with site.db.read() as session:
        assert session.get_one(RunGroup, sweep.id).archived_at is not None


def test_a_run_is_sent_to_a_cluster_that_answers(site: Context, scenario: Scenario) -> None:
    """The choice is there once a cluster is set up; a cluster that fails is named with the cause, and not offered."""
    scenario.parts()
    assert "launch_placement" not in {box.key for box in open_form().selectbox}
    partitions = [Partition(name="gpu", num_nodes=4, num_gpus=8), Partition(name="old", is_up=False)]
    add_row(site, Provider(name="slurm", partitions=partitions, problem="", checked_at=site.now()))
    page = open_form()
    choice = page.selectbox(key="launch_placement")
    assert choice.options == ["Slurm: gpu (4 nodes, 8 GPUs each)"]
    page = choice.select_index(0).run()
    assert "Machines: One node of Slurm: gpu, with 1 GPU." in plain_words(page).replace("*", "")
    page.button(key="launch_go").click().run()
    (run,) = list_runs(site)
    assert (run.line, get_job(site, run.job_id or "").placement) == ("Waiting for Slurm: gpu", "slurm:gpu")
    add_row(
        site, Submission(job_id=run.job_id, number=1, attempt=0, external_id="4711", word="PENDING", reason="Resources")
    )
    assert "Slurm: gpu, job 4711. Slurm says: Resources." in plain_words(open_page("build/run.py", run=run.id))
    with site.db.write() as session:
        session.get_one(Provider, "slurm").problem = "Slurm does not answer: connect failure"
        queues = [Partition(name="h100", num_gpus=8), Partition(name="cpu")]
        session.add(Provider(name="kubernetes", partitions=queues, problem="", checked_at=site.now()))
    page = open_form()
    choice = page.selectbox(key="launch_placement")
    assert choice.options == ["Kubernetes: h100 (8 GPUs a node)", "Kubernetes: cpu (CPUs)"]
    choice.select_index(0).run()
    assert "The run page shows what Kubernetes says." in plain_words(page)
    with site.db.write() as session:
        session.delete(session.get_one(Provider, "kubernetes"))
    page = open_form()
    assert "launch_placement" not in {box.key for box in page.selectbox}
    assert "Slurm is not offered: Slurm does not answer: connect failure" in plain_words(page)
    assert "Slurm does not answer: connect failure" in plain_words(open_page("build/run.py", run=run.id))
