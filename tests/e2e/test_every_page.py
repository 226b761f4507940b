"""Every page of a filled installation in a browser: on a phone, on a narrow window, in both themes, without a raw value
anywhere, and at rest while it loads.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect
from sqlalchemy import select

from backend.bootstrap import build_context
from backend.db.tables import Dataset
from backend.domain.jobs.states import Status
from backend.services.context import Context
from pages.components.routes import address, listed_pages
from tests.support import run_world
from tests.support.browser import open_tab, settle
from tests.support.filled_installation import Filled, fill
from tests.support.installation import PROJECT, make_home
from tests.support.page_server import page_server
from tests.support.scenario import Scenario
from tests.support.settings import make_settings

pytestmark = pytest.mark.timeout(900)

TIME_ZONE = "America/New_York"
PARTS = 2
WIDE = ViewportSize(width=1440, height=900)

DRAWN_TWICE = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"

OVERFLOW = "Math.max(document.documentElement.scrollWidth, document.querySelector('.stMain').scrollWidth) - innerWidth"

UNREACHABLE = """() => [...document.querySelectorAll('.stMain button, .stMain a[href]')].filter(button => {
  const box = button.getBoundingClientRect();
  const scrolls = button.closest('[role=tablist], .stDataFrame, .stCode, .js-plotly-plot, .rr-live, .pg-columns, [class*=st-key-cards]');
  return box.width > 0 && !scrolls && (box.left < -1 || box.right > innerWidth + 1);
}).map(button => button.innerText.slice(0, 60))"""  # noqa: E501

BROKEN_WORDS = """() => {
  const walker = document.createTreeWalker(document.querySelector('.stMain'), NodeFilter.SHOW_TEXT), broken = [];
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!parent.checkVisibility() || parent.closest('pre, code, svg, textarea, [data-testid=stIconMaterial], .stDataFrame')) continue;
    for (const match of node.textContent.matchAll(/[\\p{L}\\p{N}]{2,}/gu)) {
      const range = document.createRange();
      range.setStart(node, match.index);
      range.setEnd(node, match.index + match[0].length);
      if (new Set([...range.getClientRects()].filter(r => r.width > 0).map(r => Math.round(r.top / 4))).size > 1) broken.push(match[0]);
    }
  }
  return broken;
}"""  # noqa: E501

SHIFTS = """window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push(entry);
}).observe({type: 'layout-shift', buffered: true});"""
"""Script that adds up how far a page's parts move by themselves, as <https://web.dev/articles/cls> measures it."""

MOVED = """() => ({
  sum: window.shifts.reduce((sum, entry) => sum + entry.value, 0),
  sources: window.shifts.flatMap(entry => entry.sources.map(
    ({node, previousRect: a, currentRect: b}) => `${node?.nodeName} ${(node?.textContent ?? '').slice(0, 40)}: ${a.x},${a.y} to ${b.x},${b.y}`
  )),
})"""  # noqa: E501

MOST_MOVED = 0.1
"""What web.dev calls good."""

AXE = PROJECT / ".venv/node/node_modules/axe-core/axe.min.js"

AUDIT = """async (only) => {
  const isMinor = ({impact}) => ['minor', 'moderate'].includes(impact);  // a rule's own, which its findings have
  const rules = Object.fromEntries(axe._audit.rules.filter(isMinor).map(({id}) => [id, {enabled: false}]));
  const {violations} = await axe.run(document, {resultTypes: ['violations'], preload: false, ...(only ? {runOnly: only} : {rules})});
  return violations.filter((violation) => !isMinor(violation)).flatMap(({id, nodes}) => nodes.map(
    ({html, any, all, none}) => `${id}: ${html.slice(0, 120)} ${([...any, ...all, ...none][0] ?? {message: ''}).message.slice(0, 120)}`));
}"""  # noqa: E501

SPOKEN = """() => [...document.querySelectorAll('[aria-label], [alt], [title]')].flatMap(
  element => ['aria-label', 'alt', 'title'].map(name => element.getAttribute(name) || ''))"""

RAW = {
    "a fault": re.compile(r"went wrong on our side|has encountered an error"),
    "a time stamp": re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d"),
    "None": re.compile(r"(?<![\w-])None(?![\w-])"),
    "NaN": re.compile(r"(?<!became )(?<!\w)(nan|NaN)(?!\w)(?! or infinite)"),
    "an escape": re.compile(r"\\[_*.()\[\]#+!|~$-]"),
    "a directive": re.compile(r":(red|green|blue|orange|gray|violet|material)[\[/]"),
}

WHERE_NONE_IS_A_CHOICE = {"launch", "Launch", "launch a sweep", "playground", "conversation", "settings compared"}
"""Pages with a list in which None is an entry."""


@dataclass(frozen=True)
class Pages:
    """Pages over an installation with one of everything."""

    url: str
    filled: Filled
    ctx: Context


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[Pages]:
    """Pages over an installation with one of everything."""
    home = tmp_path_factory.mktemp("filled")
    (home / "models.db").write_bytes(migrated_database.read_bytes())
    context = build_context(make_settings(home), migrate=False)
    filled = fill(context)
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1") as server:
        yield Pages(server.url, filled, context)
    context.db.engine.dispose(close=False)


@pytest.fixture(scope="module")
def empty_installation(tmp_path_factory: pytest.TempPathFactory, migrated_database: Path) -> Iterator[str]:
    """Pages over an installation that nobody has used yet."""
    home = make_home(tmp_path_factory.mktemp("empty") / "home", migrated_database)
    with page_server(home, ROUNDHOUSE_HOST="127.0.0.1") as server:
        yield server.url


@pytest.fixture(scope="module")
def only_tab(browser: Browser) -> Iterator[Page]:
    """A tab far away from the server, which notes how its pages move."""
    page = open_tab(browser, time_zone=TIME_ZONE)
    page.context.add_init_script(SHIFTS)
    if AXE.exists():
        page.context.add_init_script(path=AXE)  # compiled once, where a page that is told to would compile it again
    yield page
    page.context.close()


def resize(tab: Page, width: int) -> None:
    """Make the window as wide as another, and wait until what follows its size does."""
    tab.set_viewport_size({"width": width, "height": 900})
    tab.evaluate(DRAWN_TWICE)
    settle(tab)


def raw_values(tab: Page, name: str) -> dict[str, object]:
    """Return what a page shows or reads out that is not a word of ours."""
    shown = "\n".join([tab.inner_text(".stMain"), *tab.evaluate(SPOKEN)])
    patterns = {what: pattern for what, pattern in RAW.items() if what != "None" or name not in WHERE_NONE_IS_A_CHOICE}
    hits = {what: match for what, pattern in patterns.items() if (match := pattern.search(shown))}
    return {what: shown[max(0, match.start() - 60) : match.end() + 60] for what, match in hits.items()}


def misfits(tab: Page) -> dict[str, object]:
    """Return what does not fit into the window, two minutes after a resize: charts follow the window's size with a
    delay.
    """
    deadline = time.monotonic() + 120
    while (faults := misfits_now(tab)) and time.monotonic() < deadline:
        tab.wait_for_timeout(100)
    return faults


def misfits_now(tab: Page) -> dict[str, object]:
    """Return what does not fit into the window at this moment."""
    overflow = tab.evaluate(OVERFLOW)
    faults = {
        "overflow": max(0, overflow),
        "unreachable": tab.evaluate(UNREACHABLE),
        "broken": tab.evaluate(BROKEN_WORDS),
    }
    return {what: value for what, value in faults.items() if value}


STILL = "* { transition-duration: 0s !important; animation-duration: 0s !important }"
"""Style of a page whose colours do not fade from one theme to the other."""

THEMES = {"light": None, "dark": ["color-contrast"]}
"""The rules of axe that a theme is looked at by; None are all of them."""


def audit(tab: Page) -> dict[str, object]:
    """Return what axe finds serious or critical in the light theme, and what has little contrast in the dark one.

    The theme that the page came in is looked at first, and the other one stays, for the next page to come in: a change
    of it costs as much as a look.
    """
    came_dark = tab.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    faults = {"dark": audit_in(tab, "dark")} if came_dark else {}
    faults["light"] = audit_in(tab, "light")
    if not came_dark:
        faults["dark"] = audit_in(tab, "dark")
    return {theme: violations for theme, violations in faults.items() if violations}


def audit_in(tab: Page, theme: Literal["light", "dark"]) -> object:
    """Return what axe finds in a theme."""
    tab.emulate_media(color_scheme=theme)
    tab.wait_for_function(
        "theme => getComputedStyle(document.querySelector('.stApp')).colorScheme === theme", arg=theme
    )
    return audit_now(tab, THEMES[theme])


def audit_now(tab: Page, rules: list[str] | None) -> object:
    """Return what axe finds, the third time at the latest: a page that updates itself fades what it is about to
    replace.
    """
    for _ in range(3):
        settle(tab)
        if not (found := tab.evaluate(AUDIT, rules)):
            break
        tab.wait_for_timeout(1000)
    return found


OPENERS = "[data-testid=stPopover] button, button:has-text('Dataset from traffic')"
PALETTE = ".rp-open"
"""What opens a popover, a menu or a dialog."""


def opened_faults(tab: Page, openers: str) -> tuple[int, dict[str, object]]:
    """Open each popover, menu and dialog of a page in turn; return how many there were, and what axe finds serious in
    the light theme and of little contrast in the dark one while they are open.
    """
    tab.add_style_tag(content=STILL)
    number, faults = 0, dict[str, object]()
    for place in range(tab.locator(openers).count()):
        opener = tab.locator(openers).nth(place)
        if not opener.is_visible() or not opener.is_enabled():
            continue
        label = opener.inner_text().strip() or opener.get_attribute("aria-label") or f"button {place}"
        opener.click()
        opened = tab.locator("[data-testid=stPopoverBody], [role=dialog], dialog[open]").filter(visible=True)
        expect(opened.first).to_be_visible()
        number += 1
        faults |= {f"{label} in the {theme} theme": value for theme, value in audit(tab).items()}
        tab.keyboard.press("Escape")
        expect(opened).to_have_count(0)
        settle(tab)
    return number, faults


AUDITED_POPOVERS = ("overview", "conversation")
"""Pages whose popovers, menus and dialogs have been mended; each other page is to join them."""


def test_popovers_menus_and_dialogs_are_closed_to_nobody(tab: Page, installation: Pages) -> None:
    if not AXE.exists():
        pytest.skip("axe-core is not installed (npm), so the accessibility of popovers was not tested")
    faults: dict[str, object] = {}
    opened = 0
    for name in AUDITED_POPOVERS:
        tab.goto(installation.url + installation.filled.addresses[name])
        settle(tab)
        number, found = opened_faults(tab, PALETTE if name == "overview" else OPENERS)
        opened += number
        faults |= {f"{name}: {what}": value for what, value in found.items()}
    assert faults == {}
    assert opened > 2


def test_the_navigation_leads_from_an_object_to_its_list(tab: Page, installation: Pages) -> None:
    """An entry did nothing on the pages of its own objects."""
    for name, label in (("dataset", "Datasets"), ("endpoint", "Endpoints")):
        tab.goto(installation.url + installation.filled.addresses[name])
        title = partial(tab.get_by_role, "heading", level=1, exact=True)
        title(name="tales").wait_for()
        tab.locator(".rp-open").wait_for()
        tab.locator("[data-testid=stSidebarNavLink]", has_text=label).click()
        title(name=label).wait_for()
        expect(title(name="tales")).to_have_count(0)
        assert tab.url == f"{installation.url}/{label.lower()}"
        tab.go_back()
        title(name="tales").wait_for()
        expect(title(name=label)).to_have_count(0)


BARS_LEFT_AND_FOUND_AGAIN = 2
"""Of a part; the browser goes back to an address, as it was just loaded again."""


def walk_bars(tab: Page, url: str, *, done: int) -> tuple[int, list[str]]:
    """Choose another tab of each bar of the open page, load it again, and leave it and come back; return how many bars
    there were, and the tabs that are not in the address.
    """
    lost = list[str]()
    bars = tab.locator(".stMain [role=tablist]:visible")
    count = bars.count()
    for place in range(count):
        bar = bars.nth(place)
        before, label = tab.url, bar.get_by_role("tab", selected=False).first.inner_text()
        bar.get_by_role("tab", name=label, exact=True).click()
        settle(tab)
        if tab.url == before:
            lost.append(label)
            continue
        tab.reload()
        settle(tab)
        expect(bar.get_by_role("tab", selected=True)).to_have_text(label)
        if done + place < BARS_LEFT_AND_FOUND_AGAIN:
            tab.goto(url + "/people")
            settle(tab)
            tab.go_back()
            settle(tab)
            expect(bar.get_by_role("tab", selected=True)).to_have_text(label)
    return count, lost


def test_the_line_that_names_an_outage_moves_nothing_when_it_comes(tab: Page, installation: Pages) -> None:
    tab.goto(installation.url + "/people")
    settle(tab)
    tab.evaluate("window.shifts = []")
    line = tab.locator(".rr-health")
    line.wait_for()
    tab.evaluate(DRAWN_TWICE)
    assert tab.evaluate(MOVED) == {"sum": 0, "sources": []}
    box, app = line.bounding_box(), tab.locator(".stMain").bounding_box()
    assert box is not None
    assert app is not None
    assert app["y"] + app["height"] <= box["y"] + 1, "the line hides nothing of the page"


def watch_refusals(tab: Page, url: str) -> list[str]:
    """Open an installation so that the tab knows of its outage; return what is refused or an error of the console in it
    from then on.
    """
    refused: list[str] = []
    tab.on("response", lambda answer: refused.append(f"{answer.status} {answer.url}") if answer.status >= 400 else None)
    tab.on("console", lambda message: refused.append(message.text) if message.type == "error" else None)
    tab.goto(url)
    tab.locator(".rr-health").wait_for()  # what fails here, the broker, is told on every page: it comes in once
    return refused


def faults_of(tab: Page, url: str, name: str, *, widths: tuple[int, ...]) -> dict[str, object]:
    """Open a page and return what is wrong with it: it moves, is closed to some, shows raw values, or does not fit."""
    tab.goto(url)
    settle(tab)
    faults: dict[str, object] = {}
    if (moved := tab.evaluate(MOVED))["sum"] > MOST_MOVED:
        faults[f"{name} moved"] = moved
    if AXE.exists():
        tab.add_style_tag(content=STILL)
        faults |= {f"{name} in the {theme} theme": value for theme, value in audit(tab).items()}
    faults |= {f"{name}: {what}": value for what, value in raw_values(tab, name).items()}
    for width in widths:
        resize(tab, width)
        faults |= {f"{name} at {width}: {what}": value for what, value in misfits(tab).items()}
    tab.set_viewport_size(WIDE)
    return faults


def test_every_page_of_an_unused_installation_is_as_sound(tab: Page, empty_installation: str) -> None:
    refused = watch_refusals(tab, empty_installation)
    faults: dict[str, object] = {}
    for listed in listed_pages():
        if not listed.is_hidden:
            faults |= faults_of(tab, empty_installation + address(listed.script), listed.title, widths=(390,))
    assert faults == {}
    assert refused == []


@pytest.mark.parametrize("part", range(PARTS))
def test_no_page_shows_a_raw_value_overflows_hides_a_button_breaks_a_word_moves_is_closed_to_some_or_forgets_its_tab(
    tab: Page, installation: Pages, part: int
) -> None:
    """Each page is loaded once, and looked at for all of it."""
    url, filled = installation.url, installation.filled
    refused = watch_refusals(tab, url)
    faults: dict[str, object] = {}
    bars = 0
    for name, path in list(filled.addresses.items())[part::PARTS]:
        faults |= faults_of(tab, url + path, name, widths=(820, 390))
        walked, lost = walk_bars(tab, url, done=bars)
        bars += walked
        if lost:
            faults[f"{name}: tabs that are not in the address"] = lost
    assert faults == {}
    assert bars > 3
    assert refused == []
    if not AXE.exists():
        pytest.skip("axe-core is not installed (npm), so contrast and accessibility were not tested")


def test_lists_are_labelled_cards_on_a_phone_and_rows_with_a_head_on_a_wide_screen(
    tab: Page, installation: Pages
) -> None:
    url, filled = installation.url, installation.filled
    label = (
        "() => getComputedStyle(document.querySelector('[class*=st-key-tablerow-datasets-] .stColumn:nth-child(2)'),"
        " '::before').content"
    )
    tab.set_viewport_size({"width": 390, "height": 900})
    tab.goto(url + filled.addresses["datasets"])
    for width, content, head in ((390, '"Kind"', False), (1440, "none", True)):
        resize(tab, width)
        tab.locator("[class*=st-key-tablerow-datasets-]").first.wait_for()
        assert tab.evaluate(label) == content
        assert tab.locator(".st-key-tablehead-datasets").is_visible() is head


def test_the_palette_opens_what_is_chosen_and_one_step_back_leads_to_where_the_visitor_was(
    tab: Page, installation: Pages
) -> None:
    tab.goto(installation.url + "/workers")
    settle(tab)
    expect(tab).to_have_title("Workers · Roundhouse")
    tab.keyboard.press("Control+k")
    field = tab.get_by_role("combobox", name="Search")
    expect(field).to_be_focused()
    with installation.ctx.db.read() as session:
        name = session.scalars(select(Dataset.name).where(Dataset.id == installation.filled.dataset)).one()
    field.fill(name.upper())
    option = tab.get_by_role("option", name=re.compile(f"^{re.escape(name)}.*Dataset"))
    expect(option).to_be_visible()
    while option.get_attribute("aria-selected") != "true":
        tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    expect(tab).to_have_url(re.compile(f"/datasets[?]dataset={installation.filled.dataset}$"))
    expect(tab).to_have_title(f"{name} · Roundhouse")
    tab.go_back()
    expect(tab).to_have_url(f"{installation.url}/workers")
    expect(tab).to_have_title("Workers · Roundhouse")
    tab.keyboard.press("?")
    expect(tab.get_by_text("Search, from every page")).to_be_visible()
    tab.keyboard.press("Escape")
    expect(field).to_be_hidden()


def test_times_are_those_of_the_visitors_clock(tab: Page, installation: Pages) -> None:
    url, filled = installation.url, installation.filled
    tab.goto(url + filled.addresses["endpoint"] + "&tab=Revisions")
    text = tab.locator("td", has_text="just now").or_(tab.locator("td", has_text=" ago)")).first.inner_text()
    hour = (
        "minutes => new Date(Date.now() - minutes * 60000).toLocaleTimeString('en-GB', {hour: '2-digit', timeZone:"
        " 'America/New_York'})"
    )
    hours = {
        tab.evaluate(hour, minutes) for minutes in (0, 30)
    }  # what the table shows may have happened before the hour struck
    assert re.search(rf"\b({'|'.join(hours)}):\d\d", text), f"{text} at {hours} o'clock"
    assert "UTC" not in text


def test_nothing_in_an_answer_comes_to_life_and_its_code_is_coloured(tab: Page, installation: Pages) -> None:
    addresses: list[str] = []
    tab.on("request", lambda request: addresses.append(request.url))
    tab.goto(installation.url + installation.filled.addresses["conversation"])
    tab.locator(".pg-answer math").first.wait_for()
    answer = tab.locator(".pg-answer")
    assert answer.locator("a, img, script, iframe, object, [onerror], [href], [src]").count() == 0
    assert tab.evaluate("window.evil") is None
    assert not [address for address in addresses if "evil" in address]
    assert answer.locator("td", has_text="3 m").evaluate("node => getComputedStyle(node).textAlign") == "right"
    expect(answer.locator(".pg-keyword")).to_have_text(["def", "return"])
    expect(answer.locator(".pg-comment")).to_have_text("# slowly")
    expect(answer).to_contain_text("first token 12 ms")


def test_the_overview_updates_without_a_reload(tab: Page, installation: Pages) -> None:
    tab.goto(installation.url)
    settle(tab)
    tab.evaluate("window.mark = 'kept'")
    tab.get_by_text("3 jobs queued").wait_for()
    run = Scenario(installation.ctx).run(name="launched-meanwhile", seed=9)
    tab.get_by_text("4 jobs queued").wait_for()
    run_world.end(installation.ctx, run_world.claim(installation.ctx, run), Status.FAILED, cause="Out of memory.")
    tab.get_by_text("The run launched-meanwhile failed: Out of memory.").wait_for()
    assert tab.evaluate("window.mark") == "kept"
