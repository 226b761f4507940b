"""Frame of every page: title, sign-in check, and errors shown as cause and cure; Markdown escapes."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Literal, ParamSpec

import streamlit as st
from pydantic import ValidationError
from streamlit.delta_generator import DeltaGenerator

from backend.domain.filters import FilterError
from backend.domain.validation import validation_message
from backend.errors import NotFound, RoundhouseError
from backend.services.context import Context, Person
from backend.services.outage import outage_of
from pages.components import routes
from pages.components.visitor import context, require_person

log = logging.getLogger(__name__)
P = ParamSpec("P")
FAILED = "callback_failed"
"""Key of the session state: the error of a callback, which the page shows that is drawn after it."""

HAS_TITLE: ContextVar[bool] = ContextVar("has_title", default=False)
"""Whether the page that is being drawn has its title."""

IS_REDRAWN: ContextVar[bool] = ContextVar("is_redrawn", default=False)
"""Whether a part of the page that draws itself again every few seconds is being drawn."""

BARE_LINK = re.compile(r"https?:(?=//)|www(?=\.)|@(?=[-\w]+\.)", re.IGNORECASE)


@contextmanager
def page_frame(
    title: str, caption: str = "", *, objects: Collection[str] = (), way_back: bool = False
) -> Iterator[tuple[Context, Person]]:
    """Check the visitor, draw the title, and show errors raised inside as cause and cure.

    Where the address holds one of the names in `objects`, the title is the object's name (`object_heading`), or the
    page's own if no object is drawn. With `way_back`, an address that names something unknown gets a button to the
    page without it.

    with page_frame("Runs", "Every experiment, newest first.") as (ctx, person): ...
    """
    person = require_person()
    top = st.container()
    is_of_object = not st.query_params.keys().isdisjoint(objects)
    if not is_of_object:
        _draw_title(top, title, caption)
    HAS_TITLE.set(not is_of_object)
    show_failed_callback()
    with errors_shown():
        try:
            yield context(), person
        except NotFound as error:
            show_error(error)
            if (
                way_back
                and st.query_params
                and st.button(f"Back to {title}", icon=":material/arrow_back:", key="frame_back")
            ):
                st.query_params.from_dict({})
                st.rerun()
    if not HAS_TITLE.get():
        _draw_title(top, title, caption)


def _draw_title(top: DeltaGenerator, title: str, caption: str) -> None:
    top.title(title, anchor=False)
    if caption:
        top.caption(caption)


def title_tab(name: str) -> None:
    """Title the browser's tab by what it shows."""
    st.set_page_config(page_title=f"{name} · Roundhouse")


def object_heading(name: str, *, width: Literal["content", "stretch"] = "stretch") -> None:
    """Draw the name of the object that the page shows as its title, and as that of the browser's tab."""
    HAS_TITLE.set(True)
    st.title(plain(name), anchor=False, width=width)
    title_tab(name)


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show a user's error as cause and cure; log a fault of ours and say so. Also for button handlers."""
    try:
        yield
    except RoundhouseError as error:
        show_error(error)
    except ValidationError as error:
        st.error(validation_message(error), icon=":material/error:")
    except Exception as error:  # reruns and stops are no `Exception`
        log.exception("page failed")
        if (outage := outage_of(error)) is not None:
            show_error(outage)
            return
        st.error(
            f"Something went wrong on our side: {type(error).__name__}. The server's log has the details.",
            icon=":material/bug_report:",
        )


@contextmanager
def rerun_after() -> Iterator[None]:
    """Run the block of an action, then the page again. An error is shown as by `errors_shown`, without a rerun; of a
    part that is drawn again every few seconds, above the page, where it stays.
    """
    with errors_shown():
        try:
            yield
        except Exception as error:  # reruns and stops are no `Exception`
            if not IS_REDRAWN.get():
                raise
            st.session_state[FAILED] = error
        st.rerun()


def handled(callback: Callable[P, object]) -> Callable[P, None]:
    """Return a callback of a widget whose failure the page shows as its own. Streamlit would put its error screen in
    the page's place.
    """

    @wraps(callback)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            callback(*args, **kwargs)
        except Exception as error:  # reruns and stops are no `Exception`
            st.session_state[FAILED] = error

    return run


def show_failed_callback() -> None:
    """Show the error of the callback that ran before this drawing, once."""
    with errors_shown():
        if (error := st.session_state.pop(FAILED, None)) is not None:
            raise error


def live_part(every: float | None = None) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Return a decorator that makes a function a part of the page with reruns of its own: by its widgets, and every so
    many seconds where they are given. What fails in it is shown as on the rest of the page, and the next rerun replaces
    it.
    """

    def decorate(draw: Callable[P, None]) -> Callable[P, None]:
        def draw_framed(*args: P.args, **kwargs: P.kwargs) -> None:
            show_failed_callback()
            token = IS_REDRAWN.set(every is not None)
            with errors_shown():
                draw(*args, **kwargs)
            IS_REDRAWN.reset(token)

        return st.fragment(wraps(draw)(draw_framed), run_every=every)

    return decorate


def show_error(error: RoundhouseError) -> None:
    """Draw an error as cause and cure, as plain text."""
    show_problem(error.message, error.remedy)


def show_problem(cause: str, remedy: object = "") -> None:
    """Draw a cause and its cure as plain text. `remedy` may come from a job's stored error, or be empty."""
    st.error(with_code(cause) + (f"  \n{with_code(str(remedy))}" if remedy else ""), icon=":material/error:")


def draw_filter_error(error: FilterError, text: str) -> None:
    """Draw a wrong filter with a mark below the place at fault."""
    show_error(error)
    mark = " " * error.position + "^" * min(error.length, max(1, len(text) - error.position))
    st.code(f"{' '.join(text.splitlines())}\n{mark}", language=None)


def warn_unknown(what: str, name: str, *, instead: str) -> None:
    """Warn that the address names something unknown, and say what is shown instead."""
    st.warning(plain(f"There is no {what} “{name}”; {instead}."), icon=":material/link_off:")


def plain(text: str) -> str:
    """Escape Markdown, so that names and texts of datasets are shown verbatim and load nothing. A lone surrogate
    becomes its code.

    The renderer links bare addresses even when escaped, so an invisible word joiner splits them.
    """
    text = BARE_LINK.sub("\\g<0>\u2060", text.encode("utf-8", "backslashreplace").decode())
    return "".join(f"\\{c}" if c in "\\`*_{}[]()<>#+-.!|~$:" else c for c in text)


def with_code(text: str) -> str:
    """Return a message as plain text with what stands between backticks, such as a command, set as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    return "".join(f"`{part}`" if number % 2 and part.strip() else plain(part) for number, part in enumerate(parts))


def spoken(name: str) -> str:
    """Return a name for a widget's label, which screen readers read verbatim: without Markdown's special characters.

    An @ stays before a version's number, where it links nothing.
    """
    return " ".join(re.sub(r"(?!@\d)[^\w\s.,-]", " ", name).split())


def without_images(markdown: str) -> str:
    """Escape images in Markdown, so that showing notes loads nothing from other servers."""
    return markdown.replace("![", "!\\[")


def draw_metric(
    grid: DeltaGenerator, label: str, value: str, *, help: str | None = None, note: str | None = None
) -> None:
    """Draw a number in a frame as high as its neighbours'; the note stands under it."""
    grid.metric(
        label, value, delta=note, delta_color="off", delta_arrow="off", help=help, border=True, height="stretch"
    )


def draw_figure(label: str, value: str | None, *, help: str | None = None) -> None:
    """Draw a number of a frame that holds more, in the size of `draw_metric`; None is an estimate that is unknown."""
    st.metric(label, "Unknown" if value is None else value, help=help)


def draw_plot(figure: Any, *, key: str, alt: str | None = None, place: Any = st) -> None:
    """Draw a Plotly figure without its tool bar; `alt` says what it shows to those who can't see it."""
    place.plotly_chart(figure, key=key, config={"displayModeBar": False}, alt=alt)


def empty_state(
    text: str,
    *,
    page: str | None = None,
    query: dict[str, str] | None = None,
    label: str = "",
    icon: str = ":material/arrow_forward:",
) -> None:
    """Draw a hint in place of an empty list, with a link to the next step."""
    with st.container(border=True, horizontal_alignment="left"):
        st.markdown(text)
        if page:
            st.page_link(page, label=label, icon=icon, query_params=query)


def no_checkpoint_state(text: str) -> None:
    """Draw a hint in place of what needs a checkpoint, with the two ways to one."""
    with st.container(border=True):
        st.markdown(text)
        with st.container(horizontal=True):
            st.page_link(routes.LAUNCH, label="Launch a run", icon=":material/rocket_launch:")
            st.page_link(routes.CHECKPOINTS, label="Add a base", icon=":material/add:", query_params={"add": "1"})
