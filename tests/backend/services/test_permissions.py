"""Who may do what is decided in the services: a page or a command that forgets to ask changes nothing."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backend.domain.jobs.gpu_hours import PersonLimits
from backend.domain.serving.chat import ChatSettings
from backend.errors import NotAllowed
from backend.services.context import LOCAL, Context, Person
from backend.services.jobs.jobs import stop_job
from backend.services.people.accounts import (
    add_user,
    change_limits,
    change_role,
    disable_account,
    enable_account,
    reset_password,
)
from backend.services.people.keys import create_key
from backend.services.people.sessions import end_sessions
from backend.services.serving.chat.turns import send_message
from backend.services.serving.deployments import deploy, stop_endpoint

SERVICES = Path(__file__).resolve().parents[3] / "backend" / "services"
CHECKS = ("require_builder(", "require_admin(", "own_conversation(", "find_own_endpoint(", "find_deletable_endpoint(")

NOBODY_ASKS = {
    "undo": "its rater's own vote; the rater comes from a link or a cookie",
    "record_side_by_side_vote": "one's own vote",
    "delete_preset": "one's own preset alone",
    "give_feedback": "the caller has checked that the answer is the person's own",
    "settle_lost_answers": "the caller has checked the owner; what no process generates any more",
    "rater_for": "the person's own row",
    "queue_export": "its two callers ask for the role of a builder",
    "prepare_claim": "a worker, by its claim",
    "claim_next": "a worker",
    "claim_job": "a worker",
    "give_back": "a worker, by its claim",
    "join_gang": "a worker",
    "await_gang": "a worker, by its membership",
    "leave_gang": "a worker, by its membership",
    "request_stop": "other services, which have asked",
    "recover_jobs": "a worker",
    "beat": "a worker",
    "say_goodbye": "a worker",
    "change_own_password": "one's own account, by its password",
    "revoke_key": "one's own key; an admin's right is part of the query",
    "note_key_uses": "the gateway",
    "add_usage": "the gateway",
    "add_failures": "the gateway",
    "record_gauges": "a worker",
    "forget_requests": "a worker",
    "keep_response": "the gateway, for the owner of the request's key",
    "erase_response": "the gateway, for the owner, who is part of the query",
    "forget_responses": "a worker",
    "store_feedback": "the gateway, for the key that made the request",
    "forget_old": "a worker",
    "settle_alerts": "a worker",
    "advance_endpoints": "a worker",
    "autoscale_endpoints": "a worker",
    "record_comparisons": "the gateway",
    "wake_endpoint": "the gateway, for a request that it admitted",
    "create_job_key": "a worker, by its claim",
    "judge_canaries": "a worker, by the canary's rules",
    "open_rematch": "the launch on votes, which has asked",
    "close_when_over": "a vote, by the campaign's stopping rule",
    "store_answer_rating": "its rater's own; the rater comes from a signed token",
    "save_view": "one's own views of a page",
    "delete_view": "one's own; any other is unknown",
    "save_draft": "one's own draft of a form",
    "drop_draft": "one's own",
    "read_dismissed": "one's own; forgets those whose step has passed",
    "dismiss_step": "for oneself",
    "restore_steps": "one's own",
}
"""Public functions that write without asking for a role, each with who calls it or what limits it."""


def writing_functions() -> dict[str, bool]:
    """Return every public function of the services that writes or queues work, and whether it asks for a role
    itself.
    """
    writing = {}
    for path in sorted(SERVICES.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                source = ast.unparse(node)
                if "db.write()" in source or "db.erase()" in source or "_set_password(" in source:
                    writing[node.name] = any(check in source for check in CHECKS)
    return writing


def test_every_service_function_that_writes_asks_for_a_role_or_is_listed_with_its_reason() -> None:
    writing = writing_functions()
    assert len(writing) > 60, "the search still finds the functions"
    assert {name for name, asks in writing.items() if not asks} == set(NOBODY_ASKS)


ADMIN_ONLY: dict[str, Callable[[Context, str, Person], Any]] = {
    "add_user": lambda ctx, _, who: add_user(ctx, "new", "a long password", person=who),
    "disable_account": lambda ctx, other, who: disable_account(ctx, other, person=who),
    "enable_account": lambda ctx, other, who: enable_account(ctx, other, person=who),
    "change_role": lambda ctx, other, who: change_role(ctx, other, "admin", person=who),
    "change_limits": lambda ctx, other, who: change_limits(ctx, other, PersonLimits(), person=who),
    "reset_password": lambda ctx, other, who: reset_password(ctx, other, "a long password", person=who),
    "end_sessions": lambda ctx, other, who: end_sessions(ctx, other, person=who),
}
BUILDERS_ONLY: dict[str, Callable[[Context, Person], Any]] = {
    "create_key": lambda ctx, who: create_key(ctx, "bot", person=who),
    "deploy": lambda ctx, who: deploy(ctx, checkpoint_id="c", name="e", person=who),
    "stop_endpoint": lambda ctx, who: stop_endpoint(ctx, "e", person=who),
    "stop_job": lambda ctx, who: stop_job(ctx, "j", person=who),
    "send_message": lambda ctx, who: send_message(
        ctx, None, "Hello", settings=ChatSettings(endpoints=("e",)), person=who
    ),
}


@pytest.mark.parametrize("role", ["lead", "engineer", "rater"])
@pytest.mark.parametrize("name", ADMIN_ONLY)
def test_only_an_admin_changes_accounts(ctx: Context, name: str, role: str) -> None:
    other = add_user(ctx, "other", "a long password", person=LOCAL)
    with pytest.raises(NotAllowed):
        ADMIN_ONLY[name](ctx, other.id or "", Person(id="someone", name="someone", role=role))


@pytest.mark.parametrize("name", BUILDERS_ONLY)
def test_a_rater_changes_no_keys_endpoints_or_jobs(ctx: Context, name: str) -> None:
    with pytest.raises(NotAllowed):
        BUILDERS_ONLY[name](ctx, Person(id="someone", name="someone", role="rater"))
