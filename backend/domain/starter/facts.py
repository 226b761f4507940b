"""Every fact of the village as a question, a sentence and a value, so that stories, chats and benchmarks can't
disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from backend.domain.starter.world import (
    COLOURS,
    FEARS,
    FOODS,
    HOBBIES,
    KINDS,
    PET_NAMES,
    PLACES,
    TOOLS,
    VILLAGE,
    Person,
    Place,
    build_world,
)


@dataclass(frozen=True)
class Fact:
    """A true statement about the village.

    `sentence` holds `{}` where the value belongs, always as its last word: "Mira lives in the {}.". `yes_no` asks about
    a value. `others` are values of the same sort that are wrong here.
    """

    subject: str
    relation: str
    sentence: str
    value: str
    others: tuple[str, ...]
    questions: tuple[str, ...]
    yes_no: str

    @property
    def answer(self) -> str:
        """The true sentence."""
        return self.sentence.format(self.value)

    @property
    def cloze(self) -> str:
        """The sentence up to its value, for a network to continue."""
        return self.sentence.removesuffix(" {}.")


# relation -> (sentence, yes/no question, questions). Person slots as in the plots; `{{}}` is where the value goes.
_PERSON: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "home": (
        "{A} lives in the {{}}.",
        "Does {A} live in the {{}}?",
        (
            "Where does {A} live?",
            "Where is the home of {A}?",
            "Can you tell me where {A} lives?",
            "Do you know where {A} lives?",
            "Where can I find {A}?",
            "I am looking for {A}. Where does {he} live?",
        ),
    ),
    "job": (
        "{A} is a {{}}.",
        "Is {A} a {{}}?",
        (
            "What is {A}'s job?",
            "What does {A} do for work?",
            "What work does {A} do?",
            "Do you know what {A} does all day?",
            "What kind of work does {A} do?",
            "Can you tell me {A}'s job?",
        ),
    ),
    "colour": (
        "{A}'s {tool} is {{}}.",
        "Is {A}'s {tool} {{}}?",
        (
            "What colour is {A}'s {tool}?",
            "Which colour does {A}'s {tool} have?",
            "Can you tell me the colour of {A}'s {tool}?",
            "What is the colour of {A}'s {tool}?",
            "{A} has {a_tool}. What colour is it?",
            "Do you know the colour of {A}'s {tool}?",
        ),
    ),
    "pet": (
        "{A} has a {kind} called {{}}.",
        "Is {A}'s {kind} called {{}}?",
        (
            "What is {A}'s {kind} called?",
            "What is the name of {A}'s {kind}?",
            "{A} has a {kind}. What is its name?",
            "How is {A}'s {kind} called?",
            "Do you know the name of {A}'s {kind}?",
            "Can you tell me the name of {A}'s {kind}?",
        ),
    ),
    "kind": (
        "{pet} is a {{}}.",
        "Is {pet} a {{}}?",
        (
            "What animal is {pet}?",
            "What kind of animal is {pet}?",
            "Which animal is {pet}?",
            "Do you know what animal {pet} is?",
            "{pet} belongs to {A}. What animal is {pet}?",
            "Can you tell me what animal {pet} is?",
        ),
    ),
    "owner": (
        "{pet} belongs to {{}}.",
        "Does {pet} belong to {{}}?",
        (
            "Who does {pet} belong to?",
            "Whose {kind} is {pet}?",
            "Who has a {kind} called {pet}?",
            "Do you know whose {kind} {pet} is?",
            "I have found {pet} the {kind}. Who does {pet} belong to?",
            "Can you tell me whose {kind} {pet} is?",
        ),
    ),
    "food": (
        "{A}'s favourite food is {{}}.",
        "Is {A}'s favourite food {{}}?",
        (
            "What is {A}'s favourite food?",
            "What does {A} like to eat?",
            "What food does {A} love?",
            "What does {A} like to eat most?",
            "Do you know {A}'s favourite food?",
            "Can you tell me {A}'s favourite food?",
        ),
    ),
    "hobby": (
        "{A} likes to {{}}.",
        "Does {A} like to {{}}?",
        (
            "What does {A} like to do?",
            "What does {A} do for fun?",
            "What does {A} do when work is over?",
            "What is {A}'s hobby?",
            "Do you know what {A} likes to do?",
            "Can you tell me what {A} likes to do?",
        ),
    ),
    "fear": (
        "{A} is afraid of {{}}.",
        "Is {A} afraid of {{}}?",
        (
            "What is {A} afraid of?",
            "What scares {A}?",
            "What is it that {A} is afraid of?",
            "Do you know what {A} is afraid of?",
            "What does {A} fear?",
            "Can you tell me what {A} is afraid of?",
        ),
    ),
    "friend": (
        "{A}'s best friend is {{}}.",
        "Is {A}'s best friend {{}}?",
        (
            "Who is {A}'s best friend?",
            "Who is the best friend of {A}?",
            "Do you know who {A}'s best friend is?",
            "Which friend does {A} like best?",
            "Can you tell me who {A}'s best friend is?",
            "{A} has a best friend. Who is it?",
        ),
    ),
    "worker": (
        "The {job} of {village} is {{}}.",
        "Is the {job} of {village} {{}}?",
        (
            "Who is the {job} of {village}?",
            "Who works as a {job}?",
            "I need a {job}. Who can help me?",
            "Do you know who the {job} is?",
            "What is the name of the {job}?",
            "Can you tell me who the {job} of {village} is?",
        ),
    ),
}
_PLACE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "thing": (
        "In the {place} there is a {{}}.",
        "Is there a {{}} in the {place}?",
        (
            "What is there in the {place}?",
            "What can you see in the {place}?",
            "What stands in the {place}?",
            "Do you know what is in the {place}?",
            "Can you tell me what there is in the {place}?",
            "I am going to the {place}. What will I see there?",
        ),
    ),
    "sound": (
        "In the {place} you can hear {{}}.",
        "Can you hear {{}} in the {place}?",
        (
            "What can you hear in the {place}?",
            "What does one hear in the {place}?",
            "Do you know what you can hear in the {place}?",
            "What will I hear in the {place}?",
            "Can you tell me what you can hear in the {place}?",
            "I am in the {place}. What do I hear?",
        ),
    ),
}
_VALUES: dict[str, tuple[str, ...]] = {
    "home": tuple(PLACES),
    "job": tuple(TOOLS),
    "colour": COLOURS,
    "pet": PET_NAMES,
    "kind": KINDS,
    "food": FOODS,
    "hobby": tuple(HOBBIES),
    "fear": FEARS,
    "thing": tuple(thing for thing, _ in PLACES.values()),
    "sound": tuple(sound for _, sound in PLACES.values()),
}


def person_slots(person: Person, *, letter: str = "A") -> dict[str, str]:
    """Return a person's slots in the templates: `{A}`, `{he}`, `{home}`, ... or `{B}`, `{bhe}`, `{bhome}`, ..."""
    mark = "" if letter == "A" else letter.lower()
    plain = {
        "he": person.he,
        "him": person.him,
        "his": person.his,
        "home": person.home.name,
        "sound": person.home.sound,
        "job": person.job,
        "tool": person.tool,
        "colour": person.colour,
        "kind": person.kind,
        "pet": person.pet,
        "food": person.food,
        "hobby": person.hobby,
        "hobbying": person.hobbying,
        "fear": person.fear,
        "friend": person.friend,
    }
    slots = {letter: person.name}
    for name, value in plain.items():
        key = mark + name
        slots[key] = value
        slots[key[0].upper() + key[1:]] = value[0].upper() + value[1:]
    slots[f"a_{mark}colour"] = ("an " if person.colour[0] in "aeiou" else "a ") + person.colour
    slots[f"a_{mark}tool"] = ("an " if person.tool[0] in "aeiou" else "a ") + person.tool
    slots["village"] = VILLAGE
    return slots


def _others(relation: str, value: str, *, subject: str) -> tuple[str, ...]:
    names = tuple(person.name for person in build_world().people)
    return tuple(other for other in _VALUES.get(relation, names) if other not in (value, subject))


def person_facts(person: Person) -> tuple[Fact, ...]:
    """Return the facts of a villager and the pet."""
    slots = person_slots(person)
    value_of = {**slots, "owner": person.name, "worker": person.name}
    return tuple(
        Fact(
            subject=person.name,
            relation=relation,
            sentence=sentence.format_map(slots),
            value=value_of[relation],
            others=_others(relation, value_of[relation], subject=person.name),
            questions=tuple(question.format_map(slots) for question in questions),
            yes_no=yes_no.format_map(slots),
        )
        for relation, (sentence, yes_no, questions) in _PERSON.items()
    )


def place_facts(place: Place) -> tuple[Fact, ...]:
    """Return the facts of a place."""
    slots = {"place": place.name}
    value_of = {"thing": place.thing, "sound": place.sound}
    return tuple(
        Fact(
            subject=place.name,
            relation=relation,
            sentence=sentence.format_map(slots),
            value=value_of[relation],
            others=_others(relation, value_of[relation], subject=place.name),
            questions=tuple(question.format_map(slots) for question in questions),
            yes_no=yes_no.format_map(slots),
        )
        for relation, (sentence, yes_no, questions) in _PLACE.items()
    )


@lru_cache(maxsize=1)
def all_facts() -> tuple[Fact, ...]:
    """Return every fact of the village, in a fixed order."""
    world = build_world()
    people = [fact for person in world.people for fact in person_facts(person)]
    return (*people, *(fact for place in world.places for fact in place_facts(place)))
