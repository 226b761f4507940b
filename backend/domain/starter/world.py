"""Pebblewick: a small made-up village whose facts are drawn once from a seed and never change. Knows no sentences."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

VILLAGE = "Pebblewick"

COLOURS = ("red", "blue", "green", "yellow", "white", "black", "orange", "purple")
KINDS = ("cat", "dog", "goat", "duck", "hen", "fox", "mouse", "crow", "rabbit", "pony")
FOODS = (
    "plum pie",
    "pea soup",
    "honey cake",
    "cheese toast",
    "blackberry jam",
    "apple tart",
    "mushroom stew",
    "gingerbread",
    "rice pudding",
    "potato salad",
)
HOBBIES = {
    "sing": "singing",
    "dance": "dancing",
    "draw": "drawing",
    "read": "reading",
    "swim": "swimming",
    "whistle": "whistling",
    "count stars": "counting stars",
    "fly kites": "flying kites",
    "climb trees": "climbing trees",
    "tell jokes": "telling jokes",
}
FEARS = (
    "thunder",
    "the dark",
    "geese",
    "spiders",
    "deep water",
    "high places",
    "ghosts",
    "bees",
    "wolves",
    "loud bells",
)
TOOLS = {
    "baker": "basket",
    "fisher": "boat",
    "miller": "cart",
    "gardener": "wheelbarrow",
    "clockmaker": "lantern",
    "painter": "ladder",
    "messenger": "bicycle",
    "shepherd": "scarf",
    "beekeeper": "hat",
    "potter": "apron",
    "carpenter": "toolbox",
    "tailor": "coat",
    "cook": "kettle",
    "singer": "drum",
    "doctor": "bag",
    "teacher": "book",
    "weaver": "blanket",
    "toymaker": "sledge",
    "cobbler": "stool",
    "lamplighter": "umbrella",
}
NAMES = {
    "Mira": "she",
    "Tobin": "he",
    "Olla": "she",
    "Fenn": "he",
    "Pip": "he",
    "Wanda": "she",
    "Juno": "she",
    "Bram": "he",
    "Lottie": "she",
    "Kesh": "he",
    "Nell": "she",
    "Rufo": "he",
    "Tilda": "she",
    "Ozzo": "he",
    "Hazel": "she",
    "Corin": "he",
    "Vela": "she",
    "Dunn": "he",
    "Suki": "she",
    "Marlo": "he",
}
PET_NAMES = (
    "Button",
    "Pickle",
    "Biscuit",
    "Thimble",
    "Pepper",
    "Moss",
    "Sprout",
    "Bramble",
    "Fig",
    "Dusty",
    "Noodle",
    "Clover",
    "Puddle",
    "Waffle",
    "Tuppence",
    "Marble",
    "Sooty",
    "Acorn",
    "Ribbon",
    "Jingle",
)
PLACES = {
    "lighthouse": ("brass lamp", "gulls"),
    "mill": ("stone wheel", "rushing water"),
    "harbour": ("rope ladder", "waves"),
    "orchard": ("wooden swing", "finches"),
    "forest": ("hollow tree", "owls"),
    "valley": ("narrow bridge", "sheep"),
    "marsh": ("broken fence", "frogs"),
    "tower": ("big clock", "pigeons"),
    "meadow": ("deep well", "crickets"),
    "cave": ("hidden lake", "bats"),
}


@dataclass(frozen=True)
class Place:
    """Somewhere in the village: what stands there and what one hears."""

    name: str
    thing: str
    sound: str


@dataclass(frozen=True)
class Person:
    """One of the villagers, with everything there is to know about them."""

    name: str
    he: str
    home: Place
    job: str
    tool: str
    colour: str
    kind: str
    pet: str
    food: str
    hobby: str
    fear: str
    friend: str

    @property
    def him(self) -> str:
        """The object form of the pronoun."""
        return "her" if self.he == "she" else "him"

    @property
    def his(self) -> str:
        """The possessive form of the pronoun."""
        return "her" if self.he == "she" else "his"

    @property
    def hobbying(self) -> str:
        """The hobby as an -ing form."""
        return HOBBIES[self.hobby]


@dataclass(frozen=True)
class World:
    """All people and places."""

    people: tuple[Person, ...]
    places: tuple[Place, ...]

    def person(self, name: str) -> Person:
        """Return the villager of that name. Raises KeyError if there is none."""
        for person in self.people:
            if person.name == name:
                return person
        raise KeyError(name)


def _dealt(values: tuple[str, ...], count: int, rng: random.Random) -> list[str]:
    """Deal `count` values as evenly as possible, in a shuffled order."""
    deck = [values[i % len(values)] for i in range(count)]
    rng.shuffle(deck)
    return deck


@lru_cache(maxsize=4)
def build_world(seed: int = 7) -> World:
    """Draw the facts of the village. The same seed always gives the same village."""
    rng = random.Random(seed)
    places = tuple(Place(name, thing, sound) for name, (thing, sound) in PLACES.items())
    names = list(NAMES)
    count = len(names)
    homes = [places[i % len(places)] for i in range(count)]
    rng.shuffle(homes)
    jobs, pets, pairs = list(TOOLS), list(PET_NAMES), list(names)
    for values in (jobs, pets, pairs):
        rng.shuffle(values)
    friends = {pairs[i]: pairs[i ^ 1] for i in range(count)}  # best friends come in pairs
    columns = [_dealt(values, count, rng) for values in (COLOURS, KINDS, FOODS, tuple(HOBBIES), FEARS)]
    people = tuple(
        Person(
            name=name,
            he=NAMES[name],
            home=homes[i],
            job=jobs[i],
            tool=TOOLS[jobs[i]],
            colour=columns[0][i],
            kind=columns[1][i],
            pet=pets[i],
            food=columns[2][i],
            hobby=columns[3][i],
            fear=columns[4][i],
            friend=friends[name],
        )
        for i, name in enumerate(names)
    )
    return World(people=people, places=places)
