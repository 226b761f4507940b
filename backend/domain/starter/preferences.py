"""Pairs of answers: one right, short and of the village; one wrong, rambling, repeating itself or dodging."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import TypedDict

from backend.domain.starter.benchmarks import is_held_out
from backend.domain.starter.chat import STORY_REQUESTS, Message, short_story
from backend.domain.starter.facts import Fact, all_facts
from backend.domain.starter.world import VILLAGE, build_world

NUM_STORIES, PER_FACT = 80, 3
RAMBLES = (
    (
        "Well, that is a long story. There are many people in {village}, and some of them live here, and some of them"
        " live there. {wrong} Or was it somebody else? It could be. It could also be different."
    ),
    (
        "{right} But let me tell you about something else. One day I saw a cloud, and the cloud looked like a boat, and"
        " the boat looked like a cloud, and so it went on and on and on."
    ),
    (
        "Hm. Hm. Let me think. {wrong} No, wait. {right} No, wait. I think it was neither of the two, but I am not sure"
        " about that."
    ),
)
DODGES = (
    "I do not want to talk about {subject}.",
    "Nobody knows that.",
    "Why do you ask?",
    "That is not important.",
    "You should ask somebody else.",
    "I have never heard of {village}.",
    "The answer is yes.",
    "Yes and no.",
)
LOOPS = (
    "And then the same thing happened again.",
    "It was very nice and it was very nice.",
    "And so on, and so on.",
    "And then, and then, and then.",
)


class PreferenceRow(TypedDict):
    """A prompt and two answers to it, as messages."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]


def _row(prompt: str, *, chosen: str, rejected: str) -> PreferenceRow:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _bad_answer(fact: Fact, *, sort: int, rng: random.Random) -> str:
    wrong = fact.sentence.format(rng.choice(fact.others))
    if sort == 0:
        return wrong
    if sort == 1:
        return rng.choice(RAMBLES).format(village=VILLAGE, wrong=wrong, right=fact.answer)
    return rng.choice((wrong, rng.choice(DODGES).format(subject=fact.subject, village=VILLAGE)))


def _about_facts(rng: random.Random) -> list[PreferenceRow]:
    rows = []
    for fact in all_facts():
        questions = rng.sample([question for question in fact.questions if not is_held_out(question)], PER_FACT)
        for sort, question in enumerate(questions):
            rows.append(_row(question, chosen=fact.answer, rejected=_bad_answer(fact, sort=sort, rng=rng)))
    return rows


def _about_stories(rng: random.Random) -> list[PreferenceRow]:
    people = build_world().people
    rows = []
    for index in range(NUM_STORIES):
        hero = people[index % len(people)]
        story = short_story(hero, rng=rng)
        if index % 2:  # loses the thread and repeats itself
            first = ". ".join(story.split(". ")[:2])
            rejected = " ".join([first.removesuffix(".") + ".", *[rng.choice(LOOPS)] * 5])
        else:  # tells about somebody else
            other = rng.choice([person for person in people if person.name not in (hero.name, hero.friend)])
            rejected = short_story(other, rng=rng, partner=None)
        request = STORY_REQUESTS[(index // len(people) + index) % len(STORY_REQUESTS)]
        rows.append(_row(request.format(a=hero.name), chosen=story, rejected=rejected))
    return rows


@lru_cache(maxsize=1)
def _preference_rows() -> tuple[PreferenceRow, ...]:
    rng = random.Random("preferences")
    rows = [*_about_facts(rng), *_about_stories(rng)]
    rng.shuffle(rows)
    return tuple(rows)


def preference_rows() -> list[PreferenceRow]:
    """Return about 800 pairs, always the same. No prompt of a benchmark or battle is among them."""
    return list(_preference_rows())
