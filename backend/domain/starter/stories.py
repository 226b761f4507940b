"""Tell short stories about the village: an introduction that states facts, a plot, an ending."""

from __future__ import annotations

import random
from functools import lru_cache

from backend.domain.starter import plots_days_and_feasts, plots_lost_and_found, plots_night_and_talk
from backend.domain.starter.facts import all_facts, person_slots
from backend.domain.starter.plots_lost_and_found import Plot
from backend.domain.starter.world import VILLAGE, Person, build_world

NUM_STORIES, NUM_PORTRAITS, NUM_PLACE_PORTRAITS = 1700, 500, 80
PLOTS: tuple[Plot, ...] = (*plots_lost_and_found.PLOTS, *plots_days_and_feasts.PLOTS, *plots_night_and_talk.PLOTS)
TIMES = (
    "morning",
    "windy morning",
    "cold morning",
    "sunny morning",
    "rainy day",
    "grey day",
    "warm afternoon",
    "sunny afternoon",
    "misty morning",
    "spring day",
    "summer day",
    "autumn day",
    "quiet evening",
    "Sunday",
)

OPENINGS = (
    "{A} lives in the {home}. {He} is a {job}.",
    "{A} is a {job} and lives in the {home}.",
    "In the {home} of {village} lives {A}, the {job}.",
    "The {job} of {village} is {A}. {He} lives in the {home}.",
    "{A} is a {job}. {He} has {a_colour} {tool} and a {kind} called {pet}.",
    "{A} has a {kind} called {pet}. They live in the {home}.",
    "This is a story about {A}, who lives in the {home}, and {his} {kind}, {pet}.",
    "{A} lives in the {home}, where you can hear {sound}.",
    "Do you know {A}? {A} is a {job} in {village}.",
    "Once upon a time there was a {job} called {A}. {He} lived in the {home}.",
    "Everyone in {village} knows {A}, the {job} with the {colour} {tool}.",
)
DETAILS = {
    "home": ("{A} lives in the {home}.", "{He} lives in the {home}.", "{His} home is the {home}."),
    "job": ("{A} is a {job}.", "{He} is a {job}, and a good one."),
    "colour": ("{A}'s {tool} is {colour}.", "{His} {tool} is {colour}.", "{He} has {a_colour} {tool}."),
    "pet": ("{A} has a {kind} called {pet}.", "{His} {kind} is called {pet}."),
    "kind": ("{pet} is a {kind}.", "{pet} is a {kind}, and {pet} belongs to {A}."),
    "owner": ("{pet} belongs to {A}.", "{pet} belongs to {A} and nobody else."),
    "food": (
        "{A}'s favourite food is {food}.",
        "{His} favourite food is {food}.",
        "{A} loves {food}.",
        "What {he} loves most is {food}.",
    ),
    "hobby": ("{A} likes to {hobby}.", "{He} likes to {hobby}.", "After work {A} likes to {hobby}."),
    "fear": ("{A} is afraid of {fear}.", "{He} is afraid of {fear}.", "Only one thing scares {A}: {fear}."),
    "friend": (
        "{A}'s best friend is {friend}.",
        "{His} best friend is {friend}.",
        "{He} and {friend} are best friends.",
    ),
    "worker": ("The {job} of {village} is {A}.", "If you need a {job}, go to {A}."),
}
ENDINGS = (
    "That evening {A} ate {food}, and it had never tasted better.",
    "Then {A} went home to the {home} and began {hobbying}.",
    "And because {A} likes to {hobby}, that is what {he} did until it was dark.",
    "{A} fell asleep with {pet} the {kind} at {his} feet.",
    "From that day on, {A} and {B} were good friends.",
    "And {pet} the {kind} got the biggest piece of {food}.",
    '"What a day!" said {A}, and put the {colour} {tool} back in its place.',
    "{A} told {friend} all about it, because {friend} is {his} best friend.",
    "{B} went home to the {bhome}, and {A} went home to the {home}.",
    "The people of {village} still tell this story today.",
    "It was a good day for {A}, and for {pet} too.",
    '"The best thing in the world is {food}," said {A}. "And the second best is a friend."',
    "{B} ate {bfood}, {A} ate {food}, and nobody said a word.",
    "That night the {home} was quiet, and {A} slept well.",
    "",
)
PORTRAIT_OPENINGS = (
    "Let me tell you about {A}.",
    "Do you know {A}?",
    "Here is what everyone in {village} knows about {A}.",
    "This is {A}.",
    "Who is {A}? I will tell you.",
    "There are many people in {village}, and one of them is {A}.",
)
PORTRAIT_ENDINGS = (
    "That is {A}.",
    "Now you know {A} a little.",
    "If you meet {A}, say hello to {him} and to {pet}.",
    "{A} is happy, and so is {pet}.",
    "When you come to the {home}, knock twice.",
    "Everyone in {village} likes {A}.",
)


def _differ(one: Person, two: Person) -> bool:
    """Return whether two people share nothing that would make a quarrel or a comparison between them senseless."""
    return one.name != two.name and all(
        getattr(one, key) != getattr(two, key) for key in ("home", "kind", "food", "hobby", "fear", "colour")
    )


@lru_cache(maxsize=64)
def partners(hero: Person) -> tuple[Person, ...]:
    """Return who can appear beside the hero."""
    return tuple(person for person in build_world().people if _differ(hero, person))


def _cast(hero: Person, partner: Person | None, rng: random.Random) -> dict[str, str]:
    """Choose who else appears and where it happens; return all slots of the plot."""
    world = build_world()
    second = partner or rng.choice(partners(hero))
    thirds = [
        person for person in world.people if person.name not in (hero.name, second.name) and person.job != second.job
    ]
    third = rng.choice(thirds)
    place = rng.choice([place for place in world.places if place not in (hero.home, second.home)])
    slots = {**person_slots(third, letter="C"), **person_slots(second, letter="B"), **person_slots(hero)}
    return slots | {"place": place.name, "thing": place.thing, "psound": place.sound, "time": rng.choice(TIMES)}


def _introduction(slots: dict[str, str], rng: random.Random, *, num_details: int) -> list[str]:
    opening = rng.choice(OPENINGS)
    mentioned = {key for key in DETAILS if "{" + key + "}" in opening or (key == "colour" and "{a_colour}" in opening)}
    left = [key for key in DETAILS if key not in mentioned]
    chosen = rng.sample(left, num_details)
    return [opening.format_map(slots), *(rng.choice(DETAILS[key]).format_map(slots) for key in chosen)]


def _plot(plot: Plot, slots: dict[str, str], rng: random.Random) -> list[str]:
    return [rng.choice(beat).format_map(slots) for beat in plot]


def tell_story(
    hero: Person, *, rng: random.Random, partner: Person | None = None, num_details: int = 3, plot: Plot | None = None
) -> str:
    """Tell one story of about 400 to 900 characters; with `num_details=0` a shorter one that fits a chat."""
    slots = _cast(hero, partner, rng)
    # in a plot `{sound}` belongs to the place where it happens, in the introduction to the hero's home
    scenes = _plot(plot or rng.choice(PLOTS), slots | {"sound": slots["psound"]}, rng)
    parts = [*_introduction(slots, rng, num_details=num_details), *scenes]
    if num_details:
        parts.append(rng.choice(ENDINGS).format_map(slots))
    return " ".join(part for part in parts if part)


def portray(hero: Person, *, rng: random.Random, num_details: int = 9) -> str:
    """Describe one villager in plain sentences, facts in any order."""
    slots = person_slots(hero)
    keys = rng.sample(list(DETAILS), num_details)
    # half of the time in the words that the benchmark uses, so that each of them is said often enough to be learned
    details = [(DETAILS[key][0] if rng.random() < 0.5 else rng.choice(DETAILS[key])).format_map(slots) for key in keys]
    return " ".join(
        [rng.choice(PORTRAIT_OPENINGS).format_map(slots), *details, rng.choice(PORTRAIT_ENDINGS).format_map(slots)]
    )


def _portray_place(rng: random.Random) -> str:
    """Walk through three places: what stands there, what one hears, who lives there."""
    world = build_world()
    parts = [
        rng.choice(
            (
                f"Come with me through {VILLAGE}.",
                f"{VILLAGE} is a small village.",
                f"Let us take a walk through {VILLAGE}.",
            )
        )
    ]
    for place in rng.sample(world.places, 3):
        names = " and ".join(person.name for person in world.people if person.home == place)
        lines = [f"In the {place.name} there is a {place.thing}.", f"In the {place.name} you can hear {place.sound}."]
        rng.shuffle(lines)
        parts += [
            *lines,
            rng.choice((f"{names} live in the {place.name}.", f"The {place.name} is the home of {names}.")),
        ]
    return " ".join(parts)


@lru_cache(maxsize=1)
def _pretrain_texts() -> tuple[str, ...]:
    rng = random.Random("stories")
    people = build_world().people
    stories: dict[str, None] = {}
    while len(stories) < NUM_STORIES:
        index = len(stories)
        stories[
            tell_story(
                people[index % len(people)],
                rng=rng,
                num_details=rng.choice((2, 3, 3, 4)),
                plot=PLOTS[index % len(PLOTS)],
            )
        ] = None
    while len(stories) < NUM_STORIES + NUM_PORTRAITS:
        stories[portray(people[len(stories) % len(people)], rng=rng)] = None
    while len(stories) < NUM_STORIES + NUM_PORTRAITS + NUM_PLACE_PORTRAITS:
        stories[_portray_place(rng)] = None
    texts = list(stories)
    rng.shuffle(texts)
    return tuple(texts)


def pretrain_texts() -> list[str]:
    """Return the stories to pre-train on, one string each, 1 to 2 MB together, always the same."""
    return list(_pretrain_texts())


def fact_mentions() -> dict[str, int]:
    """Count how often the stories say each fact in exactly the words that the benchmark asks for."""
    corpus = "\n".join(_pretrain_texts())
    return {fact.answer: corpus.count(fact.answer.removesuffix(".")) for fact in all_facts()}
