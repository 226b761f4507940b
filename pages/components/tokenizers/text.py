"""Tokens of a typed text with one or several tokenizers, updated while typing."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from backend.domain.wording import plural
from backend.services.context import Context
from backend.services.tokenizers.sources import TokenizerSource
from backend.services.tokenizers.tokenization import MAX_TEXT, Token, Tokenization, tokenize
from pages.components.browser.text_field.component import live_text
from pages.components.browser.token_strip.component import Mark, token_strip
from pages.components.frame import errors_shown, live_part, plain

EXAMPLE = "The miller's cat can't swim: 1,024 fish \U0001f41f swam by.\nDie Mühle läuft. 水车在转。"
MAX_DECODED = 2000


@live_part()
def draw_text(ctx: Context, sources: Sequence[TokenizerSource], *, key: str) -> None:
    """Draw the text field and the tokens of each tokenizer."""
    text = live_text("Text", key=f"text_{key}", value=st.query_params.get("text") or EXAMPLE, max_chars=2 * MAX_TEXT)
    with st.container(horizontal=True):
        with_ids = st.toggle("Token ids", key=f"ids_{key}")
        specials = st.toggle(
            "Parse special tokens",
            key=f"specials_{key}",
            help=(
                "On: the text <|end|> becomes the special token, as in a chat template. Off: it stays text, as in"
                " training data."
            ),
        )
    grid = st.grid(min(2, len(sources)), min_column_width=340)
    for source in sources:
        with grid.container(border=len(sources) > 1), errors_shown():
            if len(sources) > 1:
                st.markdown(f"**{plain(source.name)}**")
            _draw_tokens(tokenize(ctx, source, text, specials=specials), key=f"{key}_{source.id}", with_ids=with_ids)


def _draw_tokens(result: Tokenization, *, key: str, with_ids: bool) -> None:
    parts = [
        f"**{plural(len(result.tokens), 'token')}**",
        plural(result.characters, "character"),
        plural(result.bytes, "byte"),
    ]
    if result.bytes_per_token is not None:
        parts.append(f"{result.bytes_per_token:.2f} bytes per token")
    if result.fertility is not None:
        parts.append(f"{result.fertility:.2f} tokens per word")
    st.markdown(" · ".join(parts))
    if result.cut:
        st.caption(f":material/content_cut: Only the first {MAX_TEXT:,} characters are tokenized.")
    if not result.tokens:
        st.caption("No text, no tokens.")
        return
    draw_tokens(result.tokens, key=key)
    if with_ids:
        st.code(
            " ".join(str(token.id) for token in result.tokens),
            language=None,
            wrap_lines=True,
            height=140 if len(result.tokens) > 200 else "content",
        )
    _draw_return(result)


def draw_tokens(tokens: Sequence[Token], *, key: str) -> None:
    """Draw tokens one after another, each set off from its neighbours."""
    token_strip(
        [_shown(token) for token in tokens],
        key=f"strip_{key}",
        titles=[_title(token) for token in tokens],
        marks=_marks(tokens),
        clickable=False,
    )


def _draw_return(result: Tokenization) -> None:
    unknown = sum(token.kind == "unknown" for token in result.tokens)
    if unknown:
        st.markdown(f":red[:material/help: Lost (red): {plural(unknown, 'token')} that this tokenizer can't encode.]")
    if result.same:
        st.caption(":material/check_circle: Round-trips exactly.")
        return
    st.markdown(":orange[:material/warning: Does not round-trip:]")
    st.code(result.decoded[:MAX_DECODED] or " ", language=None, wrap_lines=True)


def _shown(token: Token) -> str:
    # hexadecimal digits: the strip would draw the space as text
    return token.text.replace(" ", "") if token.kind == "byte" else token.text


def _title(token: Token) -> str:
    stands_for = {"special": "a special token", "unknown": "unknown token", "byte": "bytes of a character"}.get(
        token.kind, ""
    )
    return f"id {token.id}\n{token.piece!r}" + (f"\n{stands_for}" if stands_for else "")


def _marks(tokens: Sequence[Token]) -> list[Mark]:
    """Return marks that separate neighbours and set special tokens apart."""
    beside: tuple[Mark, Mark] = ("one", "two")
    of_kind: dict[str, Mark] = {"special": "special", "unknown": "unknown", "byte": "bytes"}
    return [of_kind.get(token.kind) or beside[place % 2] for place, token in enumerate(tokens)]
