"""The room's numbers equal those of lm-evaluation-harness on the same checkpoint."""

from __future__ import annotations

import math

import numpy as np
import pytest

from backend.domain.evaluation.harness import read_name
from backend.domain.evaluation.tasks.definition import MetricUse, TaskDefinition
from backend.domain.evaluation.tasks.reading import shipped_definition
from jobs.evaluation.choices import choice_values
from jobs.modeling.checkpoints import load_network
from jobs.modeling.scores import ContinuationScore
from jobs.modeling.tokenizer_folders import load_tokenizer
from tests.support.evaluation_rooms import EvaluationRoom, Remembering
from tests.support.networks.oracles import save_random

QUESTIONS = [
    {
        "question": f"The {thing} of {name} is",
        "choices": [f" {colour} and {'very ' * n}old" for n, colour in enumerate(("red", "blue", "très grand"))],
        "answer": 1,
    }
    for thing in ("lamp", "boat", "song")
    for name in ("Mira", "Tom", "Ada")
]
TEXTS = [
    "Short.",
    "A text as long as two or three windows. " * 4,
    *(f"Text {i} of some length, été." for i in range(8)),
]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> EvaluationRoom:
    room = EvaluationRoom(tmp_path_factory.mktemp("reference"))
    save_random(room.root / "random", context=64)
    room.write("choices", QUESTIONS)
    room.write("texts", [{"text": text} for text in TEXTS])
    return room


def test_loglikelihoods_choices_and_bits_per_byte_equal_lm_evaluation_harness(room: EvaluationRoom) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM  # slow to import

    tokenizer = load_tokenizer(room.root / "random")
    network = load_network(room.root / "random")
    harness = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=4, max_length=64)
    reporter = Remembering()
    scores = room.evaluate("random", "choices", "multiple_choice", job="choices", reporter=reporter)
    pairs = [(row["question"], choice) for row in QUESTIONS for choice in row["choices"]]
    requests = [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]
    theirs = np.array([logprob for logprob, _ in harness.loglikelihood(requests, disable_tqdm=True)]).reshape(
        len(QUESTIONS), 3
    )
    ours = np.array(
        [item["shown"]["logprobs"] for item in sorted(reporter.of("item"), key=lambda item: item["position"])]
    )
    assert np.abs(ours - theirs).max() <= 1e-4
    assert np.array_equal(ours.argmax(-1), theirs.argmax(-1))
    assert scores["acc"]["value"] == pytest.approx(float((theirs.argmax(-1) == 1).mean()))

    plain = HFLM(pretrained=network, tokenizer=tokenizer, batch_size=4, max_length=64, add_bos_token=False)
    rolling = [Instance("loglikelihood_rolling", {}, (text,), index) for index, text in enumerate(TEXTS)]
    nll = -sum(plain.loglikelihood_rolling(rolling, disable_tqdm=True))
    expected = nll / sum(len(text.encode()) for text in TEXTS) / math.log(2)
    scores = room.evaluate("random", "texts", "perplexity", job="texts", windows="first_window")
    assert scores["bits_per_byte"]["value"] == pytest.approx(expected, abs=1e-6)


def test_perplexity_of_a_target_is_that_of_lm_evaluation_harness_and_the_one_of_tokens_is_not(
    room: EvaluationRoom,
) -> None:
    """LAMBADA showed 30.40 per token under the harness's name, which says 10,679,383 of the same network."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM  # slow to import

    passages = [{"text": f"{text} {word}"} for text in TEXTS[2:] for word in ("hat", "étagère", "x")]
    task = shipped_definition("lambada")
    assert isinstance(task, TaskDefinition)
    room.write("passages", passages)
    reporter = Remembering()
    config = task.model_copy(update={"metrics": (*task.metrics, MetricUse(name="token_perplexity"))}).model_dump(
        mode="json"
    )
    scores = room.evaluate("random", "passages", "perplexity", job="lambada", reporter=reporter, task=config)

    harness = HFLM(
        pretrained=load_network(room.root / "random"),
        tokenizer=load_tokenizer(room.root / "random"),
        batch_size=4,
        max_length=64,
    )
    theirs = ConfigurableTask(
        config={
            "task": "last_word",
            "output_type": "loglikelihood",
            "custom_dataset": lambda **_: {"test": Dataset.from_list(passages)},
            "test_split": "test",
            "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
            "doc_to_target": "{{' '+text.split(' ')[-1]}}",
            "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
        }
    )
    results = evaluate(lm=harness, task_dict={"last_word": theirs}, bootstrap_iters=0)["results"]["last_word"]
    assert scores["perplexity"]["value"] == pytest.approx(results["perplexity,none"], rel=1e-4)
    assert scores["acc"]["value"] == results["acc,none"]
    nll, tokens = (sum(item["values"][name] for item in reporter.of("item")) for name in ("sum_nll", "tokens"))
    assert scores["token_perplexity"]["value"] == pytest.approx(math.exp(nll / tokens), rel=1e-6)
    assert scores["perplexity"]["value"] > 100 * scores["token_perplexity"]["value"]


def test_rules_of_choosing_are_those_of_the_harness() -> None:
    from datasets import Dataset
    from lm_eval.api.metrics import brier_score
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks.truthfulqa.utils import process_results_mc2

    draw = np.random.default_rng(9)
    choices = ["an été", "a long long choice", "short", "très très grand"]
    docs = [{"question": "Which?", "choices": choices, "answer": gold} for gold in (0, 1, 2, 3)]
    names = ["acc", "acc_norm", "acc_bytes", "brier_score", "acc_mutual_info"]
    task = ConfigurableTask(
        config={
            "task": "choices",
            "output_type": "multiple_choice",
            "custom_dataset": lambda **_: {"test": Dataset.from_list(docs)},
            "test_split": "test",
            "doc_to_text": "question",
            "doc_to_target": "answer",
            "doc_to_choice": "choices",
            "metric_list": [{"metric": name} for name in names],
        }
    )
    for doc in [*docs] * 10:
        sums, alone = -draw.gamma(6, 3, 4), -draw.gamma(6, 3, 4)
        expected = task.process_results(doc, [(value, False) for value in [*sums, *alone]])
        scores, plain = (
            tuple(ContinuationScore(float(value), 3, False) for value in values) for values in (sums, alone)
        )
        values = choice_values(
            scores, choices, [doc["answer"]], metrics=[*(read_name(name, "") for name in names), "mc2"], alone=plain
        )
        for name in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info"):
            assert values[read_name(name, "")] == expected[name], name
        assert values["brier"] == pytest.approx(brier_score([expected["brier_score"]]))
        labels = [1, 1, 0, 0]
        truthful = process_results_mc2({"mc2_targets": {"labels": labels}}, [(value, False) for value in sums])["acc"]
        assert choice_values(scores, choices, [0, 1], metrics=["mc2"])["mc2"] == pytest.approx(truthful)
