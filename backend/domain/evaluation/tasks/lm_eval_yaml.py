"""Convert tasks from and to the YAML of lm-evaluation-harness 0.4.13. What can't be is named, never guessed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from backend.domain.evaluation.harness import FOREIGN, read_name, to_harness
from backend.domain.evaluation.tasks.definition import RequestForm, TaskDefinition
from backend.domain.evaluation.tasks.templates import names_in
from backend.domain.json_values import JsonObject
from backend.domain.validation import validation_message
from backend.errors import InvalidInput

OUTPUT_KINDS = {
    "multiple_choice": "multiple_choice",
    "generate_until": "generation",
    "loglikelihood": "perplexity",
    "loglikelihood_rolling": "perplexity",
}
_READ = frozenset(
    [
        *("task", "task_alias", "tag", "metadata", "dataset_path", "dataset_name", "output_type", "unsafe_code"),
        *(
            "test_split",
            "validation_split",
            "training_split",
            "fewshot_split",
            "fewshot_config",
            "num_fewshot",
            "fewshot_delimiter",
        ),
        *("doc_to_text", "doc_to_target", "doc_to_choice", "description", "target_delimiter", "gen_prefix"),
        *(
            "generation_kwargs",
            "repeats",
            "filter_list",
            "metric_list",
            "should_decontaminate",
            "doc_to_decontamination_query",
        ),
    ]
)
_MAX_GEN_TOKENS = 256
MAX_INCLUDES = 5


@dataclass(frozen=True)
class Converted:
    """A converted task, and what of the original it leaves out, one sentence each."""

    task: TaskDefinition
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class ConvertedText:
    """YAML for lm-evaluation-harness, and what of the task it leaves out, one sentence each."""

    text: str
    left_out: tuple[str, ...]


class _Loader(yaml.SafeLoader):
    """Reads `!function utils.name` as its name, and runs nothing."""


_Loader.add_constructor("!function", lambda loader, node: _Function(str(node.value)))


class _Function(str):
    """Name of a Python function in a task file."""


def from_lm_eval(text: str, *, included: Callable[[str], str] | None = None) -> Converted:
    """Return the task that a YAML file of lm-evaluation-harness describes. `included` returns the text of a file that
    it includes.

    Raises InvalidInput for a file that is none, and for what decides the prompt or the rows and can't be converted:
    Python functions, included files.
    """
    config = _load(text)
    for _ in range(MAX_INCLUDES):
        if included is None or not isinstance(config, dict) or not isinstance(config.get("include"), str):
            break
        base = _load(included(config.pop("include")))
        config = {**base, **config} if isinstance(base, dict) else config
    if not isinstance(config, dict) or "task" not in config:
        raise InvalidInput(
            "The file is not a task of lm-evaluation-harness.",
            remedy="A task has the fields task and output_type.",
            field="file",
        )
    if isinstance(config["task"], list):
        raise InvalidInput("The file is a group of tasks.", remedy="Convert its tasks one by one.", field="file")
    _refuse(config)
    left_out = [f"{name}: not read." for name in config if name not in _READ]
    values = _values(config, left_out)
    try:
        return Converted(TaskDefinition.model_validate(values), tuple(left_out))
    except ValidationError as error:
        raise InvalidInput(
            f"{validation_message(error, TaskDefinition)}.", remedy="Write the field by hand.", field="file"
        ) from error


def _load(text: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with one tag, read as text
    except yaml.YAMLError as error:
        raise InvalidInput(f"The file is not YAML: {' '.join(str(error).split())}.", field="file") from error


def _refuse(config: JsonObject) -> None:
    if "include" in config:
        raise InvalidInput(
            f"The file includes {config['include']!r}, which is not at hand.",
            remedy="Put the fields of both files into one, then convert that.",
            field="include",
        )
    parts: JsonObject = dict(config)
    if isinstance(config.get("fewshot_config"), dict):
        parts |= {f"fewshot_config.{name}": value for name, value in config["fewshot_config"].items()}
    functions = {name: value for name, value in parts.items() if isinstance(value, _Function)}
    if functions:
        listed = ", ".join(f"{name}: {value}" for name, value in functions.items())
        raise InvalidInput(
            f"The task is defined by Python functions ({listed}), which are not run.",
            remedy="Write what they do as `let`, `prompt`, `choices`, `answer` or `target`.",
            field=next(iter(functions)),
        )
    for name in ("doc_to_image", "doc_to_audio", "use_prompt", "custom_dataset", "class"):
        if config.get(name) is not None:
            raise InvalidInput(
                f"{name} can't be converted.", remedy="Only tasks of text with templates are.", field=name
            )
    if config.get("output_type", "generate_until") not in OUTPUT_KINDS:
        raise InvalidInput(f"output_type {config['output_type']!r} is unknown.", field="output_type")


def _values(config: JsonObject, left_out: list[str]) -> JsonObject:
    output = config.get("output_type", "generate_until")
    kind = OUTPUT_KINDS[output]
    values: JsonObject = {
        "name": config["task"],
        "title": str(config.get("task_alias") or ""),
        "kind": kind,
        "data": _data(config),
        "instruction": _template(config.get("description")),
        "prompt": "" if output == "loglikelihood_rolling" else _template(config.get("doc_to_text")),
        "joiner": config.get("target_delimiter", " "),
        "answer_prefix": _template(config.get("gen_prefix")),
        "fewshot": _fewshot(config, left_out),
        "metrics": _metrics(config, left_out),
    }
    if kind == "multiple_choice":
        choices = config.get("doc_to_choice")
        listed = list(choices.values()) if isinstance(choices, dict) else choices
        values |= {
            "choices": [str(choice) for choice in listed] if isinstance(listed, list) else _bare(str(listed or ""))
        }
        values["answer"] = _answer(config.get("doc_to_target"))
        return values
    values["target"] = _template(config.get("doc_to_target"))
    if output == "loglikelihood":
        values["joiner"] = ""  # lm-eval puts nothing between context and target
    if kind == "generation":
        values |= _generation(config, left_out)
    return values


def _data(config: Mapping[str, object]) -> dict[str, object]:
    split = config.get("test_split") or config.get("validation_split") or config.get("training_split") or "test"
    data: dict[str, object] = {"names": [config["task"]]}
    if config.get("dataset_path") not in (None, "json", "csv", "parquet", "text"):
        data["hub"] = {"id": config["dataset_path"], "config": config.get("dataset_name"), "split": split}
    return data


def _template(source: Any) -> str:
    """Return a template; a bare name is that column."""
    if source is None:
        return ""
    text = str(source)
    return f"{{{{{text}}}}}" if re.fullmatch(r"[A-Za-z_]\w*", text) else text


def _expression(source: Any) -> Any:
    return source if isinstance(source, int) and not isinstance(source, bool) else str(source or "")


def _answer(source: Any) -> Any:
    """Return the expression of the right choice: digits that a template writes are an index there, those of a column a
    choice's text.
    """
    if isinstance(source, int) or "{{" not in str(source):
        return _expression(source)
    inner = _bare(str(source))
    if "{{" in inner or "{%" in inner:
        return str(source)
    return (
        inner
        if ".index(" in inner
        else f"({inner}) | int if ({inner}) is string and ({inner}).isdigit() else ({inner})"
    )


def _fewshot(config: JsonObject, left_out: list[str]) -> dict[str, object]:
    given = config.get("fewshot_config") or {}
    examples = [dict(row) for row in given.get("samples") or []]
    sampler = given.get("sampler", "default")
    count = int(config.get("num_fewshot") or 0)
    if sampler == "default" and len(examples) > count > 0:
        left_out.append(
            "fewshot_config.sampler default draws from the samples for every item; here the first ones stand before"
            " each."
        )
    if config.get("fewshot_split") and not examples:
        left_out.append(
            f"fewshot_split {config['fewshot_split']!r}: say where the examples come from (fewshot.dataset, .split or"
            " .where)."
        )
    for name in given:
        if name not in ("sampler", "samples"):
            left_out.append(f"fewshot_config.{name}: not read.")
    return {
        "count": count,
        "choose": "first" if sampler == "first_n" or examples or not count else "per_item",
        "separator": config.get("fewshot_delimiter", "\n\n"),
        "examples": examples,
    }


def _metrics(config: JsonObject, left_out: list[str]) -> list[JsonObject]:
    uses = []
    for entry in config.get("metric_list") or []:
        name = entry.get("metric")
        if isinstance(name, _Function):
            left_out.append(f"metric {name}: a Python function.")
            continue
        if entry.get("hf_evaluate"):
            left_out.append(f"metric {name}: of the library evaluate.")
            continue
        options = {
            k: v for k, v in entry.items() if k not in ("metric", "aggregation", "higher_is_better", "hf_evaluate")
        }
        name = read_name(str(name), "")
        if name.startswith(FOREIGN):
            left_out.append(f"metric {entry['metric']}: scikit-learn's F1 of class 1, which is not computed here.")
            continue
        uses.append({"name": name, "options": options})
    return uses


def _generation(config: JsonObject, left_out: list[str]) -> dict[str, object]:
    given = dict(config.get("generation_kwargs") or {})
    until = given.pop("until", [config.get("fewshot_delimiter", "\n\n")])
    samples = int(config.get("repeats") or 1)
    does_sample = bool(given.pop("do_sample", False))
    temperature = float(given.pop("temperature", 1.0 if does_sample else 0.0) or 0.0)
    values: dict[str, object] = {
        "stop": [until] if isinstance(until, str) else list(until),
        "max_tokens": int(given.pop("max_gen_toks", given.pop("max_new_tokens", _MAX_GEN_TOKENS))),
        "temperature": temperature if does_sample else 0.0,
        "top_p": float(given.pop("top_p", 1.0)),
        "samples": samples,
        "extract": _extractions(config, left_out),
    }
    left_out += [f"generation_kwargs.{name}: not read." for name in given]
    return values


def _extractions(config: JsonObject, left_out: list[str]) -> list[dict[str, object]]:
    extractions: list[dict[str, object]] = []
    for entry in config.get("filter_list") or []:
        steps = [step for step in entry.get("filter", []) if step.get("function") not in ("take_first", "take_first_k")]
        if not steps:
            continue
        if len(steps) > 1 or steps[0].get("function") != "regex":
            left_out.append(
                f"filter {entry.get('name')}: {', '.join(str(step.get('function')) for step in steps)} can't be"
                " converted."
            )
            continue
        step = steps[0]
        extractions.append(
            {
                "name": entry.get("name") or "filter",
                "pattern": step.get("regex_pattern", r"#### (\-?[0-9\.\,]+)"),
                "take": step.get("group_select", 0),
                "fallback": step.get("fallback", "[invalid]"),
            }
        )
    return extractions


def to_lm_eval(task: TaskDefinition) -> ConvertedText:
    """Return a task as a YAML file of lm-evaluation-harness.

    Raises InvalidInput for what decides the prompt and has no form there.
    """
    left_out: list[str] = []
    if task.contexts is not None:
        raise InvalidInput(
            "`contexts` need a Python function in lm-evaluation-harness.",
            remedy="Keep the task here.",
            field="contexts",
        )
    let = "".join(f"{{% set {name} = {_bare(source)} %}}" for name, source in task.let.items())
    config: dict[str, object] = {"task": task.name, **_hub_fields(task, left_out)}
    config["output_type"] = {
        RequestForm.CHOICES: "multiple_choice",
        RequestForm.GENERATE: "generate_until",
        RequestForm.CONTINUATION: "loglikelihood",
        RequestForm.ROLLING: "loglikelihood_rolling",
    }[task.form]
    config["doc_to_text"] = _with_let(let, _shown_options(task))
    if task.instruction:
        config["description"] = _with_let(let, task.instruction)
    config |= _target_fields(task, let)
    if task.joiner != " " and task.form is not RequestForm.CONTINUATION:
        config["target_delimiter"] = task.joiner
    if task.answer_prefix:
        config["gen_prefix"] = _with_let(let, task.answer_prefix)
    config |= _fewshot_fields(task, left_out) | _generation_fields(task)
    shared = [(to_harness(use.name, use.options), use) for use in task.metric_uses]
    config["metric_list"] = [{"metric": name, **use.options} for name, use in shared if name is not None]
    left_out += [
        f"metric {use.name}: lm-evaluation-harness has none of this definition." for name, use in shared if name is None
    ]
    for name in ("data.where", "cluster", "subgroup"):
        value = task.data.where if name == "data.where" else getattr(task, name)
        if value:
            left_out.append(f"{name} ({value}): lm-evaluation-harness has no such field.")
    config["metadata"] = {"version": 1.0}
    return ConvertedText(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=120), tuple(left_out))


def _bare(source: str) -> str:
    text = source.strip()
    match = re.fullmatch(r"\{\{(.*)\}\}", text, flags=re.DOTALL)
    return match[1].strip() if match else text


def _with_let(let: str, source: str) -> str:
    return f"{let}{source}" if let and names_in(source) else source


def _shown_options(task: TaskDefinition) -> str:
    """Return the prompt, with the lines of the choices written out where it shows them."""
    if task.style != "letters":
        return task.prompt
    letters = "{% set letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ' %}"
    option = task.option.replace("{{letter}}", "{{letters[loop.index0]}}")
    loop = f"{{% for choice in {_choices_source(task)} %}}{option}{{% endfor %}}"
    return letters + re.sub(r"\{\{\s*options\s*\}\}", lambda _: loop, task.prompt)


def _choices_source(task: TaskDefinition) -> str:
    if isinstance(task.choices, str):
        return _bare(task.choices)
    raise InvalidInput(
        "`choices` must be an expression in the style letters.", remedy="Write [first, second].", field="choices"
    )


def _hub_fields(task: TaskDefinition, left_out: list[str]) -> dict[str, object]:
    if task.data.hub is None:
        left_out.append("dataset_path: the task names no dataset of the Hub.")
        return {"dataset_path": "json", "test_split": "test"}
    hub = task.data.hub
    return {"dataset_path": hub.id, **({"dataset_name": hub.config} if hub.config else {}), "test_split": hub.split}


def _target_fields(task: TaskDefinition, let: str) -> dict[str, object]:
    if task.form is not RequestForm.CHOICES:
        return {"doc_to_target": _with_let(let, task.target)}
    answer: Any = (
        task.answer if isinstance(task.answer, int) else _with_let(let, f"{{{{ {_bare(str(task.answer))} }}}}")
    )
    if task.style == "letters":
        letters = [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
        return {"doc_to_target": answer, "doc_to_choice": letters[: _number_of_letters(task)]}
    choices: Any = (
        list(task.choices) if isinstance(task.choices, tuple) else _with_let(let, f"{{{{ {_choices_source(task)} }}}}")
    )
    return {"doc_to_target": answer, "doc_to_choice": choices}


def _number_of_letters(task: TaskDefinition) -> int:
    return 4 if isinstance(task.choices, str) else len(task.choices or ())


def _fewshot_fields(task: TaskDefinition, left_out: list[str]) -> dict[str, object]:
    shots = task.fewshot
    fields: dict[str, object] = {}
    if shots.separator != "\n\n":
        fields["fewshot_delimiter"] = shots.separator
    if not shots.count:
        return {**fields, "num_fewshot": 0}
    config: dict[str, object] = {"sampler": "first_n" if shots.choose == "first" else "default"}
    if shots.examples:
        config["samples"] = [dict(row) for row in shots.examples]
    for name in ("where", "dataset", "split"):
        if getattr(shots, name):
            left_out.append(f"fewshot.{name} ({getattr(shots, name)}): set fewshot_split by hand.")
    if shots.same_subgroup:
        left_out.append("fewshot.same_subgroup: lm-evaluation-harness has a task for each subgroup.")
    return {**fields, "num_fewshot": shots.count, "fewshot_config": config}


def _generation_fields(task: TaskDefinition) -> dict[str, object]:
    if task.form is not RequestForm.GENERATE:
        return {}
    kwargs: dict[str, object] = {
        "until": list(task.stop),
        "max_gen_toks": task.max_tokens,
        "do_sample": task.temperature > 0,
    }
    if task.temperature > 0:
        kwargs |= {"temperature": task.temperature, "top_p": task.top_p}
    fields: dict[str, object] = {"generation_kwargs": kwargs}
    if task.samples > 1:
        fields["repeats"] = task.samples
    if task.extract:
        fields["filter_list"] = [
            {
                "name": part.name,
                "filter": [
                    {
                        "function": "regex",
                        "regex_pattern": part.pattern,
                        "group_select": part.take,
                        "fallback": part.fallback,
                    },
                    {"function": "take_first"},
                ],
            }
            for part in task.extract
        ]
    return fields
