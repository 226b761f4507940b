"""Items whose answers follow from the village, and prompts for battles. None of these prompts is in the training
rows.
"""

from __future__ import annotations

import random
from functools import lru_cache
from typing import TypedDict

from backend.domain.starter.facts import all_facts
from backend.domain.starter.world import build_world

NUM_MULTIPLE_CHOICE, NUM_GENERATION, NUM_CHOICES = 200, 100, 4


class MultipleChoiceItem(TypedDict):
    """A beginning and its possible continuations. Each choice starts with the space that joins it to the question."""

    question: str
    choices: list[str]
    answer: int


class GenerationItem(TypedDict):
    """A question; a completion is right if it equals one of the answers or contains the first."""

    question: str
    answers: list[str]


BATTLE_STORIES = (
    "Tell me a bedtime story about {a}.",
    "Tell me a story in which {a} and {b} get lost.",
    "How did {a} meet {b}?",
    "What was the best day of {a}'s life?",
    "Make up a story about {a} and a storm.",
    "What would {a} do with a hundred silver coins?",
    "Write a letter from {a} to {b}.",
    "Tell me a funny story about {a} and {b}.",
    "What does {a} dream about?",
    "How does {a} spend a rainy day?",
)
BATTLE_QUESTIONS = (
    "I want to cook for {a}. What should I make?",
    "What present would {a} like?",
    "{a} is sad. How can I cheer up {a}?",
    "Tell me three things about {a}.",
    "How will I recognise {a}?",
    "Who should {a} invite to a party?",
    "Where would you look for {a} on a Sunday?",
    "What do {a} and {b} talk about?",
    "What makes {a} laugh?",
    "Introduce {a} to a stranger.",
)


@lru_cache(maxsize=1)
def _multiple_choice() -> tuple[MultipleChoiceItem, ...]:
    rng = random.Random("multiple choice")
    items: list[MultipleChoiceItem] = []
    for fact in rng.sample(all_facts(), NUM_MULTIPLE_CHOICE):
        choices = [fact.value, *rng.sample(fact.others, NUM_CHOICES - 1)]
        rng.shuffle(choices)
        items.append(
            {
                "question": fact.cloze,
                "choices": [f" {choice}" for choice in choices],
                "answer": choices.index(fact.value),
            }
        )
    return tuple(items)


def multiple_choice_items() -> list[MultipleChoiceItem]:
    """Return 200 beginnings such as "Mira lives in the" with four continuations, for a network that only tells
    stories.
    """
    return [{**item, "choices": list(item["choices"])} for item in _multiple_choice()]


@lru_cache(maxsize=1)
def _generation() -> tuple[GenerationItem, ...]:
    rng = random.Random("generation")
    return tuple(
        {"question": rng.choice(fact.questions), "answers": [fact.value, fact.answer]}
        for fact in rng.sample(all_facts(), NUM_GENERATION)
    )


def generation_items() -> list[GenerationItem]:
    """Return 100 questions whose facts the chat rows teach in other words."""
    return [{**item, "answers": list(item["answers"])} for item in _generation()]


@lru_cache(maxsize=1)
def _held_out() -> frozenset[str]:
    return frozenset(item["question"] for item in _generation())


def is_held_out(question: str) -> bool:
    """Return whether a question is reserved for the generation benchmark."""
    return question in _held_out()


def battle_prompts() -> list[str]:
    """Return 40 prompts for battles, each about a person or two."""
    people = [person.name for person in build_world().people]
    templates = (*BATTLE_STORIES, *BATTLE_QUESTIONS)
    prompts = [
        template.format(a=people[(3 * index + shift) % len(people)], b=people[(3 * index + shift + 7) % len(people)])
        for shift in (0, 11)
        for index, template in enumerate(templates)
    ]
    return prompts
