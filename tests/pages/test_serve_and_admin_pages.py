"""Endpoints, playground, workers and people: each drawn empty and filled, as a script without a browser."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from operator import sub
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from streamlit.testing.v1 import AppTest

from backend import bootstrap
from backend.db.tables import Checkpoint, Deployment, DeviceUse, Job, LogLine
from backend.domain.data.token_folders import MANIFEST, Manifest
from backend.domain.jobs.events import GaugeEvent, ReadyEvent
from backend.domain.jobs.records import JobFailure
from backend.domain.jobs.states import Status
from backend.domain.serving.canary import CanaryRules
from backend.domain.serving.key_limits import KeyLimits
from backend.domain.serving.request_log import LOAD_TEST
from backend.errors import Unavailable
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import LOCAL, Context, Person
from backend.services.health import GATEWAY, HEALTH
from backend.services.jobs.claims import Claim, claim_next, requeue
from backend.services.jobs.workers import beat
from backend.services.people.accounts import ROLES, add_user, get_account
from backend.services.people.keys import check_key, create_key, list_keys
from backend.services.serving.canaries import promote_canary, start_canary
from backend.services.serving.deployments import deploy, scale_endpoint, stop_endpoint
from backend.services.serving.endpoints import get_endpoint, list_endpoints
from backend.services.serving.monitoring import gauges as gauges_module
from backend.services.serving.monitoring.gauges import read_live
from backend.services.serving.monitoring.traffic import Traffic, TrafficPoint, find_window
from backend.services.serving.prices import current_prices, set_price
from backend.services.serving.promotions import promote
from backend.services.serving.replicas import record_gauge, record_ready
from backend.services.serving.usage import UsageRow, add_usage
from backend.settings import PROJECT
from pages.components import frame
from pages.components import visitor as services
from pages.components.serving import endpoint as endpoint_page
from tests.support.fake_api import serve_api
from tests.support.opening import assert_sound, open_page, plain_words
from tests.support.run_world import diverging_points
from tests.support.scenario import Scenario, add_row


@pytest.fixture(autouse=True)
def _pages_use_the_test_context(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(services, "get_context", lambda: ctx)
    yield
    bootstrap.get_context.cache_clear()


def draw(page: str, **query: str) -> AppTest:
    app = AppTest.from_file(str(PROJECT / "pages" / "shell.py"), default_timeout=200)
    app.switch_page(page)
    for name, value in query.items():
        app.query_params[name] = value
    app.run()
    assert not app.exception
    return app


def texts(app: AppTest) -> str:
    return "\n".join(
        str(element.value)
        for kind in (app.markdown, app.text, app.caption, app.title, app.subheader, app.error)
        for element in kind
    )


def make_checkpoint(ctx: Context) -> str:
    return add_row(ctx, Checkpoint(name="tiny", origin="added", folder="bases/tiny", family="llama", parameters=10))


def make_ready(ctx: Context, name: str = "tales") -> Claim[Any]:
    deploy(ctx, checkpoint_id=make_checkpoint(ctx), name=name, person=LOCAL)
    claim: Claim[Any] | None = claim_next(ctx, "serve", owner="lab/serve#1", host="lab")
    assert claim is not None
    with ctx.db.write() as session:
        record_ready(session, ctx, claim, ReadyEvent(url="http://127.0.0.1:1"))
    return claim


@pytest.mark.parametrize(
    ("page", "step", "link"),
    [
        ("serve/endpoints.py", "nothing to deploy yet: train a model or add a base", "Launch a run, Add a base"),
        ("serve/playground.py", "Deploy or start one to chat", "Endpoints"),
        ("serve/monitor.py", "Deploy a checkpoint, and its requests appear here", "Endpoints"),
        ("serve/load_tests.py", "Deploy a checkpoint, then load it", "Endpoints"),
        ("serve/requests.py", "Call an endpoint, and its requests are listed here", "Endpoints"),
        ("admin/workers.py", "`make run` starts them", ""),
    ],
)
def test_an_empty_page_states_the_next_step(page: str, step: str, link: str) -> None:
    app = draw(page)
    assert not app.error
    assert step in texts(app)
    assert ", ".join(element.proto.label for element in app.get("page_link")) == link


@pytest.mark.parametrize(
    ("page", "title"),
    [("admin/people.py", "People and keys"), ("admin/costs.py", "Costs"), ("admin/settings.py", "Settings")],
)
def test_a_page_without_an_empty_state_opens(page: str, title: str) -> None:
    app = draw(page)
    assert app.title[0].value == title
    assert not app.error


def test_an_admin_finds_how_to_open_it_to_a_team(ctx: Context) -> None:
    (link,) = [link.proto for link in draw("admin/people.py").get("link_button") if "team" in link.proto.label]
    assert link.url == "/help/team.html#checklist"
    assert "## Checklist" in (PROJECT / "docs/team.md").read_text(encoding="utf-8")


def test_the_role_of_a_new_account_is_explained(ctx: Context) -> None:
    help_text = draw("admin/people.py", tab="Accounts").selectbox(key="account_role_0").help
    assert all(f"**{role}**: {may}" in help_text for role, may in ROLES.items())


def test_settings_are_found_by_a_word_and_name_what_changes_them(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    app = draw("admin/settings.py", find="upload")
    (table,) = app.table
    assert "ROUNDHOUSE_MAX_UPLOAD_MB" in table.value.to_string().replace("\\", "")
    assert len(table.value) == 1
    monkeypatch.setattr(services, "current_person", lambda: Person("ben", "Ben", "engineer"))
    assert not draw("admin/settings.py").table


def test_endpoints_are_rows_with_state_and_traffic_that_lead_to_their_pages(ctx: Context) -> None:
    make_ready(ctx)
    deploy(ctx, checkpoint_id=list_checkpoints(ctx)[0].id, name="second", person=LOCAL)
    stop_endpoint(ctx, "second", person=LOCAL)
    rows = [("a", "finished", 90.0), ("b", "finished", 110.0), ("c", "lost", None), ("d", "refused", None)]
    add_usage(
        ctx, [UsageRow(id_, "tales", None, None, 5, 60, ttft, 500.0, status, ctx.now()) for id_, status, ttft in rows]
    )
    app = draw("serve/endpoints.py")
    assert [str(button.key) for button in app.button if str(button.key).startswith("endpoint_")] == [
        "endpoint_tales",
        "endpoint_second",
    ]
    shown = texts(app).replace("\\", "")
    assert ":red[33 %]" in shown, "one of three that were not refused"
    app.button(key="endpoint_tales").click().run()
    assert app.query_params["name"] in ("tales", ["tales"])
    assert [heading.value for heading in app.title] == ["tales"]


def test_an_alias_leads_to_the_endpoint_that_answers_for_it_and_an_unknown_name_to_all(ctx: Context) -> None:
    make_ready(ctx)
    promote(ctx, "tiny", alias="storyteller@production", reason="the first", person=LOCAL)
    app = draw("serve/endpoints.py", name="storyteller@production")
    assert [heading.value for heading in app.title] == ["tales"]
    assert "answers for storyteller" in texts(app).replace("\\", "")
    app = draw("serve/endpoints.py", name="nosuch")
    assert "nosuch" in app.warning[0].value
    assert app.button(key="endpoint_tales")


def test_the_canary_stands_beside_the_stable_revision_with_its_figures(ctx: Context) -> None:
    make_ready(ctx)
    add_row(ctx, Checkpoint(id="elm", name="elm", origin="added", folder="bases/elm", family="llama", parameters=10))
    start_canary(ctx, "tales", checkpoint_id="elm", rules=CanaryRules(percent=10), person=LOCAL)
    (replica,) = get_endpoint(ctx, "tales").replicas[:1]
    answered = [
        UsageRow(f"r{n}", "tales", None, replica.id, 5, 5, 50.0, 90.0, "finished", ctx.now(), variant="stable")
        for n in range(4)
    ]
    add_usage(ctx, answered)
    app = draw("serve/endpoints.py", name="tales")
    table = next(table for table in app.table if "Checkpoint" in table.value and "Requests" in table.value)
    shown = [
        [str(row[name]) for name in ("Revision", "Checkpoint", "Requests")] for row in table.value.to_dict("records")
    ]
    assert shown == [["1, stable", "tiny", "4"], ["2, canary", "elm", "0"]], "a canary stands there before it is asked"


def test_logs_of_replicas_are_on_the_page_by_number_and_never_by_id(ctx: Context) -> None:
    claim = make_ready(ctx)
    add_row(ctx, LogLine(job_id=claim.job_id, attempt=1, time=1.0, text="loading <b>weights</b>"))
    app = draw("serve/endpoints.py", name="tales")
    assert not any("loading" in code.value for code in app.code), "a closed tab is not read again and again"
    app = draw("serve/endpoints.py", name="tales", tab="Logs")
    assert "loading <b>weights</b>" in [code.value for code in app.code]
    assert "Replica 1 of revision 1: ready" in texts(app).replace("\\", "")
    (replica,) = get_endpoint(ctx, "tales").replicas
    everything = texts(app) + "".join(str(part) for part in [*app.code, *app.table])
    assert replica.id not in everything


def test_an_endpoint_is_drawn_with_its_state_and_client_code(ctx: Context) -> None:
    make_ready(ctx)
    app = draw("serve/endpoints.py", name="tales")
    assert [metric.value for metric in app.metric][:1] == ["1 of 1"]
    assert any("model='tales'" in code.value for code in app.code)


def test_a_key_for_one_endpoint_is_made_beside_its_code(ctx: Context) -> None:
    make_ready(ctx)
    app = draw("serve/endpoints.py", name="tales", tab="API")
    next(button for button in app.button if button.label == "Create key").click().run()
    (key,) = list_keys(ctx, person=LOCAL)
    assert (key.name, key.scopes.models) == ("tales", ("tales",))
    secret = next(code.value for code in app.code if code.value.startswith("rh-"))
    assert sum(secret in code.value for code in app.code) == 4, "the key, and the code in three languages"
    app.button(key="fresh_key_close").click().run()
    assert not any(secret in code.value for code in app.code)
    next(button for button in app.button if button.label == "Create key").click().run()
    assert [key.name for key in list_keys(ctx, person=LOCAL)] == ["tales 2", "tales"]


def test_a_key_for_an_endpoint_of_the_name_of_the_products_own_keys_has_another(ctx: Context) -> None:
    make_ready(ctx, "judge")
    app = draw("serve/endpoints.py", name="judge", tab="API")
    next(button for button in app.button if button.label == "Create key").click().run()
    assert [key.name for key in list_keys(ctx, person=LOCAL)] == ["judge 2"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8100", "http://lab.example:8100"])
def test_an_address_that_others_do_not_reach_says_so_and_what_to_set(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    make_ready(ctx)
    monkeypatch.setattr(services, "context", lambda: replace(ctx, gateway_url=url))
    monkeypatch.setattr(frame, "context", lambda: replace(ctx, gateway_url=url))
    app = draw("serve/endpoints.py", name="tales", tab="API")
    assert any(url in code.value for code in app.code)
    notice = [caption.value for caption in app.caption if "on this machine alone" in caption.value]
    assert ["ROUNDHOUSE_PUBLIC_GATEWAY_URL" in words for words in notice] == ([True] if "127" in url else [])


def test_a_stopped_endpoint_has_no_client_code_and_can_be_started_or_deleted(ctx: Context) -> None:
    make_ready(ctx)
    app = draw("serve/endpoints.py", name="tales")
    app.button(key="stop_tales").click().run()
    assert get_endpoint(ctx, "tales").state == "stopped"
    assert not app.code
    assert "stop_tales" not in [button.key for button in app.button]
    app.button(key="start_tales").click().run()
    assert get_endpoint(ctx, "tales").state == "starting"
    app.button(key="stop_tales").click().run()
    app.button(key="delete_tales").click().run()
    assert list_endpoints(ctx) == []
    assert not app.exception
    assert not any("tales" in warning.value for warning in app.warning), "its own page does not call it unknown"


def test_the_page_says_what_requests_to_an_alias_get_before_and_after_a_canary_is_promoted(ctx: Context) -> None:
    make_ready(ctx)
    add_row(ctx, Checkpoint(name="elm", origin="added", folder="bases/elm", family="llama", parameters=10))
    promote(ctx, "tiny", alias="teller@production", reason="the first", person=LOCAL)
    tiny, elm = (next(c.id for c in list_checkpoints(ctx) if c.name == name) for name in ("tiny", "elm"))
    deploy(ctx, checkpoint_id=tiny, name="tales", alias="teller@production", person=LOCAL)
    start_canary(ctx, "tales", checkpoint_id=elm, rules=CanaryRules(percent=10), person=LOCAL)
    after = "Requests to teller@production get elm too, though tiny holds the alias until it is moved."
    app = draw("serve/endpoints.py", name="tales")
    assert after in plain_words(app)
    promote_canary(ctx, "tales", person=LOCAL)
    app = draw("serve/endpoints.py", name="tales")
    assert after in plain_words(app)
    assert "Promote to teller@production" in [link.label for link in app.button]
    listed = plain_words(draw("serve/endpoints.py"))
    assert "Followed by tales. tales serves elm until the alias is moved." in listed
    assert "get tiny too, which holds the alias." in plain_words(app), "what a rollback does, before the click"


def test_a_checkpoint_whose_run_diverged_is_offered_last_and_marked(ctx: Context) -> None:
    make_ready(ctx)
    scenario = Scenario(ctx)
    wild = scenario.run(*diverging_points(), status=Status.FINISHED, name="wild")
    last = scenario.checkpoint(run=wild, step=200, family="llama", parameters=10)
    calm = add_row(ctx, Checkpoint(name="calm", origin="added", folder="bases/calm", family="llama", parameters=10))
    app = draw("serve/endpoints.py", name="tales")
    served = next(c.id for c in list_checkpoints(ctx) if c.name == "tiny")
    for menu, ids in (("swap", [calm, last]), ("canary", [calm, last, served]), ("shadow", [calm, last, served])):
        box = app.selectbox(key=f"{menu}_checkpoint_tales")
        assert box.options[:2] == ["calm", "wild · step 200 (diverged)"]
        assert len(box.options) == len(ids)
        assert box.value is None, "no checkpoint follows the served one"


def test_an_endpoint_is_scaled_split_promoted_and_rolled_back_on_the_page(ctx: Context) -> None:
    make_ready(ctx)
    add_row(ctx, Checkpoint(name="elm", origin="added", folder="bases/elm", family="llama", parameters=10))
    app = draw("serve/endpoints.py", name="tales")
    app.number_input(key="scale_number_tales").set_value(2).run()
    app.button(key="scale_tales").click().run()
    assert get_endpoint(ctx, "tales").target == 2
    elm = next(c.id for c in list_checkpoints(ctx) if c.name == "elm")
    assert app.selectbox(key="canary_checkpoint_tales").options == ["elm", "tiny (serves now)"]
    app.selectbox(key="canary_checkpoint_tales").select(elm).run()
    assert app.selectbox(key="canary_engine_tales").value == "auto", "the stable revision's"
    app.selectbox(key="canary_engine_tales").select("batching").run()
    app.number_input(key="canary_tales_percent").set_value(25.0).run()
    app.button(key="canary_tales").click().run()
    canary = get_endpoint(ctx, "tales").canary
    assert canary is not None
    assert (canary.checkpoint_name, canary.percent) == ("elm", 25)
    with ctx.db.read() as session:
        newest = session.scalars(select(Deployment).order_by(Deployment.revision.desc()).limit(1)).one()
        assert newest.config.engine == "batching"
    assert "aborts above 5 % errors" in texts(app)
    (ask,) = [popover for popover in app.get("popover") if popover.proto.popover.label == "Promote"]
    assert ask.proto.popover.disabled, "no replica of it is ready"
    assert "All requests to **tales** go to elm, which answers 25 % of them now; tiny is replaced." in texts(app)
    app.button(key="abort_canary_tales").click().run()
    assert get_endpoint(ctx, "tales").canary is None
    app.selectbox(key="canary_checkpoint_tales").select(elm).run()
    app.toggle(key="canary_tales_step_up").set_value(True).run()
    app.number_input(key="canary_tales_step_minutes").set_value(30.0).run()
    app.number_input(key="canary_tales_min_requests").set_value(7).run()
    app.button(key="canary_tales").click().run()
    assert "10, 25, 50, 100 %, then promoted; each step at least 30 min and 7 requests" in texts(app)
    assert re.search(r"next step at .* or later, 0 of 7 requests so far", texts(app))
    app.button(key="abort_canary_tales").click().run()
    app.selectbox(key="swap_checkpoint_tales").select(elm).run()
    app.button(key="swap_tales").click().run()
    swapped = get_endpoint(ctx, "tales")
    assert (swapped.checkpoint_name, swapped.target) == ("elm", 2)
    app.button(key="rollback_tales").click().run()
    assert get_endpoint(ctx, "tales").checkpoint_name == "tiny"
    app.selectbox(key="shadow_checkpoint_tales").select(elm).run()
    app.button(key="shadow_tales").click().run()
    shadow = get_endpoint(ctx, "tales").shadow
    assert shadow is not None
    assert (shadow.checkpoint_name, shadow.percent) == ("elm", 10)
    assert any("Not copied:" in caption.help for caption in app.caption)
    app.button(key="stop_shadow_tales").click().run()
    app.toggle(key="scale_tales_sleeps").set_value(True).run()
    app.button(key="save_scaling_tales").click().run()
    assert get_endpoint(ctx, "tales").config.scaling.sleep_after_s == 900
    deploy(ctx, checkpoint_id=elm, name="tales", num_replicas=2, person=LOCAL)
    app = draw("serve/endpoints.py", name="tales")
    assert app.get("progress"), "of the rollout"
    app.button(key="rollback_tales").click().run()
    assert get_endpoint(ctx, "tales").checkpoint_name == "tiny"


def test_a_revision_whose_checkpoint_is_deleted_is_not_offered_to_roll_back_to(ctx: Context) -> None:
    make_ready(ctx)
    elm = add_row(ctx, Checkpoint(name="elm", origin="added", folder="bases/elm", family="llama", parameters=10))
    deploy(ctx, checkpoint_id=elm, name="tales", person=LOCAL)
    with ctx.db.write() as session:
        tiny = session.scalars(select(Checkpoint).where(Checkpoint.name == "tiny")).one()
        tiny.deleted_at, tiny.name = ctx.now(), "tiny (deleted)"
    app = draw("serve/endpoints.py", name="tales")
    (back,) = [button for button in app.button if button.label == "Roll back"]
    assert back.disabled
    assert "The files of “tiny \\(deleted\\)” are gone\\." in back.help
    revisions = next(table.value for table in app.table if "Whole request p95, ms" in table.value.columns)
    assert [row.split(", ")[1] for row in revisions["Revision"]] == ["leaving", "stable"]


def test_a_replica_that_does_not_start_says_why_among_the_logs_too(ctx: Context) -> None:
    claim = make_ready(ctx)
    failure = JobFailure(cause="The files were deleted.", remedy="Deploy another checkpoint.")
    with ctx.db.write() as session:
        requeue(session, ctx, claim, error=failure, lasted_s=1)
    app = draw("serve/endpoints.py", name="tales", tab="Logs")
    assert "It has written nothing yet." not in texts(app)
    assert [error.value for error in app.error] == ["The files were deleted\\.  \nDeploy another checkpoint\\."]


def test_stop_and_delete_ask_first(ctx: Context) -> None:
    make_ready(ctx)
    app = draw("serve/endpoints.py", name="tales")
    assert "Clients get an error until it is started again" in texts(app)
    stop_endpoint(ctx, "tales", person=LOCAL)
    assert "The checkpoint and conversations stay" in texts(draw("serve/endpoints.py", name="tales"))


def test_another_persons_stopped_endpoint_can_be_started_and_says_who_may_delete_it(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ready(ctx)
    stop_endpoint(ctx, "tales", person=LOCAL)
    monkeypatch.setattr(services, "current_person", lambda: Person("ben", "Ben", "engineer"))
    app = draw("serve/endpoints.py", name="tales")
    button = app.button(key="delete_menu_tales")
    assert (button.disabled, "Its owner and admins delete it" in button.help) == (True, True)
    assert not app.button(key="start_tales").disabled


def test_the_deploy_form_suggests_a_free_name_and_keeps_what_was_typed(ctx: Context) -> None:
    make_ready(ctx)
    add_row(
        ctx,
        Checkpoint(
            name="Village chat · step 1,200", origin="added", folder="bases/chat", family="llama", parameters=10
        ),
    )
    chat = next(c.id for c in list_checkpoints(ctx) if c.name.startswith("Village"))
    app = draw("serve/endpoints.py", checkpoint=chat)
    assert app.text_input(key="deploy_name").value == "village-chat"
    tiny = next(c.id for c in list_checkpoints(ctx) if c.name == "tiny")
    app.selectbox(key="deploy_checkpoint").select(tiny).run()
    assert app.text_input(key="deploy_name").value == "tiny"
    app.text_input(key="deploy_name").set_value("my own").run()
    assert "'my own' can't be an endpoint's name" in texts(app)
    assert (app.button(key="deploy").label, app.button(key="deploy").disabled) == ("Correct the field first", True)
    app.text_input(key="deploy_name").set_value("mine").run()
    assert not app.button(key="deploy").disabled
    app.selectbox(key="deploy_checkpoint").select(chat).run()
    assert app.text_input(key="deploy_name").value == "mine"
    app.selectbox(key="deploy_precision").set_value("int8").run()
    app.number_input(key="deploy_max_perplexity_ratio").set_value(1.2).run()
    app.button(key="deploy").click().run()
    endpoint = get_endpoint(ctx, "mine")
    assert (endpoint.checkpoint_id, endpoint.config.precision) == (chat, "int8")
    assert app.query_params["name"] in ("mine", ["mine"]), "the page of what was deployed"
    assert "int8: not measured yet" in texts(app)
    with ctx.db.read() as session:
        config = session.scalar(select(Deployment.config).where(Deployment.checkpoint_id == chat))
    assert config is not None
    assert config.max_perplexity_ratio == 1.2


def test_the_deploy_form_holds_the_options_of_the_earlier_revision_and_says_what_changes(ctx: Context) -> None:
    make_ready(ctx)
    tiny = next(c.id for c in list_checkpoints(ctx) if c.name == "tiny")
    first = {"context": 200, "max_running": 3}
    deploy(ctx, checkpoint_id=tiny, name="tales", num_replicas=2, config=first, person=LOCAL)
    app = draw("serve/endpoints.py", checkpoint=tiny)
    app.text_input(key="deploy_name").set_value("tales").run()
    assert "Its options stay" in app.info[0].value
    context = app.number_input(key="deploy_tales_context")
    assert context.value == 200
    context.set_value(256).run()
    assert "Changes: context 200 tokens -> 256 tokens." in app.info[0].value.replace("\\", "")
    app.button(key="deploy").click().run()
    endpoint = get_endpoint(ctx, "tales")
    assert (endpoint.config.changed(), endpoint.target) == ({"context": 256, "max_running": 3}, 2)


def test_an_engine_that_is_not_installed_is_marked_in_the_list_with_its_cure(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROUNDHOUSE_VLLM", "/nowhere/vllm")
    make_checkpoint(ctx)
    app = draw("serve/endpoints.py")
    engine = app.selectbox(key="deploy_engine")
    assert "vLLM (not installed)" in engine.options
    assert {"Automatic", "Roundhouse"} <= set(engine.options)
    assert not app.warning
    engine.set_value("vllm").run()
    assert "/nowhere/vllm is not a command that can be run" in app.warning[0].value.replace("\\", "")


def test_chat_is_the_main_button_of_a_ready_endpoint(ctx: Context) -> None:
    make_ready(ctx)
    deploy(ctx, checkpoint_id=list_checkpoints(ctx)[0].id, name="later", person=LOCAL)
    assert draw("serve/endpoints.py", name="later").button(key="chat_later").proto.type == "secondary"
    app = draw("serve/endpoints.py", name="tales")
    assert app.button(key="chat_tales").proto.type == "primary"
    app.button(key="chat_tales").click().run()
    assert app.query_params["endpoint"] in ("tales", ["tales"])


def test_the_monitor_begins_with_whether_anything_is_wrong(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "**Nothing is wrong.**] No endpoint is deployed, no open alert" in texts(draw("serve/monitor.py"))
    make_ready(ctx)
    assert "**Nothing is wrong.**] 1 of 1 endpoint ready, no open alert" in texts(draw("serve/monitor.py"))
    scale_endpoint(ctx, "tales", 2, person=LOCAL)
    assert "**Starting:**] tales, 1 of 2 replicas ready" in texts(draw("serve/monitor.py")).replace("\\", "")
    rows = [("a", "lost"), ("b", "refused"), ("c", "finished")]
    add_usage(ctx, [UsageRow(id_, "tales", None, None, 5, 0, None, 500.0, status, ctx.now()) for id_, status in rows])
    shown = texts(draw("serve/monitor.py"))
    assert "Something is wrong" in shown
    assert "1 of 2 requests failed in 1 h, besides 1 refused" in shown, "as errors count, without refused ones"
    assert "Nothing is wrong" not in shown
    monkeypatch.setattr(type(HEALTH), "outages", lambda _: (GATEWAY,))
    assert "out of reach: gateway" in texts(draw("serve/monitor.py")).replace("\\", "")


def test_a_draft_is_chosen_on_the_form_and_shown_on_the_card(ctx: Context) -> None:
    make_ready(ctx)
    add_row(ctx, Checkpoint(name="large", origin="added", folder="bases/large", family="llama", parameters=10**9))
    large, tiny = (next(c.id for c in list_checkpoints(ctx) if c.name == name) for name in ("large", "tiny"))
    app = draw("serve/endpoints.py", checkpoint=large)
    app.text_input(key="deploy_name").set_value("drafted").run()
    app.selectbox(key="deploy_draft").select(tiny).run()
    app.button(key="deploy").click().run()
    assert get_endpoint(ctx, "drafted").draft_name == "tiny"
    assert "Draft: tiny · nothing drafted yet" in texts(app).replace("\\", "")


@pytest.mark.parametrize("arithmetic", ["compiled for x86_64 with AVX2, FMA", "PyTorch, because of a test"])
def test_the_card_says_what_computes_the_layers(ctx: Context, arithmetic: str) -> None:
    claim = make_ready(ctx)
    with ctx.db.write() as session:
        event = GaugeEvent(running=0, waiting=0, tokens_per_second=0.0, arithmetic=arithmetic)
        record_gauge(session, ctx, claim, event)
    assert get_endpoint(ctx, "tales").arithmetics == [arithmetic]
    assert f"On the CPU: {arithmetic}" in texts(draw("serve/endpoints.py", name="tales")).replace("\\", "")


def test_minutes_without_a_request_are_no_first_tokens_of_0_ms(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    make_ready(ctx)
    times = [(None, None, None), (90.0, 120.0, 130.0), (None, None, None), (80.0, 140.0, 150.0)]
    points = tuple(TrafficPoint(ctx.now(), 60, requests=int(ttft[0] is not None), ttft_ms=ttft) for ttft in times)
    total = TrafficPoint(ctx.now(), 3600, requests=2, ttft_ms=(85.0, 139.0, 149.0))
    traffic = Traffic(find_window("1 h"), points, total)
    monkeypatch.setattr(endpoint_page, "read_traffic", lambda *_, **__: traffic)
    page = draw("serve/endpoints.py", name="tales")
    (shown,) = [metric for metric in page.metric if metric.label.startswith("First token")]
    assert shown.value == "85 / 139 ms"
    (minutes,) = [html.proto.body for html in page.get("html") if "First token" in html.proto.body]
    assert re.findall('title="([^"]*)"', minutes) == ["120", "140"]


def test_many_machines_are_searched_and_paged_and_those_in_trouble_come_first(ctx: Context) -> None:
    for number in range(60):
        seen = replace(ctx, now=partial(sub, ctx.now(), timedelta(minutes=1 if number in (7, 42) else 0)))
        beat(seen, name=f"m{number}", host=f"gpu{number:02}", pid=1, slots={"train": 1}, devices=[], gauges={})
    app = draw("admin/workers.py")
    hosts = [heading.value for heading in app.subheader if heading.value.startswith("gpu")]
    assert hosts[:3] == ["gpu07", "gpu42", "gpu00"]
    assert len(hosts) == 20
    assert "60 machines, 2 with a worker that is silent." in texts(app)
    app.text_input(key="machine").input("GPU5").run()
    assert [heading.value for heading in app.subheader if heading.value.startswith("gpu")] == [
        f"gpu5{digit}" for digit in range(10)
    ]
    app.text_input(key="machine").input("tpu").run()
    assert "No machine has this name." in texts(app)


def test_memory_needed_is_shown_beside_free_memory_before_deploying(ctx: Context) -> None:
    add_row(
        ctx, Checkpoint(name="seven", origin="added", folder="bases/seven", family="llama", parameters=7_000_000_000)
    )
    gauges = {"memory_used_bytes": 2 * 10**9, "memory_total_bytes": 10 * 10**9, "gpus": []}
    beat(ctx, name="lab/serve", host="lab", pid=1, slots={"serve": 1}, devices=[], gauges=gauges)
    app = draw("serve/endpoints.py")
    shown = texts(app).replace("\\", "")
    assert "weights 28.0 GB" in shown
    assert "Free on lab: 8.0 GB" in shown
    idle = gauges | {"memory_used_bytes": 0}
    beat(ctx, name="own", host=socket.gethostname(), pid=1, slots={"serve": 1}, devices=[], gauges=idle)
    assert "Free on this machine: 10.0 GB" in texts(draw("serve/endpoints.py")).replace("\\", "")
    assert "may not fit" in app.warning[0].value
    app.selectbox(key="deploy_engine").select("vllm").run()
    shown = texts(app).replace("\\", "")
    assert "Memory of vLLM is not estimated" in shown
    assert "weights 28.0 GB" not in shown
    app.text_input(key="deploy_name").set_value("large").run()
    app.button(key="deploy").click().run()
    assert "No worker that serves can start engine vllm" in app.error[0].value


def test_an_unknown_checkpoint_in_the_address_is_named(ctx: Context) -> None:
    make_ready(ctx)
    assert "“gone”" in draw("serve/endpoints.py", checkpoint="gone").error[0].value


def test_an_unknown_conversation_is_an_error() -> None:
    app = draw("serve/playground.py", conversation="nothing")
    assert "There is no such conversation" in app.error[0].value.replace("\\", "")


def test_workers_are_drawn_with_their_jobs(ctx: Context) -> None:
    gauges = {"cpu_percent": 12.0, "cpu_count": 2, "memory_used_bytes": 2**30, "memory_total_bytes": 2**32, "gpus": []}
    gauges["engines"] = ["vllm"]
    beat(ctx, name="lab/train", host="lab", pid=1, slots={"train": 1}, devices=["0"], gauges=gauges)
    app = draw("admin/workers.py")
    assert "12 %" in [metric.value for metric in app.metric]
    assert "Slot 0: free" in texts(app)
    assert "Engines beside Roundhouse's: vLLM" in texts(app)


def test_a_worker_of_an_older_version_is_named_with_the_cure(ctx: Context) -> None:
    reason = "A newer version has upgraded the database to revision 0040; this worker knows 0033."
    beat(ctx, name="lab/cpu", host="lab", pid=1, slots={"cpu": 2}, devices=[], gauges={"takes_no_jobs": reason})
    app = draw("admin/workers.py")
    assert [warning.value.replace("\\", "") for warning in app.warning] == [
        f"Takes no jobs. {reason} Update Roundhouse on this machine and restart its worker."
    ]
    assert [row["State"] for table in app.table for row in table.value.to_dict("records")] == ["takes no jobs"]


def test_the_tokens_that_runs_share_are_counted_with_their_state(ctx: Context) -> None:
    folder = ctx.artifacts.folder("tokens", "text-train-1")
    (folder / "ids").write_bytes(bytes(3_000_000))
    identity = {"dataset": "a" * 64, "form": "text", "split": "train", "rows": 90}
    manifest = Manifest(identity=identity, dtype="uint16", counts={"rows": 40}, bytes={"ids": 3_000_000})
    (folder / MANIFEST).write_text(json.dumps(manifest.as_dict()))
    app = draw("admin/workers.py")
    assert next(metric.value for metric in app.metric if metric.label == "Tokens") == "3.0 MB"
    assert "40 of 90 rows" in str([table.value.to_dict("records") for table in app.table])


def test_an_admin_sets_and_removes_a_price_on_the_page_of_costs(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    app = draw("admin/costs.py")
    assert app.button(key="set_price").disabled
    app.text_input(key="price_name").set_value("H100").run()
    app.number_input(key="price_usd").set_value(-1.0).run()
    assert app.button(key="set_price").disabled, "the field says what is wrong"
    app.number_input(key="price_usd").set_value(2.5).run()
    app.button(key="set_price").click().run()
    assert current_prices(ctx).hour_usd("NVIDIA H100", "gpu") == 2.5
    assert "$2.50 an hour" in texts(app).replace("\\", "")
    with monkeypatch.context() as patch:
        patch.setattr(services, "current_person", lambda: Person("ben", "Ben", "engineer"))
        other = draw("admin/costs.py")
        assert "price_name" not in [field.key for field in other.text_input]
        assert "$2.50 an hour" in texts(other).replace("\\", "")
    app.button(key="remove_price_H100").click().run()
    assert not current_prices(ctx).are_set


def test_small_sums_are_plain_and_the_first_day_forecasts_nothing(ctx: Context) -> None:
    """Three seconds of a device at 4 cents an hour were "$3.33e-05", and the forecast of the month too."""
    set_price(ctx, "", 0.04, person=LOCAL)
    with ctx.db.write() as session:
        session.add(Job(id="run", kind="train", queue="train", status="finished", payload={}, title="run"))
        session.flush()
        times = {"started_at": ctx.now() - timedelta(seconds=3), "ended_at": ctx.now()}
        session.add(DeviceUse(job_id="run", attempt=1, device_name="cpu", kind="cpu", hour_usd=0.04, **times))
    app = draw("admin/costs.py")
    assert {metric.label: metric.value for metric in app.metric} == {
        "Total": "under $0.01",
        "Training and jobs": "under $0.01",
        "Requests": "$0.00",
        "Idle endpoints": "$0.00",
        "Forecast, this month": "–",
    }
    assert "too early to say, after 0 of the 3 full days" in texts(app)
    assert "e-0" not in texts(app)


def test_pages_that_leave_load_tests_out_say_how_many(ctx: Context) -> None:
    """Costs summed to 354 requests by key and to 188 by endpoint, without a word."""
    make_ready(ctx)
    rows = [("a", ""), ("b", LOAD_TEST), ("c", LOAD_TEST)]
    add_usage(
        ctx,
        [
            UsageRow(id_, "tales", None, None, 5, 5, 9.0, 9.0, "finished", ctx.now(), variant=variant, device_s=1.0)
            for id_, variant in rows
        ],
    )
    left_out = "Not counted: 2 requests of load tests."
    assert left_out in texts(draw("serve/monitor.py"))
    assert left_out in texts(draw("serve/endpoints.py", name="tales"))
    costs = draw("admin/costs.py")
    assert "Requests of load tests are part of the cost" in texts(costs)
    (table,) = [table.value for table in costs.table if "Load test requests" in table.value]
    assert table[["Requests", "Load test requests"]].to_numpy().tolist() == [["1", "2"]]


def test_people_and_keys_are_drawn_without_a_key_or_a_hash(ctx: Context) -> None:
    key = create_key(ctx, "Support bot", person=LOCAL)
    add_user(ctx, "maya", "a long password", person=LOCAL)
    app = draw("admin/people.py")
    assert "Support bot" in texts(app)
    assert re.search(r"never used · created \d+ \w+ \d{4}, \d\d:\d\d UTC \(just now\)", texts(app))
    assert key not in texts(app)
    assert "**maya** · engineer" in texts(app)


def test_what_a_key_used_beyond_its_budget_is_shown_in_percent(ctx: Context) -> None:
    """“$0.01 of $0.01” hid 109 %."""
    create_key(ctx, "Support bot", limits=KeyLimits(tokens_per_day=100), person=LOCAL)
    (key,) = list_keys(ctx, person=LOCAL)
    add_usage(ctx, [UsageRow("r", "tales", key.id, None, 50, 59, 9.0, 9.0, "finished", ctx.now())])
    assert "109 of 100 tokens today (109 %)" in str(draw("admin/people.py").get("progress")[0].proto)


@pytest.mark.parametrize("fails_at", ["never", "after the key was stored"])
def test_two_clicks_make_one_key_and_show_its_secret(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, fails_at: str
) -> None:
    """The second click of two interrupted the drawing of the first: two keys were made, and a secret was shown that was
    not the first's.
    """
    app = draw("admin/people.py")
    form = next(str(field.key) for field in app.text_input if str(field.key).startswith("name_new_key_"))
    app.text_input(key=form).input("bot")
    submit = f"FormSubmitter:{form.removeprefix('name_')}-Create key"
    if fails_at != "never":

        def interrupted(*args: Any, **kwargs: Any) -> str:
            create_key(*args, **kwargs)
            raise OSError("interrupted")

        with monkeypatch.context() as patch:
            patch.setattr("pages.components.people.keys.create_key", interrupted)
            app.button(key=submit).click().run()
        assert "Copy it now" not in texts(app)
    app.button(key=submit).click().run()
    (row,) = list_keys(ctx, person=LOCAL)
    (secret,) = [code.value for code in app.code if code.value.startswith("rh-") and len(code.value) > 20]
    grant = check_key(ctx, secret)
    assert grant is not None
    assert (grant.id, grant.name) == (row.id, "bot")
    app.run()
    assert secret in [code.value for code in app.code], "it stays until it is dismissed"
    assert any(f"api_key='{secret}'" in code.value for code in app.code), "the code below calls with it"
    app.button(key="fresh_key_close").click().run()
    assert secret not in [code.value for code in app.code]


def test_a_form_that_failed_keeps_what_was_typed(ctx: Context) -> None:
    app = draw("admin/people.py")
    form = next(str(field.key) for field in app.text_input if str(field.key).startswith("name_new_key_"))
    tokens = f"{form.removeprefix('name_')}_tokens"
    app.text_input(key=form).input("bot")
    app.number_input(key=tokens).set_value(0.5)
    app.button(key=f"FormSubmitter:{form.removeprefix('name_')}-Create key").click().run()
    assert "0.5 is not a whole number." in texts(app).replace("\\", "")
    assert not list_keys(ctx, person=LOCAL)
    assert app.text_input(key=form).value == "bot"
    app.text_input(key="account_name_0").input("maya")
    app.text_input(key="account_password_0").input("short")
    app.button(key="FormSubmitter:new_account_0-Add account").click().run()
    assert "5 characters" in texts(app)
    assert app.text_input(key="account_name_0").value == "maya"
    app.text_input(key="account_password_0").input("long enough for it")
    app.button(key="FormSubmitter:new_account_0-Add account").click().run()
    assert get_account(ctx, "maya").role == "engineer"
    assert app.text_input(key="account_name_1").value == ""


def test_revoking_a_key_asks_and_names_what_ends(ctx: Context) -> None:
    create_key(ctx, "Support bot", person=LOCAL)
    (key,) = list_keys(ctx, person=LOCAL)
    app = draw("admin/people.py")
    (ask,) = [popover for popover in app.get("popover") if popover.proto.popover.label == "Revoke"]
    assert "Programs that use **Support bot** are refused from now on, permanently. It was never used." in texts(app)
    assert [button.key for button in ask.children.values() if button.type == "button"] == [f"revoke_{key.id}"]
    app.button(key=f"revoke_{key.id}").click().run()
    assert list_keys(ctx, person=LOCAL)[0].revoked_at is not None


@pytest.mark.parametrize("asks", [False, True], ids=["loopback", "sign-in"])
def test_the_page_says_whether_anyone_is_asked(ctx: Context, monkeypatch: pytest.MonkeyPatch, asks: bool) -> None:
    """With an account and no sign-in, the page said nothing; under sign-in it said that no key was needed on this
    machine.
    """
    maya = add_user(ctx, "maya", "a long password", role="admin", person=LOCAL)
    monkeypatch.setattr(services, "get_context", lambda: replace(ctx, sign_in=asks))
    monkeypatch.setattr(services, "person_from_cookie", lambda *_: maya)
    app = draw("admin/people.py")
    shown = "\n".join([texts(app), *(warning.value for warning in app.warning)])
    assert ("No one is asked to sign in" in shown) == (not asks)
    assert ("Every visitor is asked to sign in" in shown) == asks
    assert ("No request to `/v1` is asked for a key" in shown) == (not asks)
    assert ("Every request to `/v1` is asked for a key" in shown) == asks


def test_an_admin_changes_an_account_on_the_page_and_the_last_one_stays(ctx: Context) -> None:
    maya = add_user(ctx, "maya", "a long password", person=LOCAL)
    ada = add_user(ctx, "ada", "a long password", role="admin", person=LOCAL)
    app = draw("admin/people.py")
    app.button(key=f"ask_disable_{maya.id}").click().run()
    assert get_account(ctx, "maya").disabled_at is None
    assert "maya is signed out at once" in texts(app)
    app.button(key=f"disable_{maya.id}").click().run()
    assert get_account(ctx, "maya").disabled_at is not None
    app.button(key=f"enable_{maya.id}").click().run()
    assert get_account(ctx, "maya").disabled_at is None
    app.selectbox(key=f"role_{maya.id}").select("lead")
    app.button(key=f"FormSubmitter:role_form_{maya.id}-Change role").click().run()
    assert get_account(ctx, "maya").role == "lead"
    app.text_input(key=f"password_{maya.id}").input("short")
    app.button(key=f"FormSubmitter:password_form_{maya.id}-Reset password").click().run()
    assert "5 characters" in app.error[0].value
    app.button(key=f"ask_disable_{ada.id}").click().run()
    app.button(key=f"disable_{ada.id}").click().run()
    assert "only admin" in app.error[0].value
    assert get_account(ctx, "ada").disabled_at is None


def test_a_server_with_the_openai_api_is_connected_in_the_form(ctx: Context) -> None:
    with serve_api() as api:
        app = draw("serve/endpoints.py")
        app.segmented_control(key="deploy_source").set_value("Server with the OpenAI API").run()
        for key, value in {"name": "far", "url": api.url, "model": "qwen"}.items():
            app.text_input(key=f"upstream_{key}").set_value(value)
        app.run()
        assert f"url: {api.url}" in app.code[0].value
        app.button(key="upstream_connect").click().run()
        assert not app.exception
        assert get_endpoint(ctx, "far").state == "ready"
        assert "chat, completions" in texts(draw("serve/endpoints.py", name="far"))


@pytest.mark.parametrize("page", ["serve/monitor.py", "admin/workers.py"])
def test_what_fails_in_a_part_that_refreshes_itself_is_said_as_elsewhere(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    def fail(_: Context) -> None:
        raise Unavailable("The database is locked.", remedy="Try again.")

    monkeypatch.setattr(gauges_module, "read_live", fail)
    assert "The database is locked" in texts(draw(page))


def test_the_workers_page_lists_replicas_with_their_machine_and_address(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_ready(ctx)
    beat(
        ctx,
        name="lab/serve",
        host="lab",
        pid=1,
        slots={"serve": 2},
        devices=[],
        gauges={"cpu_percent": 5.0},
    )
    (row,) = [
        row for table in draw("admin/workers.py").table for row in table.value.to_dict("records") if "Address" in row
    ]
    assert (row["Endpoint"], row["State"]) == ("tales", "ready")
    assert str(row["Replica"]) == "1"
    assert row["Address"].endswith(":1")
    with monkeypatch.context() as patch:
        patch.setattr(services, "current_person", lambda: Person("ben", "Ben", "engineer"))
        assert not any(
            "Address" in table.value for page in ("admin/workers.py", "serve/monitor.py") for table in draw(page).table
        )
    lost = replace(ctx, now=lambda: ctx.now() + timedelta(minutes=5))
    assert [replica.status for replica in read_live(lost).replicas] == ["lost"]
    deploy(ctx, checkpoint_id=list_checkpoints(ctx)[0].id, name="second", person=LOCAL)
    app = draw("admin/workers.py")
    assert "without a machine that reports" in texts(app)
    assert "none yet" in str([table.value.to_dict("records") for table in app.table])


@pytest.mark.parametrize("sign_in", [False, True])
def test_a_page_says_that_the_database_does_not_answer_and_what_to_do(
    ctx: Context, monkeypatch: pytest.MonkeyPatch, sign_in: bool
) -> None:
    away = OperationalError("select 1", {}, OSError("connection refused"))

    def fail(*_: object) -> None:
        raise away

    monkeypatch.setattr(ctx.db, "read", fail)
    monkeypatch.setattr(services, "get_context", lambda: replace(ctx, sign_in=sign_in))
    monkeypatch.setattr(services, "person_from_cookie", fail)
    app = draw("serve/endpoints.py")
    assert [error.value.startswith("The database does not answer") for error in app.error] == [True]


def test_the_address_of_a_lineage_names_its_object(site: Context, scenario: Scenario) -> None:
    elm, oak = scenario.checkpoints("Elm", "Oak")
    app = open_page("serve/lineage.py", checkpoint=elm)
    app.selectbox(key=f"lineage_checkpoint_{elm}").set_value(("checkpoint", oak)).run()
    assert_sound(app)
    assert app.query_params["checkpoint"] in (oak, [oak])
    assert app.subheader[0].value == "Oak"
    app.query_params["checkpoint"] = elm  # the way back
    app.run()
    assert app.subheader[0].value == "Elm"
