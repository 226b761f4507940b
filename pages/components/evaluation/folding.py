"""Fold harmful text: prompts and answers of safety benchmarks are shown only to who opens them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

FOLDED = "Prompt and answer (may be harmful)"


@contextmanager
def folded(hidden: bool, *, label: str = FOLDED) -> Iterator[None]:
    """Draw what follows as it is, or folded until it is asked for."""
    if not hidden:
        yield
        return
    with st.expander(label, icon=":material/visibility_off:"):
        yield
