"""Alerts are opened, sent and resolved once, to a real webhook and a real mail server."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from sqlalchemy import update
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backend.db.tables import AlertDelivery
from backend.domain.serving.key_limits import KeyLimits
from backend.infra.notifier import Notifier
from backend.services.context import LOCAL, Context
from backend.services.next_steps import next_steps
from backend.services.people.keys import check_key, create_key
from backend.services.serving.deployments import stop_endpoint
from backend.services.serving.monitoring.alerts import (
    MAX_ATTEMPTS,
    AlertCondition,
    AlertWatch,
    failing_channels,
    list_alerts,
    pause_s,
    send_due,
    send_test,
    settle_alerts,
)
from backend.services.serving.monitoring.tick import forget_old
from backend.services.serving.usage import UsageRow, add_usage
from backend.services.situation import read_situation
from pages.components.routes import addresses
from tests.support import run_world
from tests.support.gateway_fixtures import served
from tests.support.scenario import Scenario

DOWN = AlertCondition("replicas:x", "replica_down", "critical", "tales: 0 of 1 replicas ready")


class MailServer(socketserver.StreamRequestHandler):
    """As much of SMTP as one message needs."""

    mails: list[str]

    def handle(self) -> None:
        self.wfile.write(b"220 test\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"DATA":
                self.wfile.write(b"354 go\r\n")
                text = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    text += part
                self.mails.append(text.decode())
            self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 ok\r\n")
            if verb == b"QUIT":
                return


@pytest.fixture
def posted() -> Iterator[tuple[list[dict[str, str]], str]]:
    messages: list[dict[str, str]] = []

    async def hook(request: Request) -> Response:
        messages.append(json.loads(await request.body()))
        return Response(status_code=204)

    with served(Starlette(routes=[Route("/hook", hook, methods=["POST"])])) as url:
        yield messages, f"{url}/hook"


def test_a_condition_is_sent_once_however_often_it_is_met_and_once_when_it_ends(
    any_ctx: Context, posted: tuple[list[dict[str, str]], str]
) -> None:
    messages, url = posted
    ctx = replace(any_ctx, notifier=Notifier(webhook_url=url))
    for _ in range(3):
        settle_alerts(ctx, [DOWN])
    assert [(m["state"], m["kind"]) for m in messages] == [("firing", "replica_down")]
    settle_alerts(ctx, [])
    settle_alerts(ctx, [])
    assert [m["state"] for m in messages] == ["firing", "resolved"]
    settle_alerts(ctx, [DOWN])
    assert len(messages) == 3
    event = AlertCondition("run:1", "run_ended", "info", "Run a finished", is_event=True)
    for _ in range(2):
        settle_alerts(ctx, [DOWN, event])
    assert [m["state"] for m in messages[3:]] == ["event"]
    settle_alerts(ctx, [replace(event, fingerprint="run:2", severity="critical", message="Run b failed")])
    assert [alert.message.removeprefix(DOWN.message) for alert in list_alerts(ctx)] == [
        "Run b failed",
        ". Ended: the endpoint was stopped",
        ". Ended: the endpoint was stopped",
    ], "a run that finished is no alert"


def test_an_alert_is_mailed_and_a_webhook_that_is_away_is_noted_without_its_address(ctx: Context) -> None:
    MailServer.mails = []
    with socketserver.TCPServer(("127.0.0.1", 0), MailServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        smtp = f"smtp://127.0.0.1:{server.server_address[1]}"
        notifier = Notifier(webhook_url="http://127.0.0.1:1/secret", email_to=("ops@example.org",), smtp_url=smtp)
        settle_alerts(replace(ctx, notifier=notifier), [replace(DOWN, message="tales:\r\nBcc: x@example.org")])
        server.shutdown()
    (mail,) = MailServer.mails
    assert "Subject: Roundhouse: tales: Bcc: x@example.org" in mail
    assert "\nBcc:" not in mail.split("\r\n\r\n")[0]
    assert list_alerts(ctx)[0].problem == "webhook: connection refused, 1 try"
    assert "secret" not in repr(notifier)


def test_a_channel_that_is_away_is_tried_again_with_growing_pauses_and_each_message_arrives_once(
    any_ctx: Context, posted: tuple[list[dict[str, str]], str]
) -> None:
    messages, url = posted
    start = any_ctx.now()

    def at(seconds: float, webhook: str = "http://127.0.0.1:1/hook") -> Context:
        return replace(any_ctx, now=lambda: start + timedelta(seconds=seconds), notifier=Notifier(webhook_url=webhook))

    settle_alerts(at(0), [DOWN])
    assert list_alerts(any_ctx)[0].problem == "webhook: connection refused, 1 try"
    assert [send_due(at(29, url)), messages] == [0, []], "its pause is not over"
    send_due(at(31))
    send_due(at(62))
    assert list_alerts(any_ctx)[0].problem == "webhook: connection refused, 2 tries"
    assert send_due(at(31 + 61, url)) == 1
    assert [m["state"] for m in messages] == ["firing"]
    assert (list_alerts(any_ctx)[0].problem, list_alerts(any_ctx)[0].sent_at) == ("", start + timedelta(seconds=92))
    settle_alerts(at(200, url), [])
    assert [m["state"] for m in messages] == ["firing", "resolved"]
    assert [pause_s(attempts) for attempts in (1, 2, 3, 8, 30)] == [30, 60, 120, 3600, 3600]


def test_a_message_that_no_channel_takes_is_given_up_after_about_a_day(ctx: Context) -> None:
    away = replace(ctx, notifier=Notifier(webhook_url="http://127.0.0.1:1/hook"))
    settle_alerts(away, [DOWN])
    with ctx.db.write() as session:
        session.execute(update(AlertDelivery).values(attempts=MAX_ATTEMPTS - 1, next_at=ctx.now()))
    send_due(away)
    assert list_alerts(ctx)[0].problem == f"webhook: connection refused, {MAX_ATTEMPTS} tries, given up"
    assert 20 < sum(pause_s(attempts) for attempts in range(1, MAX_ATTEMPTS)) / 3600 < 30
    forget_old(replace(ctx, now=lambda: ctx.now() + timedelta(days=100)))


def test_two_workers_that_notice_one_condition_at_once_send_it_once(
    any_ctx: Context, posted: tuple[list[dict[str, str]], str]
) -> None:
    messages, url = posted
    ctx = replace(any_ctx, notifier=Notifier(webhook_url=url))
    event = AlertCondition("run:1", "run_ended", "info", "Run a finished", is_event=True)
    threads = [threading.Thread(target=settle_alerts, args=(ctx, [DOWN, event])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle_alerts(ctx, [DOWN, event])
    assert sorted(m["state"] for m in messages) == ["event", "firing"]


def test_a_message_links_to_the_page_of_what_it_is_about(
    ctx: Context, scenario: Scenario, posted: tuple[list[dict[str, str]], str]
) -> None:
    messages, url = posted
    ctx = replace(ctx, notifier=Notifier(webhook_url=url), pages_url="http://lab:8501")
    done = scenario.run(status=run_world.Status.FINISHED, name="done")
    wild = scenario.run(status=run_world.Status.FAILED, cause="The loss became NaN.", name="wild", seed=1)
    scenario.endpoint(num_replicas=2)
    watch = AlertWatch()
    watch.check(ctx)
    watch.check(replace(ctx, now=lambda: ctx.now() + timedelta(seconds=61)))
    pages = {message["kind"]: message["url"] for message in messages}
    assert pages["run_ended"] == f"http://lab:8501/run?run={done.id}"
    assert pages["run_diverged"] == f"http://lab:8501/run?run={wild.id}"
    assert pages["replica_down"] == "http://lab:8501/endpoints?name=tales"
    (fingerprint,) = (message["fingerprint"] for message in messages if message["kind"] == "run_ended")
    assert done.id in fingerprint
    others = [("ttft:tales", "slow_first_token"), ("budget:x:usd:day", "budget"), ("disk:warning", "disk")]
    settle_alerts(ctx, [AlertCondition(fingerprint, kind, "warning", kind) for fingerprint, kind in others])
    paths = {urlsplit(message["url"]).path for message in messages}
    assert paths == {"/run", "/endpoints", "/monitor", "/people", "/workers"}
    assert paths <= set(addresses())


def test_a_channel_that_fails_for_a_minute_is_an_alert_that_the_other_channel_takes(
    ctx: Context, scenario: Scenario, posted: tuple[list[dict[str, str]], str]
) -> None:
    async def fail(request: Request) -> Response:
        return Response(status_code=500)

    messages, url = posted
    start = ctx.now()
    MailServer.mails = []
    with (
        served(Starlette(routes=[Route("/hook", fail, methods=["POST"])])) as broken,
        socketserver.TCPServer(("127.0.0.1", 0), MailServer) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        smtp = f"smtp://127.0.0.1:{server.server_address[1]}"
        notifier = Notifier(webhook_url=f"{broken}/hook", email_to=("ops@example.org",), smtp_url=smtp)

        def at(seconds: float, sender: Notifier = notifier) -> Context:
            return replace(ctx, now=lambda: start + timedelta(seconds=seconds), notifier=sender)

        scenario.run(status=run_world.Status.FINISHED, name="done")
        watch = AlertWatch()
        watch.check(at(1))
        assert watch.check(at(15)) == []
        (failing,) = failing_channels(at(16))
        assert failing.sentence == "1 alert message not delivered by webhook: the server answered 500"
        (said,) = watch.check(at(80))
        assert said == f"firing: {failing.sentence}"
        assert failing.sentence in [step.text for step in next_steps(read_situation(at(81), LOCAL)) if step.is_alert]
        assert [failing.sentence in " ".join(mail.split()) for mail in MailServer.mails] == [False, True]
        works = replace(notifier, webhook_url=url)
        watch.check(at(400, works))
        assert (failing_channels(at(401, works)), [m["kind"] for m in messages]) == ([], ["run_ended"])
        assert watch.check(at(415, works)) == [
            f"resolved: {failing.sentence}. Ended: messages are taken again, or the channel is no longer set"
        ]
        server.shutdown()


def test_a_test_message_says_what_came_of_each_channel(ctx: Context, posted: tuple[list[dict[str, str]], str]) -> None:
    messages, url = posted
    notifier = Notifier(webhook_url=url, email_to=("ops@example.org",), smtp_url="smtp://127.0.0.1:1")
    results = send_test(notifier, pages_url=ctx.pages_url)
    assert results == {"webhook": "", "e-mail": "e-mail: connection refused"}
    assert [message["kind"] for message in messages] == ["test"]
    assert list_alerts(ctx) == []


def test_a_lost_replica_is_an_alert_after_a_minute_and_a_spent_budget_at_once(ctx: Context, scenario: Scenario) -> None:
    scenario.endpoint(num_replicas=2)
    grant = check_key(ctx, create_key(ctx, "bot", person=LOCAL, limits=KeyLimits(tokens_per_day=100)))
    assert grant is not None
    add_usage(ctx, [UsageRow("u", "tales", grant.id, None, 80, 5, None, 1.0, "finished", ctx.now())])
    watch = AlertWatch()
    kinds = {text.split(": ")[1] for text in watch.check(ctx)}
    assert "Key “bot”" in kinds
    assert "tales" not in kinds
    later = ctx.now() + timedelta(seconds=61)
    assert watch.check(replace(ctx, now=lambda: later)) == ["firing: tales: 0 of 2 replicas ready"]


@pytest.mark.parametrize(
    ("cause", "verb"),
    [
        ("The loss became NaN at step 10.", "diverged"),
        (
            "The gradient became inf at step 6, learning rate 9.5. The loss is finite and its gradient is not.",
            "diverged",
        ),
        ("The maintenance of the store began.", "failed"),
    ],
)
def test_a_run_that_diverged_is_said_once_with_its_cause(
    ctx: Context, scenario: Scenario, cause: str, verb: str
) -> None:
    scenario.run(status=run_world.Status.FAILED, cause=cause, remedy="Lower learning_rate.", name="wild", seed=1)
    watch = AlertWatch()
    messages = [text for text in watch.check(ctx) if "wild" in text]
    assert messages == [f"event: Run wild {verb}: {cause}"]
    assert [text for text in watch.check(ctx) if "wild" in text] == []


def test_a_run_that_diverges_is_an_alert_until_it_ends(ctx: Context, scenario: Scenario) -> None:
    calm, wild = (scenario.run(name=name, max_steps=400) for name in ("calm", "wild"))
    run_world.report(ctx, run_world.claim(ctx, calm), *run_world.points(1, 200))
    claim = run_world.claim(ctx, wild)
    run_world.report(ctx, claim, *run_world.points(1, 30))
    watch = AlertWatch()
    assert [text for text in watch.check(ctx) if "diverging" in text] == []
    run_world.report(ctx, claim, *run_world.diverging_points()[30:])
    assert [text for text in watch.check(ctx) if "diverging" in text] == []  # diagnosed less than a minute ago
    later = replace(ctx, now=lambda: ctx.now() + timedelta(seconds=61))
    (message,) = [text for text in watch.check(later) if "diverging" in text]
    assert message.startswith("firing: Run wild is diverging: The loss has risen from ")
    assert [text for text in watch.check(later) if "diverging" in text] == []
    run_world.report(ctx, claim, *run_world.points(201, 400))
    much_later = replace(ctx, now=lambda: ctx.now() + timedelta(hours=1))
    for one in (watch, AlertWatch()):  # its loss falls again; the second is a worker's that has just started
        assert [text for text in one.check(much_later) if "diverging" in text] == []
    run_world.end(ctx, claim, run_world.Status.CANCELLED)
    (ended,) = [text for text in watch.check(later) if "diverging" in text]
    assert ended == f"{message.replace('firing', 'resolved').rstrip('.')}. Ended: the run ended"


def test_a_slow_endpoint_that_is_slow_no_longer_says_why(
    ctx: Context, scenario: Scenario, posted: tuple[list[dict[str, str]], str]
) -> None:
    """The end of the alert read as its beginning, also where requests had only ceased."""
    messages, url = posted
    scenario.endpoint(num_replicas=1)
    limited = replace(
        ctx, notifier=Notifier(webhook_url=url), policy=replace(ctx.policy, alert_ttft_p95_ms=5.0, keep_free_bytes=0)
    )
    now = ctx.now()

    def check(minutes: float, ttft_ms: float | None) -> str:
        at = replace(limited, now=lambda: now + timedelta(minutes=minutes))
        if ttft_ms is not None:
            rows = [
                UsageRow(f"{minutes} {n}", "tales", None, None, 5, 5, ttft_ms, 2 * ttft_ms, "finished", at.now())
                for n in range(30)
            ]
            add_usage(at, rows)
        AlertWatch().check(at)
        return next((m["message"] for m in reversed(messages) if m["kind"] == "slow_first_token"), "")

    slow = check(0, 247.0)
    assert slow.startswith("tales: first token p95 is 2")
    assert check(60, None) == f"{slow}. Ended: no requests in the last 15 min"
    assert check(120, 247.0) == slow
    assert check(180, 2.0).startswith(f"{slow}. Ended: back below its limit, ")
    assert check(240, 247.0) == slow
    stop_endpoint(ctx, "tales", person=LOCAL)
    assert check(241, None) == f"{slow}. Ended: the endpoint was stopped"
