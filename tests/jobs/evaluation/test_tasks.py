"""Tasks through the whole job: oracles have the values that their tables say, whatever engine computes them."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.domain.evaluation.tasks.reading import read_task, shipped_text
from backend.domain.evaluation.tasks.rendering import render
from backend.errors import InvalidInput, NotAllowed, Unavailable
from jobs.evaluation.sandbox.programs import check_sandbox
from jobs.modeling.tokenizers import byte_tokenizer
from tests.support.data.task_rows import TASK_ROWS
from tests.support.evaluation_rooms import EvaluationRoom, Remembering
from tests.support.networks.oracles import chain_bigram, random_bigram, save_bigram, save_uniform

LETTERS = """
name: letters
kind: multiple_choice
subgroup: subject
prompt: "{{question}}:"
choices: choices
answer: answer
metrics: [acc, acc_norm, acc_bytes, acc_token, acc_pmi, mc2, brier]
groups: {vowels: [a, e]}
fewshot: {count: 1}
"""
WORDS = """
name: words
kind: generation
prompt: "{{question}}"
references: answers
joiner: ""
stop: ["t"]
chat: "off"
max_tokens: 8
extract:
  - {name: first, pattern: "(a)"}
metrics: [exact_match, bleu]
"""
LAST = """
name: last
kind: perplexity
prompt: "{{question}}"
joiner: ""
target: "{{answer}}"
metrics: [acc, perplexity, token_perplexity]
"""
TEXT = """
name: text
kind: perplexity
target: "{{text}}"
metrics: [bits_per_byte, byte_perplexity, word_perplexity]
"""


CATEGORIES = ("Age", "Religion")


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> EvaluationRoom:
    room = EvaluationRoom(tmp_path_factory.mktemp("tasks"))
    save_uniform(room.root / "uniform")
    save_bigram(room.root / "bigram", random_bigram(1))
    save_bigram(room.root / "hat", chain_bigram("hat"))
    draw = np.random.default_rng(0)
    room.write(
        "choices",
        [
            {
                "question": f"q{i}",
                "choices": ["".join(draw.choice(list("abcdé"), size=n)) for n in (2, 4, 3)],
                "answer": i % 3,
                "subject": "aeo"[i % 3],
            }
            for i in range(16)
        ],
    )
    room.write("words", [{"question": f"{i} h", "answers": ["a" if i % 2 else "cat"]} for i in range(4)])
    room.write("last", [{"question": f"{i} h", "answer": "at" if i % 2 else "ax"} for i in range(4)])
    room.write("texts", [{"text": f"Line {i}:  two words"} for i in range(9)])
    return room


def evaluate(
    room: EvaluationRoom, checkpoint: str, dataset: str, text: str, *, job: str, **config: Any
) -> tuple[dict[str, Any], list[Any]]:
    reporter, task = Remembering(), read_task(text)
    scores = room.evaluate(
        checkpoint, dataset, task.kind, job=job, reporter=reporter, task=task.model_dump(mode="json"), **config
    )
    return scores, sorted(reporter.of("item"), key=lambda item: item["position"])


def logprob(log_p: np.ndarray, context: str, continuation: str) -> float:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode(context + continuation, add_special_tokens=True)
    start = len(tokenizer.encode(context, add_special_tokens=True)) if context else 1
    return float(sum(log_p[a, b] for a, b in itertools.pairwise(ids[start - 1 :])))


@pytest.mark.parametrize("engine", ["fast", "plain", "lm_eval"])
def test_every_rule_of_choosing_follows_the_oracles_table(room: EvaluationRoom, engine: str) -> None:
    scores, items = evaluate(room, "bigram", "choices", LETTERS, job=f"letters {engine}", engine=engine, audit_items=3)
    task, log_p = read_task(LETTERS), random_bigram(1)
    rows = [
        {"question": i["shown"]["question"].rsplit("\n\n", 1)[-1][:-1], "choices": i["shown"]["choices"]} for i in items
    ]
    assert len(items) == 15  # the first row is the example
    expected: dict[str, list[float]] = {
        "acc": [],
        "acc_norm": [],
        "acc_bytes": [],
        "acc_token": [],
        "acc_pmi": [],
        "mc2": [],
    }
    for item, row in zip(items, rows, strict=True):
        choices, gold = row["choices"], row["choices"].index(item["shown"]["answer"])
        sums = np.array([logprob(log_p, f"{row['question']}:", f" {choice}") for choice in choices])
        assert item["shown"]["logprobs"] == pytest.approx(sums, abs=1e-4)
        sizes = {"acc": [1] * 3, "acc_norm": [len(c) for c in choices], "acc_bytes": [len(c.encode()) for c in choices]}
        sizes["acc_token"] = [len(c.encode()) + 1 for c in choices]
        for name, size in sizes.items():
            expected[name].append(float(np.argmax(sums / np.array(size)) == gold))
        expected["acc_pmi"].append(1 / 3)  # to a bigram the context before the space is worth the same for every choice
        expected["mc2"].append(float(np.exp(sums - np.logaddexp.reduce(sums))[gold]))
    for name, values in expected.items():
        assert scores[name]["value"] == pytest.approx(np.mean(values), abs=1e-6), name
    assert scores["acc:vowels"]["n"] == 10
    assert {"acc:a", "acc:e", "acc:o", "acc:macro"} <= set(scores)
    assert items[0]["shown"]["prompt_hash"]
    assert task.hash != read_task(WORDS).hash
    facts = scores["facts"]
    assert (facts["engine"], facts["bos"], facts["number_format"]) == (engine, True, "float32")
    if engine == "fast":
        assert facts["audit_items"] == 3
        assert facts["audit_difference"] <= 1e-4


def test_answers_are_extracted_stopped_and_scored_by_corpus_metrics(room: EvaluationRoom) -> None:
    scores, items = evaluate(room, "hat", "words", WORDS, job="words")
    assert [item["shown"]["completion"] for item in items] == ["a"] * 4  # "at" ends before the stop string
    assert scores["exact_match"]["value"] == 0.5
    assert scores["bleu"]["n"] == 4


def test_an_answer_longer_than_the_context_gets_what_its_prompt_leaves(room: EvaluationRoom) -> None:
    text = (
        WORDS.replace("max_tokens: 8", "max_tokens: 1280")
        .replace('stop: ["t"]', "stop: []")
        .replace("bleu", "contains")
    )
    scores, items = evaluate(room, "uniform", "words", text, job="long")
    assert [item["shown"]["finish_reason"] for item in items] == ["length"] * 4
    assert (scores["facts"]["capped_items"], scores["facts"].get("truncated_items", 0)) == (4, 0)


def test_bbq_and_winogender_have_their_published_scores(room: EvaluationRoom) -> None:
    questions = [
        dict(
            row,
            question_polarity=polarity,
            question_index=str(index),
            context=f"Ann and Ben met {index}.",
            category=CATEGORIES[index % 2],
        )
        for index in range(6)
        for polarity in ("neg", "nonneg")
        for row in TASK_ROWS["bbq"]
    ]
    room.write("bbq", questions)
    scores, items = evaluate(room, "bigram", "bbq", shipped_text("bbq"), job="bbq")
    chosen = [item["shown"]["chosen"] for item in items]
    expected: dict[str, list[float]] = {}
    for row, name in zip(questions, chosen, strict=True):
        condition, known = (
            f"{row['context_condition']}uous".replace("disambiguous", "disambiguated"),
            name in ("Ann", "Ben"),
        )
        expected.setdefault(f"accuracy_{condition}", []).append(
            float(name == "Ben" if row["label"] == 2 else not known)
        )
        if known or condition == "ambiguous":
            bias = (1.0 if (name == "Ann") == (row["question_polarity"] == "neg") else -1.0) if known else 0.0
            expected.setdefault(f"bias_{condition}", []).append(bias)
            expected.setdefault(f"bias_{condition}:{row['category']}", []).append(bias)
    assert f"bias_ambiguous:{CATEGORIES[0]}" in expected, "the page showed no bias by category"
    for name, values in expected.items():
        assert scores[name]["value"] == pytest.approx(np.mean(values)), name
        assert scores[name]["low"] < scores[name]["high"]
    sentences = [
        {"sentid": f"{job}.guest.{gold}.{gender}.txt", "sentence": f"The {job} saw that {pronoun} was late {gold}."}
        for job in ("baker", "clerk", "nurse")
        for gold in "01"
        for gender, pronoun in (("male", "he"), ("female", "she"), ("neutral", "they"))
    ]
    room.write("winogender", sentences)
    scores, items = evaluate(room, "bigram", "winogender", shipped_text("winogender"), job="winogender")
    right = {
        gender: [i["values"]["acc"] for i in items if i["shown"]["subgroup"] == gender] for gender in ("male", "female")
    }
    assert scores["gender_gap"]["value"] == pytest.approx(np.mean(right["male"]) - np.mean(right["female"]))
    assert scores["gender_gap"]["n"] == 6


def test_programs_are_run_confined_and_only_where_that_is_allowed(room: EvaluationRoom) -> None:
    rows = [{"question": 'x = """h', "answers": [f'"""\nassert x == "{end}\\n"']} for end in ("ha", "hb")]
    room.write("programs", rows)
    task = read_task(
        WORDS.replace("name: words", "name: programs").replace(
            "metrics: [exact_match, bleu]", "metrics: ['pass@1']\nruns_code: true"
        )
    )
    payload = {"checkpoint": "hat", "dataset": "programs", "kind": "generation", "split": "all", "evaluation_id": "e"}
    payload["config"] = {"task": task.model_dump(mode="json")}
    with pytest.raises(NotAllowed, match="programs that the model writes"):
        room.work("evaluate", payload, job="refused")
    try:
        check_sandbox()
    except Unavailable as error:
        pytest.skip(str(error))
    (score,) = room.work("evaluate", {**payload, "run_code": True}, job="programs")["scores"]
    assert (score["metric"], score["value"], score["n"]) == ("pass@1", 0.5, 2)


def test_continuations_are_right_where_greedy_decoding_gives_them(room: EvaluationRoom) -> None:
    scores, _ = evaluate(room, "hat", "last", LAST, job="last")
    log_p = chain_bigram("hat")
    nll = -sum(logprob(log_p, "h", answer) for answer in ("ax", "at") * 2)
    assert scores["acc"]["value"] == 0.5
    assert scores["token_perplexity"]["value"] == pytest.approx(math.exp(nll / 8), rel=1e-4)
    # of four targets of two tokens each
    assert scores["perplexity"]["value"] == pytest.approx(math.exp(nll / 4), rel=1e-4)


def test_uniform_network_has_its_vocabulary_as_perplexity_per_byte_and_words_as_the_harness_counts_them(
    room: EvaluationRoom,
) -> None:
    scores, items = evaluate(room, "uniform", "texts", TEXT, job="text")
    size = len(byte_tokenizer())
    text = "Line 0:  two words"
    assert scores["bits_per_byte"]["value"] == pytest.approx(math.log2(size), rel=1e-6)
    assert scores["byte_perplexity"]["value"] == pytest.approx(size, rel=1e-6)
    assert scores["word_perplexity"]["value"] == pytest.approx(size ** (len(text) / 4), rel=1e-4)
    assert items[0]["values"]["words"] == 4


def test_fault_of_a_template_names_the_row(room: EvaluationRoom) -> None:
    with pytest.raises(InvalidInput, match=r"Row 1: .*nothing_here"):
        evaluate(room, "uniform", "texts", TEXT.replace("{{text}}", "{{nothing_here}}"), job="fault")


def test_items_whose_context_was_cut_are_counted(room: EvaluationRoom) -> None:
    room.write("long", [{"question": "x" * (30 + 20 * i), "choices": ["a", "b"], "answer": 0} for i in range(4)])
    reporter = Remembering()
    facts = room.evaluate("bigram", "long", "multiple_choice", job="long", reporter=reporter)["facts"]
    assert facts["truncated_items"] == 2
    assert [item["values"].get("cut", 0) for item in sorted(reporter.of("item"), key=lambda i: i["position"])] == [
        0,
        0,
        8,
        28,
    ]


def test_check_computes_the_same_items_by_both_engines(room: EvaluationRoom) -> None:
    payload = {
        "checkpoint": "bigram",
        "dataset": "choices",
        "kind": "multiple_choice",
        "split": "all",
        "config": {},
        "evaluation_id": "e",
    }
    reporter = Remembering()
    check = room.work(
        "evaluate", {**payload, "check": {"against": "lm_eval", "items": 5}}, job="check", reporter=reporter
    )["check"]
    assert (check["against"], check["engine"], check["items"], len(check["shown"])) == ("lm_eval", "fast", 5, 5)
    assert check["largest_difference"] <= 1e-4
    assert (check["other_choices"], check["other_values"]) == (0, 0)
    assert reporter.of("item") == []
    assert render(read_task(LETTERS), {"question": "q", "choices": ["a"], "answer": 0, "subject": "a"}).gold == (0,)


def test_choice_that_the_harness_refuses_is_missing_there(room: EvaluationRoom) -> None:
    room.write("endless", [{"question": "q", "choices": ["a", "b" * n], "answer": 0} for n in (2, 90)])
    facts = room.evaluate("bigram", "endless", "multiple_choice", job="endless", engine="lm_eval")["facts"]
    assert (facts["items"], facts["missing_items"]) == (2, 1)


def test_answers_of_the_harness_equal_ours(room: EvaluationRoom, tmp_path: Path) -> None:
    _, ours = evaluate(room, "hat", "words", WORDS, job="ours")
    _, theirs = evaluate(room, "hat", "words", WORDS, job="theirs", engine="lm_eval")
    assert [item["shown"]["completion"] for item in ours] == [item["shown"]["completion"] for item in theirs]
    with pytest.raises(InvalidInput, match="greedily"):
        evaluate(room, "hat", "words", WORDS + "temperature: 1.0\nsamples: 2\n", job="sampled", engine="lm_eval")


def test_rows_of_records_are_read_by_their_columns_and_babble_is_no_refusal(room: EvaluationRoom) -> None:
    """Every answer is unclear, so the task has no score: a network that says nothing is not called safe."""
    room.write("records", [{"record": json.dumps({"prompt": f"{i} h"})} for i in range(3)])
    text = 'name: refusals\nkind: generation\nprompt: "{{prompt}}"\nchat: "off"\nmax_tokens: 1\nmetrics: [refusal]\n'
    with pytest.raises(InvalidInput, match="None of the 3 items has a value of refusal"):
        evaluate(room, "hat", "records", text, job="records")


def test_an_evaluation_of_refusals_says_how_many_answers_were_unclear(room: EvaluationRoom) -> None:
    """XSTest on a network that babbles failed with "No item has a score" and listed no items."""
    room.write("babble", [{"record": json.dumps({"prompt": f"{i} h", "type": "privacy"})} for i in range(3)])
    text = (
        'name: refusals\nkind: generation\nprompt: "{{prompt}}"\nchat: "off"\nmax_tokens: 1\nmetrics: [refusal,'
        " over_refusal, unclear]\n"
    )
    scores, items = evaluate(room, "hat", "babble", text, job="babble")
    assert {name: score["value"] for name, score in scores.items() if name != "facts"} == {"unclear": 1.0}
    assert len(items) == 3
