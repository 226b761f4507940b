"""Metrics of answers: published examples, second implementations, intervals, rows that can't be read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from backend.domain.evaluation.metrics.registry import METRICS, MetricKind, bind_checker, get_metric, score_item
from backend.domain.evaluation.metrics.score import MetricScore, read_answer_rows, score_rows
from backend.errors import InvalidInput

SACREBLEU = [  # README of sacreBLEU: "The dog bit the man." with two references
    ("The dog bit the man.", ["The dog bit the man.", "The dog had bit the man."]),
    ("It wasn't surprising.", ["It was not unexpected.", "No one was surprised."]),
    ("The man had just bitten him.", ["The man bit him first.", "The man had bitten the dog."]),
]


def score(name: str, rows: list[tuple[Any, Any]], *, clusters: list[str] | None = None, **options: Any) -> MetricScore:
    metric = get_metric(name, **options)
    labels = [{} for _ in rows] if clusters is None else [{"cluster": cluster} for cluster in clusters]
    lines = [
        json.dumps({"prediction": p, "references": r, **label}) for (p, r), label in zip(rows, labels, strict=True)
    ]
    return score_rows(metric, read_answer_rows(lines, metric))


@pytest.mark.parametrize(
    ("name", "value", "signature"),
    [
        ("bleu", 48.530827, "nrefs:2|case:mixed|eff:no|tok:13a|smooth:exp|"),
        ("chrf", 59.73, "nrefs:2|case:mixed|eff:yes|nc:6|nw:0|"),
        ("ter", 40.0, "nrefs:2|case:lc|tok:tercom|"),
    ],
)
def test_the_example_of_sacrebleu_is_reproduced(name: str, value: float, signature: str) -> None:
    result = score(name, SACREBLEU)
    assert result.estimate.value == pytest.approx(value, abs=0.005)
    assert result.signature.startswith(signature)
    low, high = result.estimate.low, result.estimate.high
    assert low is not None
    assert high is not None
    assert low <= result.estimate.value <= high


def test_items_may_have_different_numbers_of_references() -> None:
    result = score("bleu", [(p, refs[: index + 1]) for index, (p, refs) in enumerate(SACREBLEU)])
    assert "nrefs:var" in result.signature


def test_the_clipped_precision_of_the_bleu_paper_is_reproduced() -> None:
    """Papineni et al. (2002), section 2.1: seven times `the` has two right of seven."""
    references = ["The cat is on the mat", "There is a cat on the mat"]
    assert score(
        "bleu_1", [("the the the the the the the", [r.lower() for r in references])]
    ).estimate.value == pytest.approx(2 / 7)


def test_the_example_of_rouge_score_is_reproduced() -> None:
    row = ("The quick brown dog jumps on the log.", ["The quick brown fox jumps over the lazy dog"])
    for stemmer in (False, True):
        assert score("rouge1", [row], stemmer=stemmer).estimate.value == pytest.approx(0.7059, abs=5e-5)
        assert score("rougeL", [row], stemmer=stemmer).estimate.value == pytest.approx(0.5882, abs=5e-5)
    assert "stemmer:yes" in score("rougeL", [row], stemmer=True).signature


def test_metrics_of_classes_equal_those_of_scikit_learn() -> None:
    gold = ["cat", "dog", "cat", "bird", "dog", "cat", "bird", "bird"]
    label = ["cat", "cat", "cat", "bird", "dog", "dog", "cow", "bird"]
    rows = list(zip(label, ([g] for g in gold), strict=True))
    assert score("mcc", rows).estimate.value == pytest.approx(matthews_corrcoef(gold, label))
    for average in ("macro", "micro"):
        expected = f1_score(gold, label, average=average, zero_division=0.0)
        assert score(f"f1_{average}", rows).estimate.value == pytest.approx(expected)


def test_one_class_against_the_rest_is_the_mean_accuracy_of_its_decisions() -> None:
    gold, label = ["1", "2", "0", "0"], ["0", "2", "0", "1"]
    rows = list(zip(label, ([g] for g in gold), strict=True))
    for classes in (3, 5):
        decisions = [
            f1_score([g == str(c) for g in gold], [p == str(c) for p in label], average="micro") for c in range(classes)
        ]
        result = score("f1_one_vs_rest", rows, num_classes=classes)
        assert result.estimate.value == pytest.approx(sum(decisions) / classes)
        assert f"classes:{classes}" in result.signature
    with pytest.raises(InvalidInput, match="3 classes occur"):
        score("f1_one_vs_rest", rows, num_classes=2)
    with pytest.raises(InvalidInput, match="can't be 1") as refused:
        score("f1_one_vs_rest", rows, num_classes=1)
    assert "from 2 to 1000" in refused.value.remedy


def test_an_option_names_what_decides_about_a_sample() -> None:
    answers = ["The answer: 1,000", "12"]
    assert score("pass@1", [(answers, ["1000"])]).estimate.value == 0
    decided = score("pass@1", [(answers, ["1000"])], correct="numeric")
    assert decided.estimate.value == 0.5
    assert decided.signature == "pass@1|correct:numeric"
    with pytest.raises(InvalidInput, match="bleu"):
        get_metric("pass@1", correct="bleu")


def test_an_expression_is_compared_by_what_was_bound() -> None:
    bound = bind_checker(get_metric("avg@2", correct="math_equal"), lambda answer, references: answer == "1/2")
    assert score_item(bound, ["1/2", "2"], ["0.5"]) == 0.5
    assert score_item(bind_checker(get_metric("math_equal"), lambda *_: True), "a", ["b"]) == 1


def test_metrics_of_samples_are_unbiased() -> None:
    answers = ["10", "12", "15"]
    assert score("pass@2", [(answers, ["12"])]).estimate.value == pytest.approx(2 / 3)
    assert score("pass@1", [([True, False, True, False], [])]).estimate.value == 0.5
    assert score("avg@2", [(answers, ["12"])]).estimate.value == 0.5
    assert score("maj@3", [(["a", "b", "b"], ["b"])]).estimate.value == 1
    # hypergeometric: 2 right of 4, both of 2 drawn are right in 1 of 6 draws
    assert score("g-pass@2_1.0", [([True, True, False, False], [])]).estimate.value == pytest.approx(1 / 6)
    assert score("mg-pass@2", [([True, True, False, False], [])]).estimate.value == pytest.approx(1 / 6)
    with pytest.raises(InvalidInput, match=r"Item 1: .*samples"):
        score("maj@4", [(answers, ["12"])])


def test_rankings_and_copied_text() -> None:
    assert score("mrr", [([0.8, 0.15, 0.05], [2])]).estimate.value == pytest.approx(1 / 3)
    assert score("recall@2", [([0.1, 0.8, 0.05], [0])]).estimate.value == 1
    assert score("probability", [([0.0, 0.0], [1])]).estimate.value == 0.5
    source = ["The quick brown fox jumps over the lazy dog"]
    assert score("coverage", [("A fox jumps", source)]).estimate.value == pytest.approx(2 / 3)
    assert score("density", [("A fox jumps", source)]).estimate.value == pytest.approx(4 / 3)
    assert score("edit_similarity", [("a b x", ["a b c"])]).estimate.value == pytest.approx(2 / 3)


def test_perplexity_counts_words_and_bytes() -> None:
    assert score("word_perplexity", [([-1.0, -1.0], ["two words"])]).estimate.value == pytest.approx(2.718281828)
    assert score("bits_per_byte", [([-0.6931471805599453] * 3, ["abc"])]).estimate.value == pytest.approx(1.0)


def test_a_metric_that_does_not_vary_is_not_certain() -> None:
    perfect = score("exact_match", [("a", ["a"])] * 5).estimate
    assert perfect.low is not None
    assert perfect.low < 0.6
    assert score("bleu", [("one two three four", ["one two three four"])] * 3).estimate.stderr is None
    half = score("f1", [("a b", ["b c c"])] * 3).estimate
    assert half.stderr is not None
    assert half.stderr > 0.1


def test_clusters_widen_the_interval() -> None:
    rows = [("x", ["x"])] * 10 + [("x", ["y"])] * 10
    alone, clustered = (
        score("f1", rows).estimate,
        score("f1", rows, clusters=["p"] * 10 + ["q"] * 5 + ["r"] * 5).estimate,
    )
    assert alone.stderr is not None
    assert clustered.stderr is not None
    assert clustered.stderr > alone.stderr


@pytest.mark.parametrize(
    ("metric", "line", "message"),
    [
        ("f1", "{", "Line 2 is not JSON"),
        ("f1", "[]", "Line 2: the row is not an object"),
        ("f1", '{"references": ["a"]}', "Line 2: there is no `prediction`"),
        ("f1", '{"prediction": 3, "references": ["a"]}', "Line 2: `prediction` is 3"),
        ("bleu", '{"prediction": "a", "references": []}', "Line 2: `references` is empty"),
        ("bleu", '{"prediction": "a", "references": [null]}', "Line 2: the reference null"),
        ("pass@2", '{"prediction": "a", "references": ["a"]}', "Line 2: `prediction` is .* not a list"),
        ("mrr", '{"prediction": [0.5], "references": [1]}', "Line 2: the reference 1 is not an index"),
        ("mrr", '{"prediction": [NaN], "references": [0]}', "Line 2 is not JSON: NaN"),
        ("word_perplexity", '{"prediction": [0.5], "references": ["a"]}', "Line 2: .*log-probabilities"),
    ],
)
def test_a_row_that_can_not_be_read_is_named_by_its_line(metric: str, line: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_answer_rows(["", line], get_metric(metric))


def test_an_unknown_metric_or_option_is_answered_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match="Did you mean bleu"):
        get_metric("blue")
    with pytest.raises(InvalidInput, match="tokenize, lowercase"):
        get_metric("bleu", tokenise="zh")
    with pytest.raises(InvalidInput, match="13a, intl"):
        get_metric("bleu", tokenize="spm")


def test_each_metric_is_best_at_its_best_bound_for_a_perfect_answer() -> None:
    perfect: dict[MetricKind, tuple[Any, Any]] = {
        MetricKind.MEAN: ("the cat sat on the mat 7", ["the cat sat on the mat 7"]),
        MetricKind.RANKING: ([0.0, -900.0], [0]),
    }
    for metric in METRICS.values():
        if metric.kind in perfect and metric.high == 1.0:
            bound = bind_checker(metric, lambda answer, references: answer in references)
            assert score_item(bound, *perfect[metric.kind]) == pytest.approx(1.0), metric.name


def test_an_answer_that_can_not_be_read_is_no_perfect_distance() -> None:
    values = [score_item(get_metric(name), None, ["the old mill"]) for name in ("edit_distance", "f1", "exact_match")]
    assert values == [3, 0, 0]
