"""The starter content: consistent, varied, the same everywhere, and with its examinations kept out of its lessons."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter

import pytest

from backend.domain.data.recognition import recognise
from backend.domain.data.rows.mapping import apply_mapping
from backend.services.starter import STARTER_DATASETS, StarterDataset
from tests.support.data.village import FACTS

ROWS = {dataset.name.removeprefix("pebblewick-"): dataset.read_rows() for dataset in STARTER_DATASETS}
STORIES, PROMPTS = [row["text"] for row in ROWS["stories"]], [row["prompt"] for row in ROWS["prompts"]]
CHATS, PREFERENCES, CHOICES, QUESTIONS = ROWS["chat"], ROWS["preferences"], ROWS["facts"], ROWS["questions"]


def test_the_rows_are_those_of_every_earlier_installation() -> None:
    """Scores on the benchmarks, and runs on the stories, can be compared between installations as long as no byte
    changes.
    """
    rows = json.dumps([dataset.read_rows() for dataset in STARTER_DATASETS]).encode()
    assert hashlib.sha256(rows).hexdigest() == "4489d197ad364fcc6ed4d24b7770af3a6fefc98b07d22db0cb3538d4a58e8f58"


def _user_turns() -> set[str]:
    return {message["content"] for row in CHATS for message in row["messages"] if message["role"] == "user"}


def test_stories_are_between_one_and_two_megabytes_and_each_is_short() -> None:
    texts = STORIES
    assert 1_000_000 < sum(map(len, texts)) < 2_000_000
    assert all(200 <= len(text) <= 1000 for text in texts)
    lengths = sorted(map(len, texts))
    assert 500 < lengths[len(lengths) // 2] < 800


def test_counts_are_what_an_evaluation_needs() -> None:
    assert 2000 <= len(CHATS) <= 3000
    assert len(PREFERENCES) >= 600
    assert len(CHOICES) == 200
    assert len(QUESTIONS) == 100
    assert len(PROMPTS) == 40


@pytest.mark.parametrize("dataset", STARTER_DATASETS, ids=lambda dataset: dataset.name)
def test_no_row_occurs_twice_and_all_is_ascii(dataset: StarterDataset) -> None:
    rows = [json.dumps(row, ensure_ascii=False) for row in dataset.read_rows()]
    assert len(set(rows)) == len(rows)
    assert all(row.isascii() for row in rows)
    assert not any("{" in text for row in rows for text in row.split('"') if "{}" in text or "{A}" in text)


@pytest.mark.parametrize("dataset", STARTER_DATASETS, ids=lambda dataset: dataset.name)
def test_rows_are_canonical_and_recognised_as_their_kind(dataset: StarterDataset) -> None:
    rows = dataset.read_rows()
    recognition = recognise(rows[:50])
    assert recognition.kind == dataset.kind
    assert recognition.confidence >= 0.7
    assert [apply_mapping(row, kind=recognition.kind, mapping=recognition.mapping) for row in rows] == rows


def test_benchmark_prompts_are_in_no_training_row() -> None:
    examined = {item["question"] for item in QUESTIONS}
    taught = _user_turns() | {row["prompt"][0]["content"] for row in PREFERENCES}
    assert not examined & taught
    # a follow-up such as "And where does ..." must not teach one either
    lowered = {turn.lower().removeprefix("and ") for turn in taught}
    assert not {question.lower() for question in examined} & lowered


def test_battle_prompts_are_held_out_from_chat_and_preferences() -> None:
    taught = _user_turns() | {row["prompt"][0]["content"] for row in PREFERENCES}
    assert len(set(PROMPTS)) == 40
    assert not set(PROMPTS) & taught
    assert not set(PROMPTS) & {item["question"] for item in QUESTIONS}


def test_the_fact_behind_every_generation_item_is_taught_in_other_words() -> None:
    answers = {row["messages"][1]["content"] for row in CHATS if len(row["messages"]) == 2}
    assert all(item["answers"][1] in answers for item in QUESTIONS)


def test_multiple_choice_answers_are_true_and_the_other_choices_are_not() -> None:
    facts = {fact.beginning: fact for fact in FACTS}
    for item in CHOICES:
        fact = facts[item["question"]]
        assert item["choices"][item["answer"]] == f" {fact.value}"
        assert len(set(item["choices"])) == 4
        assert all(choice.startswith(" ") for choice in item["choices"])
        answers = [choice for choice in item["choices"] if f"{fact.beginning}{choice}." == fact.answer]
        assert answers == [f" {fact.value}"]


def test_the_right_choice_is_at_every_position_about_equally_often() -> None:
    places = Counter(item["answer"] for item in CHOICES)
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) < 70


def test_stories_say_every_fact_often_enough_and_never_contradict_it() -> None:
    whole = "\n".join(STORIES)
    mentions = sorted(whole.count(fact.answer.removesuffix(".")) for fact in FACTS)
    assert mentions[0] >= 8
    assert mentions[len(mentions) // 2] >= 20
    for fact in FACTS:
        if fact.relation in ("home", "colour", "kind", "friend", "worker", "owner", "fear", "thing", "sound"):
            for other in fact.others:
                assert fact.sentence.format(other) not in whole, fact.sentence.format(other)


def test_articles_fit_the_words_that_follow() -> None:
    whole = json.dumps([dataset.read_rows() for dataset in STARTER_DATASETS])
    assert not re.findall(r"\b[Aa] [aeiou]\w+", whole)
    assert set(re.findall(r"\ban (\w)", whole)) <= set("aeiou") | {"h"}  # an hour


def test_a_story_is_told_of_every_villager() -> None:
    villagers = {fact.value for fact in FACTS if fact.relation == "worker"}
    assert len(villagers) == 20
    assert all(sum(name in text for text in STORIES) > 100 for name in villagers)


def test_chosen_answers_are_true_and_rejected_ones_differ() -> None:
    answers = {question: fact.answer for fact in FACTS for question in fact.questions}
    checked = 0
    for row in PREFERENCES:
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert chosen != rejected
        if (expected := answers.get(row["prompt"][0]["content"])) is not None:
            assert chosen == expected
            assert rejected != expected
            checked += 1
    assert checked >= 600


def test_yes_and_no_answers_agree_with_the_facts() -> None:
    truths = {fact.answer for fact in FACTS}
    answers = [
        row["messages"][1]["content"] for row in CHATS if row["messages"][1]["content"].startswith(("Yes, ", "No, "))
    ]
    facts_said = [text for text in answers if text.split(", ", 1)[1] in truths]
    assert len(facts_said) >= 300
    assert abs(sum(text.startswith("Yes") for text in facts_said) / len(facts_said) - 0.5) < 0.05
