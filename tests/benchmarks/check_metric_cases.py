"""Compare metrics with the cases of another harness: python -m tests.benchmarks.check_metric_cases FOLDER

FOLDER holds JSON files of {"test_cases": [...]} as lighteval's tests of metrics do: documents with choices and gold positions, answers,
expected values and a tolerance. Prints each case that differs, and how many were compared, differ and have no counterpart here.
Read as that harness reads them: a rolling perplexity is that of the query; chrF gets each document's golds as one stream of references,
so that its expected value is the first answer against the golds of all documents; avg@k compares with the first gold alone; a letter
counts only if as many choices exist; expressions are compared as LaTeX; and "multi F1" takes one of three classes against the rest.
One expected value is no definition to meet: that harness ends TruthfulQA's right answers at the first gap of their positions, which
its source calls broken.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.domain.evaluation.extraction import extract_answer, named_filters
from backend.domain.evaluation.metrics.registry import bind_checker, get_metric
from backend.domain.evaluation.metrics.score import read_answer_rows, score_rows
from backend.infra.expressions import math_checker

TEXTS = {
    **{name: name for name in ("bleu_1", "bleu_4", "chrf", "rouge1", "rougeL", "rougeLsum")},
    "f1_score_macro": "f1_macro",
    "f1_score_micro": "f1_micro",
}
COPIES = {
    "longest_common_prefix_length": "common_prefix",
    "edit_distance": "edit_distance",
    "edit_similarity": "edit_similarity",
    "summarization_coverage": "coverage",
    "summarization_density": "density",
    "summarization_compression": "compression",
}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Compared = tuple[str, float, float]


def value(metric: str, *rows: tuple[Any, list[Any]], **options: Any) -> float:
    chosen = bind_checker(get_metric(metric, **options), math_checker().equal)
    lines = [json.dumps({"prediction": prediction, "references": references}) for prediction, references in rows]
    return score_rows(chosen, read_answer_rows(lines, chosen)).estimate.value


def golds(doc: dict[str, Any]) -> list[int]:
    gold = doc["gold_index"]
    return gold if isinstance(gold, list) else [gold]


def compare(case: dict[str, Any]) -> Iterator[Compared]:
    """Yield (name, ours, expected) of a case; nothing for a metric without a counterpart."""
    kind, expected, k = case["metric_class"], case["expected_output"], case["metric_params"].get("k")
    docs, responses = case.get("docs") or [case["doc"]], case.get("model_responses") or [case["model_response"]]
    doc, response = docs[0], responses[0]
    first = next(iter(expected.values())) if isinstance(expected, dict) else expected
    references = [doc["choices"][index] for index in golds(doc)]
    answers, scores = response.get("text", []), response.get("logprobs", [])
    if kind in TEXTS:
        if kind == "chrf":
            everything = [d["choices"][index] for d in docs for index in golds(d)]
            yield kind, value(kind, (answers[0], everything)), first
            return
        rows = [(r["text"][0], [d["choices"][index] for index in golds(d)]) for d, r in zip(docs, responses, strict=True)]
        yield kind, value(TEXTS[kind], *rows), first
    elif kind == "drop":
        for name, metric in (("em", "exact_match"), ("f1", "f1")):
            yield f"drop {name}", value(metric, (answers[0], doc["specific"]["golds_no_preprocessing"])), expected[name]
    elif kind in ("avg_at_k", "maj_at_k", "pass_at_k_letters"):
        known = [text if text in LETTERS[: len(doc["choices"])] else "" for text in answers] if kind.endswith("letters") else answers
        golds_read = references[:1] if kind == "avg_at_k" else references
        yield kind, value(f"{kind.split('_')[0]}@{k}", (known, golds_read)), first
    elif kind == "pass_at_k_math":
        yield kind, value(f"pass@{k}", (answers, references), correct="math_equal"), first
    elif kind.startswith("g_pass_at_k"):
        deciding = "math_equal" if "latex" in kind else "accuracy"
        for name, number in expected.items():
            yield name, value(name.replace("latex_", ""), (answers, references), correct=deciding), number
    elif kind.startswith("gpqa_instruct"):
        letters = [extract_answer(text, named_filters("letter")).text or "" for text in answers]
        yield kind, value(f"pass@{k}", (letters, references)) if k else value("accuracy", (letters[0], references)), first
    elif kind in ("copyright", "extractiveness"):
        source = references if kind == "copyright" else [doc["specific"]["text"]]
        for name, number in expected.items():
            yield name, value(COPIES[name], (answers[0], source)), number
    elif kind in ("mrr", "recall_at_k", "loglikelihood_f1"):
        metric = {"mrr": "mrr", "recall_at_k": f"recall@{k}", "loglikelihood_f1": "best_choice"}[kind]
        yield kind, value(metric, (scores, golds(doc))), first
    elif kind == "multi_f1_numeric":
        best = [max(range(len(r["logprobs"])), key=r["logprobs"].__getitem__) for r in responses]
        yield kind, value("mf1", *((str(label), [str(golds(d)[0])]) for label, d in zip(best, docs, strict=True)), num_classes=3), first
    elif kind == "word_perplexity":
        yield kind, value(kind, *((r["logprobs"], [d["query"]]) for d, r in zip(docs, responses, strict=True))), first
    elif kind == "truthfulqa_mc_metrics":
        cut = doc["specific"]["len_mc1"]
        yield "mc1", value("best_choice", (scores[:cut], [0])), float(expected["truthfulqa_mc1"])
        true = [index - cut for index in golds(doc) if index >= cut]
        yield "mc2", value("probability", (scores[cut:], true)), float(expected["truthfulqa_mc2"])


def main(folder: Path) -> None:
    compared = differ = absent = 0
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text())
        for case in record["test_cases"] if isinstance(record, dict) else []:
            results = list(compare(case))
            absent += not results
            for name, ours, expected in results:
                compared += 1
                if abs(ours - expected) > case["tolerance"] + 1e-9:
                    differ += 1
                    print(f"{file.stem}: {case['name']}: {name}: {ours:.6g}, expected {expected:.6g} +- {case['tolerance']}")
    print(f"{compared} values compared, {differ} differ, {absent} cases without a counterpart")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
