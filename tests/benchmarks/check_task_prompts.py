"""Are the prompts of the shipped tasks those of lm-evaluation-harness, to the character? Every row of every file, and
rows made for tests.

    python -m tests.benchmarks.check_task_prompts [FOLDER OF BENCHMARKS]

The folder holds `mmlu/`, `bbh/`, `gsm8k/`, ... as published; without it only the rows of tests.support.data.task_rows
are compared. Context, continuations and right answers are compared; of generation the stop strings and the longest
answer too.
"""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from backend.domain.data.rows.records import columns_of
from backend.domain.evaluation.tasks.definition import RequestForm, TaskDefinition
from backend.domain.evaluation.tasks.reading import shipped_definition
from backend.domain.evaluation.tasks.rendering import Rendered
from backend.domain.evaluation.tasks.selection import render_row, select_rows
from backend.infra.files.parquet import iter_file_rows
from tests.support.data.data_reporter import import_rows
from tests.support.data.task_rows import TASK_ROWS

LM_EVAL = Path(lm_eval.tasks.__file__).parent
YAML = {
    "arc_easy": "arc/arc_easy.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml",
    "openbookqa": "openbookqa/openbookqa.yaml",
    "boolq": "super_glue/boolq/default.yaml",
    "truthfulqa_mc1": "truthfulqa/truthfulqa_mc1.yaml",
    "truthfulqa_mc2": "truthfulqa/truthfulqa_mc2.yaml",
    "lambada": "lambada/lambada_openai.yaml",
    "blimp": "blimp/passive_1.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
    "gsm8k_cot": "gsm8k/gsm8k-cot.yaml",
    "ifeval": "ifeval/ifeval.yaml",
    "wikitext": "wikitext/wikitext.yaml",
    "bbq": "bbq/bbq_multiple_choice.yaml",
    "winogender": "winogender/winogender.yaml",
    "crows_pairs": "crows_pairs/crows_pairs_english.yaml",
}
Row = dict[str, Any]


def harness_task(
    yaml: str, rows: Sequence[Mapping[str, Any]], examples: Sequence[Mapping[str, Any]] | None = None
) -> ConfigurableTask:
    """Return lm-eval's task on rows of ours."""
    config = {
        key: value
        for key, value in load_yaml(LM_EVAL / yaml, resolve_func=True).items()
        if key not in ("tag", "task_alias", "group")
    }
    for name in (
        "dataset_path",
        "dataset_name",
        "training_split",
        "validation_split",
        "fewshot_split",
        "dataset_kwargs",
    ):
        config.pop(name, None)
    splits = {"test": datasets.Dataset.from_list([dict(row) for row in rows])}
    if examples is not None:
        splits["dev"] = datasets.Dataset.from_list([dict(row) for row in examples])
        config |= {"fewshot_split": "dev", "fewshot_config": {"sampler": "first_n"}}
    return ConfigurableTask(config={**config, "test_split": "test", "custom_dataset": lambda **_: splits})


def compare(
    name: str,
    task: TaskDefinition,
    harness: ConfigurableTask,
    pairs: Sequence[tuple[Rendered, Mapping[str, Any]]],
    *,
    shots: int,
) -> int:
    """Return how many items differ, and print the first."""
    differing = 0
    for at, (ours, doc) in enumerate(pairs):
        context = harness.fewshot_context(doc, num_fewshot=shots)
        requests = harness.construct_requests(doc, context, doc_id=at, metadata=(name, at, 1))
        requests = requests if isinstance(requests, list) else [requests]
        theirs: Any = [request.args for request in requests]
        if ours.form is RequestForm.GENERATE:
            mine: Any = [(ours.context, list(ours.stop))]
            theirs = [(theirs[0][0], list(theirs[0][1]["until"]))]
        elif ours.form is RequestForm.ROLLING:
            mine = [(ours.pairs()[0][1],)]
        else:
            mine = ours.pairs()
        if ours.form is RequestForm.CHOICES:
            gold = harness.doc_to_text(doc) if harness.multiple_input else harness.doc_to_target(doc)
            mine, theirs = (mine, ours.gold[0]), (theirs, gold)
        if mine != theirs:
            differing += 1
            if differing == 1:
                print(f"{name}, item {at}:\n  ours   {mine!r}\n  theirs {theirs!r}")
    print(f"{name:28} {len(pairs):6,} items, {shots} examples: {differing} differ")
    return differing


def check(
    name: str,
    task: TaskDefinition,
    rows: Sequence[Row],
    yaml: str,
    docs: Sequence[Row] | None = None,
    *,
    examples: Sequence[Row] | None = None,
) -> int:
    """Compare every scored row of a task."""
    selection = select_rows(task, rows, limit=None, seed=1)
    docs = rows if docs is None else docs
    harness = harness_task(yaml, [docs[at] for at in selection.scored], examples)
    prepared = list(harness.test_docs())
    return compare(
        name,
        task,
        harness,
        [(render_row(task, rows[at], selection), doc) for at, doc in zip(selection.scored, prepared, strict=True)],
        shots=task.fewshot.count,
    )


def made_rows() -> int:
    """Compare the rows made for tests."""
    differing = 0
    for name, rows in [*TASK_ROWS.items(), ("truthfulqa_mc2", TASK_ROWS["truthfulqa_mc1"])]:
        if name == "mmlu":
            task = TaskDefinition.model_validate({**shipped("mmlu").model_dump(exclude_defaults=True), "fewshot": {}})
            differing += check(name, task, rows, "mmlu/default/mmlu_abstract_algebra.yaml")
        elif name == "bbh":
            differing += check(
                name, shipped("bbh_boolean_expressions"), rows, "bbh/cot_fewshot/boolean_expressions.yaml"
            )
        elif name != "humaneval":  # lm-eval's definition of it loads a metric from the Hub
            differing += check(name, shipped(name), rows, YAML[name])
    return differing


def shipped(name: str) -> TaskDefinition:
    """Return a shipped task."""
    task = shipped_definition(name)
    assert isinstance(task, TaskDefinition)
    return task


def imported(path: Path, kind: str | None = None) -> list[Row]:
    """Import a source as the product does and return its rows as templates read them."""
    with tempfile.TemporaryDirectory() as folder:
        result = import_rows(path, Path(folder), kind=kind)
        return [columns_of(row) for row in iter_file_rows(Path(result.folder) / "train.parquet")]


def files(folder: Path) -> Iterator[int]:
    """Compare every row of the published files in a folder."""
    for file in sorted((folder / "bbh").glob("*.json")):
        rows = imported(file)
        yield check(
            f"bbh {file.stem}",
            shipped(f"bbh_{file.stem}"),
            rows,
            f"bbh/cot_fewshot/{file.stem}.yaml",
            [row["raw"] for row in rows],
        )
    yield from mmlu(folder / "mmlu")
    rows = imported(folder / "gsm8k" / "test.jsonl")
    yield check("gsm8k_cot", shipped("gsm8k_cot"), rows, YAML["gsm8k_cot"], [row["raw"] for row in rows])
    task = shipped("gsm8k")
    shown = select_rows(task, rows, limit=None, seed=1).examples[None]
    yield check(
        "gsm8k", task, rows, YAML["gsm8k"], [row["raw"] for row in rows], examples=[row["raw"] for row in shown]
    )
    rows = imported(folder / "lambada" / "lambada_development_plain_text.txt", "records")
    yield check("lambada", shipped("lambada"), rows, YAML["lambada"], [{"text": row["prompt"]} for row in rows])
    rows = imported(folder / "blimp")
    yield check("blimp", shipped("blimp"), rows, YAML["blimp"], [row["raw"] for row in rows])
    rows = imported(folder / "ifeval" / "input_data.jsonl")
    yield check("ifeval", shipped("ifeval"), rows, YAML["ifeval"], [{"prompt": row["prompt"]} for row in rows])
    rows = imported(folder / "bbq")
    yield check("bbq", shipped("bbq"), rows, YAML["bbq"], [row["raw"] for row in rows])
    rows = imported(folder / "truthfulqa" / "TruthfulQA.csv")
    for part in ("mc1", "mc2"):
        docs = [truthful(row["raw"]) for row in rows]
        yield check(f"truthfulqa_{part}", shipped(f"truthfulqa_{part}"), rows, YAML[f"truthfulqa_{part}"], docs)
    rows = imported(folder / "winogender" / "all_sentences.tsv")
    yield check("winogender", shipped("winogender"), rows, YAML["winogender"], [winogender(row["raw"]) for row in rows])


def mmlu(folder: Path) -> Iterator[int]:
    """Compare MMLU subject by subject, behind the five examples of its dev file."""
    rows = imported(folder)
    docs = {
        part: {path.stem.removesuffix(f"_{part}"): read_mmlu(path) for path in (folder / part).glob("*.csv")}
        for part in ("dev", "test")
    }
    task = shipped("mmlu")
    selection = select_rows(task, rows, limit=None, seed=1)
    by_subject: dict[str, list[Rendered]] = {}
    for at in selection.scored:
        rendered = render_row(task, rows[at], selection)
        by_subject.setdefault(str(rendered.subgroup), []).append(rendered)
    for subject, items in by_subject.items():
        harness = harness_task(f"mmlu/default/mmlu_{subject}.yaml", docs["test"][subject], docs["dev"][subject])
        yield compare(f"mmlu {subject}", task, harness, list(zip(items, docs["test"][subject], strict=True)), shots=5)


def read_mmlu(path: Path) -> list[Row]:
    """Return the rows of one of MMLU's files as the Hub has them."""
    with path.open(newline="", encoding="utf-8") as lines:
        return [
            {
                "question": row["question"],
                "choices": [row[f"choice{at}"] for at in range(4)],
                "answer": int(row["answer"]),
            }
            for row in csv.DictReader(lines)
        ]


def truthful(raw: Row) -> Row:
    """Return a row of TruthfulQA's CSV in the form of its multiple-choice files."""
    parts = {
        name: [text.strip() for text in raw[name].split(";") if text.strip()]
        for name in ("Correct Answers", "Incorrect Answers")
    }
    wrong = parts["Incorrect Answers"]
    return {
        "question": raw["Question"],
        "mc1_targets": {"choices": [raw["Best Answer"].strip(), *wrong]},
        "mc2_targets": {"choices": [*parts["Correct Answers"], *wrong]},
    }


def winogender(raw: Row) -> Row:
    """Return a sentence of Winogender with the columns that the Hub's table has."""
    occupation, participant, label, gender, _ = raw["sentid"].split(".")
    words = raw["sentence"].replace(".", " ").replace(",", " ").split()
    pronouns = {"male": ("he", "him", "his"), "female": ("she", "her", "hers"), "neutral": ("they", "them", "their")}[
        gender
    ]
    pronoun = next(word for word in words if word in pronouns)
    return {
        "sentence": raw["sentence"],
        "pronoun": pronoun,
        "occupation": occupation,
        "participant": participant,
        "label": int(label),
    }


if __name__ == "__main__":
    total = made_rows() + (sum(files(Path(sys.argv[1]))) if len(sys.argv) > 1 else 0)
    print(json.dumps({"differ": total}))
    sys.exit(1 if total else 0)
