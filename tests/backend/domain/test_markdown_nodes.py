"""Markdown as nodes: what a browser is told to draw, whatever a network wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.markdown_nodes import MAX_CHARACTERS, TAGS, Node, markdown_nodes


def walk(nodes: list[Node]) -> Iterator[list[object]]:
    for node in nodes:
        if not isinstance(node, str):
            yield node
            assert isinstance(node[1], list)
            yield from walk(node[1])


def words(nodes: list[Node]) -> str:
    return "".join(node if isinstance(node, str) else words(node[1]) for node in nodes)  # type: ignore[arg-type]


def test_emphasis_lists_and_code_become_their_tags() -> None:
    assert markdown_nodes("Hi *a* **b** `c` ~~d~~") == [
        [
            "p",
            ["Hi ", ["em", ["a"], ""], " ", ["strong", ["b"], ""], " ", ["code", ["c"], ""], " ", ["s", ["d"], ""]],
            "",
        ]
    ]
    assert markdown_nodes("3. x\n4. y") == [["ol", [["li", ["x"], ""], ["li", ["y"], ""]], "3"]]
    assert markdown_nodes("```python\nx = 1\n```") == [["pre", ["x = 1\n"], "python"]]


def test_code_without_a_fence_keeps_its_indentation() -> None:
    """Correct Python had looked as broken on the ballot as Python without indentation."""
    (paragraph,) = markdown_nodes("def f(n):\n  if n == 1:\n\treturn False\n  return True")
    texts = [node for node in paragraph[1] if isinstance(node, str)]
    assert texts == ["def f(n):", "\u00a0\u00a0if n == 1:", "\u00a0" * 4 + "return False", "\u00a0\u00a0return True"]
    assert markdown_nodes("- a\n  b") == [["ul", [["li", ["a", ["br", [], ""], "b"], ""]], ""]]


def test_a_line_break_of_the_text_is_one_of_the_page() -> None:
    assert markdown_nodes("a\nb") == [["p", ["a", ["br", [], ""], "b"], ""]]


def test_a_table_keeps_its_alignment() -> None:
    table = markdown_nodes("| a | b |\n|:-:|--:|\n| 1 | 2 |")
    assert [node[2] for node in walk(table) if node[0] in ("th", "td")] == ["center", "right", "center", "right"]


def test_html_stays_text() -> None:
    text = '<script>alert(1)</script><img src="http://evil.example/a.png" onerror="x">'
    assert markdown_nodes(text) == [["p", [text], ""]]
    assert markdown_nodes("<div>\n\n*x*\n\n</div>")[0] == ["p", ["<div>"], ""]


def test_an_image_is_its_description_and_address_and_a_link_its_words_and_address() -> None:
    assert markdown_nodes("![a *b*](http://evil.example/a.png)") == [
        ["p", [["image", ["a *b*"], "http://evil.example/a.png"]], ""]
    ]
    assert markdown_nodes("[t](http://x.example)") == [["p", [["link", ["t"], "http://x.example"]], ""]]


def test_a_link_that_would_run_a_script_stays_text() -> None:
    assert markdown_nodes("[j](javascript:alert(1))") == [["p", ["[j](javascript:alert(1))"], ""]]


def test_a_definition_of_a_link_stays_visible() -> None:
    assert "http://x.example" in words(markdown_nodes("See [1].\n\n[1]: http://x.example"))


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("$x^2$", [("math", "x^2")]),
        (r"so \(y\) and $$z$$", [("math", "y"), ("mathblock", "z")]),
        ("$$\na\n= b\n$$", [("mathblock", "a\n= b")]),
        ("\\[\n- x\n\\]", [("mathblock", "- x")]),
        ("1. $$\n   a\n   $$", [("mathblock", "a")]),
        ("$5 and $6", []),
        (r"a \$x\$ b", []),
        ("`$x$`", []),
        ("$$ never closed", []),
    ],
)
def test_formulas_are_found_as_pandoc_finds_them(text: str, tex: list[tuple[str, str]]) -> None:
    nodes = markdown_nodes(text)
    assert [(node[0], words(node[1])) for node in walk(nodes) if str(node[0]).startswith("math")] == tex  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["x" * (MAX_CHARACTERS + 1), "> " * 40 + "deep", "[" * 5000, "|a" * 200 + "\n" + "|-" * 200 + "\n|" * 400]
)
def test_what_is_long_deep_or_slow_to_parse_is_shown_verbatim_and_whole(text: str) -> None:
    assert markdown_nodes(text) == [["pre", [text], "verbatim"]]


PIECES = (*"ab1 \n\t*_`~#>|-+[]()!<>$\\&:;\"'/{}=", "```", "$$", "\\[", "http://x", "](", "\u202e", "\ud800")


@given(st.lists(st.sampled_from(PIECES), max_size=80).map("".join))
def test_any_text_becomes_known_tags_that_are_json(text: str) -> None:
    nodes = markdown_nodes(text)
    json.dumps(nodes)
    for node in walk(nodes):
        assert node[0] in TAGS
        assert isinstance(node[2], str)


@given(st.lists(st.sampled_from(["word", "two words", "7", "naïve", "表"]), min_size=1, max_size=6))
def test_no_word_of_a_text_is_lost(parts: list[str]) -> None:
    assert words(markdown_nodes("\n\n".join(parts))) == "".join(parts)
