"""The loop closes: strangers to the network vote by rules over the village's facts, the votes train it, it wins the
rematch on prompts that no run has trained on, a decision moves the alias, the endpoint answers by the new checkpoint,
and the lineage leads back to the files.
"""

from __future__ import annotations

import re
from functools import partial

import httpx2
import openai
import pytest
from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.jobs.states import Status
from backend.domain.training.config import RunConfig
from backend.services.battles.ballots import open_ballot
from backend.services.battles.raters import RaterLink, Voter, ballot_token, create_rater_link
from backend.services.battles.standings import standings
from backend.services.battles.views import get_campaign, list_campaigns
from backend.services.checkpoints.checkpoints import list_checkpoints
from backend.services.context import LOCAL
from backend.services.lineage import lineage_of
from backend.services.serving.aliases import get_alias
from backend.services.serving.deployments import deploy
from backend.services.serving.endpoints import get_endpoint
from backend.services.serving.promotions import promote
from backend.services.training.runs import launch_run
from backend.services.training.views import get_run, list_runs
from tests.support.browser import Visitor, visit
from tests.support.data.village import FACTS
from tests.support.installation import Installation, wait_until
from tests.support.scenario import Scenario

pytestmark = pytest.mark.timeout(900)

ALIAS = "storyteller@production"
TINY = ArchitectureConfig(
    num_layers=2, width=64, num_heads=2, num_kv_heads=2, context=128, vocab_size=2048, feed_forward=128
)
TRUE_SENTENCES = frozenset(fact.answer.rstrip(".") for fact in FACTS)
NUM_PROMPTS, BY_BROWSER = 60, 3
PAUSE_MS = 450  # a vote sooner than 0.3 s after the answers appeared does not count


def truth(answer: str) -> int:
    """True statements about the village, less the statements that are none of its facts."""
    sentences = [part.strip().rstrip(".") for part in re.split(r"(?<=[.!?])", answer) if part.strip()]
    return sum(1 if sentence in TRUE_SENTENCES else -1 for sentence in sentences)


def strict(a: str, b: str) -> str:
    """A rater who ties only where both say as much that is true."""
    return "A" if truth(a) > truth(b) else "B" if truth(b) > truth(a) else "TIE"


def terse(a: str, b: str) -> str:
    """A rater who of two equally true answers prefers the clearly shorter one."""
    choice = strict(a, b)
    if choice == "TIE" and abs(len(a) - len(b)) > 40:
        return "A" if len(a) < len(b) else "B"
    return choice


def finish_run(installation: Installation, name: str) -> str:
    """Wait for a run; return its last checkpoint."""

    def is_finished() -> bool:
        run = get_run(installation.ctx, name)
        assert run.status is not Status.FAILED, run.error
        return run.status is Status.FINISHED

    wait_until(is_finished, timeout_s=300, what=f"the end of {name}")
    run = get_run(installation.ctx, name)
    return max(list_checkpoints(installation.ctx, run_id=run.id), key=lambda checkpoint: checkpoint.step or 0).id


def wait_for_answers(installation: Installation, campaign_id: str) -> None:
    def is_written() -> bool:
        campaign = get_campaign(installation.ctx, campaign_id)
        return len(campaign.contestants) == 2 and campaign.completions == 2 * campaign.num_prompts

    wait_until(is_written, timeout_s=240, what="the answers")


def vote_by_http(installation: Installation, campaign_id: str, *, name: str, judge: object) -> int:
    """Vote through the ballot's HTTP interface until the ballot is empty; return the number of votes."""
    link = create_rater_link(installation.ctx, campaign_id, name=name, person=LOCAL)
    headers = {"authorization": f"Bearer {ballot_token(installation.ctx, campaign_id, link.rater)}"}
    cast = 0
    with httpx2.Client(base_url=installation.url, headers=headers, timeout=60) as client:
        while battles := client.get("/ballot/api/next").raise_for_status().json()["battles"]:
            battle = battles[0]
            label = judge(battle["a"], battle["b"])  # type: ignore[operator]
            answer = client.post("/ballot/api/vote", json={"battle": battle["id"], "label": label, "duration_ms": 900})
            if answer.status_code == 429:
                continue
            answer.raise_for_status()
            cast += 1
    return cast


def vote_by_many(installation: Installation, campaign_id: str, *, judge: object) -> None:
    """Let eight raters vote, since a verdict asks for evidence over raters."""
    for name in ("Dan", "Eve", "Fay", "Gil", "Hal", "Ida", "Jon", "Kay"):
        vote_by_http(installation, campaign_id, name=name, judge=judge)


def vote_by_keyboard(
    page: Page, installation: Installation, campaign_id: str, link: RaterLink, judge: object, *, votes: int
) -> None:
    """Vote in a browser that opened the link: 1 for the left answer, 2 for the right one, 3 for a tie."""
    voter = Voter(campaign_id, link.rater)
    page.goto(link.url)
    expect(page.get_by_text(re.compile(r"^0 of \d+( ·|$)"))).to_be_visible()
    page.get_by_role("button", name=re.compile("A is better")).wait_for()
    for done in range(1, votes + 1):
        battle = open_ballot(installation.ctx, voter).battles[0]
        key = {"A": "1", "B": "2", "TIE": "3"}[judge(battle.text_a, battle.text_b)]  # type: ignore[operator]
        page.wait_for_timeout(PAUSE_MS)
        page.keyboard.press(key)
        expect(page.get_by_text(re.compile(rf"^{done} of \d+( ·|$)"))).to_be_visible()
        wait_until(partial(has_voted, installation, voter, done), what=f"vote {done}")


def has_voted(installation: Installation, voter: Voter, votes: int) -> bool:
    return open_ballot(installation.ctx, voter).progress.done >= votes


def test_the_loop_closes(installation: Installation, visitor: Visitor, browser: Browser) -> None:
    ctx = installation.ctx
    config = RunConfig(
        name="Village",
        dataset="pebblewick-stories",
        architecture=TINY,
        tokenizer="pebblewick-bpe-2048",
        max_steps=120,
        micro_batch=8,
        context=64,
        learning_rate=6e-3,
        warmup_steps=10,
        eval_every=120,
        checkpoint_every=60,
        sample_prompts=(),
    )
    launch_run(ctx, config, person=LOCAL)
    parent = finish_run(installation, "Village")
    contestants = [checkpoint.id for checkpoint in list_checkpoints(ctx)]
    assert len(contestants) == 2
    promote(ctx, parent, alias=ALIAS, reason="the first", person=LOCAL)
    deploy(ctx, checkpoint_id=parent, name="village", alias=ALIAS, person=LOCAL)
    campaign = (
        Scenario(ctx)
        .campaign(
            *contestants,
            name="Blind round",
            dataset="pebblewick-chat",
            num_prompts=NUM_PROMPTS,
            write=False,
            max_tokens=32,
            votes_per_minute=600,
            overlap_share=1.0,
        )
        .id
    )
    wait_for_answers(installation, campaign)
    for name, judge in (("Ada", strict), ("Bea", terse)):
        link = create_rater_link(ctx, campaign, name=name, person=LOCAL)
        with visit(browser, installation.url) as person:
            vote_by_keyboard(person.page, installation, campaign, link, judge, votes=BY_BROWSER)
    assert vote_by_http(installation, campaign, name="Cid", judge=terse) > 0
    train_in_the_browser(installation, visitor, campaign, parent)
    rematch = wait_until(lambda: [one for one in list_campaigns(ctx) if one.parent_id == campaign], what="the rematch")[
        0
    ]
    assert rematch.held_out
    run = next(run for run in list_runs(ctx) if run.objective == "dpo")
    new = finish_run(installation, run.name)
    wait_for_answers(installation, rematch.id)
    vote_by_many(installation, rematch.id, judge=strict)
    board = standings(ctx, rematch.id)
    names = {checkpoint: name for name, checkpoint in board.checkpoints.items()}
    (verdict,) = board.verdicts
    assert (verdict.outcome, verdict.first) == ("better", names[new]), verdict.sentence
    promote_in_the_browser(visitor, rematch.id, names[new])
    wait_until(lambda: get_alias(ctx, ALIAS).checkpoint_id == new, what="the promotion")
    verdict = get_alias(ctx, ALIAS).history[0].evidence.verdict
    assert verdict is not None
    assert verdict.outcome == "better"
    wait_until(lambda: is_served(installation, new), what="the new checkpoint's replica")
    client = openai.OpenAI(base_url=installation.gateway_url, api_key="local")
    assert ALIAS in [model.id for model in client.models.list()]
    for model in ("village", ALIAS):
        answer = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=8
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
    show_the_lineage(installation, visitor, campaign, rematch.id)
    assert visitor.findings == []


def train_in_the_browser(installation: Installation, visitor: Visitor, campaign: str, parent: str) -> None:
    """Edit the suggested recipe and press “Train on these votes”."""
    visitor.go(f"/battles?campaign={campaign}&tab=Train")
    visitor.sees("Train on the votes")
    page = visitor.page
    page.get_by_text("Recipe", exact=True).first.click()
    visitor.fills("Learning rate", "0.001")
    visitor.fills("Steps", "40")
    visitor.settle()
    wait_until(lambda: choose_method(page, "Full fine-tuning"), what="the method", every_s=0.5)
    visitor.settle()
    visitor.clicks("Train on these votes")
    visitor.sees("starts when its run has finished")


def choose_method(page: Page, method: str) -> bool:
    """Choose a method by keyboard; False if the list closed again, as it does where the page moves under it."""
    box = page.get_by_role("combobox", name=re.compile("Method")).first
    box.focus()
    page.keyboard.press("ArrowDown")
    try:
        page.get_by_role("option", name=method).click(timeout=3000)
    except PlaywrightTimeout:
        page.keyboard.press("Escape")
        return False
    return True


def promote_in_the_browser(visitor: Visitor, rematch: str, winner: str) -> None:
    """Go from the campaign's page to the promotion of the rematch's winner, and promote it."""
    visitor.go(f"/battles?campaign={rematch}&tab=Train")
    visitor.sees("Promotion")
    visitor.clicks(f"Promote {winner}")
    visitor.sees(f"Promote {winner}")
    visitor.fills("Reason", "Says less that is untrue")
    visitor.clicks("Promote")
    visitor.sees(f"{winner} holds storyteller")


def is_served(installation: Installation, checkpoint_id: str) -> bool:
    endpoint = get_endpoint(installation.ctx, "village")
    return endpoint.checkpoint_id == checkpoint_id and endpoint.num_ready > 0


def show_the_lineage(installation: Installation, visitor: Visitor, campaign: str, rematch: str) -> None:
    """The endpoint's lineage leads through alias, decision, votes, runs and data; the page shows it."""
    lineage = lineage_of(installation.ctx, "village")
    kinds = {node.kind for node in lineage.nodes}
    assert kinds >= {"endpoint", "alias", "promotion", "campaign", "checkpoint", "run", "dataset", "tokenizer"}
    assert {f"campaign:{campaign}", f"campaign:{rematch}"} <= {node.id for node in lineage.nodes}
    visitor.go("/lineage?endpoint=village")
    for text in (ALIAS, "promote", "Blind round", "Rematch of Blind round"):
        visitor.sees(re.compile(re.escape(text)))
