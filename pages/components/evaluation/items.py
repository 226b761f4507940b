"""Items of evaluations as plain text: question, expected answer, outcome."""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st

from backend.domain.evaluation.config import EvaluationKind
from backend.domain.wording import plural
from backend.services.context import Context
from backend.services.evaluation.comparisons import Comparison, Flip
from backend.services.evaluation.contamination import check_contamination
from backend.services.evaluation.evaluations import EvaluationView
from backend.services.evaluation.items import ItemView, Which, list_items
from backend.services.evaluation.pairs import disagreeing_items, disagreeing_pairs, group_pairs, read_paired_items
from backend.services.evaluation.safety.probes import is_probe
from pages.components.evaluation.folding import folded
from pages.components.evaluation.safety import draw_safety_item, draw_safety_items
from pages.components.evaluation.scores import is_share, score_label, score_text
from pages.components.frame import plain

PAGE = 10
Choice = Which | Literal["contaminated", "judge"]
DISAGREED = "Disagreed with judge"
WHICH: dict[EvaluationKind, dict[Choice, str]] = {
    EvaluationKind.PERPLEXITY: {"all": "In order", "wrong": "Highest loss", "right": "Lowest loss"},
    EvaluationKind.MULTIPLE_CHOICE: {"wrong": "Wrong", "right": "Right", "truncated": "Truncated", "all": "All"},
    EvaluationKind.GENERATION: {"wrong": "Wrong", "right": "Right", "truncated": "Truncated", "all": "All"},
}


def draw_items(ctx: Context, evaluation: EvaluationView) -> None:
    """Draw an evaluation's items, ten per page, wrong ones first."""
    if is_probe(ctx, evaluation.version_id):
        draw_safety_items(ctx, evaluation)
        return
    words = dict(WHICH[evaluation.kind])
    contaminated = check_contamination(ctx, evaluation, with_scores=False).positions
    if contaminated:
        words["contaminated"] = "Contaminated"
    disagreeing = disagreeing_items(ctx, evaluation)
    if disagreeing is not None:
        words["judge"] = DISAGREED
    chosen_positions = {"contaminated": contaminated, "judge": disagreeing or frozenset()}
    with st.container(horizontal=True, vertical_alignment="bottom"):
        which = st.segmented_control(
            "Items",
            list(words),
            default=next(iter(words)),
            required=True,
            format_func=lambda k: words[k],
            key=f"items_which_{evaluation.id}",
            label_visibility="collapsed",
        )
        positions = chosen_positions.get(which)
        outcome: Which = "all" if which == "contaminated" or which == "judge" else which
        _, total = list_items(ctx, evaluation.id, which=outcome, positions=positions, limit=1)
        pages = max(1, -(-total // PAGE))
        number = 1
        if pages > 1:
            number = int(
                st.number_input(f"Page, 1 to {pages}", 1, pages, key=f"items_page_{evaluation.id}_{which}", width=130)
            )
        st.caption(plural(total, "item"), width="content")
    items, _ = list_items(
        ctx, evaluation.id, which=outcome, positions=positions, offset=(number - 1) * PAGE, limit=PAGE
    )
    if not items:
        st.caption("Items appear here as they are scored." if evaluation.is_active else "No such items.")
    for item in items:
        with st.container(border=True, gap="xsmall"):
            if item.shown.get("safety"):
                draw_safety_item(item)
            else:
                draw_item(evaluation.kind, item)


def draw_item(kind: EvaluationKind, item: ItemView) -> None:
    """Draw one item. Its texts come from a dataset or a network and are shown as plain text."""
    if item.shown.get("prompt"):
        with st.popover("Full prompt", icon=":material/article:"):
            st.text(str(item.shown["prompt"]))
    if kind is EvaluationKind.PERPLEXITY:
        bits = item.values.get("bits_per_byte")
        words = f"{bits:.3f} bits per byte" if bits is not None else "no tokens scored"
        st.caption(f"{words}, {int(item.values.get('tokens', 0)):,} tokens")
        st.text(str(item.shown.get("text", "")))
        return
    st.text(str(item.shown.get("question") or "(no question, choices only)"))
    if kind is EvaluationKind.MULTIPLE_CHOICE:
        _draw_choices(item.shown)
        return
    right = item.values.get("exact_match") == 1.0
    _mark(
        right,
        "answered",
        str(item.shown.get("completion") or "(nothing)"),
        contained=item.values.get("contains") == 1.0,
    )
    draw_expected(item.shown.get("answer"))
    if item.shown.get("judge"):
        st.caption("Judge" if item.values.get("unjudged") is None else "Judge (no verdict)")
        st.text(str(item.shown["judge"]))
    if item.shown.get("failed"):
        st.caption(f":material/warning: {plain(str(item.shown['failed']))}")


def draw_expected(answer: Any) -> None:
    """Draw the expected answer, or all accepted ones; nothing if the item has none."""
    answers = answer if isinstance(answer, list) else [] if answer is None else [answer]
    if answers:
        st.caption("Expected")
        st.text("  ·  ".join(str(one).strip() for one in answers))


def _draw_choices(shown: dict[str, Any]) -> None:
    scores = shown.get("logprobs") or []
    for index, choice in enumerate(shown.get("choices") or []):
        score = f"{scores[index]:.2f}" if index < len(scores) else ""
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            st.text(str(choice).strip(), width="content")
            if choice == shown.get("answer"):
                st.badge("right", icon=":material/check:", color="green")
            if choice == shown.get("chosen"):
                st.badge(
                    "chosen", icon=":material/touch_app:", color="blue" if choice == shown.get("answer") else "red"
                )
            st.caption(score, width="content")
    if int(shown.get("tied") or 1) > 1:
        st.caption(f"{shown['tied']} choices tie, so the credit is split.")


def _mark(right: bool, word: str, text: str, *, contained: bool) -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        if right:
            st.badge(word, icon=":material/check:", color="green")
        elif contained:
            st.badge(f"{word}, contains it", icon=":material/check_indeterminate_small:", color="orange")
        else:
            st.badge(word, icon=":material/close:", color="red")
        st.text(text)


def _outcome(metric: str, value: float | None) -> str:
    """Return the outcome of one item."""
    if value is None:
        return "not scored"
    if not is_share(metric):
        return f"{score_text(metric, value)} {score_label(metric).lower()}"
    return {0.0: "wrong", 1.0: "right"}.get(value, "tie, credit split")


PAIRS = {"broken": "Broken", "fixed": "Fixed", "both_wrong": "Both wrong", "judge": DISAGREED}


def draw_pairs(ctx: Context, comparison: Comparison) -> None:
    """Draw items of two evaluations side by side: broken or fixed by the second, or wrong in both; of texts, those that
    differ.
    """
    kind, names = comparison.first.kind, (comparison.first.checkpoint, comparison.second.checkpoint)
    if kind is EvaluationKind.PERPLEXITY:
        number = _draw_page(len(comparison.flips), key="flips_page")
        shown: list[Flip] = list(comparison.flips[(number - 1) * PAGE : number * PAGE])
    else:
        groups: dict[str, list[str]] = dict(group_pairs(ctx, comparison).items())
        disagreeing = disagreeing_pairs(ctx, comparison)
        if disagreeing is not None:
            groups["judge"] = disagreeing
        with st.container(horizontal=True, vertical_alignment="bottom"):
            choice = st.segmented_control(
                "Items",
                list(groups),
                default=next((name for name, members in groups.items() if members), "broken"),
                required=True,
                format_func=lambda name: f"{PAIRS[name]} ({len(groups[name]):,})",
                key=f"pairs_choice_{comparison.first.id}_{comparison.second.id}",
                label_visibility="collapsed",
            )
            number = _draw_page(len(groups[choice]), key=f"pairs_page_{choice}")
        shown = read_paired_items(ctx, comparison, groups[choice][(number - 1) * PAGE : number * PAGE])
    if not shown:
        st.caption("No such items.")
    for flip in shown:
        _draw_flip(kind, comparison.metric, flip, names)


def _draw_page(total: int, *, key: str) -> int:
    pages = max(1, -(-total // PAGE))
    return int(st.number_input(f"Page, 1 to {pages}", 1, pages, key=key, width=130)) if pages > 1 else 1


def _draw_flip(kind: EvaluationKind, metric: str, flip: Flip, names: tuple[str, str]) -> None:
    with st.container(border=True, gap="xsmall"), folded(bool(flip.first.shown.get("safety"))):
        st.text(str(flip.first.shown.get("question") or flip.first.shown.get("text") or "(no question, choices only)"))
        columns = st.columns(2)
        for column, name, item in zip(columns, names, (flip.first, flip.second), strict=True):
            with column:
                st.caption(plain(f"{name}: {_outcome(metric, item.values.get(metric))}"))
                if kind is EvaluationKind.MULTIPLE_CHOICE:
                    st.text(f"chose {str(item.shown.get('chosen', '')).strip()}")
                elif kind is EvaluationKind.GENERATION:
                    st.text(str(item.shown.get("completion") or "(nothing)"))
        if kind is not EvaluationKind.PERPLEXITY:
            draw_expected(flip.first.shown.get("answer"))
