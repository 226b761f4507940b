"""Plots in which something is missing, hurt or broken. Each plot is a row of beats, each beat a choice of sentences.

Slots: {A} {he} {him} {his} and {home} {job} {tool} {colour} {kind} {pet} {food} {hobby} {hobbying} {fear} belong to the
hero; the same with a b before them to the second person {B}; {C} {cjob} {chome} to a third; {place} {thing} {sound} to
somewhere else. A capital first letter ({He}, {His}) gives a capital. {a_colour} is the colour with its article.
"""

from __future__ import annotations

Beat = tuple[str, ...]
Plot = tuple[Beat, ...]

LOST_TOOL: Plot = (
    (
        "One {time}, {A}'s {colour} {tool} was gone.",
        "One {time}, {A} could not find {his} {colour} {tool} anywhere.",
        "{A} woke up one {time} and saw that the {colour} {tool} was missing.",
        '"Where is my {colour} {tool}?" {A} cried one {time}.',
    ),
    (
        "{He} looked under the bed, behind the door and in the garden, but it was not there.",
        "{He} looked up and down the {home}, but found nothing but a button and an old shoe.",
        "{pet} the {kind} sniffed in every corner and found only dust.",
        "{He} emptied every box and every pot, and soon the whole room was a mess.",
    ),
    (
        'So {he} ran to {B}, the {bjob}. "Have you seen my {colour} {tool}?" {he} asked.',
        'Then {B} came by from the {bhome}. "Why do you look so sad?" {bhe} asked.',
        'On the road {he} met {B}, who lives in the {bhome}. "I have lost my {tool}," said {A}.',
    ),
    (
        '"No, but I will help you look," said {B}.',
        '{B} put down {bhis} {bcolour} {btool} at once. "Let us look together," {bhe} said.',
        '"Four eyes see more than two," said {B}, and off they went.',
    ),
    (
        "They walked to the {place}, where you can hear {sound}.",
        "They asked everyone on the way to the {place}.",
        "{pet} ran ahead, all the way to the {place}, and they ran after the {kind}.",
    ),
    (
        "There, beside the {thing}, stood the {colour} {tool}.",
        "And there it was, right behind the {thing}: {a_colour} {tool}, wet but safe.",
        '"Look!" cried {B}. The {tool} was lying next to the {thing}, as {colour} as ever.',
    ),
    (
        '"The wind must have carried it," laughed {B}.',
        '"I left it here yesterday!" said {A}, and {his} face went red.',
        "{A} hugged the {tool}, and then {he} hugged {B} too.",
        '"Next time," said {B}, "tie a bell to it."',
    ),
)

RUNAWAY_PET: Plot = (
    (
        "One {time}, {pet} the {kind} ran away.",
        "One {time}, {A} called for {pet}, but no {kind} came.",
        "One {time} the door was open, and {pet} the {kind} was nowhere to be seen.",
    ),
    (
        "{A} put some {food} by the door and waited, but nothing happened.",
        '"{pet}! {pet}!" {he} called, until {his} voice was small.',
        "{A} could not work. A {job} without {his} {kind} is only half a {job}, {he} said.",
    ),
    (
        "{B} the {bjob} heard the calling and came out of the {bhome}.",
        "{B} brought {bhis} own {bkind}, {bpet}, to help.",
        '"{bpet} has a good nose," said {B}, and sent the {bkind} ahead.',
    ),
    (
        "They followed small footprints to the {place}.",
        "They looked in the {bhome} first, and then in the {place}.",
        "An old woman told them that a {kind} had gone to the {place}.",
    ),
    (
        "Near the {thing} they heard a tiny noise, softer than the {sound}.",
        "It was hard to hear anything, because of the {sound}. But {B} stood very still and listened.",
        "Something moved behind the {thing}.",
    ),
    (
        "It was {pet}, stuck between two stones. {B} pulled gently, and the {kind} was free.",
        "It was {pet}, fast asleep in the sun.",
        "It was {pet}, and beside {pet} sat three baby animals who had lost their mother.",
        "There sat {pet}, playing with a leaf as if nothing had happened.",
    ),
    (
        '"You silly {kind}," said {A}, and carried {pet} all the way home to the {home}.',
        "{A} laughed and cried at once.",
        "{pet} jumped into the arms of {A} and would not let go.",
    ),
)

BROKEN_TOOL: Plot = (
    (
        "One {time}, the {colour} {tool} broke in two.",
        "One {time}, {A} fell on the stairs, and {his} {colour} {tool} broke.",
        "Crack! One {time}, {A} heard a terrible noise. {His} {colour} {tool} was broken.",
    ),
    (
        '"What is a {job} without {a_tool}?" {he} asked {pet} the {kind}. {pet} did not know.',
        "{He} tried to mend it with string, but the string was too weak.",
        "{He} tried to mend it with glue, but only {pet} the {kind} got stuck.",
    ),
    (
        "So {he} carried the pieces to {B}, the {bjob}, in the {bhome}.",
        "Then {he} thought of {B}. {B} is a {bjob} and knows how to mend things.",
        '"Ask {B}," said {C}, the {cjob}. "{Bhe} lives in the {bhome} and has clever hands."',
    ),
    (
        '{B} looked at the pieces for a long time and said, "Hm."',
        "{B} was just eating {bfood}, but {bhe} got up at once.",
        "{B} put {bhis} {bcolour} {btool} aside and found a nail, a rope and a little wax.",
    ),
    (
        "They worked until the sun went down.",
        "{A} held the pieces, and {B} did the rest.",
        '"Hold this," said {B}. "And hold that. And do not sneeze."',
    ),
    (
        "At last the {tool} was whole again, and even stronger than before.",
        "When they were done, nobody could see where it had been broken.",
        "The {tool} was whole again, only a little crooked. {A} liked it better that way.",
    ),
    (
        '"How can I thank you?" asked {A}. "With some {bfood}," said {B}, because {B} loves {bfood}.',
        '{A} wanted to pay, but {B} only shook {bhis} head. "Friends do not pay," {bhe} said.',
        "{A} danced around the {bhome} for joy.",
    ),
)

SICK_FRIEND: Plot = (
    (
        "One {time}, {B} the {bjob} was ill and stayed in bed.",
        "One {time}, {A} heard that {B} had a cold.",
        "One {time}, the {bhome} was very quiet. {B} was ill.",
    ),
    (
        '"Poor {B}," said {A}. "I will visit {bhim}."',
        "{A} took {his} {colour} {tool} and went to the {bhome} at once.",
        '{A} asked {C}, the {cjob}, what to do. "Bring something nice to eat," said {C}.',
    ),
    (
        "{B}'s favourite food is {bfood}, so {A} made a lot of it.",
        "On the way {he} got some {bfood}, because {B} loves {bfood}.",
        "{A} knew that {B} likes {bfood} best, and packed as much as {he} could carry.",
    ),
    (
        "{bpet} the {bkind} sat at the door and looked worried.",
        "{B} lay under three blankets, and {bpet} the {bkind} lay on top.",
        '"Is that you, {A}?" asked a weak voice. {bpet} the {bkind} opened one eye.',
    ),
    (
        "{A} opened the window, and they could hear {bsound}.",
        "{A} told {B} a funny story about a snail who wanted to be a king.",
        "{A} made tea and sat down by the bed.",
        "{A} started {hobbying} to cheer {B} up, and {B} smiled a little.",
    ),
    (
        "{B} ate two plates and felt warm inside.",
        "After one bite {B} smiled. After ten bites {bhe} sat up.",
        "Soon {B}'s cheeks were pink again.",
    ),
    (
        '"You are better than any medicine," said {B}.',
        "The next day {B} could work as a {bjob} again.",
        '"Tomorrow I will like {bhobbying} again," said {B}, and fell asleep.',
    ),
)

STRANGE_BABY: Plot = (
    (
        "One {time}, {A} found a big white egg in the {place}.",
        "One {time}, {A} found a tiny bird beside the {thing} in the {place}.",
        "One {time}, a little deer stood at the door of the {home} and shivered.",
    ),
    (
        '"Where is your mother?" asked {A}, but there was no answer.',
        "{pet} the {kind} walked around it three times.",
        "{A} wrapped it up warm and took it home to the {home}.",
    ),
    (
        "{He} did not know what it eats. It did not want {food}, and it did not want bread.",
        "All night {he} kept it warm, and {he} did not sleep at all.",
        '"I am only a {job}," said {A}. "I do not know about babies."',
    ),
    (
        "In the morning {he} went to {B}, who lives in the {bhome} and has a {bkind} called {bpet}.",
        "So {he} asked {B} for help, because {B}'s {bkind}, {bpet}, had once been small too.",
        "{B} the {bjob} came from the {bhome} with {a_bcolour} {btool} and some warm hay.",
    ),
    (
        '"It needs warm milk and a quiet place," said {B}.',
        '"It needs its mother," said {B}. "Let us listen."',
        '{B} looked at it closely. "It is not ill," {bhe} said. "It is only lonely."',
    ),
    (
        "They waited near the {thing}. After an hour the mother came, and she was very glad.",
        "Far away something called. The little one called back, and then it ran to its mother.",
        "They took care of it together until it was big and strong. Then they let it go.",
    ),
    (
        "Every spring it comes back to the {home} to say hello.",
        '{A} waved for a long time. "It will not forget us," said {B}.',
        "{pet} was a little sad, so {A} gave the {kind} an extra dinner.",
    ),
)

STUCK: Plot = (
    (
        "One {time}, {A} took {his} {colour} {tool} and went to the {place}.",
        "One {time}, {A} wanted to see the {thing} in the {place}.",
        "One {time}, {pet} the {kind} pulled {A} all the way to the {place}.",
    ),
    (
        "The ground was soft, and {his} foot got stuck in the mud.",
        "There was a hole in the ground, and {A} fell in, {tool} and all.",
        "{He} climbed too far up and did not know how to get down.",
    ),
    (
        '"Help!" {he} called, but only the {sound} could hear {him}.',
        '{He} called and called. "Go and get {B}!" {he} said to {pet}, and the {kind} ran off.',
        'It was getting late. "I must not be afraid," {he} thought, but {he} was, a little.',
    ),
    (
        "Luckily {B} was coming home to the {bhome} with {bpet} the {bkind}.",
        "{pet} ran to the {bhome} and made a noise until {B} the {bjob} came out.",
        "{B} the {bjob} was just passing with {bhis} {bcolour} {btool}.",
    ),
    (
        '{Bhe} threw {him} a rope. "Hold on!" {bhe} shouted.',
        "{Bhe} reached out {bhis} hand, but it was too short. So {bhe} used the {bcolour} {btool}.",
        '"Do not move," said {B}. "I have an idea."',
    ),
    (
        "{Bhe} pulled with all {bhis} strength, and plop! {A} was free.",
        "They pulled and pushed and pulled again, and then both of them fell down in a heap.",
        "One, two, three, and {A} stood on the grass again, dirty but well.",
    ),
    (
        "They looked at each other and began to laugh.",
        '"Thank you, {B}," said {A}. "You are as brave as a lion."',
        '"Next time we go together," said {B}.',
    ),
)

PLOTS: tuple[Plot, ...] = (LOST_TOOL, RUNAWAY_PET, BROKEN_TOOL, SICK_FRIEND, STRANGE_BABY, STUCK)
