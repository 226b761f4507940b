"""`roundhouse key`: keys for /v1."""

from __future__ import annotations

import typer

from backend.bootstrap import get_context
from backend.cli.output import JsonFlag, command, emit
from backend.services.context import LOCAL
from backend.services.people.keys import KeyView, create_key, list_keys, revoke_key

app = typer.Typer(no_args_is_help=True)


@app.command("create")
@command
def create(name: str, as_json: JsonFlag = False) -> None:
    """Create a key and print it: the only time it is shown."""
    key = create_key(get_context(), name, person=LOCAL)
    emit({"name": name, "key": key}, as_json=as_json, text=key)


@app.command("list")
@command
def list_(as_json: JsonFlag = False) -> None:
    """List keys by id, name and last four characters."""
    keys = list_keys(get_context(), person=LOCAL)
    rows = [
        {"id": k.id, "name": k.name, "hint": k.hint, "owner": k.owner, "last_used_at": k.last_used_at, "revoked_at": k.revoked_at}
        for k in keys
    ]
    emit({"keys": rows}, as_json=as_json, text="\n".join(map(_line, keys)) or "No keys yet.")


@app.command("revoke")
@command
def revoke(key_id: str, as_json: JsonFlag = False) -> None:
    """Revoke a key by the id that `key list` shows."""
    revoke_key(get_context(), key_id, person=LOCAL)
    emit({"id": key_id, "revoked": True}, as_json=as_json, text=f"Revoked {key_id}.")


def _line(key: KeyView) -> str:
    return "  ".join([key.id, key.name, f"…{key.hint}", *([key.owner] if key.owner else []), *(["revoked"] if key.revoked_at else [])])
