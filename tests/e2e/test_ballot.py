"""The ballot in a real browser: keys vote, no vote is lost or doubled, nothing tells who wrote what, a link opens the
ballot alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from sqlalchemy import select

from backend.db.tables import AnswerRating, Completion, Contestant, Vote
from backend.services.battles.campaigns import close_campaign
from backend.services.battles.raters import create_rater_link, revoke_rater_link
from backend.services.battles.views import CampaignView
from backend.services.context import LOCAL, Context
from tests.support.browser import patient_context, renew
from tests.support.installation import wait_until
from tests.support.page_server import Pages
from tests.support.scenario import Scenario

HOSTILE = (
    '<img src="http://evil.example/a.png" onerror="document.title=1"> ![x](http://evil.example/b.png)'
    " [link](http://evil.example/c) [script](javascript:document.title=1) <script>document.title=1</script>\n\n| a | b"
    " |\n|:-:|--:|\n| $x^2$ | `c` |\n\n```html\n<iframe"
    ' src="http://evil.example/d"></iframe>\n```\n\n$$\\href{http://evil.example/e}{x}'
    " \\includegraphics{http://evil.example/f}$$\n\n"
)
LONG = "\n\n".join(f"Paragraph {n} goes on for a while, as paragraphs do." for n in range(80))
PAUSE_MS = 400  # a vote sooner than 0.3 s after the answers appeared does not count
DRAWN = frozenset(
    "DIV P H3 H4 H5 H6 UL OL LI BLOCKQUOTE HR BR EM STRONG S CODE PRE TABLE THEAD TBODY TR TH TD SPAN MARK".split()  # noqa: SIM905
)
ATTRIBUTES = frozenset({"class", "tabindex", "role", "aria-label", "style", "start", "data-raw", "data-block"})
OUTSIDE = """() => [...document.querySelectorAll('.bt-text *')].filter(node => node.namespaceURI.endsWith('xhtml')).flatMap(
  node => [node.tagName, ...[...node.attributes].map(attribute => attribute.name)])"""  # noqa: E501
TWICE = "for (const _ of [1, 2]) document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '2', bubbles: true}))"


@pytest.fixture
def campaign(scenario: Scenario) -> CampaignView:
    return scenario.campaign(
        "Quercus-large",
        "Ulmus-mini",
        num_prompts=6,
        write=lambda name, prompt: f"{HOSTILE} {len(name)} leaves for {prompt}",
        votes_per_minute=600,
        reasons=("Clearer", "Kinder"),
    )


@pytest.fixture
def ctx(emptied: Pages) -> Context:
    """An installation of this test alone; its server had others before."""
    return emptied.ctx


@pytest.fixture
def address(emptied: Pages) -> str:
    """Where its pages are."""
    return emptied.url


@pytest.fixture(scope="module")
def only_tab(browser: Browser) -> Iterator[Page]:
    context = patient_context(browser, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.on("dialog", lambda dialog: dialog.accept())  # who leaves before a vote has been saved is asked
    yield page
    context.close()


@pytest.fixture
def page(only_tab: Page) -> Iterator[Page]:
    yield only_tab
    renew(only_tab)


def labels(ctx: Context) -> list[str]:
    with ctx.db.read() as session:
        return list(session.scalars(select(Vote.label).order_by(Vote.created_at)))


def wait_for_votes(ctx: Context, *expected: str) -> None:
    """Votes travel behind the page, so they arrive a little later."""
    wait_until(lambda: len(labels(ctx)) >= len(expected), what=f"{len(expected)} votes")
    assert labels(ctx) == list(expected)


def open_ballot(page: Page, url: str, *, done: int = 0, total: int = 6) -> None:
    page.goto(url)
    expect(page.get_by_text(re.compile(rf"^{done} of {total}( ·|$)"))).to_be_visible()
    expect(page.get_by_role("button", name="A is better")).to_be_visible()


def press(page: Page, key: str, *, then: str) -> None:
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press(key)
    expect(page.get_by_text(re.compile(rf"^{then}( ·|$)"))).to_be_visible()


def test_an_answer_of_invisible_characters_is_called_empty(scenario: Scenario, address: str, page: Page) -> None:
    """It was a blank box, while an answer without any said so."""
    made = scenario.campaign(num_prompts=1, write=lambda name, _: "\u200b\u2060\n" if name == "Oak" else "A leaf.")
    open_ballot(page, f"{address}/ballot?campaign={made.id}", total=1)
    expect(page.get_by_text("(empty)")).to_be_visible()


def test_keys_vote_and_undo_and_enter_does_not(ctx: Context, campaign: CampaignView, address: str, page: Page) -> None:
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    press(page, "1", then="1 of 6")
    press(page, "2", then="2 of 6")
    press(page, "3", then="3 of 6")
    wait_for_votes(ctx, "A", "B", "TIE")  # a vote that is undone before it was sent leaves no trace
    press(page, "u", then="2 of 6")
    press(page, "4", then="3 of 6")
    wait_for_votes(ctx, "A", "B", "TIE", "UNDONE", "BOTH_BAD")
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("Enter")
    page.get_by_role("button", name="A is better").click()
    expect(page.get_by_text(re.compile("^4 of 6"))).to_be_visible()
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("Enter")  # the button that was clicked has the focus
    press(page, "s", then="5 of 6")
    wait_for_votes(ctx, "A", "B", "TIE", "UNDONE", "BOTH_BAD", "A", "SKIPPED")
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("1")
    expect(page.get_by_text(re.compile("^6 of 6 · 1 skipped"))).to_be_visible()
    end = "That was the last one: 5 battles done, 1 skipped. Thank you."
    expect(page.get_by_text(end, exact=True)).to_be_visible()
    press(page, "u", then="5 of 6")
    expect(page.get_by_role("heading", name="Answer A")).to_be_visible()
    assert labels(ctx)[-2:] == ["A", "UNDONE"]
    page.get_by_role("link", name="Leave").click()
    expect(page.get_by_role("heading", name="Stories")).to_be_visible()


def test_a_key_that_is_held_down_votes_once(ctx: Context, campaign: CampaignView, address: str, page: Page) -> None:
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    page.wait_for_timeout(PAUSE_MS)
    for _ in range(6):
        page.keyboard.down("1")  # repeats, as a held key does
        page.wait_for_timeout(100)
    page.keyboard.up("1")
    page.evaluate(TWICE)  # the second one too soon after the next battle has appeared
    wait_for_votes(ctx, "A", "B")
    page.wait_for_timeout(PAUSE_MS)
    assert labels(ctx) == ["A", "B"]


def test_hostile_answers_are_drawn_by_known_elements_and_load_nothing(
    ctx: Context, campaign: CampaignView, address: str, page: Page
) -> None:
    foreign: list[str] = []
    page.on(
        "request",
        lambda request: (
            foreign.append(request.url) if not request.url.startswith((address, "ws://127", "data:", "blob:")) else None
        ),
    )
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    expect(page.locator(".bt-pane .bt-math math")).to_have_count(4)
    for _ in ("drawn", "raw", "differences"):
        parts = set(page.evaluate(OUTSIDE))
        assert {part for part in parts if part.isupper() or part[0] == "H"} <= DRAWN
        assert {part for part in parts if part.islower() and part not in ATTRIBUTES} == set()
        assert page.get_by_text("http://evil.example/b.png").count() >= 2
        page.keyboard.press("r")
    page.keyboard.press("d")
    assert set(page.evaluate(OUTSIDE)) - ATTRIBUTES <= DRAWN
    page.wait_for_timeout(500)
    assert foreign == []
    assert page.title() != "1"
    assert page.locator("a[href*='evil'], img[src*='evil'], iframe").count() == 0


def test_the_ballot_does_not_reveal_the_contestants(
    ctx: Context, campaign: CampaignView, address: str, page: Page
) -> None:
    answers: list[str] = []
    page = page.context.new_page()
    page.on("response", lambda response: answers.append(response.text()) if "/ballot/api/" in response.url else None)
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    press(page, "3", then="1 of 6")
    wait_for_votes(ctx, "TIE")
    wait_until(lambda: page.wait_for_timeout(200) is None and len(answers) >= 2, what="the server's answers")
    with ctx.db.read() as session:
        ids = [row.id for row in session.scalars(select(Contestant))] + [
            row.id for row in session.scalars(select(Completion))
        ]
    for shown in [page.content(), *answers]:
        for secret in (
            "Quercus-large",
            "Ulmus-mini",
            *(c.checkpoint_id for c in campaign.contestants if c.checkpoint_id),
            *ids,
        ):
            assert secret not in shown
    page.close()


def test_typing_a_note_does_not_vote_and_the_note_goes_with_the_vote(
    ctx: Context, campaign: CampaignView, address: str, page: Page
) -> None:
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("n")
    page.keyboard.type("1 is 2 short, s is u")
    page.keyboard.press("Escape")
    assert labels(ctx) == []
    press(page, "2", then="1 of 6")
    wait_for_votes(ctx, "B")
    page.get_by_role("button", name="Kinder").click()
    wait_for_votes(ctx, "B", "B")
    with ctx.db.read() as session:
        votes = session.scalars(select(Vote).order_by(Vote.revision)).all()
        assert [(vote.note, vote.reasons, vote.battle_id) for vote in votes] == [
            ("1 is 2 short, s is u", [], votes[0].battle_id),
            ("1 is 2 short, s is u", ["Kinder"], votes[0].battle_id),
        ]
    expect(page.get_by_text(re.compile("^1 of 6"))).to_be_visible()


def test_what_was_filled_in_before_the_vote_is_marked_and_outlives_a_reload(
    ctx: Context, address: str, page: Page
) -> None:
    campaign = Scenario(ctx).campaign(
        num_prompts=3, votes_per_minute=600, dimensions=[{"name": "accuracy", "question": "Which is right?"}]
    )
    url = f"{address}/ballot?campaign={campaign.id}"
    open_ballot(page, url, total=3)
    note, flag = (page.get_by_role("button", name=name, exact=False).first for name in ("Note", "Flag"))
    expect(note).not_to_have_attribute("data-filled", "yes")
    page.get_by_role("group", name="Which is right?").get_by_role("button", name="Same").click()
    page.keyboard.press("n")
    page.keyboard.type("The ending is missing")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    page.get_by_role("button", name="Answer is cut off").click()
    page.keyboard.press("Escape")
    open_ballot(page, url, total=3)
    for tool in (note, flag):
        expect(tool).to_have_attribute("data-filled", "yes")
    press(page, "1", then="1 of 3")
    wait_for_votes(ctx, "A")
    with ctx.db.read() as session:
        (vote,) = session.scalars(select(Vote))
        expected = ("The ending is missing", "Answer is cut off", {"accuracy": "TIE"})
        assert (vote.note, vote.flag, vote.dimensions) == expected
    open_ballot(page, url, done=1, total=3)
    for tool in (note, flag):
        expect(tool).not_to_have_attribute("data-filled", "yes")
    press(page, "1", then="2 of 3")
    wait_for_votes(ctx, "A", "A")
    with ctx.db.read() as session:
        assert session.scalars(select(Vote.note).order_by(Vote.created_at)).all()[1] in ("", None)


def test_votes_cast_while_offline_arrive_once_and_in_order(
    ctx: Context, campaign: CampaignView, address: str, page: Page
) -> None:
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    page.context.set_offline(True)
    press(page, "1", then="1 of 6")
    expect(page.get_by_text("1 vote not saved yet")).to_be_visible()
    press(page, "2", then="2 of 6")
    expect(page.get_by_text("2 votes not saved yet")).to_be_visible()
    assert labels(ctx) == []
    page.context.set_offline(False)
    wait_for_votes(ctx, "A", "B")
    expect(page.get_by_text("not saved yet")).to_have_count(0)
    expect(page.get_by_role("heading", name="Answer A")).to_be_visible()
    press(page, "4", then="3 of 6")
    wait_for_votes(ctx, "A", "B", "BOTH_BAD")


def test_a_vote_whose_answer_is_lost_is_sent_again_and_stored_once(
    ctx: Context, campaign: CampaignView, address: str, page: Page
) -> None:
    sent: list[str] = []

    def lose_first(route: Route) -> None:
        sent.append(route.request.post_data or "")
        if len(sent) == 1:
            route.fetch()
            route.abort()
        else:
            route.continue_()

    page.route("**/ballot/api/vote", lose_first)
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    press(page, "1", then="1 of 6")
    wait_until(lambda: page.wait_for_timeout(200) is None and len(sent) >= 2, what="the second try")
    expect(page.get_by_text("not saved yet")).to_have_count(0)
    assert labels(ctx) == ["A"]


def test_a_vote_that_never_left_is_sent_at_the_next_visit(
    ctx: Context, campaign: CampaignView, address: str, page: Page
) -> None:
    page.route("**/ballot/api/vote", lambda route: route.abort())
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    press(page, "2", then="1 of 6")
    expect(page.get_by_text("1 vote not saved yet")).to_be_visible()
    page.unroute("**/ballot/api/vote")
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}", done=1)
    wait_for_votes(ctx, "B")


def test_two_tabs_of_a_rater_do_not_vote_twice(ctx: Context, campaign: CampaignView, address: str, page: Page) -> None:
    url = f"{address}/ballot?campaign={campaign.id}"
    open_ballot(page, url)
    second = page.context.new_page()
    open_ballot(second, url)
    press(page, "1", then="1 of 6")
    expect(second.get_by_text("You voted on that battle in another tab.")).to_be_visible()
    wait_for_votes(ctx, "A")
    press(second, "2", then="2 of 6")
    expect(page.get_by_text("You voted on that battle in another tab.")).to_be_visible()
    press(page, "3", then="3 of 6")
    wait_for_votes(ctx, "A", "B", "TIE")
    with ctx.db.read() as session:
        assert len(set(session.scalars(select(Vote.battle_id)))) == 3
    second.close()


def test_a_link_opens_the_ballot_alone_until_it_is_revoked(
    ctx: Context, campaign: CampaignView, address: str, page: Page
) -> None:
    link = create_rater_link(ctx, campaign.id, name="guest", person=LOCAL)
    query = link.url.split("/ballot")[1]
    open_ballot(page, f"{address}/ballot{query}")
    for name in ("Overview", "Battles", "Runs", "Playground", "Leave", "Quercus-large", campaign.name):
        assert (
            page.get_by_text(name, exact=True).count() == 0 or not page.get_by_text(name, exact=True).first.is_visible()
        )
    page.evaluate("document.documentElement.style.setProperty('--rr-health', '40px')")
    box = page.locator(".bt").bounding_box()
    assert box is not None
    viewport = page.viewport_size
    assert viewport is not None
    assert (box["y"], box["height"]) == (0, viewport["height"] - 40), "the health line hides nothing of the ballot"
    press(page, "2", then="1 of 6")
    wait_for_votes(ctx, "B")
    open_ballot(page, f"{address}/ballot{query}", done=1)
    with ctx.db.read() as session:
        assert [vote.rater_id for vote in session.scalars(select(Vote))] == [link.rater.id]
    revoke_rater_link(ctx, link.rater.id, person=LOCAL)
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("1")
    expect(page.get_by_text("not valid any more").first).to_be_visible()
    page.goto(f"{address}/ballot?link=forged")
    expect(page.get_by_text("This ballot link is not valid any more.")).to_be_visible()
    assert page.get_by_role("button", name="A is better").count() == 0
    assert labels(ctx) == ["B"]


def test_a_single_use_link_works_in_its_first_browser_alone(
    ctx: Context, campaign: CampaignView, address: str, browser: Browser, page: Page
) -> None:
    link = create_rater_link(ctx, campaign.id, name="guest", single_use=True, person=LOCAL).url
    opening = address + "/ballot/open?link=" + link.split("link=")[1]
    page.goto(opening)
    expect(page.get_by_text("0 of 6", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_text("0 of 6", exact=True)).to_be_visible()
    stranger = patient_context(browser).new_page()
    stranger.goto(opening)
    expect(stranger.get_by_text("This link was opened in another browser already.")).to_be_visible()
    stranger.context.close()


def test_a_closed_campaign_says_so(ctx: Context, campaign: CampaignView, address: str, page: Page) -> None:
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}")
    close_campaign(ctx, campaign.id, person=LOCAL)
    page.wait_for_timeout(PAUSE_MS)
    page.keyboard.press("1")
    expect(page.get_by_text("This campaign is closed.", exact=True)).to_be_visible()
    expect(page.get_by_text("A vote was not saved")).to_be_visible()


def test_answers_scroll_together_and_are_spoken_of_by_name(ctx: Context, address: str, page: Page) -> None:
    campaign = Scenario(ctx).campaign(
        num_prompts=2, write=lambda name, prompt: f"{prompt} {LONG}" if name == "Oak" else f"{LONG} {LONG} {prompt}"
    )
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}", total=2)
    tops = (
        "() => [...document.querySelectorAll('.bt-body')].map(body => body.scrollTop / (body.scrollHeight -"
        " body.clientHeight))"
    )
    for key in ("j", "ArrowDown", "PageDown"):
        page.keyboard.press(key)
    page.wait_for_function(f"() => {{ const [a, b] = ({tops})(); return a > 0.1 && Math.abs(a - b) < 0.01 }}")
    page.locator(".bt-body").first.evaluate("body => { body.scrollTop = body.scrollHeight }")
    page.wait_for_function(f"() => ({tops})().every(top => Math.abs(top - 1) < 0.01)")
    assert page.get_by_role("button", name="A is better").get_attribute("aria-keyshortcuts") == "1"
    expect(page.get_by_role("region", name="Answer B")).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Battle 1 of 2")).to_have_count(1)
    press(page, "1", then="1 of 2")
    expect(page.get_by_role("status").filter(has_text="Battle 2 of 2")).to_have_count(1)
    page.wait_for_function(f"() => ({tops})().every(top => top === 0)")


def test_rubric_rewrite_and_flag_go_with_the_vote_and_streak_and_break_are_noticed_once(
    ctx: Context, address: str, page: Page
) -> None:
    campaign = Scenario(ctx).campaign(
        num_prompts=15,
        votes_per_minute=600,
        break_after_min=4,
        rewrite=True,
        dimensions=[{"name": "accuracy", "question": "Which is right?"}],
    )
    page.add_init_script("window.later = 0; const now = Date.now; Date.now = () => now() + window.later")
    open_ballot(page, f"{address}/ballot?campaign={campaign.id}", total=15)
    page.get_by_role("group", name="Which is right?").get_by_role("button", name="Same").click()
    page.get_by_role("button", name="Rewrite").click()
    page.get_by_role("button", name="Start from A").click()
    page.keyboard.press("End")
    page.keyboard.type(" 1 more word.")
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    page.get_by_role("button", name="Answer is cut off").click()
    press(page, "1", then="1 of 15")
    wait_for_votes(ctx, "A")
    with ctx.db.read() as session:
        (vote,) = session.scalars(select(Vote))
        assert (vote.dimensions, vote.flag) == ({"accuracy": "TIE"}, "Answer is cut off")
        assert (vote.rewrite or "").endswith(" 1 more word.")
    expect(page.get_by_role("group", name="Which is right?").get_by_role("button", pressed=True)).to_have_count(0)
    streak, rest = page.get_by_text("A was chosen 12 times in a row."), page.get_by_text("You have been judging for")
    for number in range(2, 13):
        expect(streak).to_have_count(0)
        press(page, "1", then=f"{number} of 15")
    expect(streak).to_be_visible()
    expect(rest).to_have_count(0)
    for notice in page.get_by_role("button", name="Close").all():
        notice.click()
    page.evaluate("window.later = 4 * 60_000")
    press(page, "1", then="13 of 15")
    expect(rest).to_be_visible()
    expect(streak).to_have_count(0)
    page.get_by_role("button", name="Close").click()
    press(page, "1", then="14 of 15")
    expect(rest).to_have_count(0)


def test_instructions_are_read_before_the_first_vote_and_again(
    ctx: Context, scenario: Scenario, address: str, page: Page
) -> None:
    words = "Prefer the answer that ends.\n<b>Facts</b> count more than style."
    campaign = scenario.campaign(num_prompts=3, instructions=words)
    page.goto(f"{address}/ballot?campaign={campaign.id}")
    dialog = page.get_by_role("dialog", name="Instructions")
    expect(dialog.locator("p")).to_have_text(words)
    page.keyboard.press("1")
    expect(page.get_by_text(re.compile("^0 of"))).to_be_visible()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    press(page, "1", then="1 of 3")
    page.keyboard.press("i")
    expect(dialog.locator("p")).to_have_text(words)
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    wait_for_votes(ctx, "A")
    page.reload()
    expect(page.get_by_role("button", name="A is better")).to_be_visible()
    expect(dialog).to_be_hidden()
    page.goto(f"{address}/ballot?all=1")
    expect(page.get_by_text("Prefer the answer that ends.")).to_be_visible()


@pytest.mark.parametrize(
    ("rating", "button", "key", "value"),
    [("stars", "4 of 5 stars", "4", 4), ("thumbs", "Good", "1", 5)],
    ids=["stars", "thumbs"],
)
def test_single_answers_are_rated(
    ctx: Context, address: str, page: Page, rating: str, button: str, key: str, value: int
) -> None:
    campaign = Scenario(ctx).campaign(num_prompts=2, rating=rating)
    page.goto(f"{address}/ballot?campaign={campaign.id}")
    expect(page.get_by_role("button", name=button)).to_be_visible()
    assert page.get_by_role("heading", name="Answer B").count() == 0
    press(page, "s", then="1 of 4")
    press(page, key, then="2 of 4")

    def values() -> list[int]:
        with ctx.db.read() as session:
            return list(session.scalars(select(AnswerRating.value)))

    wait_until(lambda: bool(values()), what="the rating")
    assert values() == [value]
