"""Compare metrics with the cases of another harness: python -m tests.benchmarks.check_metric_cases FOLDER

FOLDER holds JSON files of {"test_cases": [...]} as lighteval's tests of metrics do: documents with choices and gold
positions, answers, expected values and a tolerance. Prints each case that differs and what each file compared. Fails
where a value differs that is not explained below, and where a file has a metric that is neither compared nor known to
be absent here. Read as that harness reads them: a rolling perplexity is that of the query; chrF, chrF++ and TER get
each document's golds as one stream of references, so that the expected value is the first answer against the golds of
all documents; avg@k compares with the first gold alone; a letter counts only if as many choices exist; expressions are
compared as LaTeX; and "multi F1" takes one of three classes against the rest. Four cases are no definition to meet:
that harness ends TruthfulQA's right answers at the first gap of their positions, which its source calls broken; its F1
keeps the articles that SQuAD's leaves out; and of `x^2/2` outside LaTeX it reads nothing.
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
    **{name: name for name in ("bleu_1", "bleu_4", "chrf", "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "ter")},
    "chrf_plus": "chrf++",
    "exact_match": "exact_match",
    "f1_score": "f1",
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
ABSENT = {
    **dict.fromkeys(("bert_score", "bleurt", "faithfulness"), "needs another network's weights"),
    "simpleqa_judge": "asks a judge",
    "acc_golds_likelihood": "the given values are the result",
    **dict.fromkeys(
        ("bits_per_byte", "byte_perplexity", "expr_gold_metric", "prediction_perplexity", "target_perplexity"),
        "placeholders: no definition gives the expected values, such as a perplexity of 0",
    ),
}
"""Metrics that are not compared, and why."""
EXPLAINED = {
    "F1 Score - No Match",
    "TruthfulQA MC Metrics - Multiple Gold Indices",
    "G Pass At K Math - Mixed Correct and Incorrect",
    "G Pass At K Math - High K Value",
}
"""Cases whose expected value is of another definition; see the first lines."""
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
        if kind in ("chrf", "chrf_plus", "ter"):
            everything = [d["choices"][index] for d in docs for index in golds(d)]
            yield kind, value(TEXTS[kind], (answers[0], everything)), first
            return
        rows = [
            (r["text"][0], [d["choices"][index] for index in golds(d)]) for d, r in zip(docs, responses, strict=True)
        ]
        yield kind, value(TEXTS[kind], *rows), first
    elif kind == "drop":
        for name, metric in (("em", "exact_match"), ("f1", "f1")):
            yield f"drop {name}", value(metric, (answers[0], doc["specific"]["golds_no_preprocessing"])), expected[name]
    elif kind == "rouge_t5":
        for name, number in expected.items():
            yield name, 100 * value(name, (answers[0], references)), number
    elif kind == "avg_at_k_math":
        yield kind, value(f"avg@{k}", (answers, references[:1]), correct="math_equal"), first
    elif kind in ("avg_at_k", "maj_at_k", "pass_at_k", "pass_at_k_letters"):
        known = (
            [text if text in LETTERS[: len(doc["choices"])] else "" for text in answers]
            if kind.endswith("letters")
            else answers
        )
        golds_read = references[:1] if kind == "avg_at_k" else references
        yield kind, value(f"{kind.split('_')[0]}@{k}", (known, golds_read)), first
    elif kind == "pass_at_k_math":
        yield kind, value(f"pass@{k}", (answers, references), correct="math_equal"), first
    elif kind.startswith("g_pass_at_k"):
        deciding = "accuracy" if kind == "g_pass_at_k" else "math_equal"
        for name, number in expected.items():
            yield (
                name,
                value(name.replace("latex_", "").replace("math_", ""), (answers, references), correct=deciding),
                number,
            )
    elif kind.startswith("gpqa_instruct"):
        letters = [extract_answer(text, named_filters("letter")).text or "" for text in answers]
        yield (
            kind,
            value(f"pass@{k}", (letters, references)) if k else value("accuracy", (letters[0], references)),
            first,
        )
    elif kind in ("copyright", "extractiveness"):
        source = references if kind == "copyright" else [doc["specific"]["text"]]
        for name, number in expected.items():
            yield name, value(COPIES[name], (answers[0], source)), number
    elif kind in ("mrr", "recall_at_k", "loglikelihood_f1", "loglikelihood_acc"):
        metric = {"mrr": "mrr", "recall_at_k": f"recall@{k}"}.get(kind, "best_choice")
        yield kind, value(metric, (scores, golds(doc))), first
    elif kind in ("multi_f1_numeric", "mcc"):
        best = [max(range(len(r["logprobs"])), key=r["logprobs"].__getitem__) for r in responses]
        if kind == "mcc":
            yield (
                kind,
                value("mcc", *((str(label), [str(golds(d)[0])]) for label, d in zip(best, docs, strict=True))),
                first,
            )
            return
        yield (
            kind,
            value(
                "mf1", *((str(label), [str(golds(d)[0])]) for label, d in zip(best, docs, strict=True)), num_classes=3
            ),
            first,
        )
    elif kind == "word_perplexity":
        yield kind, value(kind, *((r["logprobs"], [d["query"]]) for d, r in zip(docs, responses, strict=True))), first
    elif kind == "truthfulqa_mc_metrics":
        cut = doc["specific"]["len_mc1"]
        yield "mc1", value("best_choice", (scores[:cut], [0])), float(expected["truthfulqa_mc1"])
        true = [index - cut for index in golds(doc) if index >= cut]
        yield "mc2", value("probability", (scores[cut:], true)), float(expected["truthfulqa_mc2"])


def main(folder: Path) -> int:
    """Compare every file; return the exit status."""
    total = unexplained = 0
    silent: list[str] = []
    for file in sorted(folder.glob("*.json")):
        record = json.loads(file.read_text())
        if not isinstance(record, dict) or "test_cases" not in record:
            print(f"{file.stem}: no test_cases, not read")
            continue
        compared = differ = 0
        for case in record["test_cases"]:
            for name, ours, expected in compare(case):
                compared += 1
                if abs(ours - expected) > case["tolerance"] + 1e-9:
                    differ += 1
                    unexplained += case["name"] not in EXPLAINED
                    print(
                        f"{file.stem}: {case['name']}: {name}: {ours:.6g}, expected {expected:.6g} +-"
                        f" {case['tolerance']}"
                    )
        kinds = {case["metric_class"] for case in record["test_cases"]}
        reason = next((ABSENT[kind] for kind in kinds if kind in ABSENT), None)
        if not compared and reason is None:
            silent.append(file.stem)
        total += compared
        told = (
            f"{compared} values, {differ} differ"
            if compared
            else f"nothing compared: {reason or 'no counterpart known'}"
        )
        print(f"{file.stem}: {len(record['test_cases'])} cases, {told}")
    print(
        f"{total} values compared, {unexplained} differ without an explanation, {len(silent)} files silently empty:"
        f" {', '.join(silent)}"
    )
    return int(bool(unexplained or silent or not total))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
