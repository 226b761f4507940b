"""What every page begins with: title, the person, and one place where errors become a cause and a cure."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st
from pydantic import ValidationError

from backend.domain.training.config import validation_message
from backend.errors import RoundhouseError
from backend.services.context import Context, Person
from pages.components.visitor import context, require_person

log = logging.getLogger(__name__)
BARE_LINK = re.compile(r"https?:(?=//)|www(?=\.)|@(?=[-\w]+\.)", re.IGNORECASE)


@contextmanager
def page_frame(title: str, caption: str = "") -> Iterator[tuple[Context, Person]]:
    """Draw the title, check who is there, and show what goes wrong inside as a sentence with a remedy.

    with page_frame("Runs", "Every experiment, newest first.") as (ctx, person): ...
    """
    person = require_person()
    st.title(title, anchor=False)
    if caption:
        st.caption(caption)
    with errors_shown():
        yield context(), person


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show a user's mistake in words; log ours and show that it was ours. Also for button handlers inside a page."""
    try:
        yield
    except RoundhouseError as error:
        show_error(error)
    except ValidationError as error:
        st.error(validation_message(error), icon=":material/error:")
    except Exception as error:
        if type(error).__module__.startswith("streamlit"):
            raise  # reruns and stops travel as exceptions
        log.exception("page failed")
        st.error(
            f"Something went wrong on our side: {type(error).__name__}. The server's log has the details.", icon=":material/bug_report:"
        )


def show_error(error: RoundhouseError) -> None:
    """Draw an error as cause and cure, as plain text."""
    show_problem(error.message, error.remedy)


def show_problem(cause: str, remedy: object = "") -> None:
    """Draw what went wrong and what to do about it, as plain text. `remedy` is a job's, which may have none."""
    st.error(plain(cause) + (f"  \n{plain(str(remedy))}" if remedy else ""), icon=":material/error:")


def plain(text: str) -> str:
    """Escape Markdown, so that a name or a dataset's text is shown as it is and loads nothing. Half a character becomes its code.

    The renderer makes links of bare addresses whatever is escaped, so an unseen word joiner cuts them.
    """
    text = BARE_LINK.sub("\\g<0>\u2060", text.encode("utf-8", "backslashreplace").decode())
    return "".join(f"\\{c}" if c in "\\`*_{}[]()<>#+-.!|~$:" else c for c in text)


def without_images(markdown: str) -> str:
    """Return Markdown whose images stay text: reading somebody's notes must load nothing from elsewhere."""
    return markdown.replace("![", "!\\[")


def empty_state(text: str, *, page: str | None = None, label: str = "", icon: str = ":material/arrow_forward:") -> None:
    """Say what would be here and lead to the next step."""
    with st.container(border=True, horizontal_alignment="left"):
        st.markdown(text)
        if page:
            st.page_link(page, label=label, icon=icon)
