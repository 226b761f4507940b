"""Live curves in a real browser. Points come from the test, as a worker would write them; nothing trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from backend.bootstrap import build_context
from backend.db.tables import Sample
from backend.domain.jobs.events import MetricsEvent
from backend.domain.jobs.states import Status
from backend.services.context import LOCAL, Context
from backend.services.jobs.claims import Claim
from backend.services.metrics.points import add_points
from backend.services.training.runs import set_notes
from backend.services.training.views import RunView
from tests.support.browser import settle
from tests.support.evaluation_world import finish_choices
from tests.support.installation import wait_until
from tests.support.jobs import finish_job
from tests.support.page_server import page_server
from tests.support.run_world import claim, diverging_points, end, points, report
from tests.support.scenario import Scenario
from tests.support.settings import make_settings

PLOT = '[data-panel="loss"] .rh-plot'
DRAWN = f"document.querySelector('{PLOT}')?.data?.length > 0"
LAST_X = f"document.querySelector('{PLOT}').data[0].x.at(-1)"
X_RANGE = f"document.querySelector('{PLOT}').layout.xaxis.range.map(v => Math.round(v * 100) / 100)"


@pytest.fixture(scope="module")
def ctx(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Context]:
    """An installation of this module's own, with parts for runs."""
    home = tmp_path_factory.mktemp("live-chart")
    (home / "models.db").write_bytes(migrated_database.read_bytes())
    context = build_context(make_settings(home), migrate=False)
    Scenario(context).parts()
    yield context
    context.db.engine.dispose()


@pytest.fixture(scope="module")
def server(ctx: Context) -> Iterator[str]:
    """The pages' server on it."""
    with page_server(Path(ctx.db.url.removeprefix("sqlite:///")).parent, ROUNDHOUSE_HOST="127.0.0.1") as running:
        yield running.url


@pytest.fixture
def page(tab: Page) -> Page:
    """A tab in a wide window."""
    tab.set_viewport_size({"width": 1300, "height": 1000})
    return tab


@pytest.fixture
def running(ctx: Context) -> tuple[RunView, Claim]:
    """A run that is being trained, 50 steps in."""
    run = Scenario(ctx).run(max_steps=1000)
    taken = claim(ctx, run)
    report(
        ctx,
        taken,
        *points(1, 50),
        {"type": "progress", "done": 50, "total": 1000, "unit": "step", "rate": 10.0, "time": 1.0},
    )
    return run, taken


def open_run(page: Page, server: str, run: RunView) -> None:
    """Open a run's page and wait for its curve."""
    page.goto(f"{server}/run?run={run.id}")
    page.wait_for_function(DRAWN)


def test_a_zoomed_curve_stays_zoomed_in_the_same_node_while_it_grows(
    page: Page, server: str, ctx: Context, running: tuple[RunView, Claim]
) -> None:
    run, taken = running
    open_run(page, server, run)
    page.evaluate(f"document.querySelector('{PLOT}').mark = document.querySelector('{PLOT} .main-svg').mark = 'kept'")
    box = page.locator(f"{PLOT} .nsewdrag").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 100, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + 400, box["y"] + 200, steps=6)
    page.mouse.up()
    page.wait_for_function(f"{X_RANGE}[0] > 2")
    zoomed = page.evaluate(X_RANGE)
    for last in (60, 70, 80):
        report(ctx, taken, *points(last - 9, last))
        page.wait_for_function(f"{LAST_X} === {last}")
        assert page.evaluate(X_RANGE) == zoomed
    assert page.evaluate(
        f"[document.querySelector('{PLOT}').mark, document.querySelector('{PLOT} .main-svg').mark]"
    ) == ["kept", "kept"]
    page.locator(f"{PLOT} .nsewdrag").dblclick()
    page.wait_for_function(f"{X_RANGE}[1] > 79")


def test_a_new_point_is_drawn_within_a_second(
    page: Page, server: str, ctx: Context, running: tuple[RunView, Claim]
) -> None:
    run, taken = running
    open_run(page, server, run)
    delays: list[float] = []
    while min(delays, default=9.0) >= 1.0 and len(delays) < 60:  # some may wait for a busy machine
        step, began = 51 + len(delays), time.perf_counter()
        report(ctx, taken, *points(step, step))
        page.wait_for_function(f"{LAST_X} === {step}", polling=20)
        delays.append(time.perf_counter() - began)
    assert min(delays) < 1.0, delays


def test_the_first_point_is_seen_before_the_second(page: Page, server: str, ctx: Context) -> None:
    """The panels named a value and were empty."""
    run = Scenario(ctx).run(*points(1, 1), max_steps=1000)
    open_run(page, server, run)
    assert page.evaluate(f"document.querySelectorAll('{PLOT} .scatterlayer .point').length") == 1


def test_a_hundred_thousand_points_are_drawn_as_few_with_the_last_one_kept(
    page: Page, server: str, ctx: Context
) -> None:
    run = Scenario(ctx).run(max_steps=100_000)
    rows = [
        MetricsEvent(step=step, time=float(step), values={"train_loss": 5.0 + (step % 97) / step})
        for step in range(1, 100_001)
    ]
    with ctx.db.write() as session:
        add_points(session, ctx.db, run.id, rows)
    open_run(page, server, run)
    page.wait_for_function(f"{LAST_X} === 100_000", polling=20)
    assert page.evaluate(f"document.querySelector('{PLOT}').data[0].x.length") <= 1500


def test_the_page_shows_the_cause_of_a_failure_without_a_reload(
    page: Page, server: str, ctx: Context, running: tuple[RunView, Claim]
) -> None:
    run, taken = running
    open_run(page, server, run)
    page.get_by_text("step 50 of 1,000 · 10.0 steps/s · 1 min 35 s left").wait_for()
    end(ctx, taken, Status.FAILED, cause="The disk is full.", remedy="Free space on it.")
    page.get_by_role("alert").get_by_text("Free space on it.").wait_for()
    page.get_by_role("button", name="Start again").wait_for()


def test_a_resume_replaces_the_steps_that_are_written_again(
    page: Page, server: str, ctx: Context, running: tuple[RunView, Claim]
) -> None:
    run, taken = running
    open_run(page, server, run)
    report(ctx, taken, {"type": "resumed", "step": 30}, *points(31, 33))
    page.wait_for_function(f"{LAST_X} === 33 && new Set(document.querySelector('{PLOT}').data[0].x).size === 33")


def test_a_name_with_markup_stays_text_in_chart_and_list(page: Page, server: str, ctx: Context) -> None:
    name = "<img src=x onerror=alert(1)> %{y} <b>b</b>"
    runs = [Scenario(ctx).run(name=name, max_steps=20), Scenario(ctx).run(name="plain", max_steps=20)]
    for run in runs:
        taken = claim(ctx, run)
        report(ctx, taken, *points(1, 10))
        end(ctx, taken, Status.FINISHED)
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    page.goto(f"{server}/runs?compare={runs[0].id},{runs[1].id}")
    page.wait_for_function(DRAWN)
    page.get_by_text("Drag to zoom").wait_for()
    values = page.locator(f"{PLOT} .hoverlayer .legend text", has_text="onerror")

    def hover() -> int:  # again, where the chart was drawn once more and what was hovered over is gone
        for x in (300, 320):
            page.locator(f"{PLOT} .nsewdrag").hover(position={"x": x, "y": 100})
        page.wait_for_timeout(300)
        return values.count()

    wait_until(hover, what="values at the pointer")
    assert page.locator(".rh-chart img, .rr-runs img, .rh-chart b b").count() == 0
    expect(page.locator(".rr-name", has_text=name)).to_have_count(1)
    expect(page.locator(".rh-name", has_text=name)).to_have_count(1)


def test_ticking_runs_overlays_their_curves_and_a_name_opens_its_run(page: Page, server: str, ctx: Context) -> None:
    runs = [Scenario(ctx).run(name=f"overlaid {n}", max_steps=20) for n in range(2)]
    for run in runs:
        taken = claim(ctx, run)
        report(ctx, taken, *points(1, 10))
        end(ctx, taken, Status.FINISHED)
    page.goto(f"{server}/runs?find=overlaid")
    for run in runs:
        page.get_by_label(f"Compare {run.name}").check()
        page.wait_for_url(f"**{run.id}**")
    settle(page)
    page.get_by_role("button", name="Compare curves").click()
    page.wait_for_function(f"document.querySelector('{PLOT}')?.data?.length === 4")
    settle(page)
    page.get_by_role("link", name="overlaid 0").click()
    page.wait_for_url(f"**/run?run={runs[0].id}")
    page.get_by_role("heading", name="overlaid 0").wait_for()


def test_the_table_of_runs_is_kept_in_its_address_and_follows_what_runs(page: Page, server: str, ctx: Context) -> None:
    for number, rate in enumerate((0.1, 0.001, 0.01)):
        taken = claim(ctx, Scenario(ctx).run(name=f"tabled {number}", max_steps=20, learning_rate=rate))
        report(ctx, taken, *points(1, 10))
        end(ctx, taken, Status.FINISHED)
    names, titles = page.locator(".rt-table tbody th.rt-name"), page.locator(".rt-table thead th")
    page.goto(f"{server}/runs?find=tabled&columns=status,learning_rate,steps")
    page.get_by_label("Filter", exact=True).fill("lr < 0.05")
    page.keyboard.press("Enter")
    expect(names).to_have_text(["tabled 2", "tabled 1"])
    settle(page)
    page.get_by_role("button", name="Learning rate").click()
    page.wait_for_url("**sort=-learning_rate**")
    settle(page)
    page.get_by_role("button", name="Learning rate").click()
    expect(names).to_have_text(["tabled 1", "tabled 2"])
    page.reload()
    expect(names).to_have_text(["tabled 1", "tabled 2"])
    expect(page.get_by_label("Filter", exact=True)).to_have_value("lr < 0.05")
    page.go_back()
    expect(names).to_have_text(["tabled 2", "tabled 1"])
    titles.filter(has_text="Steps done").drag_to(titles.filter(has_text="Status"))
    expect(titles).to_have_text(["", "Name", "Steps done", "Status", "Learning rate ↓"])
    page.get_by_role("button", name="Steps done").press("Alt+ArrowRight")
    expect(titles).to_have_text(["", "Name", "Status", "Steps done", "Learning rate ↓"])
    taken = claim(ctx, Scenario(ctx).run(name="tabled now", max_steps=20, learning_rate=0.002))
    report(ctx, taken, *points(1, 3))
    row = page.locator(".rt-table tbody tr", has_text="tabled now")
    expect(row.locator(".rr-badge")).to_have_text("Running")
    report(ctx, taken, *points(4, 7))
    expect(row.locator("td.rt-number").first).to_have_text("7")
    page.goto(f"{server}/runs?find=tabled now&columns=status,tokens,duration")
    expect(row.locator("td.rt-number")).to_have_count(2)
    tokens, duration = row.locator("td.rt-number").all()
    written = tokens.inner_text(), duration.inner_text()
    report(ctx, taken, *points(8, 9))
    expect(tokens).not_to_have_text(written[0])
    expect(duration).not_to_have_text(written[1])
    end(ctx, taken, Status.FINISHED)
    expect(row.locator(".rr-badge")).to_have_text("Finished")


def test_on_a_phone_rows_are_on_the_first_screen_and_the_controls_behind_a_button(
    page: Page, server: str, running: tuple[RunView, Claim]
) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{server}/runs")
    table = page.locator(".rt-table")
    table.wait_for()
    expect(page.get_by_label("Filter", exact=True)).to_be_hidden()
    box = table.bounding_box()
    assert box is not None
    assert box["y"] < 520  # with the line that says which servers are away
    settle(page)
    page.get_by_role("button", name="Filters and views").click()
    expect(page.get_by_label("Filter", exact=True)).to_be_visible()


def test_chart_settings_are_kept_in_the_address_and_curves_can_be_saved(
    page: Page, server: str, ctx: Context, running: tuple[RunView, Claim], tmp_path: Path
) -> None:
    run, _ = running
    open_run(page, server, run)
    page.get_by_label("X axis").select_option("tokens")
    page.get_by_text("Log y").click()
    page.wait_for_url(f"**/run?run={run.id}&chart=tokens_logy")
    page.wait_for_function(f"{LAST_X} === 50 * 4 * 32")
    page.reload()
    page.wait_for_function(f"{DRAWN} && {LAST_X} === 50 * 4 * 32")
    page.wait_for_function(f"document.querySelector('{PLOT}').layout.yaxis.type === 'log'")
    page.goto(f"{server}/run?run={run.id}&chart=flops")
    page.wait_for_function(f"{DRAWN} && {LAST_X} > 1e6")
    with page.expect_download() as table:
        page.get_by_role("link", name="CSV").click()
    assert len(table.value.path().read_text().splitlines()) == 51
    with page.expect_download() as picture:
        page.get_by_role("button", name="PNG").click()
    assert picture.value.path().read_bytes().startswith(b"\x89PNG")


def test_panels_are_enlarged_chosen_and_ordered_and_share_one_crosshair(
    page: Page, server: str, running: tuple[RunView, Claim], ctx: Context
) -> None:
    run, taken = running
    report(ctx, taken, *points(1, 50, name="grad_norm"), *points(1, 50, name="val_rewards/odd_thing"))
    open_run(page, server, run)
    shown = "[...document.querySelectorAll('.rh-panel')].map((panel) => panel.dataset.panel).join()"
    page.wait_for_function(f"{shown} === 'loss,grad_norm,val_rewards/odd_thing'")
    names = page.locator(".rh-panel-name")  # drawn a moment before they are shown
    expect(names.last).to_have_text("Validation rewards, odd thing", use_inner_text=True)
    assert names.all_inner_texts()[1:] == ["Gradient norm", "Validation rewards, odd thing"]
    page.wait_for_function("[...document.querySelectorAll('.rh-plot')].every((plot) => plot.data?.length)")

    page.locator('[data-panel="grad_norm"] .rh-plot').hover(position={"x": 150, "y": 80})
    # the curve of the loss says what it was at the step that the pointer is at in another panel
    page.wait_for_function(f"document.querySelector('{PLOT} .hoverlayer .legend')?.textContent.includes('train')")
    page.mouse.move(5, 5)
    page.wait_for_function(f"!document.querySelector('{PLOT} .hoverlayer .legend')")

    page.locator('[data-panel="grad_norm"]').hover()
    page.get_by_role("button", name="Enlarge: Gradient norm").click()
    expect(page.locator('[data-panel="grad_norm"]')).to_have_class("rh-panel rh-wide")
    page.get_by_text("Panels", exact=True).click()
    page.get_by_role("button", name="Move Gradient norm up").click()
    page.wait_for_function(f"{shown} === 'grad_norm,loss,val_rewards/odd_thing'")
    page.get_by_role("checkbox", name="Validation rewards, odd thing").uncheck()
    page.wait_for_function(f"{shown} === 'grad_norm,loss'")
    address = "panels=grad_norm*%2Closs*%2Cval_rewards%2Fodd_thing-"
    page.wait_for_function(f"location.search.includes({address!r})")
    page.reload()
    page.wait_for_function(f"{DRAWN} && {shown} === 'grad_norm,loss'")
    settle(page)
    page.get_by_text("Panels", exact=True).click()
    page.get_by_role("button", name="Default panels").click()
    page.wait_for_function(f"{shown} === 'loss,grad_norm,val_rewards/odd_thing'")


def test_the_chosen_tab_stands_above_the_curves_and_in_the_address(
    page: Page, server: str, running: tuple[RunView, Claim]
) -> None:
    run, _ = running
    open_run(page, server, run)
    tabs, chart = page.get_by_role("tablist").bounding_box(), page.locator(".rh-chart").bounding_box()
    assert tabs is not None
    assert chart is not None
    assert tabs["y"] < chart["y"]
    page.get_by_role("tab", name="Config").click()
    page.get_by_text("launches the same run").wait_for()
    page.wait_for_url("**tab=Config*")
    page.reload()
    page.get_by_text("launches the same run").wait_for()
    page.get_by_role("tab", name="Curves").click()
    page.wait_for_function(f"{DRAWN} && document.querySelector('{PLOT}').clientWidth > 500")


def test_a_run_that_diverges_says_so_in_the_tab_and_as_a_notification(page: Page, server: str, ctx: Context) -> None:
    run = Scenario(ctx).run(*diverging_points(), name="wild one", max_steps=400)
    page.goto(f"{server}/run?run={run.id}")
    page.get_by_text("This run is diverging. The loss has risen").wait_for()
    page.wait_for_function("document.title.startsWith('Diverging: wild one')")
    expect(page.get_by_test_id("stToast")).to_contain_text("wild one is diverging")


def test_the_same_prompts_are_followed_along_the_curve(
    page: Page, server: str, ctx: Context, running: tuple[RunView, Claim]
) -> None:
    run, taken = running
    hostile = "<img src=x onerror=alert(1)> ![y](http://example.com/y.png)"
    for step in (20, 40):
        report(
            ctx,
            taken,
            {"type": "sample", "step": step, "prompt": "<b>Once</b>", "completion": f"{hostile} at {step}"},
        )
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    open_run(page, server, run)
    page.locator(".rh-said", has_text=f"{hostile} at 40").wait_for()
    slider = page.get_by_label("Step of the samples")
    slider.focus()
    slider.press("Home")
    page.locator(".rh-said", has_text=f"{hostile} at 20").wait_for()
    page.wait_for_function(f"document.querySelector('{PLOT}').layout.shapes[0]?.x0 === 20")
    report(ctx, taken, {"type": "sample", "step": 60, "prompt": "<b>Once</b>", "completion": "later"}, *points(51, 60))
    page.wait_for_function(f"{LAST_X} === 60")
    page.wait_for_function("document.querySelector('.rh-scrub input').max === '2'")
    assert page.locator(".rh-said").inner_text() == f"{hostile} at 20"  # who looks at a step is left there
    slider.press("End")
    page.locator(".rh-said", has_text="later").wait_for()
    assert page.locator(".rh-samples img, .rh-samples b b").count() == 0


def test_the_same_prompts_of_a_run_that_is_ticked_later_stand_beside_those_of_the_first(
    page: Page, server: str, ctx: Context
) -> None:
    """Both runs wrote samples at the same steps, so the second was taken for nothing new."""
    runs = [
        Scenario(ctx).run(
            *points(1, 20),
            {"type": "sample", "step": 20, "prompt": "Once", "completion": f"{name} said"},
            name=name,
            status=Status.FINISHED,
        )
        for name in ("first", "second")
    ]
    page.goto(f"{server}/runs?show=Curves&ticked={runs[0].id}")
    expect(page.locator(".rh-said")).to_have_text(["first said"])
    page.get_by_role("checkbox", name="Compare second").check()
    expect(page.locator(".rh-said")).to_have_count(2)
    assert sorted(page.locator(".rh-text").all_inner_texts()) == ["first\nfirst said", "second\nsecond said"]


def finish(ctx: Context, name: str, **values: object) -> RunView:
    """A finished run with curves of both splits, speed, memory and a measurement."""
    run = Scenario(ctx).run(name=name, max_steps=20, **values)
    taken = claim(ctx, run)
    for step in range(1, 21):
        row = {"train_loss": 3.0 - step / 20, "tok_per_sec": 17.0 if step > 18 else 47.0, "memory_bytes": 1.51e9}
        if step % 5 == 0:
            row |= {"val_loss": 3.2 - step / 20, "val_bpb": 1.1 - step / 40}
        report(ctx, taken, {"type": "metrics", "step": step, "time": 1000.0 + step, "values": row})
    measured = {"measured_bytes": 2_100_000_000, "tokens_per_s": 46.0, "device": "cpu", "device_kind": "cpu"}
    times = {"step_s": 1.0, "step_s_low": 1.0, "step_s_high": 1.0, "steps_timed": 20.0}
    with ctx.db.write() as session:
        finish_job(session, ctx, taken, final_step=20, measurement={**measured, **times})
    return run


def test_the_legend_of_overlaid_runs_names_what_differs_and_the_split(page: Page, server: str, ctx: Context) -> None:
    runs = [finish(ctx, "legend one"), finish(ctx, "legend two", learning_rate=1e-3)]
    page.goto(f"{server}/runs?compare={runs[0].id},{runs[1].id}")
    # train twice: as measured and smoothed
    page.wait_for_function(f"document.querySelector('{PLOT}')?.data?.length === 6")
    legend = page.locator('[data-panel="loss"] .rh-of-run')
    expect(legend).to_have_count(2)
    expect(legend.last).to_contain_text("2.2000", use_inner_text=True)
    assert [text.split() for text in legend.all_inner_texts()] == [
        ["LR", rate, "train", "2.0000", "validation", "2.2000"] for rate in ("0.003", "0.001")
    ]
    lines = page.locator('[data-panel="loss"] .rh-of-run line')
    drawn = [(line.get_attribute("stroke"), bool(line.get_attribute("stroke-dasharray"))) for line in lines.all()]
    assert len(set(drawn)) == 4
    assert [dashed for _, dashed in drawn] == [False, True, False, True]
    shown = page.evaluate(
        f"document.querySelector('{PLOT}').data.filter(t => t.opacity === undefined).map(t => [t.line.color,"
        " t.line.dash])"
    )
    assert {(color, dash != "solid") for color, dash in shown} == set(drawn), (
        "the legend shows the lines as they are drawn"
    )


def test_the_list_to_tick_from_is_on_the_screen_with_the_chart(page: Page, server: str, ctx: Context) -> None:
    runs = [finish(ctx, f"beside {number}") for number in range(2)]
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{server}/runs?find=beside&compare={runs[0].id}")
    page.wait_for_function(DRAWN)
    tick, chart = page.get_by_label("Compare beside 1").bounding_box(), page.locator(PLOT).bounding_box()
    assert tick is not None
    assert chart is not None
    assert tick["y"] + tick["height"] < 900
    assert chart["y"] + chart["height"] / 2 < 900
    assert tick["x"] + tick["width"] < chart["x"]
    page.get_by_label("Compare beside 1").check()
    page.wait_for_function("document.querySelectorAll('.rh-of-run').length === 2")


def test_the_report_has_the_figures_of_the_chart(page: Page, server: str, ctx: Context) -> None:
    run = finish(ctx, "figures")
    open_run(page, server, run)
    shown = {}
    for panel in ("tok_per_sec", "memory", "loss"):
        page.locator(f'[data-panel="{panel}"] .rh-key b').first.wait_for()
        shown[panel] = [text.strip() for text in page.locator(f'[data-panel="{panel}"] .rh-key b').all_inner_texts()]
    assert shown == {"tok_per_sec": ["median 47"], "memory": ["peak 2.1 GB"], "loss": ["2.0000", "2.2000"]}
    page.get_by_role("tab", name="Report").click()
    rows = page.locator("table").first.locator("tr")
    page.get_by_role("cell", name="tokens per second").wait_for()
    cells = {row.split("\t")[0].strip(): row.split("\t")[1].strip() for row in rows.all_inner_texts() if "\t" in row}
    assert (cells["tokens per second"], cells["memory"]) == ("median 47", "peak 2.1 GB")
    assert cells["last values"] == "train_loss 2.0000, val_loss 2.2000, val_bpb 0.6000"


def test_the_report_is_rendered_and_nothing_in_it_is_loaded_or_run(page: Page, server: str, ctx: Context) -> None:
    hostile = "<img src=x onerror=alert(1)> ![y](http://example.com/y.png) :red[red] $x$ [link](http://example.com)"
    run = finish(ctx, "hostile")
    set_notes(ctx, run.id, hostile, person=LOCAL)
    with ctx.db.write() as session:
        session.add(Sample(run_id=run.id, step=20, prompt=f"```\n{hostile}", completion=hostile))
    foreign: list[str] = []
    page.on("request", lambda request: foreign.append(request.url) if "example.com" in request.url else None)
    page.on("dialog", lambda dialog: pytest.fail(f"a script ran: {dialog.message}"))
    open_run(page, server, run)
    page.get_by_role("tab", name="Report").click()
    page.get_by_role("heading", name="Config").wait_for()
    report_ = page.locator(".st-key-run_report")
    assert report_.locator("img, .katex, a[href*=example]").count() == 0
    expect(report_.get_by_text(":red[red] $x$ [link]").first).to_be_visible()
    assert not foreign


def test_a_matrix_shows_the_scores_of_one_evaluation_while_another_runs_and_then_those_of_both(
    page: Page, server: str, ctx: Context
) -> None:
    """Both cells said Run once the first had ended, and stayed so."""
    first, second = (Scenario(ctx).evaluation(name, "facts") for name in ("Oak", "Elm"))
    page.goto(f"{server}/evaluations")
    expect(page.get_by_text("Waiting")).to_have_count(2)
    finish_choices(ctx, first, [1] * 20)
    expect(page.get_by_text("90.0 to 110.0 %")).to_have_count(1)
    expect(page.get_by_text("Waiting")).to_have_count(1)
    expect(page.get_by_role("button", name="Run", exact=True)).to_have_count(0)
    finish_choices(ctx, second, [1] * 19 + [0])
    expect(page.get_by_text("85.0 to 105.0 %")).to_have_count(1)
    expect(page.get_by_text("Waiting")).to_have_count(0)
