"""The help: the built site, or the same Markdown drawn plainly; nothing outside of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from backend.settings import DOCS
from backend.web.help import BACKGROUND, NOT_SEARCHED, Manual, help_routes

HOSTILE = """# Mills

## The old mill

<script>alert(1)</script> [the river](rivers/long.md#the-source) ![a](x.png)
"""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    docs = tmp_path / "docs"
    (docs / "rivers").mkdir(parents=True)
    (docs / "index.md").write_text("# Contents\n\n- [Mills](mills.md)\n\n```{toctree}\nmills\n```\n")
    (docs / "mills.md").write_text(HOSTILE)
    (docs / "rivers" / "long.md").write_text("# Long rivers\n\nThey end at a mill.\n")
    (tmp_path / "secret.md").write_text("# secret")
    with TestClient(Starlette(routes=help_routes(site=tmp_path / "site", markdown=docs))) as client:
        yield client


def test_chapters_are_drawn_with_anchors_and_links_and_without_html(client: TestClient) -> None:
    assert '<a href="mills.html">Mills</a>' in client.get("/help").text  # redirected to the contents
    assert "toctree" not in client.get("/help/").text
    page = client.get("/help/mills.html").text
    assert '<h2 id="the-old-mill">' in page
    assert 'href="rivers/long.html#the-source"' in page
    assert "<script>" not in page


def test_search_finds_chapters_those_named_by_the_words_first(client: TestClient) -> None:
    page = client.get("/help/search", params={"q": "mill"}).text
    assert page.index(">Mills<") < page.index(">Long rivers<")
    assert "No chapter" in client.get("/help/search", params={"q": "<b>zeppelin"}).text
    assert "<b>zeppelin" not in client.get("/help/search", params={"q": "<b>zeppelin"}).text


def test_search_lists_what_says_how_before_background_and_nothing_of_the_project_s_own_work() -> None:
    """A search for "votes needed" began with a decision about the gateway, and listed how readers had stumbled."""
    chapters = re.findall(r'href="/help/([^"]+)\.html"', Manual(DOCS).search("votes needed"))
    is_background = [chapter.startswith(BACKGROUND) for chapter in chapters]
    assert is_background == sorted(is_background)
    assert "ratings" in chapters
    assert (DOCS / "benchmarks" / "walk.md").is_file()
    assert not set(NOT_SEARCHED) & set(chapters)


@pytest.mark.parametrize(
    ("word", "excerpt"),
    [
        ("bold", "A bold word of the rivers and name_of_it"),
        ("second", "and the second line"),
        ("cell", "first cell · link"),
        ("deep", "a deep item"),
        ("sluice", "mill --sluice &lt;b&gt; # open"),
        ("weir", "Weirs"),
    ],
)
def test_the_excerpts_of_a_search_have_no_marks(client: TestClient, tmp_path: Path, word: str, excerpt: str) -> None:
    """Asterisks, pipes and brackets of links stood in them."""
    marked = [
        "# Marks",
        "A **bold** word of [the rivers](second.md) and `name_of_it`\nand the second line",
        "| head | other |\n|---|---|\n| first **cell** | [link](cell.md) |",
        "- an item\n  - a *deep* item",
        "```\nmill --sluice <b> # open\n```",
        "## Weirs",
    ]
    (tmp_path / "docs" / "marks.md").write_text("\n\n".join(marked))
    assert f"<br>{excerpt}</p>" in client.get("/help/search", params={"q": word}).text


@pytest.mark.parametrize("path", ["nowhere.html", "..%2fsecret.html", "%2fetc%2fpasswd", "rivers"])
def test_other_paths_are_not_found(client: TestClient, path: str) -> None:
    answer = client.get(f"/help/{path}")
    assert answer.status_code == 404
    assert "secret" not in answer.text.lower().replace("secret.html", "").replace("secret'", "")


def test_the_built_site_is_served_where_there_is_one(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("built")
    (tmp_path / "site" / "mills.html").write_text("built mills")
    assert client.get("/help/").text == "built"
    assert client.get("/help/mills.html").text == "built mills"
    assert client.get("/help/..%2fsecret.md").status_code == 404


def test_every_chapter_of_the_product_can_be_drawn(tmp_path: Path) -> None:
    with TestClient(Starlette(routes=help_routes(site=tmp_path, markdown=DOCS))) as client:
        for file in DOCS.rglob("*.md"):
            answer = client.get(f"/help/{file.relative_to(DOCS).with_suffix('.html')}")
            assert answer.status_code == 200, file


def test_the_search_of_a_built_site_is_at_the_same_address(tmp_path: Path) -> None:
    for name in ("index.html", "search.html"):
        (tmp_path / name).write_text(name)
    with TestClient(Starlette(routes=help_routes(site=tmp_path, markdown=tmp_path))) as client:
        answer = client.get("/help/search", params={"q": "a b&c"})
    assert answer.text == "search.html"
    assert answer.url.params["q"] == "a b&c"
