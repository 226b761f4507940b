"""The starter content: consistent, varied, the same everywhere, and with its examinations kept out of its lessons."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter

import pytest

from backend.domain.data.recognition.recognise import recognise
from backend.domain.data.rows.mapping import apply_mapping
from backend.domain.starter import (
    STARTER_DATASETS,
    StarterDataset,
    battle_prompts,
    chat_rows,
    generation_items,
    multiple_choice_items,
    preference_rows,
    pretrain_texts,
)
from backend.domain.starter.facts import all_facts
from backend.domain.starter.stories import PLOTS, fact_mentions
from backend.domain.starter.world import NAMES, TOOLS, build_world


def _user_turns() -> set[str]:
    return {message["content"] for row in chat_rows() for message in row["messages"] if message["role"] == "user"}


def test_stories_are_between_one_and_two_megabytes_and_each_is_short() -> None:
    texts = pretrain_texts()
    assert 1_000_000 < sum(map(len, texts)) < 2_000_000
    assert all(200 <= len(text) <= 1000 for text in texts)
    lengths = sorted(map(len, texts))
    assert 500 < lengths[len(lengths) // 2] < 800


def test_counts_are_what_an_evaluation_needs() -> None:
    assert 2000 <= len(chat_rows()) <= 3000
    assert len(preference_rows()) >= 600
    assert len(multiple_choice_items()) == 200
    assert len(generation_items()) == 100
    assert len(battle_prompts()) == 40


@pytest.mark.parametrize("dataset", STARTER_DATASETS, ids=lambda dataset: dataset.name)
def test_no_row_occurs_twice_and_all_is_ascii(dataset: StarterDataset) -> None:
    rows = [json.dumps(row, ensure_ascii=False) for row in dataset.make_rows()]
    assert len(set(rows)) == len(rows)
    assert all(row.isascii() for row in rows)
    assert not any("{" in text for row in rows for text in row.split('"') if "{}" in text or "{A}" in text)


@pytest.mark.parametrize("dataset", STARTER_DATASETS, ids=lambda dataset: dataset.name)
def test_rows_are_canonical_and_recognised_as_their_kind(dataset: StarterDataset) -> None:
    rows = dataset.make_rows()
    recognition = recognise(rows[:50])
    assert recognition.kind == dataset.kind
    assert recognition.confidence >= 0.7
    assert [apply_mapping(row, kind=recognition.kind, mapping=recognition.mapping) for row in rows] == [
        dict(row) for row in rows
    ]


def test_no_template_slot_is_left_unfilled() -> None:
    whole = "\n".join(
        json.dumps(row) for dataset in STARTER_DATASETS if dataset.kind == "text" for row in dataset.make_rows()
    )
    assert "{A}" not in whole
    assert whole.count("{") == len(pretrain_texts())  # only those of JSON


def test_benchmark_prompts_are_in_no_training_row() -> None:
    examined = {item["question"] for item in generation_items()}
    taught = _user_turns() | {row["prompt"][0]["content"] for row in preference_rows()}
    assert not examined & taught
    # a follow-up such as "And where does ..." must not teach one either
    lowered = {turn.lower().removeprefix("and ") for turn in taught}
    assert not {question.lower() for question in examined} & lowered


def test_battle_prompts_are_held_out_from_chat_and_preferences() -> None:
    taught = _user_turns() | {row["prompt"][0]["content"] for row in preference_rows()}
    assert len(set(battle_prompts())) == 40
    assert not set(battle_prompts()) & taught
    assert not set(battle_prompts()) & {item["question"] for item in generation_items()}


def test_the_fact_behind_every_generation_item_is_taught_in_other_words() -> None:
    answers = {row["messages"][1]["content"] for row in chat_rows() if len(row["messages"]) == 2}
    assert all(item["answers"][1] in answers for item in generation_items())


def test_multiple_choice_answers_are_true_and_the_other_choices_are_not() -> None:
    facts = {fact.cloze: fact for fact in all_facts()}
    for item in multiple_choice_items():
        fact = facts[item["question"]]
        assert item["choices"][item["answer"]] == f" {fact.value}"
        assert len(set(item["choices"])) == 4
        assert all(choice.startswith(" ") for choice in item["choices"])
        answers = [choice for choice in item["choices"] if f"{fact.cloze}{choice}." == fact.answer]
        assert answers == [f" {fact.value}"]


def test_the_right_choice_is_at_every_position_about_equally_often() -> None:
    places = Counter(item["answer"] for item in multiple_choice_items())
    assert set(places) == {0, 1, 2, 3}
    assert max(places.values()) < 70


def test_stories_say_every_fact_often_enough_and_never_contradict_it() -> None:
    mentions = fact_mentions()
    assert min(mentions.values()) >= 8
    assert sorted(mentions.values())[len(mentions) // 2] >= 20
    whole = "\n".join(pretrain_texts())
    for fact in all_facts():
        if fact.relation in ("home", "colour", "kind", "friend", "worker", "owner", "fear", "thing", "sound"):
            for other in fact.others:
                assert fact.sentence.format(other) not in whole, fact.sentence.format(other)


def test_articles_fit_the_words_that_follow() -> None:
    whole = json.dumps([dataset.make_rows() for dataset in STARTER_DATASETS])
    assert not re.findall(r"\b[Aa] [aeiou]\w+", whole)
    assert set(re.findall(r"\ban (\w)", whole)) <= set("aeiou") | {"h"}  # an hour


def test_a_story_is_told_of_every_villager_and_by_every_plot() -> None:
    texts = pretrain_texts()
    for name in NAMES:
        assert sum(name in text for text in texts) > 100
    for plot in PLOTS:
        assert len(plot) == 7
        assert all(len(beat) >= 2 for beat in plot)


def test_best_friends_are_mutual_and_jobs_unique() -> None:
    world = build_world()
    assert all(world.person(world.person(person.name).friend).friend == person.name for person in world.people)
    assert {person.job for person in world.people} == set(TOOLS)
    assert Counter(person.home.name for person in world.people) == dict.fromkeys(
        (place.name for place in world.places), 2
    )


def test_chosen_answers_are_true_and_rejected_ones_differ() -> None:
    answers = {question: fact.answer for fact in all_facts() for question in fact.questions}
    checked = 0
    for row in preference_rows():
        chosen, rejected = row["chosen"][0]["content"], row["rejected"][0]["content"]
        assert chosen != rejected
        if (expected := answers.get(row["prompt"][0]["content"])) is not None:
            assert chosen == expected
            assert rejected != expected
            checked += 1
    assert checked >= 600


def test_yes_and_no_answers_agree_with_the_facts() -> None:
    truths = {fact.answer for fact in all_facts()}
    answers = [
        row["messages"][1]["content"]
        for row in chat_rows()
        if row["messages"][1]["content"].startswith(("Yes, ", "No, "))
    ]
    facts_said = [text for text in answers if text.split(", ", 1)[1] in truths]
    assert len(facts_said) >= 300
    assert abs(sum(text.startswith("Yes") for text in facts_said) / len(facts_said) - 0.5) < 0.05


def test_generation_takes_under_two_seconds_and_is_the_same_in_every_process() -> None:
    program = (
        "import hashlib, json\n"
        "from backend.domain.starter import STARTER_DATASETS\n"
        "print(hashlib.sha256(json.dumps([d.make_rows() for d in STARTER_DATASETS]).encode()).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    started = time.process_time()
    here = hashlib.sha256(json.dumps([dataset.make_rows() for dataset in STARTER_DATASETS]).encode()).hexdigest()
    assert time.process_time() - started < 2
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=env
    ).stdout.strip()
    assert there == here
