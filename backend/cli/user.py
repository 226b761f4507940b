"""`roundhouse user`: accounts, needed as soon as anything listens beyond loopback."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import JsonFlag, command, emit
from backend.services.people.accounts import add_user, list_users

app = typer.Typer(no_args_is_help=True)


@app.command("add")
@command
def add(
    name: str,
    role: Annotated[str, typer.Option(help="admin, lead, engineer or rater.")] = "engineer",
    as_json: JsonFlag = False,
) -> None:
    """Make an account. The password is asked for, or read from ROUNDHOUSE_NEW_PASSWORD, or from standard input when it is a pipe."""
    password = os.environ.get("ROUNDHOUSE_NEW_PASSWORD")
    if password is None:
        password = (
            typer.prompt("Password", hide_input=True, confirmation_prompt=True) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
        )
    person = add_user(get_context(), name, password, role=role)
    emit({"user": person.name, "role": person.role}, as_json=as_json, text=f"Made the account {person.name} ({person.role}).")


@app.command("list")
@command
def list_(as_json: JsonFlag = False) -> None:
    """List accounts."""
    people = list_users(get_context())
    emit(
        {"users": [{"name": p.name, "role": p.role} for p in people]},
        as_json=as_json,
        text="\n".join(f"{p.name}  {p.role}" for p in people) or "No accounts yet.",
    )
