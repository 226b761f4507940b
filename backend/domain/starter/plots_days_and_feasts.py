"""Plots of ordinary and special days: markets, birthdays, snow, picnics. The slots are those of
`plots_lost_and_found`.
"""

from __future__ import annotations

from backend.domain.starter.plots_lost_and_found import Plot

BIRTHDAY: Plot = (
    (
        "One {time}, it was {B}'s birthday, and {A} had no present yet.",
        '"Tomorrow is {B}\'s birthday," said {A} one {time}. "What can I give {bhim}?"',
    ),
    (
        "{B} already has {a_bcolour} {btool}, and {B} already has a {bkind} called {bpet}.",
        "{He} thought and thought. A hat? Too small. A boat? Too big.",
        '{He} asked {C}, the {cjob}. "What does {B} like?" said {C}.',
    ),
    (
        "Then {he} remembered: {B}'s favourite food is {bfood}!",
        '"{B} loves {bfood}," {he} thought, "and {B} likes to {bhobby}."',
    ),
    (
        "{A} worked in the kitchen all day, and {pet} the {kind} licked the spoons.",
        "{A} made the biggest {bfood} that {village} had ever seen.",
        "{He} put the {bfood} into a box and tied it with {a_bcolour} ribbon.",
    ),
    (
        "In the evening everyone came to the {bhome}.",
        "{He} carried it carefully to the {bhome}, where you can hear {bsound}.",
        "All the friends hid in the {bhome} and waited in the dark.",
    ),
    (
        '"Surprise!" they shouted, and {B} nearly fell over.',
        '{B} opened the box, and {bhis} eyes grew round. "{Bfood}!" {bhe} cried.',
        '{B} laughed out loud. "How did you know?" {bhe} asked.',
    ),
    (
        '"You told me a hundred times," said {A}.',
        "Then they were {bhobbying} until midnight, because that is what {B} likes to do.",
        "There was enough for everyone, even for {bpet} the {bkind}.",
    ),
)

MARKET: Plot = (
    (
        "One {time}, {A} went to the market with {his} {colour} {tool}.",
        "One {time}, there was a market in {village}, and {A} was the first to come.",
    ),
    (
        "{B} the {bjob} was there too, with {bhis} {bcolour} {btool}.",
        "Next to {him} stood {B}, the {bjob} from the {bhome}.",
        "{C} the {cjob} sold apples, and {B} the {bjob} sold {food}.",
    ),
    (
        '"Fresh {food}!" somebody called. {A} loves {food}, but {he} had no money left.',
        "{A} saw a plate of {food}, {his} favourite, but it cost three silver coins.",
    ),
    (
        '"I will give you my {tool} for it," said {A}. "No," said {B}, "a {job} needs {a_tool}."',
        "{He} turned {his} pockets out. There was one coin, a feather and a nut.",
        "{pet} the {kind} looked at the {food} with big eyes.",
    ),
    (
        '"But you like to {hobby}," said {B}. "Show us, and I will pay you with {food}."',
        '"Help me carry my things back to the {bhome}," said {B}, "and the {food} is yours."',
        '"Tell me something I do not know," said {B}, "and you may have it."',
    ),
    (
        "{A} did it gladly, and all the people clapped.",
        '{A} thought for a moment. "In the {place} there is a {thing}," {he} said. {B} had never heard of it.',
        "It was hard work, but {A} did not stop until it was done.",
    ),
    (
        "So {A} got the {food} and shared it with {pet} the {kind}.",
        "They sat down together and ate {food} until the sun went down.",
        '"That was a good trade," they both said.',
    ),
)

SNOW: Plot = (
    (
        "One winter morning, all of {village} was white.",
        "It snowed all night, and in the morning {A} could not open the door of the {home}.",
        "One winter day, snow fell on the {home} and on the {place}.",
    ),
    (
        "{A} climbed out of the window with {his} {colour} {tool}.",
        "{pet} the {kind} had never seen snow and jumped right in.",
        "Only the {colour} {tool} could be seen in the snow.",
    ),
    (
        "{B} came from the {bhome}, pulling {bhis} {bcolour} {btool} behind {bhim}.",
        '"Come out!" called {B} the {bjob}. "Let us build a snowman!"',
        "Far away in the {bhome}, {B} was throwing snowballs with {bpet} the {bkind}.",
    ),
    (
        "They made a snow {kind} as tall as a house.",
        "They made a snowman who looked just like {C}, the {cjob}.",
        "They slid down the hill from the {bhome} to the {place}, again and again.",
    ),
    (
        '"It needs a hat," said {A}, and {B} gave it {bhis} own.',
        "Then a snowball hit {A} on the nose, and {he} laughed so hard that {he} fell over.",
        "{bpet} the {bkind} ran in circles until everyone was dizzy.",
    ),
    (
        "When their fingers were cold, they went into the {home} and lit a fire.",
        "When it got dark, they went home to the {bhome} and made something hot.",
    ),
    (
        "{A} had {food}, and {B} had {bfood}, and both were happy.",
        '"I hope it snows again tomorrow," said {B}.',
        "Outside, the snow kept falling, without a sound.",
    ),
)

PICNIC: Plot = (
    (
        "One {time}, {A} and {B} wanted to have a picnic in the {place}.",
        '"Let us have a picnic," said {B} one {time}. "In the {place}, beside the {thing}."',
    ),
    (
        "{A} brought {food}, and {B} brought {bfood}.",
        '"I will bring {food}," said {A}. "Then I will bring {bfood}," said {B}.',
        "{A} packed {food} and took {his} {colour} {tool} along.",
    ),
    (
        "{pet} the {kind} and {bpet} the {bkind} came along too.",
        "They walked past the {home} and past the {bhome} until they came to the {place}.",
        "{B} had {bhis} {bcolour} {btool} with {bhim} and told stories all the way.",
    ),
    (
        "They sat down beside the {thing} and listened to the {sound}.",
        "In the {place} you can hear {sound}, and that day they were very loud.",
    ),
    (
        "But when they opened the basket, the {food} was gone!",
        "Suddenly it began to rain, and they ran under a tree.",
        "Then a hundred ants came to the picnic too.",
    ),
    (
        '"Who was that?" asked {A}. Only {pet} the {kind} looked at the sky and said nothing.',
        '"A picnic in the rain is still a picnic," said {B}, and they went on eating.',
        "{C} the {cjob} came by and shared some bread with them.",
    ),
    (
        "They laughed about it all the way home.",
        '"That was the best picnic of the year," said {A}.',
        "In the evening they were tired and full and glad.",
    ),
)

SEED: Plot = (
    (
        "One {time}, {A} found a strange seed beside the {thing} in the {place}.",
        'One {time}, {B} gave {A} a small black seed. "I do not know what it is," said {B}.',
    ),
    (
        "{He} planted it behind the {home} and watered it every day.",
        "{He} put it into a pot, and {pet} the {kind} watched over it.",
    ),
    (
        "The first week nothing happened. The second week nothing happened.",
        'Days went by. "It is asleep," said {A}. "It is a stone," said {C}, the {cjob}.',
    ),
    (
        '{B} came from the {bhome} and looked at it. "Maybe it wants music," {bhe} said.',
        '"When I am sad, I like to {bhobby}," said {B}. "Maybe your seed is sad."',
        '"Wait," said {B} the {bjob}. "Good things are slow."',
    ),
    (
        "So {A} sat beside it every evening and talked to it. {He} told it about the {job}'s work and about {pet}.",
        "{A} began {hobbying} next to the pot, because {A} likes to {hobby}.",
    ),
    (
        "And one morning there was a leaf, and then a stem, and then {a_colour} flower.",
        "Then it grew and grew, as high as the {home}, and on top was one {bcolour} flower.",
        "In the night it opened. It was a flower that shone like a little moon.",
    ),
    (
        "Everyone in {village} came to see it.",
        "{A} gave the first new seed to {B}.",
        '"You see?" said {B}. "It was only shy."',
    ),
)

RACE: Plot = (
    (
        "One {time}, {A} and {B} ran a race from the {home} to the {place}.",
        '"I am faster than you," said {B} one {time}. "No, I am," said {A}. So they ran a race.',
        "Every year there is a race in {village}, from the {home} to the {thing} in the {place}.",
    ),
    (
        "{C} the {cjob} counted to three, and off they went.",
        "{pet} the {kind} ran beside {A}, and {bpet} the {bkind} ran beside {B}.",
    ),
    (
        "First {A} was ahead. {His} {colour} {tool} stayed at home, so {he} was quick.",
        'First {B} was ahead. "A {bjob} has fast legs!" {bhe} shouted.',
    ),
    (
        "Then {B} slipped on a wet stone and hurt {bhis} knee.",
        "Then {bpet} the {bkind} fell into a ditch, and {B} had to stop.",
        'Halfway there {B} sat down on the road. "I can not go on," {bhe} said.',
    ),
    (
        "{A} could see the {thing} already. {He} could have won. But {he} turned around.",
        '{A} heard it and stopped at once. "What is a race without you?" {he} said.',
    ),
    (
        "{He} helped {B} up, and they walked the last part arm in arm.",
        "{He} took {B} on {his} back and carried {bhim} all the way to the {place}.",
    ),
    (
        '"Who has won?" asked {C}. "Both of us," said {A} and {B}.',
        "They came in last, but everyone clapped the loudest for them.",
        "The prize was a big plate of {bfood}, and {A} gave half of it to {B}.",
    ),
)

PLOTS: tuple[Plot, ...] = (BIRTHDAY, MARKET, SNOW, PICNIC, SEED, RACE)
