"""Texts of others in Markdown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from backend.domain.markdown_text import fenced


@given(st.text("`~a\n ", max_size=40))
def test_no_line_of_a_text_closes_its_fence(text: str) -> None:
    (token,) = MarkdownIt("commonmark").parse(fenced(text, "sh"))
    assert (token.type, token.info, token.content) == ("fence", "sh", f"{text}\n")
