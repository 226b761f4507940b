"""Keys: the form for a new one with scopes, limits and budgets, and the list with what each has used."""

from __future__ import annotations

from datetime import UTC, datetime, time

import streamlit as st

from backend.domain.jobs.own_keys import is_own_key
from backend.domain.serving.key_limits import KeyLimits, KeyScopes
from backend.domain.wording import format_usd, percent
from backend.services.context import Context, Person
from backend.services.people.keys import (
    KeyView,
    Spending,
    change_key,
    create_key,
    hash_key,
    list_keys,
    new_secret,
    revoke_key,
    spending_of_keys,
)
from backend.services.serving.endpoints import list_endpoints
from backend.services.serving.prices import current_prices
from pages.components.confirm import close_menu, draw_confirmed, menu_key
from pages.components.forms import draw_fields, read_form
from pages.components.frame import empty_state, plain, rerun_after
from pages.components.numbers import number_form, refuse_wrong_numbers
from pages.components.words import date_time

FRESH, PENDING = "fresh_key", "pending_key"
"""Keys of the session state: the secret shown until it is dismissed, and that of the form's next key."""
NO_PRICE = "Needs a price: an admin sets it on the Costs page."
BADGES = {"active": ("green", "check_circle"), "expired": ("orange", "schedule"), "revoked": ("gray", "block")}


@number_form
def draw_new_key(ctx: Context, person: Person) -> None:
    """Draw the form that makes a key, and the key once."""
    secret = st.session_state.setdefault(PENDING, new_secret())
    form = f"new_key_{hash_key(secret)[:8]}"
    with st.form(form):
        name = st.text_input("Name", placeholder="Support bot", key=f"name_{form}", help="The user of the key.")
        with st.expander("Scopes, limits and budgets", icon=":material/tune:", key=f"limits_{form}"):
            scopes, limits, expires_at = draw_access(
                ctx, person, key=form, scopes=KeyScopes(), limits=KeyLimits(), expires_at=None
            )
        if st.form_submit_button("Create key", type="primary", icon=":material/key:"):
            with rerun_after():
                refuse_wrong_numbers()
                create_key(ctx, name, person=person, scopes=scopes, limits=limits, expires_at=expires_at, secret=secret)
                st.session_state[FRESH] = secret
                # a second click was on the form of the key that is made now, and makes none
                del st.session_state[PENDING]
    draw_fresh_key()


def draw_key_of(ctx: Context, person: Person, endpoint: str) -> None:
    """Draw the button that makes a key for one endpoint, and the key once."""
    secret = st.session_state.setdefault(PENDING, new_secret())
    needed = "Every request needs one." if ctx.sign_in else "Programs on this machine need none; it counts their use."
    if FRESH not in st.session_state and st.button(
        "Create key",
        key=f"create_key_{hash_key(secret)[:8]}",
        icon=":material/key:",
        help=f"For {plain(endpoint)} alone. {needed}",
    ):
        with rerun_after():
            taken = {key.name for key in list_keys(ctx, person=person)}
            names = (endpoint, *(f"{endpoint} {number}" for number in range(2, len(taken) + 3)))
            name = next(name for name in names if name not in taken and not is_own_key(name))
            create_key(ctx, name, person=person, scopes=KeyScopes(models=(endpoint,)), secret=secret)
            st.session_state[FRESH] = secret
            del st.session_state[PENDING]
    draw_fresh_key()


def key_to_show(ctx: Context) -> str:
    """Return the key for client code: the new one while it is shown, else a stand-in."""
    return str(st.session_state.get(FRESH) or ("rh-..." if ctx.sign_in else "local"))


def draw_fresh_key() -> None:
    """Draw the key that was made last, until it is dismissed."""
    if FRESH in st.session_state:
        st.success("Copy it now: it is not shown again once you close this.", icon=":material/key:")
        st.code(st.session_state[FRESH], language=None)
        if st.button("I have copied it", key="fresh_key_close", icon=":material/check:"):
            del st.session_state[FRESH]
            st.rerun()


def draw_access(
    ctx: Context, person: Person, *, key: str, scopes: KeyScopes, limits: KeyLimits, expires_at: datetime | None
) -> tuple[KeyScopes, KeyLimits, datetime | None]:
    """Draw the fields of scopes, limits and expiry; return what they hold."""
    left, right = st.columns(2)
    names = sorted({endpoint.name for endpoint in list_endpoints(ctx)} | set(scopes.models))
    models = left.multiselect(
        "Models",
        names,
        default=scopes.models,
        key=f"{key}_models",
        placeholder="All models",
        accept_new_options=True,
        help="* is a wildcard.",
    )
    chosen = draw_fields(KeyScopes, only=("endpoints",), key=key, values=scopes, place=right)
    limits = _draw_limits(ctx, key=key, limits=limits)
    left, right = st.columns(2, vertical_alignment="bottom")
    until = left.date_input(
        "Valid through", value=expires_at, key=f"{key}_expires", min_value=ctx.now().date(), help="Empty: no expiry."
    )
    reason = {} if person.is_admin else {"admin": "An administrator gives it."}
    chosen |= draw_fields(KeyScopes, only=("admin",), key=key, values=scopes, place=right, disabled=reason)
    return (
        KeyScopes(models=tuple(models), **chosen),
        limits,
        datetime.combine(until, time(23, 59, 59), tzinfo=UTC) if until is not None else None,
    )


def _draw_limits(ctx: Context, *, key: str, limits: KeyLimits) -> KeyLimits:
    default, prices = ctx.policy.key_requests_at_once, current_prices(ctx).are_set
    reasons = {} if prices else {"usd_per_day": NO_PRICE, "usd_per_month": NO_PRICE}
    values: dict[str, object] = {}
    for group, columns in (("Limits", 3), ("Budgets (UTC)", 4)):
        st.markdown(f"**{group}**")
        empty = {"concurrency": f"{default} by default"} if default else {}
        values |= draw_fields(
            KeyLimits, group=group, key=key, values=limits, disabled=reasons, empty=empty, columns=columns
        )
    return read_form(KeyLimits, values) or limits


def draw_keys(ctx: Context, person: Person) -> None:
    """List the keys, each with its limits, what it used, and its actions."""
    keys = list_keys(ctx, person=person)
    if ctx.sign_in:
        st.caption(":material/lock: Every request to `/v1` is asked for a key.")
    else:
        st.caption(
            ":material/lock_open: No request to `/v1` is asked for a key: only programs on this machine reach the"
            " gateway. A key that is sent is counted, and its scopes and limits hold. With `ROUNDHOUSE_SIGN_IN=always`"
            " every request needs one."
        )
    if not keys:
        empty_state("No keys yet.")
    now = ctx.now()
    active = [key for key in keys if key.state(now) == "active"]
    ended = [key for key in keys if key.state(now) != "active"]
    ids = [key.id for key in keys]
    today, month = spending_of_keys(ctx, ids, "day"), spending_of_keys(ctx, ids, "month")
    for key in active:
        draw_key(ctx, person, key, today.get(key.id, Spending(0, 0.0)), month.get(key.id, Spending(0, 0.0)))
    if ended:
        with st.expander(f"Revoked and expired ({len(ended)})", icon=":material/block:", key="ended_keys"):
            for key in ended:
                draw_key(ctx, person, key, today.get(key.id, Spending(0, 0.0)), month.get(key.id, Spending(0, 0.0)))


def draw_key(ctx: Context, person: Person, key: KeyView, today: Spending, month: Spending) -> None:
    """Draw one key."""
    state = key.state(ctx.now())
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="center"):
            colour, icon = BADGES[state]
            st.markdown(f"**{plain(key.name)}** `…{key.hint}`", width="content")
            st.badge(state, color=colour, icon=f":material/{icon}:")  # type: ignore[arg-type]
            if key.scopes.admin:
                st.badge("admin", color="violet", icon=":material/monitoring:")
            st.space("stretch")
            if state == "active":
                _draw_change(ctx, person, key)
            if not key.revoked_at:
                used = "was never used" if key.last_used_at is None else f"was last used {date_time(key.last_used_at)}"
                draw_confirmed(
                    "Revoke",
                    f"Programs that use **{plain(key.name)}** are refused from now on, permanently. It {used}.",
                    lambda: revoke_key(ctx, key.id, person=person),
                    key=f"revoke_{key.id}",
                    icon="block",
                    type="secondary",
                )
        st.caption(" · ".join(_facts(key, person, now=ctx.now())))
        _draw_spending(key.limits, today, month)


@number_form
def _draw_change(ctx: Context, person: Person, key: KeyView) -> None:
    with (
        st.popover("Limits", icon=":material/tune:", key=menu_key(f"limits_{key.id}")),
        st.form(f"limits_form_{key.id}", border=False),
    ):
        scopes, limits, until = draw_access(
            ctx, person, key=f"change_{key.id}", scopes=key.scopes, limits=key.limits, expires_at=key.expires_at
        )
        if st.form_submit_button("Save", type="primary"):
            with rerun_after():
                refuse_wrong_numbers()
                change_key(ctx, key.id, person=person, limits=limits, scopes=scopes, expires_at=until)
                close_menu(f"limits_{key.id}")


def _facts(key: KeyView, person: Person, *, now: datetime) -> list[str]:
    limits, scopes = key.limits, key.scopes
    facts = ["never used" if key.last_used_at is None else f"last used {date_time(key.last_used_at, now=now)}"]
    by = f" by {plain(key.owner)}" if key.owner and person.is_admin else ""
    facts += [f"created {date_time(key.created_at, now=now)}{by}"]
    facts += [f"models {plain(', '.join(scopes.models))}"] if scopes.models else []
    facts += [f"API {', '.join(scopes.endpoints)}"] if scopes.endpoints else []
    facts += [f"{limits.requests:,} requests/min"] if limits.requests else []
    facts += [f"{limits.tokens:,} tokens/min"] if limits.tokens else []
    facts += [f"{limits.concurrency:,} at once"] if limits.concurrency else []
    facts += [f"valid until {date_time(key.expires_at, now=now)}"] if key.expires_at and not key.revoked_at else []
    facts += [f"revoked {date_time(key.revoked_at, now=now)}"] if key.revoked_at else []
    return facts


def _draw_spending(limits: KeyLimits, today: Spending, month: Spending) -> None:
    """Draw what was used of each budget; without budgets, the month's tokens."""
    budgets = limits.budgets
    if not budgets:
        if month.tokens:
            st.caption(
                f"{month.tokens:,} tokens this month" + (f", {plain(format_usd(month.usd))}" if month.usd else "")
            )
        return
    grid = st.grid(min(4, len(budgets)), min_column_width=200)
    for unit, period, budget in budgets:
        spending = today if period == "day" else month
        used = spending.tokens if unit == "tokens" else spending.usd
        words = (
            f"{used:,.0f} of {budget:,.0f} tokens"
            if unit == "tokens"
            else plain(f"{format_usd(used)} of {format_usd(budget, is_price=True)}")
        )
        span = "today" if period == "day" else "this month"
        grid.progress(min(1.0, used / budget), text=f"{words} {span} ({percent(used / budget)})")
