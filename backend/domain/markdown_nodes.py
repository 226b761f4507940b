"""Markdown as nodes that a browser draws one by one, without markup in between. Pure rules, no I/O.

A network's text is hostile: HTML in it stays text, links and images become words and an address, and no tag exists but
those of `TAGS`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeAlias

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline, newline
from markdown_it.token import Token

Node: TypeAlias = "str | list[str | list[Node]]"
"""A text, or [tag, nodes inside, detail]. `detail` is a list's first number, a cell's alignment, a code block's
language, the address of a link or image, or empty. `math` and `mathblock` hold TeX.
"""

BLOCKS = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "hr", "pre", "mathblock"})
TABLES = frozenset({"table", "thead", "tbody", "tr", "th", "td"})
TAGS = BLOCKS | TABLES | {"br", "em", "strong", "s", "code", "link", "image", "math"}
MAX_CHARACTERS = 20_000
MAX_NODES = 8_000
MAX_NESTING = 20
MAX_DETAIL = 300
MAX_BRACKETS = 2_000
MAX_MATH_LINES = 30
INLINE_MATHS = (
    ("mathblock", re.compile(r"\$\$((?:\\.|[^\\$]|\$(?!\$)){1,2000}?)\$\$", re.DOTALL)),
    ("math", re.compile(r"\$(?![\s$])((?:\\.|[^\\$]){1,1000}?)(?<!\s)\$(?!\d)", re.DOTALL)),
    ("math", re.compile(r"\\\(((?:[^\\]|\\[^()]){1,1000}?)\\\)", re.DOTALL)),
    ("mathblock", re.compile(r"\\\[((?:[^\\]|\\[^\[\]]){1,2000}?)\\\]", re.DOTALL)),
)
"""Delimiters as pandoc reads them: `$5 and $6` is not a formula. No pattern looks past the next delimiter, so unclosed
ones cost little.
"""

BLOCK_MATHS = {"$$": "$$", "\\[": "\\]"}
UNBREAKABLE = "\u00a0"
QUIET = frozenset(["text", "text_special"])


def markdown_nodes(text: str) -> list[Node]:
    """Return a text's Markdown as nodes: CommonMark with tables, strikethrough and TeX, each line break kept with the
    indentation after it.

    A text is one block of verbatim text if it is long (`MAX_CHARACTERS`), makes many nodes (`MAX_NODES`), nests deeper
    than the parser follows, or has so many brackets that parsing would be slow: 20,000 hostile characters take under a
    second.
    """
    return list(_parse(text)) if len(text) <= MAX_CHARACTERS else [_verbatim(text)]


@lru_cache(maxsize=256)
def _parse(text: str) -> tuple[Node, ...]:
    rows = text.split("\n")
    if text.count("[") > MAX_BRACKETS or max(row.count("|") for row in rows) * len(rows) > MAX_NODES:
        return (_verbatim(text),)
    blocks = PARSER.parse(text)
    tokens = [part for token in blocks for part in (token.children or [] if token.type == "inline" else [token])]
    # text nested deeper was dropped
    if len(tokens) > MAX_NODES or any(token.level >= MAX_NESTING - 1 for token in blocks):
        return (_verbatim(text),)
    return tuple(_tree(tokens))


def _verbatim(text: str) -> Node:
    return ["pre", [text], "verbatim"]


def _tree(tokens: Sequence[Token]) -> list[Node]:
    root: list[Node] = []
    inside = [root]
    for token in tokens:
        if token.nesting == -1:
            if not token.hidden:
                inside.pop()
        elif token.type in QUIET:
            _add_text(inside[-1], token.content)
        elif not token.hidden:  # the paragraphs of a tight list are hidden
            tag, kids, detail = _element(token)
            inside[-1].append([tag, kids, detail])
            if token.nesting == 1:
                inside.append(kids)
    return root


def _add_text(kids: list[Node], text: str) -> None:
    if kids and isinstance(kids[-1], str):
        kids[-1] += text
    elif text:
        kids.append(text)


def _element(token: Token) -> tuple[str, list[Node], str]:
    """Return tag, nodes inside and detail of a token that is no text."""
    kids: list[Node] = [token.content] if token.content else []
    match token.type:
        case "link_open":
            return "link", [], str(token.attrGet("href") or "")[:MAX_DETAIL]
        case "image":
            return "image", kids, str(token.attrGet("src") or "")[:MAX_DETAIL]
        case "fence" | "code_block":
            return "pre", kids, token.info.strip().split(" ")[0][:40]
        case "softbreak" | "hardbreak":
            return "br", [], ""
        case "ordered_list_open":
            return "ol", [], str(token.attrGet("start") or 1)
        case "th_open" | "td_open":
            return token.tag, [], str(token.attrGet("style") or "").removeprefix("text-align:")
        case _:
            return (token.tag if token.tag in TAGS else "p"), kids, ""


def _line_break(state: StateInline, silent: bool) -> bool:
    """Read a line break, and keep the indentation after it: code without a fence is another program without."""
    start = state.pos
    if not newline(state, silent):
        return False
    if not silent:
        state.pending += UNBREAKABLE * len(state.src[start + 1 : state.pos].expandtabs(4))
    return True


def _inline_maths(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] not in "$\\":
        return False
    for tag, pattern in INLINE_MATHS:
        if match := pattern.match(state.src, state.pos, state.posMax):
            if not silent:
                state.push(tag, tag, 0).content = match[1].strip()
            state.pos = match.end()
            return True
    return False


def _block_maths(state: StateBlock, line: int, last: int, silent: bool) -> bool:
    """Read a formula that begins a line and ends another, with lines between that would else be lists or headings."""
    start = state.bMarks[line] + state.tShift[line]
    closing = BLOCK_MATHS.get(state.src[start : start + 2])
    if closing is None or state.is_code_block(line):
        return False
    for end in range(line, min(last, line + MAX_MATH_LINES)):
        row = state.src[
            start + 2 if end == line else state.bMarks[end] + state.tShift[end] : state.eMarks[end]
        ].rstrip()
        if not row.endswith(closing) or (end == line and row == ""):
            if closing in row:
                return False
            continue
        if not silent:
            token = state.push("mathblock", "mathblock", 0)
            body = state.getLines(line, end + 1, state.blkIndent, False).strip()
            token.content = body[2:-2].strip()
            state.line = end + 1
        return True
    return False


def _parser() -> MarkdownIt:
    """Return the parser. Definitions of links would vanish from the text, so there are none."""
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": MAX_NESTING}).enable(
        ["table", "strikethrough"]
    )
    parser.disable(["html_block", "html_inline", "reference"])
    parser.inline.ruler.at("newline", _line_break)
    parser.inline.ruler.before("escape", "maths", _inline_maths)
    parser.block.ruler.before("fence", "maths", _block_maths, {"alt": ["paragraph", "blockquote", "list"]})
    return parser


PARSER = _parser()
