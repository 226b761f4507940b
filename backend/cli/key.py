"""`roundhouse key`: keys for /v1."""

from __future__ import annotations

import typer

from backend.bootstrap import get_context
from backend.cli.output import JsonFlag, command, emit
from backend.services.context import LOCAL
from backend.services.people.accounts import create_key, list_keys

app = typer.Typer(no_args_is_help=True)


@app.command("create")
@command
def create(name: str, as_json: JsonFlag = False) -> None:
    """Make a key and print it: the only time it is seen."""
    key = create_key(get_context(), name, person=LOCAL)
    emit({"name": name, "key": key}, as_json=as_json, text=key)


@app.command("list")
@command
def list_(as_json: JsonFlag = False) -> None:
    """List keys by name and last four characters."""
    keys = list_keys(get_context(), person=LOCAL)
    rows = [{"name": k.name, "hint": k.hint, "last_used_at": k.last_used_at, "revoked_at": k.revoked_at} for k in keys]
    emit({"keys": rows}, as_json=as_json, text="\n".join(f"{k.name}  …{k.hint}" for k in keys) or "No keys yet.")
