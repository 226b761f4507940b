"""Names and texts inside Markdown stay the characters that they are."""

from __future__ import annotations

import re

import pytest

from pages.components.frame import plain

# what the pages' Markdown renderer turns into links after it has resolved escapes: mdast-util-gfm-autolink-literal
LINKS = re.compile(
    r"(https?://|www(?=\.))([-.\w]+)([^ \t\r\n]*)|[-.\w+]+@[-\w]+(?:\.[-\w]+)+", re.IGNORECASE | re.ASCII
)


@pytest.mark.parametrize(
    "name", ["![x](https://evil.example/x.png)", "HTTP://evil.example", "www.evil.example", "mira@evil.example"]
)
def test_no_address_in_a_name_becomes_a_link(name: str) -> None:
    seen = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", plain(name))
    assert LINKS.search(name)
    assert not LINKS.search(seen)
    assert seen.replace("\u2060", "") == name


def test_names_without_an_address_stay_as_they_are() -> None:
    assert plain("stories@1, step 30: www or http") == r"stories@1, step 30\: www or http"
