"""`roundhouse key`: keys for /v1."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit
from backend.domain.attributes import attributes_of
from backend.domain.serving.key_limits import API_ENDPOINTS, KeyLimits, parse_expiry, parse_limits, parse_scopes
from backend.services.context import LOCAL, Context
from backend.services.people.keys import (
    KeyView,
    Spending,
    change_key,
    create_key,
    find_key,
    list_keys,
    revoke_key,
    spending_of_keys,
)

app = CommandGroup(no_args_is_help=True)
Key = Annotated[str, typer.Argument(help="Its name or id.")]
Limits = Annotated[
    str,
    typer.Option(
        help=(
            "Such as requests=60,tokens=100000,concurrency=4,tokens_per_day=1000000,usd_per_month=5: requests and"
            f" tokens per minute, requests at once, and budgets. Names: {', '.join(KeyLimits.model_fields)}."
        )
    ),
]
Models = Annotated[str, typer.Option(help="Models that the key may use, with commas; * is a wildcard. Default: all.")]
Endpoints = Annotated[
    str, typer.Option(help=f"Routes of the API that it may call, of {', '.join(API_ENDPOINTS)}. Default: all.")
]
Admin = Annotated[
    bool, typer.Option("--admin/--no-admin", help="May read /metrics, which count the requests of every key.")
]
Expires = Annotated[
    str, typer.Option(help="A duration such as 30d or 12h, or a date such as 2027-01-31. Default: never.")
]


@app.command("create")
def create(
    name: str,
    limits: Limits = "",
    models: Models = "",
    endpoints: Endpoints = "",
    admin: Admin = False,
    expires: Expires = "",
) -> None:
    """Create a key and print it: the only time it is shown."""
    ctx = get_context()
    scopes = parse_scopes(models=models, endpoints=endpoints, admin=admin)
    bounds, until = parse_limits(limits), parse_expiry(expires, now=ctx.now())
    key = create_key(ctx, name, person=LOCAL, scopes=scopes, limits=bounds, expires_at=until)
    view = next(view for view in list_keys(ctx, person=LOCAL) if view.name == name.strip() and view.hint == key[-4:])
    emit({**_describe(view, ctx.now()), "key": key}, text=key)


@app.command("change")
def change(
    key: Key,
    limits: Annotated[
        str | None, typer.Option(help="Replace the limits, as `key create` takes them; empty for none.")
    ] = None,
    models: Annotated[str | None, typer.Option(help="Replace the models; empty for all.")] = None,
    endpoints: Annotated[str | None, typer.Option(help="Replace the routes; empty for all.")] = None,
    admin: Annotated[bool | None, typer.Option("--admin/--no-admin", help="Give or take the admin scope.")] = None,
    expires: Annotated[str | None, typer.Option(help="Replace the expiry; empty for never.")] = None,
) -> None:
    """Change limits, scopes or expiry of a key. They hold from its next request on."""
    ctx = get_context()
    view = find_key(ctx, key, person=LOCAL)
    scopes = parse_scopes(
        models=",".join(view.scopes.models) if models is None else models,
        endpoints=",".join(view.scopes.endpoints) if endpoints is None else endpoints,
        admin=view.scopes.admin if admin is None else admin,
    )
    change_key(
        ctx,
        view.id,
        person=LOCAL,
        limits=view.limits if limits is None else parse_limits(limits),
        scopes=scopes,
        expires_at=view.expires_at if expires is None else parse_expiry(expires, now=ctx.now()),
    )
    changed = find_key(ctx, view.id, person=LOCAL)
    emit(_describe(changed, ctx.now()), text=_line(changed, ctx.now()))


@app.command("list")
def list_() -> None:
    """List keys with limits, scopes, and what they used today and this month (UTC)."""
    ctx = get_context()
    keys, now = list_keys(ctx, person=LOCAL), ctx.now()
    rows = _with_spending(ctx, keys)
    emit({"keys": rows}, text="\n".join(_line(key, now) for key in keys) or "No keys yet.")


@app.command("revoke")
def revoke(key: Key) -> None:
    """Revoke a key. Its next request is refused, at every gateway."""
    ctx = get_context()
    view = find_key(ctx, key, person=LOCAL)
    revoke_key(ctx, view.id, person=LOCAL)
    emit({"id": view.id, "name": view.name, "revoked": True}, text=f"Revoked {view.name} ({view.id}).")


def _with_spending(ctx: Context, keys: list[KeyView]) -> list[dict[str, object]]:
    ids = [key.id for key in keys]
    day, month = spending_of_keys(ctx, ids, "day"), spending_of_keys(ctx, ids, "month")
    none = Spending(0, 0.0)
    return [
        _describe(key, ctx.now())
        | {
            "used": {
                period: {"tokens": spent.get(key.id, none).tokens, "usd": spent.get(key.id, none).usd}
                for period, spent in (("day", day), ("month", month))
            }
        }
        for key in keys
    ]


def _describe(key: KeyView, now: datetime) -> dict[str, object]:
    return {
        **attributes_of(key, "id", "name", "hint", "owner"),
        "state": key.state(now),
        "limits": key.limits.model_dump(mode="json", exclude_none=True),
        "scopes": key.scopes.model_dump(mode="json"),
        **attributes_of(key, "expires_at", "last_used_at", "revoked_at"),
    }


def _line(key: KeyView, now: datetime) -> str:
    scopes = key.scopes
    parts = [key.id, key.name, f"…{key.hint}", *([key.owner] if key.owner else []), key.state(now)]
    parts += [key.limits.describe()] if key.limits.is_limited else []
    parts += [f"models={','.join(scopes.models)}"] if scopes.models else []
    parts += [f"endpoints={','.join(scopes.endpoints)}"] if scopes.endpoints else []
    return "  ".join([*parts, *(["admin"] if scopes.admin else [])])
