"""Plots of fear, talk and wonder. The slots are those of `plots_lost_and_found`."""

from __future__ import annotations

from backend.domain.starter.plots_lost_and_found import Plot

FEAR: Plot = (
    (
        "{A} is afraid of {fear}. One {time}, {he} had to go to the {place} all alone.",
        "Nobody knew that {A} is afraid of {fear}, not even {pet} the {kind}.",
        "One {time}, {A} did not want to leave the {home}. {He} is afraid of {fear}.",
    ),
    (
        '"It makes me think of {fear}," {he} said to {pet} the {kind}.',
        "{He} pulled the blanket over {his} head and held {his} {colour} {tool} tight.",
        "{pet} the {kind} looked at {him} and did not understand.",
    ),
    (
        "Then somebody knocked. It was {B}, the {bjob} from the {bhome}.",
        '{B} came by with {bhis} {bcolour} {btool}. "You look pale," {bhe} said.',
    ),
    (
        '"Do not laugh," said {A}. "I am afraid of {fear}." {B} did not laugh.',
        '{A} told {bhim} everything. "I will tell you a secret," said {B}. "I am afraid of {bfear}."',
    ),
    (
        '"Everyone is afraid of something," said {B}. "I am afraid of {bfear}, and {C} is afraid of {cfear}."',
        '"When I am afraid, I like to {bhobby}," said {B}. "What do you like to do?" "I like to {hobby}," said {A}.',
        '"Take my hand," said {B}. "Two people are never as afraid as one."',
    ),
    (
        "So they went to the {place} together, past the {thing}, and nothing bad happened.",
        "They sat close together and listened to the {sound}, until {A} was calm again.",
        "{A} took a deep breath and began {hobbying}, and the fear grew small.",
    ),
    (
        "{A} is still afraid of {fear}, but only a little.",
        '"I was brave today," {A} said to {pet}. And it was true.',
        "Being brave, {A} learned, is not the same as not being afraid.",
    ),
)

VISITOR: Plot = (
    (
        "One {time}, a traveller with a long beard came to {village}.",
        "One {time}, a stranger knocked at the door of the {home}.",
        "One {time}, a girl with a big map stood in front of {A}.",
    ),
    (
        '"Who lives here?" asked the stranger. "I do," said {A}. "I am {A}, and I am a {job}."',
        '"Who are you?" asked the stranger. "I am {A}, the {job}," said {A}, "and this is {pet}, my {kind}."',
    ),
    (
        '"I am looking for {B}. Where does {B} live?" "{B} lives in the {bhome}," said {A}.',
        (
            '"I am looking for a {bjob}." "Then you want {B}," said {A}. "{B} is a {bjob}, and {bhe} lives in the'
            ' {bhome}."'
        ),
        '"I have a letter for {B}." "{B} lives in the {bhome}, where you can hear {bsound}," said {A}.',
    ),
    (
        '"And how will I know {bhim}?" "{B} has {a_bcolour} {btool} and a {bkind} called {bpet}."',
        '"What is {B} like?" "{B} likes to {bhobby}, and {bhis} favourite food is {bfood}."',
        '"What can I bring {bhim}?" "Bring some {bfood}. {B} loves {bfood}."',
    ),
    (
        '"And what is in the {place}?" "In the {place} there is a {thing}," said {A}. "You can hear {sound} there."',
        '"And who is {C}?" "{C} is a {cjob}," said {A}. "{C} lives in the {chome}."',
        '"Is it far?" "Go past the {place}, where the {thing} is, and then turn left."',
    ),
    (
        "The stranger thanked {him} and went on, and {pet} walked along for a while.",
        "{A} took {his} {colour} {tool} and went along, so that the stranger would not get lost.",
    ),
    (
        'In the evening {B} came by. "It was my uncle!" {bhe} said. "Thank you, {A}."',
        "The stranger never forgot how friendly the people of {village} are.",
        "At the {bhome} they all sat down to eat {bfood}.",
    ),
)

QUARREL: Plot = (
    (
        "One {time}, {A} and {B} had a quarrel.",
        "{A} and {B} are never angry. But one {time}, they were.",
    ),
    (
        '"{Food} is the best food in the world," said {A}. "No, {bfood} is," said {B}.',
        '"The {home} is nicer than the {bhome}," said {A}. "It is not!" said {B}.',
        '"My {kind} is cleverer than your {bkind}," said {A}. "{bpet} is much cleverer than {pet}!" said {B}.',
        '"{Hobbying} is more fun than {bhobbying}," said {A}. "It is not!" said {B}.',
    ),
    (
        "{B} took {bhis} {bcolour} {btool} and went home to the {bhome} without a word.",
        "{A} shut the door of the {home} with a bang.",
    ),
    (
        "Then it was very quiet. {A} did not want to eat {food}, and {he} did not want to {hobby}.",
        "{A} sat with {pet} the {kind} and felt heavy, as if {he} had eaten a stone.",
        "{pet} the {kind} and {bpet} the {bkind} still played together behind the {place}.",
    ),
    (
        '"I was wrong," {A} thought. {He} packed some {bfood} and walked to the {bhome}.',
        '{C} the {cjob} shook {chis} head. "You are both right," {che} said, "and both silly."',
    ),
    (
        "Halfway there, beside the {thing}, {he} met {B}, who was carrying some {food}.",
        'At the door they both said "I am sorry" at the same time.',
    ),
    (
        "They laughed, and the quarrel was over.",
        "{A} tried {bfood}, and {B} tried {food}. Both were very good.",
        '"Let us never do that again," said {B}. And they did not.',
    ),
)

LESSON: Plot = (
    (
        'One {time}, {B} asked {A}, "Can you teach me something?"',
        "{A} likes to {hobby}. One {time}, {B} wanted to learn it too.",
        '"What do you like to do?" asked {B} one {time}. "I like to {hobby}," said {A}.',
    ),
    (
        '"{Hobbying} is easy," said {A}. "Look at me."',
        '"First you must stand very still," said {A}. "Then you must not think of anything."',
    ),
    (
        "{B} tried, but it went wrong. {bpet} the {bkind} hid behind the {bcolour} {btool}.",
        '{B} tried it once, twice, three times. "I am only good at {bhobbying}," {bhe} said.',
        "{B} tried, and {pet} the {kind} put its head to one side.",
    ),
    (
        '"I was bad at it too," said {A}. "When I was small, everybody laughed at me."',
        '"Nobody learns it in a day," said {A}. "Even a {job} has to learn."',
    ),
    (
        "So they met in the {place} every evening, beside the {thing}.",
        "So {B} came to the {home} every day after work.",
    ),
    (
        "And after a week, {B} could do it. Even the {sound} in the {place} seemed to listen.",
        "And one day it worked! {C} the {cjob} saw it and clapped {chis} hands.",
    ),
    (
        '"Now I will teach you to {bhobby}," said {B}.',
        '"Thank you," said {B}, and gave {A} some {food}, because {A} loves {food}.',
        "A good teacher, {A} thought, is a friend who waits.",
    ),
)

NIGHT: Plot = (
    (
        "One night, {A} could not sleep.",
        "One clear night, {A} looked out of the window of the {home}.",
        "It was the longest night of the year, and the whole of {village} was asleep.",
    ),
    (
        "{A} is afraid of {fear}, so {he} lit a candle.",
        "{pet} the {kind} was awake too, and its eyes shone.",
        "{He} put on a coat, took {his} {colour} {tool} and went out.",
    ),
    (
        "In the {place} there was a light beside the {thing}.",
        "Something bright fell from the sky, right behind the {place}.",
        "From the {place} came the sound of {sound}, and then a very soft voice.",
    ),
    (
        "{A} went closer. It was {B}, the {bjob}, with {bhis} {bcolour} {btool}.",
        "{A} crept along the path and nearly fell over {B}, who lives in the {bhome}.",
    ),
    (
        '"I could not sleep," said {B}. "So I came here with {bpet}, my {bkind}."',
        '"Sh!" said {B}. "If you are quiet, you can see it."',
        '"I have been {bhobbying}," said {B}. "At night nobody laughs at me."',
    ),
    (
        "They sat on the grass and saw a star fall, and each of them made a wish.",
        "They looked up, and the moon was so big that they could almost touch it.",
    ),
    (
        "{B} wished for some {bfood}. {A} wished that it would always be like this.",
        "When the sun came up, they were both asleep under the {thing}.",
        "They never told anyone what they saw that night.",
    ),
)

BUILDING: Plot = (
    (
        "One {time}, {A} wanted to build a little house for {pet} the {kind}.",
        "One {time}, the bridge to the {place} was gone, and nobody could cross.",
        "One {time}, {A} had a great idea. {He} wanted to build a boat that can fly.",
    ),
    (
        "{He} took wood, nails and {his} {colour} {tool}, and began.",
        "{He} drew a plan on a piece of paper as big as a table.",
    ),
    (
        "But alone it was too hard. The boards were heavy, and {A} is a {job}, after all.",
        "But the first wall fell down, and then the second one.",
    ),
    (
        "So {B} the {bjob} came from the {bhome}, and {C} the {cjob} came from the {chome}.",
        '"I will help," said {B}, who is a {bjob}. "So will I," said {C}, who is a {cjob}.',
    ),
    (
        "{B} brought {a_bcolour} {btool}, and {C} brought a lot of good advice.",
        "{B} held the boards, {A} hit the nails, and {bpet} the {bkind} hit the soup.",
        "At noon they ate {bfood}, because {B} loves {bfood}, and then they went on.",
    ),
    (
        "In the evening it was done, and it stood as firm as a rock.",
        "When the last nail was in, they painted it {colour}, like {A}'s {tool}.",
    ),
    (
        '"What one can not do, three can," said {A}.',
        "{pet} went in, turned around twice and fell asleep.",
        "It is still there. You can see it from the {bhome}.",
    ),
)

RIDDLE: Plot = (
    (
        "One {time}, {A} found a letter under the door of the {home}.",
        "One {time}, a bottle lay beside the {thing} in the {place}, and in the bottle was a letter.",
    ),
    (
        'It said: "Find the one who lives in the {bhome} and likes to {bhobby}."',
        'It said: "Who has {a_bcolour} {btool} and a {bkind} called {bpet}?"',
        'It said: "Find the {bjob} who loves {bfood}."',
    ),
    (
        '"That is easy," said {A}. "That is {B}!"',
        '{A} asked {pet} the {kind}, but {pet} is not good at riddles. Then {he} knew. "{B}!"',
    ),
    (
        "{He} ran to the {bhome}, and {pet} the {kind} ran after {him}.",
        "At the {bhome} stood {B}, and {bhe} had a letter too.",
    ),
    (
        '{B}\'s letter said: "Find the {job} who lives in the {home} and loves {food}."',
        '{B}\'s letter said: "Who is afraid of {fear} and likes to {hobby}?" "That is me," said {A}.',
        '{B}\'s letter said: "Who has {a_colour} {tool} and a {kind} called {pet}?"',
    ),
    (
        '"But who wrote the letters?" they asked. Then {C} the {cjob} came around the corner and smiled.',
        "They followed the letters to the {place}. There stood a table full of {food} and {bfood}.",
    ),
    (
        '"I thought you two should meet more often," said {C}.',
        "It was the nicest riddle that they had ever solved.",
        "The next day {A} wrote a riddle for {C}.",
    ),
)

PLOTS: tuple[Plot, ...] = (FEAR, VISITOR, QUARREL, LESSON, NIGHT, BUILDING, RIDDLE)
