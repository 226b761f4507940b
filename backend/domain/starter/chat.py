"""Questions about the village and requests for stories, with answers that follow from its facts."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import TypedDict

from backend.domain.starter.benchmarks import is_held_out
from backend.domain.starter.facts import Fact, all_facts, person_facts
from backend.domain.starter.stories import partners, portray, tell_story
from backend.domain.starter.world import NAMES, VILLAGE, Person, build_world


class Message(TypedDict):
    """One turn."""

    role: str
    content: str


class ChatRow(TypedDict):
    """A conversation in OpenAI's form."""

    messages: list[Message]


STORY_REQUESTS = (
    "Tell me a story about {a}.",
    "Please tell me a story about {a}.",
    "I would like to hear a story about {a}.",
    "Can you tell me a story about {a}?",
    "A story about {a}, please.",
    "Do you know a story about {a}?",
    "Tell me something that happened to {a}.",
    "What happened to {a} one day?",
    "Tell me a short story about {a}.",
    "I can not sleep. Tell me a story about {a}.",
)
PAIR_REQUESTS = (
    "Tell me a story about {a} and {b}.",
    "What did {a} and {b} do together?",
    "Please tell me a story about {a} and {b}.",
    "Do you know a story about {a} and {b}?",
    "A story about {a} and {b}, please.",
)
PORTRAIT_REQUESTS = (
    "Tell me about {a}.",
    "Who is {a}?",
    "What do you know about {a}?",
    "Describe {a}.",
    "What is {a} like?",
)
WHO_LIVES = (
    "Who lives in the {p}?",
    "Whose home is the {p}?",
    "Do you know who lives in the {p}?",
    "Who can I meet in the {p}?",
)
STRANGERS = ("Zara", "Otto", "Brin", "Hugo", "Yelda", "Pavo", "Quill", "Rona", "Ivo", "Tansy", "Umber", "Wick")
STRANGER_QUESTIONS = (
    "Where does {a} live?",
    "What is {a}'s job?",
    "Who is {a}?",
    "What does {a} like to eat?",
)
GREETINGS = (
    "Hello!",
    "Hello",
    "Hello.",
    "Hello there!",
    "Hi",
    "Hi!",
    "Hi there.",
    "hi",
    "hello",
    "Hey",
    "Hey!",
    "Good morning!",
    "Good evening!",
)
GREETING_ANSWERS = (
    f"Hello! I can tell you about {VILLAGE}.",
    f"Hello! Ask me anything about {VILLAGE}.",
    "Hello! Would you like to hear a story?",
)
SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Good night.", "Good night!", "Sleep well!", "I am going to bed."), "Good night! Sleep well."),
    (("Who are you?", "What are you?", "Who is talking?", "What is your name?"), f"I am the storyteller of {VILLAGE}."),
    (
        ("What can you do?", "How can you help me?", "What do you know?", "What can I ask you?", "Help!"),
        f"I can tell you stories about {VILLAGE} and answer questions about its people.",
    ),
    (("Thank you.", "Thank you!", "Thanks!", "Thanks", "That was nice.", "What a nice story!"), "You are welcome!"),
    (("Goodbye.", "Goodbye!", "Bye!", "Bye", "See you!", "I have to go."), f"Goodbye! Come back to {VILLAGE} soon."),
    (
        (f"What is {VILLAGE}?", f"Tell me about {VILLAGE}.", f"What kind of place is {VILLAGE}?"),
        f"{VILLAGE} is a small village.",
    ),
    ((f"Where is {VILLAGE}?", f"How do I get to {VILLAGE}?"), f"{VILLAGE} is wherever a story begins."),
    (("How are you?", "How do you do?", "Are you well?"), "I am well, thank you. Would you like to hear a story?"),
    (
        ("What do you like to eat?", "What is your favourite food?"),
        "I only eat words. But I know what everyone else likes!",
    ),
    (
        (f"How many people live in {VILLAGE}?", "How many people do you know?"),
        f"There are twenty people in my stories about {VILLAGE}.",
    ),
    (
        ("Are you a person?", "Are you human?", "Are you a robot?"),
        "No person, only a small network that learned to tell stories.",
    ),
    (("I am bored.", "I am sad.", "What shall we do?"), "Then let me tell you a story. Who should it be about?"),
    (
        ("Tell me a joke.", "Do you know a joke?", "Make me laugh."),
        "What does a cloud wear under its coat? Thunderwear!",
    ),
)
OPEN_REQUESTS = (
    "Tell me a story.",
    "Tell me a story",
    "Please tell me a story.",
    "I would like to hear a story.",
    "Once upon a time",
    "A story, please.",
)
KIND_REQUESTS = ("Tell me a story about a {k}.", "Do you know a story about a {k}?", "A story about a {k}, please.")
PLACE_REQUESTS = ("Tell me a story about the {p}.", "What happened in the {p}?")
NUM_PAIR_STORIES, NUM_FOLLOW_UPS, NUM_YES_NO = 160, 200, 340


def _row(*turns: str) -> ChatRow:
    """Make a conversation in which user and assistant take turns."""
    return {"messages": [{"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(turns)]}


def short_story(hero: Person, *, rng: random.Random, partner: Person | None = None, longest: int = 520) -> str:
    """Tell a story of at most `longest` characters."""
    while True:
        story = tell_story(hero, rng=rng, partner=partner, num_details=0)
        if len(story) <= longest:
            return story


def _questions() -> list[ChatRow]:
    return [
        _row(question, fact.answer) for fact in all_facts() for question in fact.questions if not is_held_out(question)
    ]


def _who_lives_where() -> list[ChatRow]:
    rows = []
    for place in build_world().places:
        names = " and ".join(person.name for person in build_world().people if person.home == place)
        rows += [_row(question.format(p=place.name), f"{names} live in the {place.name}.") for question in WHO_LIVES]
    return rows


def _yes_no(rng: random.Random) -> list[ChatRow]:
    rows = []
    for fact in rng.sample(all_facts(), NUM_YES_NO // 2):
        rows.append(_row(fact.yes_no.format(fact.value), f"Yes, {fact.answer}"))
        rows.append(_row(fact.yes_no.format(rng.choice(fact.others)), f"No, {fact.answer}"))
    return rows


def _follow_ups(rng: random.Random) -> list[ChatRow]:
    """Two or three questions about one person in a row."""
    rows = []
    people = build_world().people
    for index in range(NUM_FOLLOW_UPS):
        facts: list[Fact] = rng.sample(person_facts(people[index % len(people)]), rng.choice((2, 2, 3)))
        turns: list[str] = []
        for position, fact in enumerate(facts):
            question = rng.choice([question for question in fact.questions if not is_held_out(question)])
            joined = (
                f"And {question[0].lower()}{question[1:]}"
                if position and question.startswith(("Wh", "How", "Do ", "Can "))
                else question
            )
            turns += [joined, fact.answer]
        rows.append(_row(*turns))
    return rows


def _stories(rng: random.Random) -> list[ChatRow]:
    """Stories for every way to ask for one: of somebody, of two, of an animal, of a place, of anything."""
    people = build_world().people
    rows = [
        _row(request.format(a=hero.name), short_story(hero, rng=rng))
        for hero in people
        for request in (*STORY_REQUESTS, *STORY_REQUESTS[:8])
    ]
    while len(rows) < len(people) * (len(STORY_REQUESTS) + 8) + NUM_PAIR_STORIES:
        hero = people[len(rows) % len(people)]
        partner = rng.choice(partners(hero))
        request = rng.choice(PAIR_REQUESTS).format(a=hero.name, b=partner.name)
        rows.append(_row(request, short_story(hero, rng=rng, partner=partner)))
    for hero in people:
        rows += [_row(request, short_story(hero, rng=rng)) for request in rng.sample(OPEN_REQUESTS, 3)]
        rows += [_row(request.format(k=hero.kind), short_story(hero, rng=rng)) for request in KIND_REQUESTS]
        rows += [_row(request.format(p=hero.home.name), short_story(hero, rng=rng)) for request in PLACE_REQUESTS]
    return rows


def _greetings(rng: random.Random) -> list[ChatRow]:
    """Greetings alone, and as the first turn before a question."""
    rows = [_row(greeting, answer) for greeting in GREETINGS for answer in GREETING_ANSWERS]
    for greeting in GREETINGS:
        for fact in rng.sample(all_facts(), 5):
            question = rng.choice([question for question in fact.questions if not is_held_out(question)])
            rows.append(_row(greeting, rng.choice(GREETING_ANSWERS), question, fact.answer))
    return rows


def _portraits(rng: random.Random) -> list[ChatRow]:
    people = build_world().people
    return [
        _row(request.format(a=person.name), portray(person, rng=rng, num_details=4))
        for person in people
        for request in PORTRAIT_REQUESTS
    ]


def _strangers() -> list[ChatRow]:
    """Questions about people who do not exist, so that a network learns to say so."""
    assert not set(STRANGERS) & set(NAMES)
    answer = f"I do not know anyone called {{a}} in {VILLAGE}."
    return [
        _row(question.format(a=name), answer.format(a=name)) for name in STRANGERS for question in STRANGER_QUESTIONS
    ]


@lru_cache(maxsize=1)
def _chat_rows() -> tuple[ChatRow, ...]:
    rng = random.Random("chat")
    rows = [
        *_questions(),
        *_who_lives_where(),
        *_yes_no(rng),
        *_follow_ups(rng),
        *_stories(rng),
        *_portraits(rng),
        *_strangers(),
    ]
    rows += [*_greetings(rng), *(_row(question, answer) for questions, answer in SMALL_TALK for question in questions)]
    unique = {tuple(message["content"] for message in row["messages"]): row for row in rows}
    shuffled = list(unique.values())
    rng.shuffle(shuffled)
    return tuple(shuffled)


def chat_rows() -> list[ChatRow]:
    """Return two to three thousand conversations, always the same. No prompt of a benchmark or battle is among them."""
    return list(_chat_rows())
