"""Overview, Launch, Runs and Run as a visitor without a browser sees them: the real scripts on a real database."""

from __future__ import annotations

import json
from functools import partial

import pytest
from streamlit.testing.v1 import AppTest

from backend.db.tables import DatasetVersion, Run
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import Status
from backend.domain.training.held_out import FILE, HeldOutRow, HeldOutRows
from backend.domain.wording import format_duration
from backend.infra.devices import cpu_name
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import LOCAL, Context
from backend.services.estimates.forecasts import QueuePosition, forecast
from backend.services.health import BROKER, HEALTH
from backend.services.jobs.claims import end_job, give_back
from backend.services.jobs.gangs import choose_gang, join_gang
from backend.services.jobs.workers import beat, list_workers
from backend.services.situation import read_situation
from backend.services.training.events import forget_after
from backend.services.training.figures import last_step_of
from backend.services.training.imported_runs import import_log
from backend.services.training.runs import resume_run, set_tags, stop_run
from backend.services.training.views import get_run, list_runs, run_detail
from pages.components.checkpoints.offers import label_usable_first
from pages.components.training.estimate_card import describe_queue, describe_tokens
from pages.components.training.run import strip_figures
from tests.support.jobs import finish_job, list_jobs, take_job
from tests.support.opening import cells, open_page
from tests.support.run_world import (
    claim,
    diverging_points,
    end,
    make_config,
    points,
    report,
)
from tests.support.scenario import Scenario


def text_of(app: AppTest) -> str:
    """Everything the page says, as one text."""
    assert not app.exception
    parts = [
        *app.title,
        *app.subheader,
        *app.caption,
        *app.markdown,
        *app.text,
        *app.error,
        *app.warning,
        *app.info,
        *app.code,
    ]
    return "\n".join(str(part.value) for part in parts)


def test_the_first_page_leads_a_new_user_to_data_and_then_to_training(scenario: Scenario) -> None:
    assert "Import a dataset" in [button.label for button in open_page("home/overview.py").button]
    scenario.parts()
    page = open_page("home/overview.py")
    assert "Train the starter model" in [button.label for button in page.button]
    assert "No evaluations yet." in text_of(page)


def test_the_launch_button_names_missing_parts(site: Context) -> None:
    page = open_page("build/launch.py")
    button = page.button(key="launch_go")
    assert button.label == "Choose a dataset and an architecture and a tokenizer"
    assert button.disabled


def test_a_run_is_launched_from_the_form(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    page = open_page("build/launch.py", dataset="tales", architecture="small")
    page.selectbox(key="launch_tokenizer").select("pieces").run()
    page.number_input(key="launch_context").set_value(32).run()
    page.number_input(key="launch_max_steps").set_value(70).run()
    assert page.button(key="launch_go").label == "Launch"
    page.button(key="launch_go").click().run()
    runs = list_runs(site)
    assert [(run.name, run.max_steps, run.status) for run in runs] == [("Pretrain on tales", 70, Status.QUEUED)]


def accept_warnings(page: AppTest) -> None:
    """Tick that the run is meant as it is."""
    next(box for box in page.checkbox if str(box.key).startswith("launch_proceed")).check().run()


def test_values_that_do_not_fit_are_explained_beside_the_button(scenario: Scenario) -> None:
    scenario.parts()
    page = open_page("build/launch.py", dataset="tales", architecture="small")
    page.selectbox(key="launch_tokenizer").select("pieces").run()
    page.number_input(key="launch_context").set_value(128).run()
    assert "longer than the architecture's limit of 64" in text_of(page)
    assert page.button(key="launch_go").disabled


def open_sound_form(**values: int) -> AppTest:
    """The launch page with a form that can be launched."""
    page = open_page("build/launch.py", dataset="tales", architecture="small")
    page.selectbox(key="launch_tokenizer").select("pieces").run()
    for name, value in {"context": 32, **values}.items():
        page.number_input(key=f"launch_{name}").set_value(value).run()
    return page


def metric(page: AppTest, label: str) -> str:
    """The value of a metric."""
    return str(next(each.value for each in page.metric if each.label == label))


def test_the_estimate_shows_memory_with_its_source_and_a_probe_is_queued_once(site: Context) -> None:
    Scenario(site).parts()
    page = open_sound_form()
    assert metric(page, "Peak memory").endswith("MB")
    assert "Formula estimate, not measured here yet." in text_of(page)
    assert metric(page, "Estimated time") == "Unknown"
    assert "for a run" in text_of(page)
    page.button(key="launch_probe").click().run()
    (job,) = list_jobs(site, queue="train")
    assert (job.kind, job.status) == ("probe", Status.QUEUED)
    assert "No worker serves the queue `train`" in text_of(page)
    assert "launch_probe" not in [button.key for button in page.button]
    page.button(key=f"stop_{job.id}").click().run()
    assert "The last probe was stopped." in text_of(open_sound_form())


def test_the_result_of_a_probe_is_shown(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    open_sound_form().button(key="launch_probe").click().run()
    taken = take_job(site, list_jobs(site, queue="train")[0].id)
    result = {
        "measured_bytes": 5_100_000_000,
        "tokens_per_s": 800.0,
        "step_s": 2.0,
        "step_s_low": 1.0,
        "step_s_high": 3.0,
        "steps_timed": 5.0,
        "accumulated": 1,
        "device": cpu_name(),
        "device_kind": "cpu",
    }
    with site.db.write() as session:
        finish_job(session, site, taken, **result)
    page = open_sound_form()
    assert metric(page, "Peak memory") == "5.1 GB"
    assert "Measured by a probe; formula estimate" in text_of(page)
    assert "5 steps, 2 s each" in text_of(page)
    steps = page.number_input(key="launch_max_steps").value
    assert metric(page, "Estimated time") == format_duration(2.0 * steps)
    page.number_input(key="launch_micro_batch").set_value(5).run()
    assert "Calibrated on 1 probe; formula estimate" in text_of(page)


def test_a_failed_probe_gives_the_reason_and_can_be_run_again(site: Context, scenario: Scenario) -> None:
    scenario.parts()
    open_sound_form().button(key="launch_probe").click().run()
    taken = take_job(site, list_jobs(site, queue="train")[0].id)
    end(
        site,
        taken,
        Status.FAILED,
        cause="Not enough memory for a micro-batch of 8.",
        remedy="Choose a smaller micro-batch.",
    )
    page = open_sound_form()
    assert "Not enough memory" in text_of(page)
    assert "Choose a smaller micro" in text_of(page)
    page.button(key="launch_probe").click().run()
    assert len(list_jobs(site, queue="train")) == 2


def test_an_invalid_form_keeps_the_estimate(scenario: Scenario) -> None:
    scenario.parts()
    page = open_sound_form(context=65)
    assert "longer than the architecture's limit of 64" in text_of(page)
    assert "tokens in" in text_of(page)
    assert "launch_probe" not in [button.key for button in page.button]


def test_yaml_fills_the_form(scenario: Scenario) -> None:
    scenario.parts()
    page = open_page("build/launch.py")
    recipe = (
        "objective: pretrain\ndataset: tales\narchitecture: small\ntokenizer: pieces\ncontext: 32\nmax_steps: 44\nname:"
        " from yaml\n"
    )
    page.text_area(key="launch_yaml").set_value(recipe).run()
    page.button(key="launch_use_yaml").click().run()
    assert page.number_input(key="launch_max_steps").value == 44
    assert page.selectbox(key="launch_dataset").value == "tales"
    assert page.button(key="launch_go").label == "Launch"


def test_yaml_with_a_mistake_is_answered_with_field_and_value(site: Context) -> None:
    page = open_page("build/launch.py")
    page.text_area(key="launch_yaml").set_value("dataset: tales\nmax_steps: -3\n").run()
    page.button(key="launch_use_yaml").click().run()
    assert "max" in text_of(page)
    assert "3" in text_of(page)


def test_a_copy_of_a_run_carries_its_numbers(scenario: Scenario) -> None:
    run = scenario.run(name="first", learning_rate=0.0123)
    page = open_page("build/launch.py", run=run.id)
    assert page.number_input(key="launch_learning_rate").value == pytest.approx(0.0123)
    assert page.text_input(key="launch_name").value == ""


def test_a_failed_run_gives_the_reason_and_offers_a_retry(site: Context, scenario: Scenario) -> None:
    run = scenario.run(
        *points(1, 5),
        {"type": "log", "text": "step five", "time": 1.0},
        status=Status.FAILED,
        cause="The process was killed.",
        remedy="Start it again.",
        name="first",
    )
    page = open_page("build/run.py", run=run.id)
    assert "The process was killed" in text_of(page)
    page = open_page("build/run.py", run=run.id, tab="Log")
    assert "step five" in text_of(page)
    page.button(key="run_retry").click().run()
    assert list_runs(site)[0].status is Status.QUEUED


def test_a_run_that_diverges_says_so_once_and_is_stopped_with_its_cure(site: Context, scenario: Scenario) -> None:
    run = scenario.run(*diverging_points(), name="wild", learning_rate=0.5, max_steps=400)
    page = open_page("build/run.py", run=run.id)
    (error,) = page.error
    assert "This run is diverging\\. The loss has risen from" in str(error.value)
    assert ["wild is diverging" in str(toast.value) for toast in page.toast] == [True]
    assert not page.run().toast
    button = page.button(key="cure_now")
    assert button.label.startswith("Stop it and run again with a learning rate of")
    button.click().run()
    assert get_run(site, run.id).status in (Status.CANCELLING, Status.CANCELLED)
    assert page.number_input(key="launch_learning_rate").value < 0.5


def test_a_validation_of_a_single_row_is_said_to_measure_little(site: Context, scenario: Scenario) -> None:
    """It stood there to four digits, as if of thousands."""
    run = scenario.grpo()
    taken = claim(site, run)
    report(site, taken, *points(1, 5))
    end(site, taken, Status.FINISHED)
    folder = site.artifacts.path(f"runs/{run.id}")
    folder.mkdir(parents=True)
    for num_rows, is_few in ((1, True), (10, False)):
        held_out = HeldOutRows(step=5, measure="reward", num_rows=num_rows, mean_loss=1.0, rows=())
        (folder / FILE).write_text(held_out.model_dump_json())
        assert ("Validated on 1 row: too few" in text_of(open_page("build/run.py", run=run.id))) == is_few


def test_a_validation_cut_off_by_its_batches_says_so(site: Context, scenario: Scenario) -> None:
    """It was told to hold out more rows, of which 40 were held out and 4 validated."""
    base = scenario.checkpoint(run=scenario.run(name="written"), step=1)
    scenario.dataset("pairs", kind="preference")
    parts = {"architecture": None, "tokenizer": None, "base": base, "dataset": "pairs", "objective": "dpo"}
    run = scenario.run(*points(1, 5), status=Status.FINISHED, **parts, eval_batches=2, micro_batch=2)
    folder = site.artifacts.path(f"runs/{run.id}")
    folder.mkdir(parents=True)
    held_out = HeldOutRows(step=5, measure="pair", num_rows=4, mean_loss=1.0, rows=())
    (folder / FILE).write_text(held_out.model_dump_json())
    said = text_of(open_page("build/run.py", run=run.id))
    assert (
        "Validated on 4 of 10 held-out rows: too few to measure the model. Raise Batches per evaluation, 2 here."
        in said
    )


def test_a_run_that_was_stopped_before_its_first_validation_says_so_under_predictions(
    site: Context, scenario: Scenario
) -> None:
    """It had 133 validation rows and a checkpoint, and was said to have neither."""
    run = scenario.run(name="stopped", eval_every=50)
    taken = claim(site, run)
    report(site, taken, *points(1, 16))
    scenario.checkpoint(run=run, step=16)
    end(site, taken, Status.CANCELLED)
    said = text_of(open_page("build/run.py", run=run.id, tab="Predictions"))
    assert "This run left no predictions: it ended before its first validation, at step 50." in said
    with site.db.write() as session:
        session.get_one(DatasetVersion, session.get_one(Run, run.id).dataset_version_id).val_rows = 0
    assert "tales@1 has no validation split." in text_of(open_page("build/run.py", run=run.id, tab="Predictions"))


def test_a_resumed_run_in_the_queue_has_no_speed(site: Context, scenario: Scenario) -> None:
    run = scenario.run(name="first")
    taken = claim(site, run)
    last = {"type": "metrics", "step": 100, "time": 1.0, "values": {"train_loss": 2.0, "tok_per_sec": 180.0}}
    report(site, taken, last)
    assert "Tokens/s now" in dict(strip_figures(get_run(site, run.id), make_config(), now=site.now()))
    scenario.checkpoint(run=run, step=100)
    end(site, taken, Status.FINISHED)
    resume_run(site, run.id, person=LOCAL, max_steps=130)
    assert "Tokens/s now" not in dict(strip_figures(get_run(site, run.id), make_config(), now=site.now()))


def test_the_config_of_a_resumed_run_says_how_to_repeat_it(site: Context, scenario: Scenario) -> None:
    run = scenario.run(name="first", status=Status.FINISHED, max_steps=60)
    scenario.checkpoint(run=run, step=60)
    assert "launches the same run" in text_of(open_page("build/run.py", run=run.id, tab="Config"))
    resume_run(site, run.id, person=LOCAL, max_steps=80)
    page = open_page("build/run.py", run=run.id, tab="Config")
    assert "The run was resumed from step 60 with 80 steps instead of 60" in text_of(page)
    commands, config = page.code
    assert commands.value.endswith("roundhouse run resume 'first repeated' --max-steps 80 --wait")
    assert "max_steps: 60" in config.value


def test_a_run_that_failed_by_its_config_does_not_lead_to_the_same_failure(site: Context, scenario: Scenario) -> None:
    """A context that was too long for the text: the one primary button started the same run again."""
    run = scenario.run(name="short")
    taken = claim(site, run)
    failure = JobFailure(cause="The train split has 12 tokens.", remedy="Use a context of at most 8.", field="context")
    with site.db.write() as session:
        end_job(session, site, taken, Status.FAILED, error=failure)
    page = open_page("build/run.py", run=run.id)
    assert page.button(key="run_retry").proto.type == "secondary"


def test_a_runs_page_counts_the_rows_that_it_leaves_out_and_truncates(site: Context, scenario: Scenario) -> None:
    run = scenario.run()
    taken = claim(site, run)
    counts = {"type": "rows_encoded", "split": "train", "rows": 55, "zero_label_rows": 2, "refused": 1}
    report(site, taken, counts | {"truncated": 0, "zero_label_rows": 0, "refused": 0}, *points(1, 4))
    assert "train rows" not in text_of(open_page("build/run.py", run=run.id))
    report(site, taken, counts | {"truncated": 52}, counts | {"split": "val", "truncated": 0})
    assert "Of 55 train rows, 3 left out and 52 truncated to 32 tokens. Log has the causes." in text_of(
        open_page("build/run.py", run=run.id)
    )
    with site.db.write() as session:
        forget_after(session, session.get_one(Run, run.id), 0)
    assert get_run(site, run.id).encoded is not None, "a run that starts over reads the same rows"


def test_held_out_rows_are_read_with_the_worst_first(site: Context, scenario: Scenario) -> None:
    run = scenario.run(name="first")
    taken = claim(site, run)
    report(site, taken, *points(1, 5))
    assert "appear here with the first checkpoint" in text_of(open_page("build/run.py", run=run.id, tab="Predictions"))
    rows = [
        HeldOutRow(loss=4.5, tokens=7, prompt="Ask **bold**", expected="<b>yes</b>", given=""),
        HeldOutRow(loss=2.0, tokens=3, prompt="How?", expected="So.", rejected="Thus.", given="So so."),
    ]
    folder = site.artifacts.path(f"runs/{run.id}")
    folder.mkdir(parents=True)
    held_out = HeldOutRows(step=5, measure="tokens", num_rows=40, mean_loss=1.25, rows=tuple(rows))
    (folder / FILE).write_text(held_out.model_dump_json())
    page = open_page("build/run.py", run=run.id, tab="Predictions")
    assert "the worst 2 of 40 held-out rows, in nats per token" in text_of(page)
    codes = [str(code.value) for code in page.code]
    assert codes == ["Ask **bold**", "<b>yes</b>", "(nothing)", "How?", "So.", "Thus.", "So so."]
    (folder / FILE).write_text(held_out.model_copy(update={"step": 6}).model_dump_json())  # a step before its resume
    assert "appear here with the first" in text_of(open_page("build/run.py", run=run.id, tab="Predictions"))
    (folder / FILE).write_text("{")
    end(site, taken, Status.FINISHED)
    assert "left no predictions" in text_of(open_page("build/run.py", run=run.id, tab="Predictions"))


def test_a_run_that_broke_says_one_cause_and_one_cure_and_offers_no_use_of_its_weights(site: Context) -> None:
    run = Scenario(site).run(name="first", learning_rate=0.5)
    taken = claim(site, run)
    report(site, taken, *points(1, 20))
    Scenario(site).checkpoint(run=run, step=20)
    end(site, taken, Status.FAILED, cause="The loss became NaN at step 21.", remedy="Lower learning_rate.")
    page = open_page("build/run.py", run=run.id)
    (error,) = page.error
    assert "became NaN or infinite" in error.value
    assert "Next:" not in text_of(page)
    primary = [button.label for button in page.button if button.proto.type == "primary"]
    assert len(primary) == 1
    assert "Run again" in primary[0]
    assert not [button for button in page.button if button.key == "run_retry"], "spoiled weights can only fail again"


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED])
def test_a_run_that_broke_goes_on_from_good_weights_after_all_else(site: Context, status: Status) -> None:
    run = Scenario(site).run(name="first", learning_rate=0.5)
    taken = claim(site, run)
    report(site, taken, *points(1, 20))
    Scenario(site).checkpoint(run=run, step=5)
    with site.db.write() as session:
        stored = session.get_one(Run, run.id)
        stored.summary = stored.summary.model_copy(update={"not_finite": {"train_loss": 21}})
    end(site, taken, status, cause="The loss became NaN at step 21.", remedy="Lower learning_rate.")
    page = open_page("build/run.py", run=run.id)
    (button,) = [each for each in page.button if each.key in ("run_retry", "run_resume")]
    assert button.proto.type == "secondary"


def test_a_model_that_ends_its_answers_at_once_is_named(site: Context, scenario: Scenario) -> None:
    """Its validation loss of 0.0281 and its preference accuracy of 1 read as a success."""
    run = scenario.grpo()
    taken = claim(site, run)
    report(site, taken, *points(1, 5))
    end(site, taken, Status.FINISHED)
    folder = site.artifacts.path(f"runs/{run.id}")
    folder.mkdir(parents=True)
    for given, is_silent in ((("", " \n"), True), (("", "Yes."), False), ((None, None), False)):
        rows = tuple(HeldOutRow(loss=1.0, prompt="Ask", expected="Yes.", given=each) for each in given)
        held_out = HeldOutRows(step=5, measure="reward", num_rows=40, mean_loss=1.0, rows=rows)
        (folder / FILE).write_text(held_out.model_dump_json())
        shown = text_of(open_page("build/run.py", run=run.id))
        assert ("ended its answer at once on all of 2 held-out prompts" in shown) == is_silent


def test_weights_of_a_run_that_ended_above_the_loss_of_a_guess_are_offered_nowhere(
    site: Context, scenario: Scenario
) -> None:
    run = scenario.run(name="wild", learning_rate=9.0)
    taken = claim(site, run)
    report(site, taken, *({**point, "values": {"train_loss": 2000.0}} for point in points(1, 8)))
    checkpoint = scenario.checkpoint(run=run, step=8)
    end(site, taken, Status.FINISHED)
    for app in (
        open_page("build/run.py", run=run.id, tab="Checkpoints"),
        open_page("build/checkpoints.py", checkpoint=checkpoint),
    ):
        assert [error.value for error in app.error if "equally likely" in error.value]
        assert not {link.proto.label for link in app.get("page_link")} & {"Deploy and chat", "Battle"}
    assert ":material/emergency_home: diverged" in text_of(open_page("build/checkpoints.py"))
    situation = read_situation(site, LOCAL)
    assert (situation.checkpoints, situation.trained_without_evaluation) == ((), ())
    run = scenario.run(name="calm")
    calm = scenario.checkpoint(run=run, step=8)
    ready = sorted(list_checkpoints(site, ready=True), key=lambda one: one.id == calm)
    assert label_usable_first(site, ready) == {calm: "calm · step 8", checkpoint: "wild · step 8 (diverged)"}
    assert next(iter(label_usable_first(site, ready))) == calm
    form = open_page("build/launch.py", base=calm)
    offered = [option.partition(" · step 8")[0::2] for option in form.selectbox(key="launch_base").options]
    assert [(name, "(diverged)" in rest) for name, rest in offered] == [("calm", False), ("wild", True)]


def test_the_best_of_the_saved_checkpoints_is_not_called_the_best_of_the_run(site: Context, scenario: Scenario) -> None:
    """The lowest loss, 4.0, had no checkpoint, and the only one, of 7.0, stood there as "best"."""
    run = scenario.run(name="first", max_steps=4, warmup_steps=0)
    taken = claim(site, run)
    losses = (
        {"type": "metrics", "step": n, "time": 1.0 + n, "values": {"val_loss": loss}}
        for n, loss in ((1, 4.0), (4, 7.0))
    )
    report(site, taken, *losses)
    checkpoint = scenario.checkpoint(run=run, step=4, metrics={"val_loss": 7.0}, facts={"context": 4096})
    end(site, taken, Status.FINISHED)
    assert "best of those saved" in text_of(open_page("build/run.py", run=run.id, tab="Checkpoints"))
    shown = {one.label: one.delta for one in open_page("build/checkpoints.py", checkpoint=checkpoint).metric}
    assert shown["Context, tokens"] == f"trained on {run_detail(site, run.id).config.context:,}"


def test_a_run_begins_with_its_figures(site: Context, scenario: Scenario) -> None:
    run = scenario.run(name="first", max_steps=100, learning_rate=0.002)
    taken = claim(site, run)
    losses = [
        {"type": "metrics", "step": step, "time": 1000.0, "values": {"val_loss": value}}
        for step, value in ((20, 2.5), (40, 2.75))
    ]
    report(site, taken, *points(1, 40), *losses)
    live = dict(strip_figures(get_run(site, run.id), run_detail(site, run.id).config, now=site.now()))
    assert not {"Validation loss", "Steps", "Tokens"} & live.keys(), (
        "the chart says them at every step, and would say others"
    )
    report(site, taken, *points(41, 59))
    end(site, taken, Status.CANCELLED)
    draw = partial(strip_figures, get_run(site, run.id), run_detail(site, run.id).config, now=site.now())
    figures = dict(draw(val_step=last_step_of(site, run.id, "val_loss")))
    assert figures["Validation loss at step 40"] == "2.7500", "the losses of one row are of two steps"
    assert figures["Best validation loss"] == "2.5000"
    assert dict(draw(val_step=59))["Validation loss"] == "2.7500"
    assert last_step_of(site, run.id, "val_bpb") is None
    assert figures["Training loss"] == f"{10 / 59:.4f}"
    assert figures["Steps"] == "59 of 100"
    assert figures["Peak LR"] == "0.002"
    assert figures["Tokens"] == f"{59 * 4 * 32:,}"
    assert not any(label.startswith("Tokens/s") for label in figures), "no speed was measured"


def test_the_figures_of_a_run_that_samples_agree_with_its_curves(site: Context, scenario: Scenario) -> None:
    run = scenario.grpo(max_steps=4)
    taken = claim(site, run)
    for step, speed in enumerate((50.0, 66.0, 70.0), start=1):
        values = {
            "tok_per_sec": speed,
            "tokens": 120.0 * step,
            "train_loss": 0.0,
            "reward/mean": 0.25,
            "grad_norm": 0.1,
        }
        report(site, taken, {"type": "metrics", "step": step, "time": 1000.0 + 40 * step, "values": values})
    end(site, taken, Status.FINISHED)
    app = open_page("build/run.py", run=run.id)
    shown = {metric.label: metric.value for metric in app.metric}
    assert (shown["Tokens"], shown["Tokens/s, median"], shown["Mean reward, training"]) == ("360", "66", "0.25")


def test_launch_says_at_most_how_many_tokens_completions_have(site: Context, scenario: Scenario) -> None:
    config = run_detail(site, scenario.grpo(max_steps=10).id).config
    assert describe_tokens(config, 10) == "1,280 tokens at most in 10 steps of 128 at most"
    usual = run_detail(site, scenario.run().id).config
    assert describe_tokens(usual, 10) == "1,280 tokens in 10 steps of 128"


def test_a_run_that_learned_nothing_says_so_and_leads_to_no_endpoint(site: Context, scenario: Scenario) -> None:
    run = scenario.grpo(max_steps=4)
    taken = claim(site, run)
    report(site, taken, *({**point, "values": {"grad_norm": 0.0, "val_loss": 0.0}} for point in points(1, 4)))
    scenario.checkpoint(run=run, step=4)
    end(site, taken, Status.FINISHED)
    app = open_page("build/run.py", run=run.id)
    assert [error.value for error in app.error if "nothing was learned" in error.value]
    assert "Next:" not in text_of(app)
    assert "Validation loss" not in text_of(app)


def test_a_checkpoint_of_a_policy_has_a_mean_reward_and_not_a_loss(site: Context, scenario: Scenario) -> None:
    run = scenario.grpo(max_steps=4)
    checkpoint = scenario.checkpoint(run=run, step=4, metrics={"val_loss": -0.5, "val_reward/mean": 0.5}, bytes=1000)
    pages = {
        "run": open_page("build/run.py", run=run.id, tab="Checkpoints"),
        "list": open_page("build/checkpoints.py"),
        "checkpoint": open_page("build/checkpoints.py", checkpoint=checkpoint),
    }
    for name, app in pages.items():
        shown = text_of(app) + " ".join(f"{one.label} {one.value}" for one in app.metric)
        assert "Mean reward, validation 0.5" in shown, name
        assert "-0.5" not in shown, name
        assert "alidation loss" not in shown, name


def test_all_runs_derived_from_a_run_are_linked(site: Context, scenario: Scenario) -> None:
    first = scenario.run(name="first")
    derived = [scenario.run(name=f"derived {number}") for number in range(5)]
    with site.db.write() as session:
        for run in derived:
            session.get_one(Run, run.id).parent_id = first.id
    app = open_page("build/run.py", run=first.id)
    links = [link.proto.label for link in app.get("page_link")]
    assert sorted(label for label in links if label.startswith("derived")) == [run.name for run in derived]


def test_a_finished_run_leads_to_a_chat(site: Context, scenario: Scenario) -> None:
    run = scenario.run(name="first")
    taken = claim(site, run)
    scenario.checkpoint(run=run, step=100)
    end(site, taken, Status.FINISHED)
    app = open_page("build/run.py", run=run.id)
    assert not app.error
    links = [link.proto for link in app.get("page_link") if link.proto.label == "Deploy and chat"]
    assert links


@pytest.mark.parametrize(("step", "says"), [(1, True), (40, True), (100, False)])
def test_a_run_of_few_steps_says_so_beside_what_its_model_is_for(
    site: Context, scenario: Scenario, step: int, says: bool
) -> None:
    run = scenario.run(max_steps=1000)
    taken = claim(site, run)
    scenario.checkpoint(run=run, step=step)
    end(site, taken, Status.CANCELLED)
    said = text_of(open_page("build/run.py", run=run.id))
    assert (f"Barely trained: step {step} of 1,000." in said) == says


def test_a_stopped_run_is_resumed_with_one_click(site: Context, scenario: Scenario) -> None:
    run = scenario.run()
    taken = claim(site, run)
    report(site, taken, *points(1, 40))
    stop_run(site, run.id, how="stop_and_save", person=LOCAL)
    scenario.checkpoint(run=run, step=40)
    end(site, taken, Status.CANCELLED)
    page = open_page("build/run.py", run=run.id)
    assert "Resume from step 40" not in {menu.proto.popover.label for menu in page.get("popover")}, "it is a button"
    page.button(key="run_resume").click().run()
    assert list_runs(site)[0].status is Status.QUEUED
    assert len(list_jobs(site, queue="train")) == 2


def test_a_run_that_begins_again_says_from_which_step(site: Context, scenario: Scenario) -> None:
    run = scenario.run()
    taken = claim(site, run)
    report(site, taken, *points(1, 30))
    give_back(site, taken)
    report(site, claim(site, run), {"type": "resumed", "step": 0})
    page = text_of(open_page("build/run.py", run=run.id))
    assert "Attempt 2 begins at step 0: there was no checkpoint to continue from. Log says why" in page


def test_a_queued_run_reports_a_missing_worker(scenario: Scenario) -> None:
    page = open_page("build/run.py", run=scenario.run().id)
    assert "No worker serves the queue" in text_of(page)


def test_a_run_over_two_machines_says_what_it_waits_for_and_then_where_it_runs(site: Context) -> None:
    Scenario(site).parts()
    devices = {"count": 2, "nodes": 2}
    beat(site, name="a/train", host="lab-a", pid=1, slots={"train": 1}, devices=[], gauges={})  # type: ignore[arg-type]
    gang = forecast(site, make_config(devices=devices)).gang
    sentence = "Needs 2 machines at once: only lab-a is there. Start 1 training worker more."
    assert gang is not None
    assert gang.sentence == sentence
    run = Scenario(site).run(devices=devices)
    page = open_page("build/run.py", run=run.id)
    assert sentence in [box.value.replace("\\", "") for box in page.info]
    beat(site, name="b/train", host="lab-b", pid=1, slots={"train": 1}, devices=[], gauges={})  # type: ignore[arg-type]
    for host in ("lab-a", "lab-b"):
        choice = choose_gang(site, "train", host=host)
        assert choice is not None
        assert join_gang(site, choice, owner=f"{host}/train#1", host=host) is not None
    text = text_of(open_page("build/run.py", run=run.id)).replace("\\", "")
    assert "lab-a" in text
    assert "lab-b" in text
    assert [len(worker.jobs) for worker in list_workers(site)] == [1, 1]


def test_a_run_is_not_said_to_start_at_once_while_the_broker_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launch said "starts at once" below the line that names the broker."""
    position = QueuePosition(ahead=0, wait_s=0.0, num_slots=1)
    assert describe_queue(position) == "starts at once"
    monkeypatch.setattr(HEALTH, "fails", lambda part: part is BROKER)
    assert describe_queue(position) == "waits for the broker, which does not answer"


def test_names_and_tags_stay_text(site: Context, scenario: Scenario) -> None:
    run = scenario.run(name="![x](http://example.com/x.png) <b>bold</b>")
    set_tags(site, run.id, ("**loud**",), person=LOCAL)
    page = open_page("build/run.py", run=run.id)
    assert page.title[0].value.startswith(r"\!\[x\]")


def test_an_unknown_run_is_an_error_message(site: Context) -> None:
    assert "There is no run" in text_of(open_page("build/run.py", run="nothing"))
    assert "No run selected" in text_of(open_page("build/run.py"))


def test_the_list_of_runs_is_never_blank(scenario: Scenario) -> None:
    assert "No runs yet." in text_of(open_page("build/runs.py"))
    scenario.run()
    page = open_page("build/runs.py")
    page.segmented_control(key="status").set_value("Finished").run()
    assert "No run passes these filters" in text_of(page)


def test_picked_runs_are_compared_by_their_differences(scenario: Scenario) -> None:
    runs = [scenario.run(name="slow", learning_rate=0.001), scenario.run(name="fast", learning_rate=0.01)]
    page = open_page("build/runs.py", compare=",".join(run.id for run in runs))
    assert "2 runs compared" in text_of(page)
    assert [(row["Run"], row["Learning rate"]) for row in cells(page)] == [("slow", "0.001"), ("fast", "0.01")]
    chart = next(part for part in page.get("bidi_component") if part.proto.component_name == "roundhouse_live_chart")
    labels = [run["label"] for run in json.loads(chart.proto.json)["runs"]]
    assert labels == ["LR 0.001", "LR 0.01"], "what differs, not two names cut to one"
    assert "different parts of the validation split" not in text_of(page)
    wide = scenario.run(name="wide", micro_batch=8)
    page = open_page("build/runs.py", compare=f"{runs[0].id},{wide.id}")
    assert "different parts of the validation split" in text_of(page)


def test_only_data_that_fits_the_objective_is_offered(scenario: Scenario) -> None:
    scenario.parts()
    scenario.dataset("pairs", kind="preference")
    page = open_page("build/launch.py")
    page.selectbox(key="launch_objective").set_value("dpo").run()
    assert page.selectbox(key="launch_dataset").options == ["pairs · preference"]
    page.selectbox(key="launch_dataset").select("pairs").run()
    assert page.selectbox(key="launch_version_pairs").options == ["1 · 90 training rows"]


def test_launching_from_a_filtered_list_of_runs_opens_the_form(scenario: Scenario) -> None:
    """The filters' query parameters are bound to widgets: leaving the page with one set ended in an error."""
    scenario.run()
    page = open_page("build/runs.py", status="Active")
    page.button(key="runs_launch").click().run()
    assert not page.exception
    assert page.title[0].value == "Launch"


def test_an_imported_run_is_marked_and_offers_nothing_to_stop_or_to_resume(site: Context) -> None:
    (run,) = import_log(site, b"step,loss\n1,2.5\n2,2.25\n", filename="**theirs**.csv", person=LOCAL)
    page = open_page("build/run.py", run=run.id)
    assert not page.exception
    assert "Imported log" in text_of(page)
    assert r"\*\*theirs\*\*\.csv" in text_of(page)
    assert {button.label for button in page.button} == {"All runs", "Save", "Archive"}
    launched = open_page("build/launch.py", run=run.id)
    assert "was imported as curves" in text_of(launched)


def test_a_diagnosed_run_offers_its_follow_up_with_one_click(site: Context, scenario: Scenario) -> None:
    run = scenario.run(name="wild", learning_rate=0.03)
    taken = claim(site, run)
    values = [5.6 - 0.04 * step if step < 50 else 3.6 + 0.05 * (step - 50) for step in range(1, 101)]
    points = [
        {"type": "metrics", "step": step, "time": 1.0 + step, "values": {"train_loss": x}}
        for step, x in enumerate(values, 1)
    ]
    report(site, taken, *points)
    end(site, taken, Status.FINISHED)
    page = open_page("build/run.py", run=run.id)
    assert "The learning rate is too high" in text_of(page)
    again = open_page("build/launch.py", run=run.id, set="learning_rate:0.01")
    assert not again.exception
    assert again.number_input(key="launch_learning_rate").value == 0.01
    assert again.number_input(key="launch_max_steps").value == run.max_steps
    assert "names no field" in text_of(open_page("build/launch.py", run=run.id, set="learning_rat:1"))


def test_seeds_of_one_config_show_whether_a_difference_is_noise(scenario: Scenario) -> None:
    runs = []
    for name, rate, losses in (("slow", 0.001, (2.0, 2.01)), ("fast", 0.01, (1.5, 1.51))):
        for seed, loss in enumerate(losses, 1):
            run = scenario.run(
                {"type": "metrics", "step": 100, "time": 1.0, "values": {"val_loss": loss}},
                status=Status.FINISHED,
                name=f"{name} {seed}",
                learning_rate=rate,
                seed=seed,
            )
            runs.append(run)
    page = open_page("build/runs.py", compare=f"{runs[0].id},{runs[2].id}")
    assert "more than seed noise" in text_of(page)
    assert [row["Seeds"] for row in cells(page, 1)] == ["2", "2"]


def test_many_runs_are_paged_and_imported_ones_found(site: Context, scenario: Scenario) -> None:
    for number in range(51):
        scenario.run(name=f"run {number}")
    import_log(site, b"step,loss\n1,2.5\n", filename="theirs.csv", person=LOCAL)
    page = open_page("build/runs.py")
    assert "52 runs" in text_of(page)
    page.session_state["page"] = 2
    page.run()
    page.segmented_control(key="status").set_value("Imported").run()
    assert not page.exception
    assert "1 run" in text_of(page)


def test_the_editor_of_a_run_holds_its_own_name(scenario: Scenario) -> None:
    first, second = scenario.run(name="first"), scenario.run(name="second")
    page = open_page("build/run.py", run=first.id)
    page.text_input(key=f"run_name_{first.id}").set_value("typed").run()
    page.query_params["run"] = second.id
    page.run()
    assert "second" in [field.value for field in page.text_input if field.label == "Name"]


def test_another_search_begins_at_the_first_page(scenario: Scenario) -> None:
    for number in range(101):
        scenario.run(name=f"run {number}")
    page = open_page("build/runs.py", page="2")
    assert page.get("pagination")[0].value == 2
    page.text_input(key="find").set_value("run").run()
    assert page.get("pagination")[0].value == 1
