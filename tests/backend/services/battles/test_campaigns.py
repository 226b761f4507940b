"""Campaigns: drawing prompts, entering contestants, recording completions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pydantic import ValidationError
from sqlalchemy import select

from backend.db.tables import CampaignPrompt, Completion, Contestant, DatasetVersion, Run
from backend.domain.battles.campaign import CampaignConfig, ContestantSource
from backend.domain.data.rows.records import record_text
from backend.domain.data.versions.provenance import VotesProvenance
from backend.domain.jobs.events import CompletionEvent
from backend.domain.jobs.states import Status
from backend.errors import Conflict, InvalidInput, NotAllowed
from backend.services import job_events as outcomes
from backend.services.battles.campaigns import add_contestant, close_campaign, start_campaign
from backend.services.battles.generation import retry_generation
from backend.services.battles.raters import rater_for
from backend.services.battles.views import get_campaign, list_campaigns, valid_votes
from backend.services.context import LOCAL, Context
from backend.services.data.datasets import resolve_version
from backend.services.jobs.jobs import get_job, request_stop
from tests.support.battle_world import (
    claim_generation,
    next_battle,
    write_all,
    write_completions,
)
from tests.support.scenario import Scenario


def test_a_campaign_asks_every_contestant_the_same_prompts(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign("Oak", "Elm", "Ash", num_prompts=5, dataset_rows=20, write=False, temperature=0.5)
    payloads = [claim_generation(ctx, contestant.id).payload for contestant in campaign.contestants]
    prompt_ids = [[prompt.id for prompt in payload.prompts] for payload in payloads]
    assert len(prompt_ids[0]) == 5
    assert prompt_ids[0] == prompt_ids[1] == prompt_ids[2]
    assert payloads[0].prompts[0].messages[0]["content"].startswith("Tell a story about the number")
    assert {(payload.temperature, payload.seed) for payload in payloads} == {(0.5, 1)}
    assert len({payload.checkpoint for payload in payloads}) == 3


def test_the_same_seed_draws_the_same_prompts(ctx: Context, scenario: Scenario) -> None:
    dataset, drawn = scenario.prompts(40), []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        campaign = scenario.campaign(name=name, dataset=dataset, num_prompts=6, seed=seed, write=False)
        with ctx.db.read() as session:
            drawn.append(
                sorted(
                    session.scalars(
                        select(CampaignPrompt.content_hash).where(CampaignPrompt.campaign_id == campaign.id)
                    )
                )
            )
    assert drawn[0] == drawn[1] != drawn[2]


def test_prompts_that_differ_in_space_at_their_ends_are_one(ctx: Context, scenario: Scenario) -> None:
    """A rater would have voted twice on what looks like one prompt, and the board would have counted two clusters."""
    prompts = [f"Tell of number {n}.{end}" for n in range(3) for end in ("", " ", "\n")]
    scenario.benchmark("spaced", [{"prompt": prompt} for prompt in prompts], kind="prompts", val=len(prompts))
    campaign = scenario.campaign(dataset="spaced@1", num_prompts=3, write=False)
    with ctx.db.read() as session:
        rows = session.scalars(select(CampaignPrompt).where(CampaignPrompt.campaign_id == campaign.id))
        assert sorted(row.messages[0]["content"] for row in rows) == prompts[::3]


def test_progress_counts_completions_until_all_are_there(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=3, write=False)
    assert (campaign.completions, campaign.expected_completions, campaign.is_writing) == (0, 6, True)
    write_all(ctx, campaign.id)
    campaign = get_campaign(ctx, campaign.id)
    assert (campaign.completions, campaign.expected_completions, campaign.is_writing) == (6, 6, False)


def test_a_completion_that_a_second_attempt_repeats_keeps_its_first_text(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=2, write=False)
    contestant = campaign.contestants[0]
    claim = claim_generation(ctx, contestant.id)
    first = CompletionEvent(prompt_id=claim.payload.prompts[0].id, text="first\x00", tokens=1)
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, [first, first.model_copy(update={"text": "second"})])
    with ctx.db.read() as session:
        assert list(session.scalars(select(Completion.text).where(Completion.contestant_id == contestant.id))) == [
            "first"
        ]


def test_a_completion_for_a_prompt_of_another_campaign_is_not_stored(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=2, write=False)
    other = scenario.campaign(name="Other", dataset="prompts", num_prompts=2, write=False)
    foreign = claim_generation(ctx, other.contestants[0].id).payload.prompts[0].id
    claim = claim_generation(ctx, campaign.contestants[0].id)
    with ctx.db.write() as session:
        outcomes.record_events(session, ctx, claim, [CompletionEvent(prompt_id=foreign, text="x")])
        assert session.scalars(select(Completion)).all() == []


def test_a_contestant_entered_later_answers_the_prompts_of_the_others(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=3)
    campaign = add_contestant(ctx, campaign.id, scenario.checkpoint("Ash"), person=LOCAL)
    late = next(contestant for contestant in campaign.contestants if contestant.name == "Ash")
    assert len(claim_generation(ctx, late.id).payload.prompts) == 3
    with pytest.raises(Conflict, match="already in this campaign"):
        add_contestant(ctx, campaign.id, late.checkpoint_id, person=LOCAL)


def test_a_retried_generation_completes_only_missing_prompts(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=3, write=False)
    contestant = campaign.contestants[0]
    claim = claim_generation(ctx, contestant.id)
    half = claim.with_payload(claim.payload.model_copy(update={"prompts": claim.payload.prompts[:2]}))
    write_completions(ctx, half, lambda prompt: "a story")
    with ctx.db.read() as session:
        assert get_job(ctx, session.get_one(Contestant, contestant.id).job_id or "").result["owed"] == 1
    again = retry_generation(ctx, contestant.id, person=LOCAL)
    assert len(claim_generation(ctx, contestant.id).payload.prompts) == 1
    with pytest.raises(Conflict, match="being generated"):
        retry_generation(ctx, contestant.id, person=LOCAL)
    assert next(c for c in again.contestants if c.id == contestant.id).completions == 2


def test_a_cancelled_generation_shows_as_failed_and_can_be_retried(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=2, write=False)
    contestant = campaign.contestants[0]
    assert contestant.job is not None
    request_stop(ctx, contestant.job.id)
    assert get_campaign(ctx, campaign.id).contestants[0].failed
    retried = retry_generation(ctx, contestant.id, person=LOCAL).contestants[0]
    assert retried.job is not None
    assert retried.job.status is Status.QUEUED


def test_answers_that_fill_a_contestants_context_are_refused_before_any_is_generated(ctx: Context) -> None:
    """The campaign was open for votes, with nothing to vote on, and could only be closed."""
    with pytest.raises(InvalidInput, match="holds 128 tokens") as refused:
        Scenario(ctx).campaign(max_tokens=128)
    assert refused.value.field == "max_tokens"
    assert list_campaigns(ctx) == []


@pytest.mark.parametrize(
    ("name", "problem"), [("", "needs a name"), ("Is oak better?", "tells raters"), ("a@b", "character")]
)
def test_a_campaign_name_is_required_and_must_not_reveal_a_contestant(ctx: Context, name: str, problem: str) -> None:
    with pytest.raises(InvalidInput, match=problem):
        Scenario(ctx).campaign(name=name)
    assert list_campaigns(ctx) == []


def test_one_contestant_or_a_dataset_of_running_text_makes_no_campaign(ctx: Context, scenario: Scenario) -> None:
    with pytest.raises(InvalidInput, match="at least two"):
        scenario.campaign("Oak")
    text = scenario.prompts(4, name="novel", kind="text")
    with pytest.raises(InvalidInput, match="have no prompts"):
        scenario.campaign(dataset=text)


def test_a_taken_name_is_a_conflict_and_leaves_no_second_campaign(ctx: Context, scenario: Scenario) -> None:
    scenario.campaign()
    with pytest.raises(Conflict, match="already a campaign"):
        scenario.campaign(dataset="prompts")
    assert len(list_campaigns(ctx)) == 1


def test_a_rater_can_neither_create_nor_close_a_campaign(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign()
    rater = replace(LOCAL, name="Rita", role="rater")
    with pytest.raises(NotAllowed):
        close_campaign(ctx, campaign.id, person=rater)
    with pytest.raises(NotAllowed):
        add_contestant(ctx, campaign.id, campaign.contestants[0].checkpoint_id, person=rater)
    assert get_campaign(ctx, campaign.id).is_open


def train_on(ctx: Context, dataset: str, *, name: str, base_id: str | None = None) -> str:
    """Insert a checkpoint of a run that trained on a dataset; return its id."""
    version = resolve_version(ctx, dataset)
    with ctx.db.write() as session:
        run = Run(name=name, objective="sft", config={}, dataset_version_id=version.id, base_id=base_id)
        session.add(run)
        session.flush()
        run_id = run.id
    return Scenario(ctx).checkpoint(name, run_id=run_id, step=1)


def test_rows_that_a_contestant_or_its_base_trained_on_are_drawn_only_on_request(
    ctx: Context, scenario: Scenario
) -> None:
    dataset, other = scenario.prompts(3, num_train=10), scenario.prompts(4, name="other")
    grandchild = train_on(ctx, other, name="Twig", base_id=train_on(ctx, dataset, name="Oak"))
    with pytest.raises(
        InvalidInput,
        match=r"has 3 distinct held-out prompts, and 5 are needed: “Twig” trained.*Use 3 prompts.*“Allow training",
    ):
        scenario.campaign(grandchild, "Elm", dataset=dataset, num_prompts=5)
    campaign = scenario.campaign(grandchild, "Elm", dataset=dataset, num_prompts=5, allow_train=True, write=False)
    assert (campaign.num_prompts, campaign.config.allow_train) == (5, True)


def test_a_dataset_that_no_contestant_trained_on_is_held_out_as_a_whole(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(dataset=scenario.prompts(3, num_train=10), num_prompts=12, write=False)
    assert campaign.num_prompts == 12


def test_prompts_whose_votes_a_contestant_trained_on_are_left_out(ctx: Context, scenario: Scenario) -> None:
    first = scenario.campaign(num_prompts=4, dataset_rows=6)
    preferences = resolve_version(ctx, scenario.prompts(1, name="preferences", kind="preference")).id
    with ctx.db.write() as session:
        prompts = session.scalars(select(CampaignPrompt.id).where(CampaignPrompt.campaign_id == first.id)).all()
        session.get_one(DatasetVersion, preferences).provenance = VotesProvenance(
            rows=tuple({"prompt_id": prompt} for prompt in prompts)
        )
    train_on(ctx, "preferences@1", name="Ash")
    assert first.dataset is not None
    second = scenario.campaign("Ash", "Oak", name="next", dataset=first.dataset, num_prompts=2, write=False)
    with ctx.db.read() as session:
        hashes = [
            set(session.scalars(select(CampaignPrompt.content_hash).where(CampaignPrompt.campaign_id == campaign.id)))
            for campaign in (first, second)
        ]
    assert hashes[0] & hashes[1] == set()


def test_system_text_category_and_several_answers_reach_the_job(ctx: Context, scenario: Scenario) -> None:
    values = {"num_prompts": 2, "system": "Be brief.", "answers_per_prompt": 3, "write": False}
    campaign = scenario.campaign(category_column="prompt", **values)
    payload = claim_generation(ctx, campaign.contestants[0].id).payload
    assert [prompt.messages[0] for prompt in payload.prompts] == [{"role": "system", "content": "Be brief."}] * 6
    assert sorted((prompt.messages[1]["content"][-2:], prompt.sample) for prompt in payload.prompts)[0] == ("0.", 0)
    assert campaign.expected_completions == 12
    with ctx.db.read() as session:
        categories = set(
            session.scalars(select(CampaignPrompt.category).where(CampaignPrompt.campaign_id == campaign.id))
        )
    assert categories == {"Tell a story about the number 0.", "Tell a story about the number 1."}
    with pytest.raises(InvalidInput, match=r"no column 'topic'\. It has prompt\..*again as kind records"):
        scenario.campaign(name="x", dataset="prompts", category_column="topic", **values)


def test_rows_of_records_are_prompts_with_categories(ctx: Context, scenario: Scenario) -> None:
    """Kind prompts drops the column of the categories, and kind records, which keeps it, could not be chosen."""
    files = [{"prompt": f"Tell {n}.", "topic": "\ud800"[: n == 2] or "sea"} for n in range(3)]
    rows = [{"record": record_text(row)} for row in [*files, {"prompt": "\ud800"}, {"prompt": {}}, {"text": "none"}]]
    dataset = scenario.benchmark("own", rows, kind="records")
    campaign = scenario.campaign(dataset=dataset, num_prompts=3, category_column="topic", write=False)
    with ctx.db.read() as session:
        query = select(CampaignPrompt.messages, CampaignPrompt.category).where(
            CampaignPrompt.campaign_id == campaign.id
        )
        drawn = [(messages[0]["content"], category) for messages, category in session.execute(query)]
    assert sorted(drawn) == [("Tell 0.", "sea"), ("Tell 1.", "sea"), ("Tell 2.", "\\ud800")]
    nameless = scenario.benchmark("nameless", [{"record": record_text({"text": "a"})}], kind="records")
    with pytest.raises(InvalidInput, match="stands in a column prompt, question or instruction"):
        scenario.campaign(name="x", dataset=nameless, write=False)


def test_a_benchmark_s_own_columns_are_categories(ctx: Context, scenario: Scenario) -> None:
    row = {"question": "2 + 2?", "choices": ["4", "5"], "answer": 0}
    rows = [{**row, "record": record_text({**row, "subject": "sums"})}]
    dataset = scenario.benchmark("sums", rows)
    campaign = scenario.campaign(dataset=dataset, num_prompts=1, category_column="subject", write=False)
    with ctx.db.read() as session:
        query = select(CampaignPrompt.category).where(CampaignPrompt.campaign_id == campaign.id)
        assert session.scalars(query).all() == ["sums"]


def test_too_few_prompts_for_rows_of_the_same_text_say_so(ctx: Context, scenario: Scenario) -> None:
    """Of 30 rows two differed by a space, and the cure named was to allow training rows."""
    rows = [{"prompt": f"Tell {n}."} for n in (0, 1, 2)] + [{"prompt": "Tell 2. "}]
    dataset = scenario.benchmark("own", rows, kind="prompts")
    with pytest.raises(InvalidInput) as refused:
        scenario.campaign(dataset=dataset, num_prompts=4)
    assert refused.value.message == (
        "“own@1” has 3 distinct held-out prompts, and 4 are needed: 1 row repeats another's text."
    )
    assert refused.value.remedy == "Use 3 prompts or choose another dataset."


def lines(*rows: dict[str, object]) -> str:
    return "\n".join(json.dumps(row) for row in rows)


def test_categories_of_the_files_own_prompts_are_read_from_the_first_file(ctx: Context) -> None:
    """The column was taken, and every prompt had no category."""

    def start(name: str, column: str, *rows: dict[str, object]) -> None:
        start_campaign(
            ctx,
            name=name,
            contestants=[ContestantSource(file="a.jsonl"), ContestantSource(file="b.jsonl")],
            dataset="",
            config=CampaignConfig(category_column=column),
            person=LOCAL,
            files={"a.jsonl": lines(*rows), "b.jsonl": lines({"prompt": "p0", "completion": "other"})},
        )

    rows = [{"prompt": f"p{n}", "completion": str(n), "topic": topic} for n, topic in enumerate(("sea", "war", None))]
    start("read", "topic", *rows, {"prompt": "p0", "completion": "again", "topic": "second"})
    with ctx.db.read() as session:
        prompts = session.scalars(select(CampaignPrompt).order_by(CampaignPrompt.position)).all()
        assert [(one.messages[0]["content"], one.category) for one in prompts] == [
            ("p0", "sea"),
            ("p1", "war"),
            ("p2", ""),
        ]
    with pytest.raises(InvalidInput, match=r"Line 2 of “a\.jsonl” has no column 'topic'") as refused:
        start("lacks", "topic", rows[0], {"prompt": "p1", "completion": "1"})
    assert (refused.value.field, "Give every line" in (refused.value.remedy or "")) == ("category_column", True)
    start("index", "", {**rows[0], "": "a column without a name " * 100})  # a table's index is no category


def test_files_of_completions_compete_with_each_other_and_no_job_is_queued(ctx: Context) -> None:
    rows = ({"prompt": f"p{n}", "human": f"human {n}", "other": f"other {n}", "note": "a\u2028b"} for n in range(3))
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    campaign = start_campaign(
        ctx,
        name="files",
        contestants=[
            ContestantSource(file="a.jsonl", column="human"),
            ContestantSource(file="a.jsonl", column="other", name="Second"),
        ],
        dataset="",
        config=CampaignConfig(num_prompts=30),
        person=LOCAL,
        files={"a.jsonl": text},
    )
    assert [(c.name, c.kind, c.completions, c.job) for c in campaign.contestants] == [
        (name, "file", 3, None) for name in ("human", "Second")
    ]
    battle = next_battle(ctx, campaign.id, rater_for(ctx, LOCAL))
    assert battle is not None
    number = battle.prompt[0][1][-1]
    assert {battle.text_a, battle.text_b} == {f"human {number}", f"other {number}"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "0 lines"),
        ("x", "Line 1 is not JSON"),
        ('{"completion": "x"}', "Line 1 has no prompt"),
        ('{"prompt": "p", "text": "x"}', "column"),
    ],
)
def test_a_file_without_completions_is_refused_with_its_line(ctx: Context, text: str, problem: str) -> None:
    sources = [ContestantSource(file="a.jsonl", name=name) for name in ("one", "two")]
    with pytest.raises(InvalidInput, match=problem):
        start_campaign(
            ctx,
            name="x",
            contestants=sources,
            dataset="",
            config=CampaignConfig(),
            person=LOCAL,
            files={"a.jsonl": text},
        )


def test_a_foreign_endpoints_key_is_named_and_never_stored(ctx: Context, scenario: Scenario) -> None:
    sources = [
        ContestantSource(checkpoint=scenario.checkpoint("Oak")),
        ContestantSource(url="https://api.example/v1", model="big-model", key_env="EXAMPLE_API_KEY"),
    ]
    dataset, config = scenario.prompts(2), CampaignConfig(num_prompts=2)
    campaign = start_campaign(ctx, name="rivals", contestants=sources, dataset=dataset, config=config, person=LOCAL)
    payload = claim_generation(ctx, next(c.id for c in campaign.contestants if c.kind == "endpoint")).payload
    assert (payload.url, payload.model, payload.key_env) == ("https://api.example/v1", "big-model", "EXAMPLE_API_KEY")
    account = replace(LOCAL, id="someone", name="Maya", role="engineer")
    with pytest.raises(NotAllowed, match="account can't name an address"):
        start_campaign(ctx, name="again", contestants=sources, dataset=dataset, config=config, person=account)


@pytest.mark.parametrize("name", ["DATABASE_URL", "ROUNDHOUSE_SECRET_API_KEY", "example_api_key", "PASSWORD"])
def test_a_key_comes_from_no_other_variable_than_one_for_an_api(name: str) -> None:
    with pytest.raises(ValidationError, match="key_env"):
        ContestantSource(url="https://api.example/v1", model="m", key_env=name)


def test_gold_pairs_are_no_contestants_and_reach_every_rater(ctx: Context, scenario: Scenario) -> None:
    gold = [{"prompt": f"gold {n}", "better": f"right {n}", "worse": f"wrong {n}"} for n in range(3)]
    campaign = scenario.campaign(num_prompts=12, gold=gold, gold_share=0.5, repeat_share=0.0)
    assert [contestant.name for contestant in campaign.contestants] == ["Oak", "Elm"]
    assert campaign.num_prompts == 12
    rater = rater_for(ctx, LOCAL)
    assert (
        scenario.votes(
            campaign,
            lambda a, b: "A" if a.startswith("right") else "B" if b.startswith("right") else "TIE",
            rater=rater,
        )
        == 15
    )
    with ctx.db.read() as session:
        golden = valid_votes(session, campaign.id, purposes=("gold",))
        assert len(valid_votes(session, campaign.id)) == 12
        texts = {row.id: row.text for row in session.scalars(select(Completion))}
    assert {texts[vote.completion_a_id if vote.label == "A" else vote.completion_b_id] for vote in golden} == {
        "right 0",
        "right 1",
        "right 2",
    }


def test_a_repeated_battle_shows_the_same_answers_on_swapped_sides(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(num_prompts=30, repeat_share=0.4)
    scenario.votes(campaign, lambda a, b: "A")
    with ctx.db.read() as session:
        first = {vote.battle_id: vote for vote in valid_votes(session, campaign.id)}
        repeats = valid_votes(session, campaign.id, purposes=("repeat",))
    assert len(first) == 30
    assert 5 <= len(repeats) <= 25
    for vote in repeats:
        original = first[vote.repeat_of_id or ""]
        assert (vote.completion_a_id, vote.completion_b_id) == (original.completion_b_id, original.completion_a_id)


def test_identical_answers_are_tied_without_being_shown(ctx: Context, scenario: Scenario) -> None:
    campaign = scenario.campaign(
        num_prompts=10, write=lambda name, prompt: name if prompt.endswith(("7.", "8.", "9.")) else "same"
    )
    assert scenario.votes(campaign, "Oak") == 3
    with ctx.db.read() as session:
        votes = valid_votes(session, campaign.id)
    assert (
        sorted((vote.label in ("A", "B"), vote.identical) for vote in votes)
        == [(False, True)] * 7 + [(True, False)] * 3
    )
    assert get_campaign(ctx, campaign.id).num_votes == 3
