"""A metric has the name of lm-evaluation-harness where the harness computes the same number, and nowhere else."""

from __future__ import annotations

import json
import random
import zlib
from typing import Any

import numpy as np
import pytest
from lm_eval.api import metrics as theirs

from backend.domain.evaluation.exchange import ItemRow, read_results, sample_line, write_results
from backend.domain.evaluation.harness import NAMES, exported_name, read_name, to_harness
from backend.domain.evaluation.metrics.registry import get_metric, registered_metrics
from backend.domain.evaluation.metrics.score import read_answer_rows, score_rows
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.lm_eval_yaml import from_lm_eval, to_lm_eval
from backend.domain.evaluation.tasks.metric_names import METRIC_NAMES
from backend.domain.statistics.estimates import bits_per_byte_estimate, perplexity_estimate

WORDS = ("the", "A", "hat.", "hat", "cat", "sat,", "3.5", "35", "été", "Ann's")


def sentences(seed: str) -> list[tuple[str, str]]:
    """Return answers and references that share some words and differ in case, articles and marks."""
    draw = random.Random(zlib.crc32(seed.encode()))
    pairs = []
    for _ in range(40):
        reference = draw.choices(WORDS, k=draw.randint(1, 7))
        answer = [word if draw.random() < 0.8 else draw.choice(WORDS) for word in reference]
        pairs.append((" ".join(answer), " ".join(reference)))
    return pairs


def ours(name: str, pairs: list[tuple[str, str]], **options: Any) -> float:
    metric = get_metric(name, **options)
    lines = [json.dumps({"prediction": answer, "references": [reference]}) for answer, reference in pairs]
    return score_rows(metric, read_answer_rows(lines, metric)).estimate.value


@pytest.mark.parametrize("name", ["bleu", "chrf", "chrf++", "ter"])
def test_metrics_of_translation_are_those_of_the_harness(name: str) -> None:
    pairs = sentences(name)
    function = {"bleu": theirs.bleu, "chrf": theirs.chrf, "chrf++": theirs.chrfpp, "ter": theirs.ter}[name]
    assert to_harness(name) == name
    assert ours(name, pairs) == pytest.approx(function([(reference, answer) for answer, reference in pairs]))


@pytest.mark.parametrize(
    "options",
    [{}, {"ignore_case": True, "ignore_punctuation": True}, {"ignore_numbers": True}, {"regexes_to_ignore": ["the "]}],
)
def test_verbatim_match_is_the_exact_match_of_the_harness_and_that_of_squad_is_not(options: dict[str, Any]) -> None:
    pairs = [*sentences("match"), ("The hat", "hat"), ("a cat", "cat")]
    answers, references = zip(*pairs, strict=True)
    expected = float(theirs.exact_match_hf_evaluate(list(answers), list(references), **options)["exact_match"])
    assert to_harness("exact_match_verbatim", options) == "exact_match"
    assert ours("exact_match_verbatim", pairs, **options) == pytest.approx(expected)
    assert ours("exact_match", pairs) > expected
    assert exported_name("exact_match") == "roundhouse_exact_match,none"


def test_likelihoods_are_aggregated_as_by_the_harness() -> None:
    draw = np.random.default_rng(3)
    nlls, words, sizes = draw.gamma(20, 1, 30), draw.integers(1, 30, 30), draw.integers(5, 150, 30)
    weighted = [(-nll, size) for nll, size in zip(nlls, sizes, strict=True)]
    by_word = [(-nll, count) for nll, count in zip(nlls, words, strict=True)]
    assert perplexity_estimate(nlls, np.ones(30)).value == pytest.approx(theirs.perplexity([-nll for nll in nlls]))
    assert perplexity_estimate(nlls, words).value == pytest.approx(theirs.weighted_perplexity(by_word))
    assert perplexity_estimate(nlls, sizes).value == pytest.approx(theirs.weighted_perplexity(weighted))
    assert bits_per_byte_estimate(nlls, sizes).value == pytest.approx(theirs.bits_per_byte(weighted))


def test_correlation_and_f1_of_classes() -> None:
    draw = random.Random(5)
    golds = draw.choices("01", k=60)
    labels = [gold if draw.random() < 0.7 else draw.choice("01") for gold in golds]
    items = [(int(gold), int(label)) for gold, label in zip(golds, labels, strict=True)]
    pairs = list(zip(labels, golds, strict=True))
    assert ours("mcc", pairs) == pytest.approx(theirs.matthews_corrcoef(items))
    assert ours("f1_macro", pairs) != pytest.approx(theirs.f1_score(items), abs=1e-3)
    assert to_harness("f1_macro") is None  # the harness's f1 is that of class 1
    assert read_name("f1", "none") == "harness_f1"


def test_every_shared_name_is_a_metric_of_ours_and_the_names_are_one_for_one() -> None:
    scores = {score for name, metric in METRIC_NAMES.items() for score in (name, *metric.scores)}
    assert set(NAMES) <= scores | set(registered_metrics())
    assert len(set(NAMES.values())) == len(NAMES)
    for name in [*scores, *registered_metrics()]:
        metric, _, filter_name = exported_name(name).partition(",")
        assert read_name(metric, filter_name) == name


def test_results_and_samples_name_a_metric_as_the_harness_only_where_it_is_the_same() -> None:
    scores = [
        {
            "metric": "exact_match_verbatim,strict",
            "value": 0.5,
            "stderr": 0.1,
            "n": 4,
            "options": {"ignore_case": True},
        },
        {"metric": "exact_match", "value": 0.75, "stderr": None, "n": 4},
        {"metric": "token_perplexity", "value": 30.4, "stderr": 2.0, "n": 4},
        {"metric": "perplexity", "value": 1.1e7, "stderr": 2e6, "n": 4},
        {"metric": "bleu", "value": 12.0, "stderr": 1.0, "n": 4, "options": {"tokenize": "zh"}},
        {"metric": "acc:micro", "value": 0.25, "stderr": 0.1, "n": 4},
        {"metric": "acc", "subgroup": "law", "value": 0.25, "stderr": 0.1, "n": 4},
    ]
    results = write_results(task="quiz", model="Oak", scores=scores, settings={}, facts={}, date=0.0, version="1")
    assert results["results"] == {
        "quiz": {
            "alias": "quiz",
            "exact_match,strict": 0.5,
            "exact_match_stderr,strict": 0.1,
            "roundhouse_exact_match,none": 0.75,
            "roundhouse_exact_match_stderr,none": "N/A",
            "token_perplexity,none": 30.4,
            "token_perplexity_stderr,none": 2.0,
            "perplexity,none": 1.1e7,
            "perplexity_stderr,none": 2e6,
            "roundhouse_bleu,none": 12.0,
            "roundhouse_bleu_stderr,none": 1.0,
            "acc:micro,none": 0.25,
            "acc:micro_stderr,none": 0.1,
        },
        "quiz_law": {"alias": " - law", "acc,none": 0.25, "acc_stderr,none": 0.1},
    }
    assert results["group_subtasks"] == {"quiz": ["quiz_law"]}
    assert results["higher_is_better"]["quiz"]["perplexity"] is False
    stated = {row.benchmark: [one.metric for one in row.scores] for row in read_results(results, source="results.json")}
    assert stated["quiz"] == [
        "exact_match_verbatim,strict",
        "exact_match",
        "token_perplexity",
        "perplexity",
        "bleu",
        "acc:micro",
    ]
    sample = sample_line(ItemRow("h", 0, {"exact_match": 1.0, "exact_match_verbatim": 0.0}, {}))
    assert (sample["roundhouse_exact_match"], sample["exact_match"]) == (1.0, 0.0)


def test_a_task_leaves_for_the_harness_without_metrics_that_mean_something_else_there() -> None:
    metrics = ["exact_match", "exact_match_verbatim", "f1"]
    task = TaskDefinition(name="quiz", kind="generation", prompt="{{question}}", target="{{answer}}", metrics=metrics)
    written = to_lm_eval(task)
    assert "metric_list:\n- metric: exact_match\n" in written.text
    assert [line.partition(":")[0] for line in written.left_out if line.startswith("metric")] == [
        "metric exact_match",
        "metric f1",
    ]
    text = "task: quiz\noutput_type: multiple_choice\ndataset_path: json\ndoc_to_text: '{{q}}'\ndoc_to_target: 0\n"
    text += "doc_to_choice: ['a', 'b']\nmetric_list: [{metric: acc}, {metric: f1}]\n"
    converted = from_lm_eval(text)
    assert [use.name for use in converted.task.metrics] == ["acc"]
    assert any("F1 of class 1" in line for line in converted.left_out)
