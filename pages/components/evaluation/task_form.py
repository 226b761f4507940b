"""The list of tasks, and the form of one: its fields or its YAML, and its first prompts on a dataset, tokenized."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import streamlit as st
from pydantic import ValidationError

from backend.domain.evaluation.config import EvaluationConfig
from backend.domain.evaluation.tasks.definition import DEFAULT_METRIC, KIND_LABELS, FewShot, TaskData, TaskDefinition
from backend.domain.evaluation.tasks.lm_eval_yaml import to_lm_eval
from backend.domain.evaluation.tasks.metric_names import metric_label, metrics_of
from backend.domain.evaluation.tasks.reading import TaskGroup, read_definition, read_task, task_yaml
from backend.domain.evaluation.tasks.rendering import Rendered
from backend.domain.evaluation.tasks.templates import TemplateFault
from backend.domain.json_values import FieldValues
from backend.domain.validation import validation_message
from backend.domain.wording import plural, shorten
from backend.errors import Conflict, InvalidInput, NotFound, RoundhouseError
from backend.services.context import Context, Person
from backend.services.data.datasets import list_datasets
from backend.services.evaluation.suites import suite_of_group, tasks_of
from backend.services.evaluation.tasks import (
    delete_task,
    find_task_dataset,
    get_task,
    list_tasks,
    preview_task,
    save_task,
)
from backend.services.tokenizers.sources import TokenizerSource, list_sources
from backend.services.tokenizers.tokenization import Token, tokenize
from pages.components import routes
from pages.components.choices import by_identity, choose_from, choose_one
from pages.components.confirm import draw_confirmed
from pages.components.downloads import draw_download
from pages.components.forms import draw_fields
from pages.components.frame import errors_shown, object_heading, plain, show_error
from pages.components.links import row_link
from pages.components.numbers import number_form, refuse_wrong_numbers
from pages.components.tables import WidgetTable
from pages.components.tokenizers.text import draw_tokens

NEW = "new"
EXAMPLES = "Examples and instruction"
TABLE = WidgetTable("tasks", {"Task": 2.4, "Scoring": 1.3, "Metrics": 2.0, "Origin": 1.0})
FIRST_TEXT = """name: my_task
kind: multiple_choice
prompt: "Question: {{question}}\\nAnswer:"
choices: choices
answer: answer
metrics: [acc, acc_norm]
"""
RIGHT_ANSWERS = {"target": "{{answers[0]}}", "references": "answers"}
"""Defaults of a generation task: the columns of a benchmark of free answers."""


def draw_tasks(ctx: Context) -> None:
    """Draw every task with its metrics; each opens its form."""
    object_heading("Tasks")
    st.caption("A task turns the rows of a benchmark into prompts and their answers into scores. It is a YAML file.")
    if st.button("New task", type="primary", icon=":material/add:", key="task_new"):
        st.switch_page(routes.EVALUATIONS, query_params={"task": NEW})
    with TABLE.frame():
        for view in list_tasks(ctx):
            columns = TABLE.row(view.name)
            definition = view.definition
            with columns[0]:
                row_link(
                    definition.shown_title,
                    page=routes.EVALUATIONS,
                    query={"task": view.name},
                    icon="checklist",
                    key=f"task_{view.name}",
                )
            if isinstance(definition, TaskGroup):
                columns[1].caption("Group")
                columns[2].caption(plural(len(definition.tasks), "task"))
            else:
                columns[1].caption(KIND_LABELS[definition.kind])
                columns[2].caption(plain(" · ".join(metric_label(use.name) for use in definition.metric_uses)))
            columns[3].caption("Built in" if view.origin == "shipped" else "Team")


def draw_task(ctx: Context, person: Person, name: str, *, dataset_id: str | None) -> None:
    """Draw the form of a task and its first prompts. `new` starts another one."""
    key = f"task_text_{name}"
    origin, opened_text = "new", None
    if name == NEW:
        object_heading("New task")
    else:
        view = get_task(ctx, name)
        origin = view.origin
        opened_text = st.session_state.setdefault(f"{key}_seen", view.text)
        st.session_state.setdefault(key, view.text)
        object_heading(view.definition.shown_title)
        if view.definition.description:
            st.caption(plain(view.definition.description))
    text: str = st.session_state.setdefault(key, FIRST_TEXT)
    left, right = st.columns([1, 1], gap="large")
    with left:
        text, is_sound = _draw_definition(text, key=key)
        _draw_actions(ctx, person, text, name=name, origin=origin, opened_text=opened_text, is_sound=is_sound)
    with right:
        if not is_sound and _definition_of(text) is not None:
            st.info("These are the prompts of the last correct version. Correct the task first.")
        draw_preview(ctx, text, task=_task_of(text), dataset_id=dataset_id, key=name)


@number_form
def _draw_definition(text: str, *, key: str) -> tuple[str, bool]:
    """Draw the task as fields or as YAML; return its last sound text, kept between visits, and whether it is what the
    fields hold.

    While a field is wrong, the YAML is not offered: it could not hold what was typed.
    """
    task = _task_of(text)
    is_wrong = bool(st.session_state.get(f"{key}_wrong"))
    modes = ["YAML"] if task is None else ["Form"] if is_wrong else ["Form", "YAML"]
    mode = choose_one("View", modes, key=f"{key}_mode_{'_'.join(modes)}", is_bare=True)
    if mode == "Form" and task is not None:
        values = _draw_fields(task, key=key)
        changed = _changed(task, values)
        if is_wrong != isinstance(changed, RoundhouseError):
            st.session_state[f"{key}_wrong"] = not is_wrong
            st.rerun()
        if isinstance(changed, RoundhouseError):
            show_error(changed)
            return text, False
        if changed != task:
            text = task_yaml(changed)
    else:
        height = min(640, 120 + 22 * text.count("\n"))
        text = st.text_area(
            "YAML", value=text, height=height, key=f"{key}_yaml", help="Fields that are left out hold their default."
        )
        if task is None or _task_of(text) is None:
            with errors_shown():
                read_definition(text)
    st.session_state[key] = text
    return text, _definition_of(text) is not None


def _changed(task: TaskDefinition, values: Mapping[str, object]) -> TaskDefinition | RoundhouseError:
    """Return the task with the values of its fields, or what is wrong with them."""
    try:
        refuse_wrong_numbers()
        return TaskDefinition.model_validate({**task.model_dump(exclude_defaults=True), **values})
    except ValidationError as error:
        words = validation_message(error, TaskDefinition)
        return InvalidInput(f"{words[:1].upper()}{words[1:]}.", remedy="Correct the field.")
    except (TemplateFault, InvalidInput) as error:
        return error


def _task_of(text: str) -> TaskDefinition | None:
    try:
        return read_task(text)
    except RoundhouseError:
        return None


def _draw_fields(task: TaskDefinition, *, key: str) -> dict[str, object]:
    """Draw the fields of a task; return their values."""
    values = draw_fields(TaskDefinition, only=("name", "kind"), key=key, values=task, columns=2)
    kind, held = str(values["kind"]), task.__dict__ | values
    if kind == "generation" != task.kind and not (task.target or task.references):
        held |= RIGHT_ANSWERS
    values |= draw_fields(TaskDefinition, skip=("name", "kind"), key=key, values=held)
    if kind == "multiple_choice":
        values |= _draw_choices(task, key=key)
    else:
        values |= {"choices": None, "contexts": None, "style": "cloze"}
    if kind == "generation":
        shown = "\n".join(map(_escaped, task.stop))
        stop = st.text_area(
            "Stop strings, one a line", value=shown, height=90, key=f"{key}_stop", help="\\n is a line break."
        )
        values["stop"] = tuple(_unescaped(line) for line in stop.split("\n") if line)
    else:
        values |= {"stop": (), "extract": (), "samples": 1}
    values["metrics"] = _choose_metrics(task, kind, key=key)
    with st.expander(EXAMPLES, icon=":material/tune:"):
        values |= draw_fields(TaskDefinition, group=EXAMPLES, key=key, values=held)
        shots = draw_fields(FewShot, key=f"{key}_fewshot", values=task.fewshot, columns=2)
        values["joiner"] = _unescaped(
            st.text_input("Text between prompt and answer", value=_escaped(task.joiner), key=f"{key}_joiner")
        )
    values["fewshot"] = task.fewshot.model_dump(exclude_defaults=True) | shots
    return values


def _draw_choices(task: TaskDefinition, *, key: str) -> FieldValues:
    """Draw choices and answer, each an expression or a list of templates."""
    values: dict[str, object] = {}
    if task.contexts is None:
        listed = not isinstance(task.choices, str) and task.choices is not None
        shown = "\n".join(task.choices or ()) if listed else str(task.choices or "")
        text = st.text_area(
            "Choices, one a line" if listed else "Choices",
            value=shown,
            height=90,
            key=f"{key}_choices",
            help="Templates." if listed else "Expression that gives a list: choices.text, or [first, second].",
        )
        values["choices"] = tuple(text.split("\n")) if listed else text
    shown = str("" if task.answer is None else task.answer)
    answer = st.text_input("Answer", value=shown, key=f"{key}_answer", help="Index, letter or text.")
    values["answer"] = int(answer) if answer.isdecimal() else answer or None
    return values


def _choose_metrics(task: TaskDefinition, kind: str, *, key: str) -> list[dict[str, object]]:
    """Draw the choice of metrics; return them with the options that the task gives them."""
    options = list(dict.fromkeys([*(use.name for use in task.metric_uses), *metrics_of(kind)]))
    options = [name for name in options if name in metrics_of(kind) or kind == task.kind]
    own = [use.name for use in task.metric_uses] if kind == task.kind else [DEFAULT_METRIC[kind]]
    chosen = st.multiselect(
        "Metrics", options, default=own, format_func=metric_label, key=f"{key}_metrics_{kind}", help="The first ranks."
    )
    with_options = {use.name: use.model_dump() for use in task.metric_uses}
    return [with_options.get(name, {"name": name}) for name in chosen]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def _unescaped(text: str) -> str:
    for shown, written in (("\\n", "\n"), ("\\t", "\t"), ("\\\\", "\\")):
        text = text.replace(shown, written)
    return text


def _draw_actions(
    ctx: Context, person: Person, text: str, *, name: str, origin: str, opened_text: str | None, is_sound: bool
) -> None:
    definition, clash = _definition_of(text), f"task_clash_{name}"
    label = "Save for the team" if is_sound else "Correct the field first"

    def delete() -> None:
        delete_task(ctx, name, person=person)
        st.switch_page(routes.EVALUATIONS, query_params={"tasks": "1"})

    with st.container(horizontal=True):
        if st.button(
            label, type="primary", icon=":material/save:" if is_sound else None, key="task_save", disabled=not is_sound
        ):
            with errors_shown():
                try:
                    _save(ctx, person, text, name=name, opened_text=opened_text)
                except Conflict as conflict:
                    st.session_state[clash] = (text, conflict)
        if origin == "team":
            words = f"Delete {plain(name)}? Evaluations keep their copy."
            draw_confirmed("Delete", words, delete, key="task_delete", type="secondary")
        draw_download("YAML", text, f"{name}.yaml", key="task_yaml", disabled=not is_sound)
    clashing, refusal = st.session_state.get(clash, (None, None))
    if is_sound and clashing == text and definition is not None:
        show_error(refusal)
        if st.button(f"Replace {plain(definition.name)}", icon=":material/warning:", key="task_replace"):
            with errors_shown():
                _save(ctx, person, text, name=name, opened_text=opened_text, replace=True)
    if isinstance(definition, TaskGroup):
        _draw_group(ctx, person, definition)
    if isinstance(definition, TaskDefinition):
        with st.expander("For lm-evaluation-harness", icon=":material/sync_alt:"):
            _draw_harness_file(definition)
    if origin == "shipped":
        st.caption("Built in. To change it, give it another name and save it for the team.")


def _save(
    ctx: Context, person: Person, text: str, *, name: str, opened_text: str | None, replace: bool = False
) -> None:
    chosen = st.session_state.get(f"task_dataset_{name}")
    dataset = next((one.name for one in list_datasets(ctx, ready=True) if one.id == chosen), "")
    named = _named_for(text, dataset)
    saved = save_task(ctx, named, person=person, replace=replace, opened_text=opened_text)
    for one in (name, saved.name):
        for part in ("", "_seen"):
            st.session_state.pop(f"task_text_{one}{part}", None)
    st.session_state.pop(f"task_clash_{name}", None)
    suggested = f" New evaluation suggests it for {dataset}." if named != text else ""
    st.toast(f"Saved {plain(saved.name)}.{plain(suggested)}", icon=":material/check:")
    st.switch_page(routes.EVALUATIONS, query_params={"task": saved.name} | ({"dataset": chosen} if chosen else {}))


def _named_for(text: str, dataset: str) -> str:
    """Return a task's YAML with the name of the dataset that it was written on, by which it is suggested; unchanged if
    it says itself which rows it scores.
    """
    task = _task_of(text)
    if not dataset or task is None or task.data != TaskData():
        return text
    named = f"{text.rstrip()}\ndata:\n  names: {json.dumps([dataset], ensure_ascii=False)}\n"
    return named if _task_of(named) is not None else text


def _draw_group(ctx: Context, person: Person, group: TaskGroup) -> None:
    """Offer to run a group's tasks as a suite."""
    if st.button(
        "Create suite",
        icon=":material/checklist:",
        key="group_suite",
        help="One member for each task, on the dataset it finds.",
    ):
        with errors_shown():
            suite = suite_of_group(ctx, group, tasks=tasks_of(ctx, group), config=EvaluationConfig(), person=person)
            st.switch_page(routes.EVALUATIONS, query_params={"suite": suite.id})
    st.code(f"roundhouse eval run --task {group.name} --checkpoint NAME", language="bash", wrap_lines=True)


def _definition_of(text: str) -> TaskDefinition | TaskGroup | None:
    try:
        return read_definition(text)
    except RoundhouseError:
        return None


def _draw_harness_file(task: TaskDefinition) -> None:
    with errors_shown():
        written = to_lm_eval(task)
        for sentence in written.left_out:
            st.caption(plain(f"Left out: {sentence}"))
        st.code(written.text, language="yaml", wrap_lines=True, height=260)


def choose_task(
    ctx: Context, label: str, suggested: list[str], *, is_required: bool, form: str
) -> TaskDefinition | None:
    """Draw the choice of a task for a benchmark in a form, suggested ones first; None is the scoring by its dataset's
    kind.
    """
    names: Mapping[str, TaskDefinition] = {
        view.name: view.definition for view in list_tasks(ctx) if isinstance(view.definition, TaskDefinition)
    }
    others = [name for name in names if name not in suggested]
    options = [*suggested, *([] if is_required else [""]), *others]
    by_kind = "By the rows' kind"
    key = f"{form}_task_{label}"

    def title(name: str) -> str:
        shown = names[name].shown_title if name in names else name
        return f"{shown}{' (suggested)' if name in suggested else ''}" if name else by_kind

    chosen = choose_from(
        f"Task of {label}", options, words=title, key=key, help="How the rows become prompts and scores."
    )
    if not chosen:
        return None
    if chosen not in names:
        raise NotFound(f"There is no task “{chosen}”.", remedy="Choose another one.")
    return names[chosen]


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
        placeholder="Choose a dataset",
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
    st.markdown(f"{icon} {plain(repr(shorten(text, 300))[1:-1])}")
