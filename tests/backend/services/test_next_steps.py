"""Next steps of the overview over many states of an installation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.services.next_steps import AttentionItem, AwaitedVotes, Situation, StepKind, next_steps

CHAT, BASE = AttentionItem("c1", "smol-village-chat"), AttentionItem("c2", "smol-village-base")
SETTLED = {
    "has_data": True,
    "checkpoints": (CHAT, BASE),
    "has_campaigns": True,
    "has_deployments": True,
    "has_chats": True,
}

STATES = [
    ("nothing yet", {}, [(StepKind.IMPORT, "Import a dataset")]),
    ("the starter data is being imported", {"is_importing": True}, []),
    ("data and nothing trained", {"has_data": True}, [(StepKind.STARTER, "Train the starter model")]),
    ("the first run is under way", {"has_data": True, "is_training": True}, []),
    (
        "one trained model",
        {"has_data": True, "checkpoints": (CHAT,), "trained_without_evaluation": (CHAT,)},
        [(StepKind.EVALUATE, "Evaluate"), (StepKind.DEPLOY, "Deploy")],
    ),
    (
        "two networks never compared",
        {**SETTLED, "has_campaigns": False},
        [(StepKind.CAMPAIGN, "Start a campaign")],
    ),
    (
        "an endpoint nobody has talked to",
        {**SETTLED, "has_chats": False, "endpoints": (AttentionItem("e", "tales"),)},
        [(StepKind.CHAT, "Chat")],
    ),
    ("a rematch waits for votes", {**SETTLED, "votes": (AwaitedVotes("k", "Rematch", 12),)}, [(StepKind.VOTE, "Vote")]),
    (
        "a campaign in which the visitor has voted on everything",
        {**SETTLED, "votes": (AwaitedVotes("k", "Rematch", 0),)},
        [],
    ),
    (
        "a deployed network without evaluation",
        {**SETTLED, "served_without_evaluation": (CHAT,)},
        [(StepKind.EVALUATE, "Evaluate")],
    ),
    (
        "a model that is both deployed and trained here is named once",
        {**SETTLED, "served_without_evaluation": (CHAT,), "trained_without_evaluation": (CHAT,)},
        [(StepKind.EVALUATE, "Evaluate")],
    ),
    (
        "a failed run",
        {**SETTLED, "failed_runs": (AttentionItem("r", "first", "NaN"),)},
        [(StepKind.RUN, "See the run")],
    ),
    (
        "a failed first run",
        {"has_data": True, "failed_runs": (AttentionItem("r", "first", "NaN"),)},
        [(StepKind.RUN, "See the run")],
    ),
    (
        "an endpoint that does not start",
        {**SETTLED, "failing_endpoints": (AttentionItem("e", "tales", "memory"),)},
        [(StepKind.ENDPOINT, "See the endpoint")],
    ),
    (
        "queued jobs that no worker serves",
        {**SETTLED, "idle_queues": (("train", 2),)},
        [(StepKind.WORKERS, "See the workers")],
    ),
    ("everything done", SETTLED, []),
]


@pytest.mark.parametrize(
    ("state", "expected"), [(state, expected) for _, state, expected in STATES], ids=[name for name, _, _ in STATES]
)
def test_the_steps_of_a_state(state: dict[str, object], expected: list[tuple[StepKind, str]]) -> None:
    assert [(step.kind, step.action) for step in next_steps(Situation(**state))] == expected  # type: ignore[arg-type]


def test_steps_state_names_numbers_and_causes() -> None:
    steps = next_steps(
        Situation(
            **SETTLED,  # type: ignore[arg-type]
            votes=(AwaitedVotes("k", "Rematch", 12),),
            served_without_evaluation=(CHAT,),
            failed_runs=(AttentionItem("r", "first", "The loss became NaN."),),
        )
    )
    assert [step.text for step in steps] == [
        "The run first failed: The loss became NaN.",
        "Rematch awaits 12 votes from you.",
        "smol-village-chat has no evaluation.",
    ]
    assert [step.subject for step in steps] == ["r", "k", "c1"]


def test_one_vote_is_one_vote() -> None:
    assert (
        next_steps(Situation(has_data=True, is_training=True, votes=(AwaitedVotes("k", "Rematch", 1),)))[0].text
        == "Rematch awaits 1 vote from you."
    )


items = st.lists(
    st.builds(AttentionItem, id=st.text("abc", min_size=1, max_size=3), name=st.text(max_size=5)), max_size=4
).map(tuple)
situations = st.builds(
    Situation,
    has_data=st.booleans(),
    is_importing=st.booleans(),
    is_training=st.booleans(),
    checkpoints=items,
    has_campaigns=st.booleans(),
    has_deployments=st.booleans(),
    has_chats=st.booleans(),
    endpoints=items,
    failing_endpoints=items,
    failed_runs=items,
    votes=st.lists(
        st.builds(AwaitedVotes, id=st.just("k"), name=st.just("n"), num_votes=st.integers(0, 3)), max_size=3
    ).map(tuple),
    served_without_evaluation=items,
    trained_without_evaluation=items,
)


@given(situations)
def test_every_step_has_a_text_and_a_button_and_failures_come_first(situation: Situation) -> None:
    steps = next_steps(situation)
    assert all(step.text and step.action for step in steps)
    ranks = [list(StepKind).index(step.kind) for step in steps]
    broken = [
        kind in (StepKind.ENDPOINT, StepKind.RUN, StepKind.WORKERS) for kind in (list(StepKind)[rank] for rank in ranks)
    ]
    assert broken == sorted(broken, reverse=True)
