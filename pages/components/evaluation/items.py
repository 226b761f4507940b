"""Sample browser: the items of an evaluation or of two side by side, searched and filtered, and one item as a page.

What is shown is in the address: `items` (outcome), `search`, `filter`, `page`, and `item`, the number of the one shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from backend.domain.evaluation.config import EvaluationKind, is_right
from backend.domain.evaluation.score_text import is_share, score_label, score_text
from backend.domain.filters import EXAMPLES, FilterError
from backend.domain.wording import plural, shorten, visible
from backend.errors import NotFound
from backend.services.context import Context
from backend.services.evaluation.comparisons import Comparison, Pair
from backend.services.evaluation.contamination import check_contamination
from backend.services.evaluation.evaluations import EvaluationView
from backend.services.evaluation.items import (
    ItemIndex,
    ItemQuery,
    ItemView,
    Which,
    find_items,
    get_item,
    list_rivals,
    read_index,
    read_items,
)
from backend.services.evaluation.pairing import item_metric
from backend.services.evaluation.pairs import (
    Flip,
    disagreeing_items,
    disagreeing_pairs,
    group_pairs,
    list_changed,
    read_paired_items,
)
from backend.services.evaluation.safety.probes import is_probe
from pages.components import routes
from pages.components.evaluation.folding import FOLDED, folded
from pages.components.evaluation.safety import draw_safety_item
from pages.components.frame import draw_filter_error, handled, object_heading, plain
from pages.components.links import row_link, set_parameters
from pages.components.tables import draw_table

PAGE = routes.EVALUATIONS
SHOWN = 10
EXCERPT = 1200
"""Characters of a text in the list; an item's own page has it whole."""
DISAGREED = "Disagreed with judge"
SCORED = {"wrong": "Wrong", "right": "Right", "truncated": "Truncated", "all": "All"}
WHICH = {
    EvaluationKind.PERPLEXITY: {"all": "In order", "wrong": "Highest loss", "right": "Lowest loss"},
    EvaluationKind.MULTIPLE_CHOICE: SCORED,
    EvaluationKind.GENERATION: SCORED,
}
PAIRS = {
    "broken": "Broken",
    "fixed": "Fixed",
    "both_wrong": "Both wrong",
    "both_right": "Both right",
    "judge": DISAGREED,
    "changed": "Changed",
}


def is_item_open() -> bool:
    """Return whether the address names one item."""
    return "item" in st.query_params


def draw_items(ctx: Context, evaluation: EvaluationView) -> None:
    """Draw an evaluation's items page by page, wrong ones first, with search and filter."""
    choices = _choices(ctx, evaluation)
    index = read_index(ctx, evaluation)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        which = _draw_choice(choices, default=next(iter(choices)))
        text = _draw_text("Search items", "search", placeholder="Question or answer", width=180)
        expression = _draw_text("Filter", "filter", placeholder="score < 1 and item <= 200", width=225)
        with st.popover("Fields", icon=":material/data_object:"):
            _draw_fields(index, evaluation.main_metric)
    try:
        rows = find_items(ctx, evaluation, index, _query(ctx, evaluation, which, text=text, expression=expression))
    except FilterError as error:
        draw_filter_error(error, expression)
        return
    at = _draw_place(len(rows), of=len(index))
    if not rows:
        st.caption("Items appear here as they are scored." if evaluation.is_active else "No such items.")
    for item in read_items(ctx, index, rows[at : at + SHOWN]):
        with st.container(border=True, gap="xsmall"):
            draw_item(evaluation.kind, evaluation.main_metric, item, key=evaluation.id)


def draw_item_page(ctx: Context, evaluation: EvaluationView) -> None:
    """Draw the item that the address names: texts whole, examples folded, values, and what others answered."""
    item = get_item(ctx, evaluation, st.query_params["item"])
    given = st.query_params.get("items", "")
    choices = _choices(ctx, evaluation)
    object_heading(f"Item {item.number:,} of {evaluation.checkpoint} on {evaluation.benchmark}")
    which = given if given in choices else next(iter(choices))
    numbers = _numbers(ctx, evaluation, which)
    if item.number not in numbers and not given:  # a bare link names an item, not a list
        which, numbers = "all", _numbers(ctx, evaluation, "all")
    _draw_steps(numbers, item.number, named=choices[which])
    if item.shown.get("safety"):
        draw_safety_item(item)
    else:
        _draw_whole(evaluation, item)
    _draw_values(item)
    others = list_rivals(ctx, evaluation, item)
    if others:
        st.subheader("The same item answered by others", anchor=False)
        for other, answered in others:
            with st.container(border=True, gap="xsmall"):
                row_link(
                    other.checkpoint,
                    page=PAGE,
                    query={"evaluation": other.id, "item": str(answered.number)},
                    key=f"other_{other.id}",
                )
                with folded(bool(answered.shown.get("safety"))):
                    _draw_answer(other.kind, other.main_metric, answered)


def _numbers(ctx: Context, evaluation: EvaluationView, which: str) -> list[int]:
    """Return the numbers of the items in the list that the address describes; none by a wrong filter."""
    text, expression = (st.query_params.get(name, "") for name in ("search", "filter"))
    index = read_index(ctx, evaluation)
    try:
        rows = find_items(ctx, evaluation, index, _query(ctx, evaluation, which, text=text, expression=expression))
    except FilterError:
        return []
    return [index.positions[row] + 1 for row in rows]


def _choices(ctx: Context, evaluation: EvaluationView) -> dict[str, str]:
    """Return the outcomes by which items are chosen, the first shown first."""
    if is_probe(ctx, evaluation.version_id):
        return {"all": "All"} | ({} if evaluation.kind is EvaluationKind.PERPLEXITY else {"truncated": "Truncated"})
    words = dict(WHICH[evaluation.kind])
    if check_contamination(ctx, evaluation, with_scores=False).positions:
        words["contaminated"] = "Contaminated"
    if disagreeing_items(ctx, evaluation) is not None:
        words["judge"] = DISAGREED
    return words


def _query(ctx: Context, evaluation: EvaluationView, which: str, *, text: str, expression: str) -> ItemQuery:
    positions: frozenset[int] | None = None
    if which == "contaminated":
        positions = check_contamination(ctx, evaluation, with_scores=False).positions
    elif which == "judge":
        positions = disagreeing_items(ctx, evaluation) or frozenset()
    outcomes: dict[str, Which] = {"wrong": "wrong", "right": "right", "truncated": "truncated"}
    return ItemQuery(outcomes.get(which, "all"), text, expression, positions)


def _draw_choice(words: Mapping[str, str], *, default: str) -> str:
    """Draw the choice of items, which the address keeps."""
    given = st.query_params.get("items", default)
    st.session_state["items_which"] = given if given in words else default

    def store() -> None:
        chosen = st.session_state["items_which"]
        set_parameters(items="" if chosen == default else chosen, page="")

    return str(
        st.segmented_control(
            "Items",
            list(words),
            required=True,
            format_func=lambda name: words[name],
            key="items_which",
            on_change=handled(store),
        )
    )


def _draw_text(label: str, name: str, *, placeholder: str, width: int) -> str:
    """Draw a field of text that the address keeps."""
    key = f"items_{name}"
    st.session_state[key] = st.query_params.get(name, "")

    def store() -> None:
        set_parameters(**{name: (st.session_state[key] or "").strip(), "page": ""})

    return st.text_input(label, key=key, placeholder=placeholder, on_change=handled(store), width=width)


def _draw_place(total: int, *, of: int) -> int:
    """Draw how many items there are and, of several pages, which is shown; return the place of its first item."""
    pages = max(1, -(-total // SHOWN))
    given = st.query_params.get("page", "1")
    number = min(pages, max(1, int(given))) if given.isascii() and given.isdecimal() and len(given) < 9 else 1
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(plural(total, "item") + (f" of {of:,}" if of != total else ""), width="content")
        if pages > 1:
            st.session_state["items_page"] = number

            def store() -> None:
                set_parameters(page=str(st.session_state["items_page"]))

            st.number_input(
                f"Page, 1 to {pages}",
                1,
                pages,
                key="items_page",
                on_change=handled(store),
                width=140,
                label_visibility="collapsed",
            )
            st.caption(f"of {plural(pages, 'page')}", width="content")
    return (number - 1) * SHOWN


def _draw_steps(numbers: Sequence[int], number: int, *, named: str) -> None:
    """Draw the way back to the list, and the ways to the items before and after."""
    place = numbers.index(number) if number in numbers else None
    before = numbers[place - 1] if place else None
    after = numbers[place + 1] if place is not None and place + 1 < len(numbers) else None
    with st.container(horizontal=True, vertical_alignment="center"):
        page = "" if place is None or place < SHOWN else str(place // SHOWN + 1)
        st.button(
            "List",
            icon=":material/list:",
            key="item_list",
            shortcut="Escape",
            on_click=handled(set_parameters),
            kwargs={"item": "", "page": page},
        )
        for label, icon, shortcut, target in (
            ("Previous", "chevron_left", "Left", before),
            ("Next", "chevron_right", "Right", after),
        ):
            st.button(
                label,
                icon=f":material/{icon}:",
                key=f"item_{label.lower()}",
                shortcut=shortcut,
                disabled=target is None,
                on_click=handled(set_parameters),
                kwargs={"item": str(target)},
            )
        where = "not among the listed items" if place is None else f"{place + 1:,} of {len(numbers):,}"
        st.caption(plain(f"{where} ({named.lower()})" if place is not None else where), width="content")


def _draw_fields(index: ItemIndex, main_metric: str) -> None:
    """Draw what filters may name, with the values that there are."""
    fields, read = index.fields(main_metric), index.reader(main_metric)
    st.caption("Join conditions with `and`, `or`, `not` and parentheses. `score` is the main metric.")
    rows = []
    for name, one in fields.items():
        reader = read(name)
        values = [value for row in range(len(index)) if (value := reader(row)) is not None]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        shown = f"{min(numbers):.4g} to {max(numbers):.4g}" if numbers else ", ".join(sorted(set(map(str, values)))[:8])
        rows.append({"Field": name, "Values": shown or EXAMPLES[one.kind]})
    st.dataframe(rows, hide_index=True, width=420, height=300, alt="Fields of items")


def draw_item(kind: EvaluationKind, metric: str, item: ItemView, *, key: str) -> None:
    """Draw one item in a list. Its texts come from a dataset or a network and are shown as plain text."""
    with st.container(horizontal=True, vertical_alignment="center"):
        _draw_item_link(item.number, key=key)
        if item.shown.get("subgroup"):
            st.caption(plain(str(item.shown["subgroup"])), width="content")
    if item.shown.get("safety"):
        draw_safety_item(item)
        return
    if kind is EvaluationKind.PERPLEXITY:
        st.caption(_loss(item))
        st.text(_excerpt(item.shown.get("text", "")))
        return
    st.text(_excerpt(item.shown.get("question") or "(no question, choices only)"))
    _draw_answer(kind, metric, item)
    if kind is EvaluationKind.GENERATION:
        draw_expected(item.shown.get("answer"))
        _draw_notes(item, cut=True)


def _draw_item_link(number: int, *, key: str) -> None:
    st.button(
        f"Item {number:,}",
        type="tertiary",
        icon=":material/open_in_full:",
        key=f"item_{key}_{number}",
        on_click=handled(set_parameters),
        kwargs={"item": str(number)},
    )


def _draw_whole(evaluation: EvaluationView, item: ItemView) -> None:
    kind, shown = evaluation.kind, item.shown
    if kind is EvaluationKind.PERPLEXITY:
        st.caption(_loss(item))
        st.text(str(shown.get("text", "")))
        return
    question, prompt = str(shown.get("question") or ""), str(shown.get("prompt") or "")
    _draw_prompt(question, prompt, shots=num_examples(evaluation))
    st.caption("Question")
    st.text(question or "(no question, choices only)")
    st.caption("Choices" if kind is EvaluationKind.MULTIPLE_CHOICE else "Answer")
    _draw_answer(kind, evaluation.main_metric, item, cut=False)
    for place, text in enumerate((shown.get("samples") or [])[1:], 2):
        with st.expander(f"Sample {place}"):
            st.text(str(text) or "(nothing)")
    if kind is EvaluationKind.GENERATION:
        draw_expected(shown.get("answer"))
        _draw_notes(item, cut=False)


def num_examples(evaluation: EvaluationView) -> int:
    """Return the number of few-shot examples before each question."""
    task = evaluation.config.task
    return task.fewshot.count if task is not None else evaluation.config.shots


def _draw_prompt(question: str, prompt: str, *, shots: int) -> None:
    """Draw what the network was shown, folded: the examples before the question apart."""
    before, question_there, _ = prompt.rpartition(question) if question else ("", "", "")
    with st.container(horizontal=True):
        if shots and question_there and before.strip():
            with st.expander(f"Few-shot examples ({shots})", icon=":material/school:"):
                st.text(before.strip())
        if prompt and prompt.strip() != question.strip():
            with st.expander("Full prompt", icon=":material/article:"):
                st.text(prompt)


def _draw_answer(kind: EvaluationKind, metric: str, item: ItemView, *, cut: bool = True) -> None:
    """Draw what a network answered, and whether it is right by a metric; of a text its loss."""
    if kind is EvaluationKind.PERPLEXITY:
        st.caption(plain(_outcome(metric, item.values.get(metric))))
    elif kind is EvaluationKind.MULTIPLE_CHOICE:
        _draw_choices(item.shown)
    else:
        text = visible(str(item.shown.get("completion") or ""))
        value = item.values.get(item_metric(metric))
        right = item.values.get("exact_match") == 1.0 if value is None else is_right(metric, value)
        _mark(right, "answered", _excerpt(text) if cut else text, contained=item.values.get("contains") == 1.0)


def _draw_notes(item: ItemView, *, cut: bool) -> None:
    """Draw what was extracted from the answer, the judge's words, and why there is no answer."""
    shown = item.shown
    for name, text in zip(shown.get("filters") or [], shown.get("extracted") or [], strict=False):
        _draw_line(f"Extracted ({name})", str(text))
    if shown.get("judge"):
        st.caption("Judge" if item.values.get("unjudged") is None else "Judge (no verdict)")
        st.text(_excerpt(shown["judge"]) if cut else str(shown["judge"]))
    if shown.get("failed"):
        st.caption(f":material/warning: {plain(str(shown['failed']))}")


def _draw_values(item: ItemView) -> None:
    if not item.values:
        st.caption("This item has no values: it is missing from the scores.")
        return
    rows = [
        {"Metric": score_label(name), "Value": score_text(name, value)} for name, value in sorted(item.values.items())
    ]
    with st.expander("All values", icon=":material/data_object:"):
        draw_table(rows, key="item_values", alt="Values of the item")


def _excerpt(text: object) -> str:
    return shorten(str(text), EXCERPT)


def _loss(item: ItemView) -> str:
    bits = item.values.get("bits_per_byte")
    words = f"{bits:.3f} bits per byte" if bits is not None else "no tokens scored"
    return f"{words}, {int(item.values.get('tokens', 0)):,} tokens"


def draw_expected(answer: Any) -> None:
    """Draw the expected answer, or all accepted ones; nothing if the item has none."""
    answers = answer if isinstance(answer, list) else [] if answer is None else [answer]
    if answers:
        _draw_line("Expected", "  ·  ".join(str(one).strip() for one in answers))


def _draw_line(label: str, text: str) -> None:
    """Draw a short text behind its label, a long one below it."""
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        st.caption(plain(label), width="content")
        st.text(visible(text), width="content")


def _draw_choices(shown: dict[str, Any]) -> None:
    scores, answer = shown.get("logprobs") or [], shown.get("answer")
    right = answer if isinstance(answer, list) else [answer]
    for index, choice in enumerate(shown.get("choices") or []):
        score = f"log-likelihood {scores[index]:.2f}" if index < len(scores) else ""
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            st.text(str(choice).strip(), width="content")
            if choice in right:
                st.badge("right", icon=":material/check:", color="green")
            if choice == shown.get("chosen"):
                st.badge("chosen", icon=":material/touch_app:", color="blue" if choice in right else "red")
            st.caption(score, width="content")
    if int(shown.get("tied") or 1) > 1:
        st.caption(f"{shown['tied']} choices tie, so the credit is split.")


def _mark(right: bool, word: str, text: str, *, contained: bool) -> None:
    with st.container(horizontal=True, gap="small", vertical_alignment="top"):
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


def draw_pairs(ctx: Context, comparison: Comparison) -> None:
    """Draw items of two evaluations side by side: broken or fixed by the second, or wrong or right in both; of texts,
    those that differ, the largest differences first.
    """
    kind = comparison.first.kind
    text = st.query_params.get("search", "")
    groups = _pair_groups(ctx, comparison, text=text)
    first = next((name for name, members in groups.items() if members), "broken")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        if kind is EvaluationKind.PERPLEXITY:
            choice = "changed"
        else:
            names = {name: f"{PAIRS[name]} ({len(members):,})" for name, members in groups.items()}
            choice = _draw_choice(names, default=first)
            _draw_text("Search items", "search", placeholder="Question or answer", width=240)
    if kind is not EvaluationKind.PERPLEXITY:
        names_of = (comparison.first.checkpoint, comparison.second.checkpoint)
        st.caption(plain("Broken: {} is right and {} is wrong. Fixed: the other way round.".format(*names_of)))
    hashes = groups[choice]
    at = _draw_place(len(hashes), of=len(hashes))
    if not hashes:
        st.caption("No such items.")
    for flip in read_paired_items(ctx, comparison, hashes[at : at + SHOWN]):
        with st.container(border=True, gap="xsmall"):
            _draw_item_link(flip.first.number, key="pair")
            _draw_flip(comparison, flip)


def draw_pair_page(ctx: Context, pair: Pair) -> None:
    """Draw the item that the address names as both evaluations have it."""
    item = get_item(ctx, pair.first, st.query_params["item"])
    if item.item_hash not in read_index(ctx, pair.second).rows:
        raise NotFound(f"Only one of the two evaluations has item {item.number:,}.", remedy="Choose another item.")
    object_heading(f"Item {item.number:,} of {pair.second.checkpoint} against {pair.first.checkpoint}")
    groups = _pair_groups(ctx, pair, text=st.query_params.get("search", ""))
    own = next((name for name, members in groups.items() if item.item_hash in members), "")
    choice = st.query_params.get("items", own)
    index = read_index(ctx, pair.first)
    numbers = [index.positions[index.rows[key]] + 1 for key in groups.get(choice, [])]
    _draw_steps(numbers, item.number, named=PAIRS.get(choice, choice))
    (flip,) = read_paired_items(ctx, pair, [item.item_hash])
    if not flip.first.shown.get("safety"):
        question, prompt = str(item.shown.get("question") or ""), str(item.shown.get("prompt") or "")
        _draw_prompt(question, prompt, shots=num_examples(pair.first))
    _draw_flip(pair, flip, cut=False)


def _pair_groups(ctx: Context, pair: Pair, *, text: str) -> dict[str, list[str]]:
    if pair.first.kind is EvaluationKind.PERPLEXITY:
        return {"changed": list_changed(ctx, pair)}
    groups: dict[str, list[str]] = dict(group_pairs(ctx, pair, text=text).items())
    disagreeing = disagreeing_pairs(ctx, pair)
    if disagreeing is not None:
        groups["judge"] = disagreeing
    return groups


def _draw_flip(pair: Pair, flip: Flip, *, cut: bool = True) -> None:
    kind = pair.first.kind
    with folded(bool(flip.first.shown.get("safety")), label=FOLDED):
        question = flip.first.shown.get("question") or flip.first.shown.get("text") or "(no question, choices only)"
        st.text(_excerpt(question) if cut else str(question))
        for column, side, item in zip(st.columns(2), (pair.first, pair.second), (flip.first, flip.second), strict=True):
            with column:
                st.caption(plain(f"{side.checkpoint}: {_outcome(pair.metric, item.values.get(pair.metric))}"))
                if kind is EvaluationKind.MULTIPLE_CHOICE:
                    st.text(f"chose {str(item.shown.get('chosen', '')).strip()}")
                elif kind is EvaluationKind.GENERATION:
                    answer = visible(str(item.shown.get("completion") or ""))
                    st.text(_excerpt(answer) if cut else answer)
                    _draw_notes(item, cut=cut)
        if kind is not EvaluationKind.PERPLEXITY:
            draw_expected(flip.first.shown.get("answer"))
