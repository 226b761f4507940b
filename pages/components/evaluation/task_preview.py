"""The first prompts of a task on a dataset, as a tokenizer cuts them, with what is scored after each."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.rendering import Rendered
from backend.domain.wording import plural
from backend.errors import RoundhouseError
from backend.services.context import Context
from backend.services.data.datasets import list_datasets
from backend.services.evaluation.tasks import find_task_dataset, preview_task
from backend.services.tokenizers.sources import TokenizerSource, list_sources
from backend.services.tokenizers.tokenization import Token, tokenize
from pages.components.choices import by_identity
from pages.components.frame import errors_shown, plain
from pages.components.tokenizers.text import draw_tokens

MAX_CHOICES = 12


def draw_preview(ctx: Context, text: str, *, task: TaskDefinition | None, dataset_id: str | None, key: str) -> None:
    """Draw the choice of dataset and tokenizer, and the first three prompts; a fault of the task names line, column and
    remedy.
    """
    datasets = {d.id: d for d in list_datasets(ctx, ready=True) if d.newest is not None}
    if not datasets:
        st.info("Import a benchmark to see the task's prompts.", icon=":material/upload:")
        return
    sources = {source.ref: source for source in list_sources(ctx)}
    keys = sorted(datasets, key=lambda k: (datasets[k].kind not in ("benchmark", "records"), datasets[k].name))
    if task is not None and dataset_id is None and (fitting := find_task_dataset(ctx, task)) is not None:
        dataset_id = fitting.dataset_id
    first, second = st.columns(2)
    chosen = first.selectbox(
        "Dataset",
        keys,
        index=keys.index(dataset_id) if dataset_id in keys else None,
        placeholder="No dataset fits: choose one",
        format_func=by_identity(f"task_dataset_{key}", keys, lambda k: f"{datasets[k].name} ({datasets[k].kind})"),
        key=f"task_dataset_{key}",
    )
    ref = second.selectbox(
        "Tokenizer",
        ["", *sources],
        index=1 if sources else 0,
        format_func=by_identity(f"task_tokenizer_{key}", ["", *sources], lambda r: sources[r].name if r else "None"),
        key=f"task_tokenizer_{key}",
    )
    if chosen is None:
        return
    version = datasets[chosen].newest
    assert version is not None
    with errors_shown():
        preview = preview_task(ctx, text, version)
        st.caption(f"{preview.scored:,} of {plural(preview.rows, 'row')} are scored. First prompts:")
        for number, prompt in enumerate(preview.prompts, 1):
            with st.container(border=True):
                _draw_prompt(ctx, prompt, sources.get(ref), number=number, key=f"{key}_{chosen}_{number}")


def _draw_prompt(ctx: Context, prompt: Rendered, source: TokenizerSource | None, *, number: int, key: str) -> None:
    facts = [f"**{number}**"]
    if prompt.subgroup is not None:
        facts.append(plain(prompt.subgroup))
    context = prompt.contexts[0] if prompt.contexts else prompt.context
    tokens: Sequence[Token] = ()
    if source is not None and context:
        try:
            tokens = tokenize(ctx, source, context).tokens
        except RoundhouseError as error:
            st.caption(plain(error.message))
    if tokens:
        facts.append(plural(len(tokens), "token"))
    st.markdown(" · ".join(facts))
    if tokens and source is not None:
        draw_tokens(tokens, key=f"task_{key}_{source.id}")
    else:
        st.code(context or "(no prompt)", language=None, wrap_lines=True)
    if prompt.contexts:
        st.caption("Each choice changes the prompt; the same text is scored after each.")
        for at, (changed, continuation) in enumerate(prompt.pairs()):
            _draw_scored(f"{changed[-80:]} → {continuation}", is_right=at in prompt.gold)
        return
    for at, continuation in enumerate((prompt.continuations or ())[:MAX_CHOICES]):
        _draw_scored(continuation, is_right=at in prompt.gold)
    hidden = len(prompt.continuations or ()) - MAX_CHOICES
    if hidden > 0:
        st.caption(f"and {hidden} more")
    if prompt.continuations is None:
        for reference in prompt.references[:MAX_CHOICES]:
            _draw_scored(reference, is_right=True)


def _draw_scored(text: str, *, is_right: bool) -> None:
    icon = ":material/check_circle:" if is_right else ":material/radio_button_unchecked:"
    shown = text if len(text) <= 300 else f"{text[:300]}…"
    st.markdown(f"{icon} {plain(repr(shown)[1:-1])}")
