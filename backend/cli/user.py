"""`roundhouse user`: accounts, required if a server listens beyond loopback."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer

from backend.bootstrap import get_context
from backend.cli.options import model_options
from backend.cli.output import CommandGroup, emit
from backend.domain.jobs.gpu_hours import PersonLimits
from backend.domain.json_values import FieldValues
from backend.services.context import LOCAL, Person
from backend.services.people.accounts import (
    ROLES,
    AccountView,
    add_user,
    change_limits,
    change_role,
    disable_account,
    enable_account,
    get_account,
    list_accounts,
    reset_password,
)
from backend.services.people.gpu_hours import gpu_hours_of
from backend.services.people.sessions import end_sessions

app = CommandGroup(no_args_is_help=True)
ROLE_HELP = " ".join(f"{role}: {may}" for role, may in ROLES.items())
NEW_PASSWORD = "ROUNDHOUSE_NEW_PASSWORD"  # noqa: S105 - a variable's name


@app.command("add")
def add(name: str, role: Annotated[str, typer.Option(help=ROLE_HELP)] = "engineer") -> None:
    """Create an account. The password is prompted for, or read from ROUNDHOUSE_NEW_PASSWORD, or from the first line of
    standard input when it is a pipe.
    """
    person = add_user(get_context(), name, _read_password(), role=role, person=LOCAL)
    emit(
        {"user": person.name, "role": person.role},
        text=f"Created the account {person.name} ({person.role}).",
    )


@app.command("list")
def list_() -> None:
    """List accounts, disabled ones last."""
    accounts = list_accounts(get_context())
    emit(
        {"users": [{**_facts(one), "limits": one.limits.model_dump(exclude_none=True)} for one in accounts]},
        text="\n".join(f"{one.name}  {one.role}{'  disabled' if one.disabled_at else ''}" for one in accounts)
        or "No accounts yet.",
    )


def _facts(account: AccountView) -> dict[str, Any]:
    return {key: value for key, value in asdict(account).items() if key != "id"}


@app.command("disable")
def disable(name: str) -> None:
    """Disable an account at once, with its sessions, its keys and the ballot links that it made."""
    ctx = get_context()
    disable_account(ctx, get_account(ctx, name).id, person=LOCAL)
    emit({"user": name, "disabled": True}, text=f"Disabled {name}.")


@app.command("enable")
def enable(name: str) -> None:
    """Enable a disabled account."""
    ctx = get_context()
    enable_account(ctx, get_account(ctx, name).id, person=LOCAL)
    emit({"user": name, "disabled": False}, text=f"Enabled {name}.")


@app.command("role")
def role_(name: str, role: Annotated[str, typer.Argument(help=ROLE_HELP)]) -> None:
    """Change an account's role."""
    ctx = get_context()
    change_role(ctx, get_account(ctx, name).id, role, person=LOCAL)
    emit({"user": name, "role": role}, text=f"{name} is {role} now.")


@app.command("limits")
@model_options(PersonLimits, partial=True)
def limits_(
    name: str,
    *,
    options: FieldValues,
    none: Annotated[bool, typer.Option("--none", help="Take all limits of the account's own away.")] = False,
) -> None:
    """Show an account's limits and what it has used, after changing those that are given."""
    ctx = get_context()
    account = get_account(ctx, name)
    limits = PersonLimits() if none else account.limits.model_copy(update=options)
    if options or none:
        change_limits(ctx, account.id, limits, person=LOCAL)
    hours = gpu_hours_of(ctx, Person(id=account.id, name=account.name, role=account.role))
    emit(
        {
            "user": account.name,
            "limits": limits.model_dump(exclude_none=True),
            "gpu_hours": asdict(hours) if hours else None,
        },
        text=f"{account.name}: {hours.sentence if hours else 'no limit.'}",
    )


@app.command("password")
def password(name: str) -> None:
    """Set a new password, read as by `user add`, and end the account's sessions."""
    ctx = get_context()
    account = get_account(ctx, name)
    reset_password(ctx, account.id, _read_password(), person=LOCAL)
    emit(
        {"user": name, "password": "changed"},
        text=f"{name} has a new password and is signed out everywhere.",
    )


@app.command("signout")
def signout(name: str) -> None:
    """End every session of an account."""
    ctx = get_context()
    end_sessions(ctx, get_account(ctx, name).id, person=LOCAL)
    emit({"user": name, "signed_out": True}, text=f"{name} is signed out everywhere.")


def _read_password() -> str:
    password = os.environ.get(NEW_PASSWORD)
    if password is not None:
        return password
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\n")
