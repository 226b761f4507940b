"""Help: the documentation behind the pages. The site that `make docs` built, else the same Markdown, drawn plainly."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlencode

from markdown_it import MarkdownIt
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from backend.errors import NotFound

ADDRESS = "/help"
MAX_RESULTS = 30
BACKGROUND = ("decisions", "benchmarks")
"""Folders of chapters that explain: a search lists them after those that say how."""
NOT_SEARCHED = ("benchmarks/simplicity", "benchmarks/walk")
"""Chapters about the project's own work."""
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title} · Roundhouse</title><link rel="icon" href="data:,"><style>
:root {{ color-scheme: light dark; --bg:#fdfcfa; --fg:#22201c; --line:#e3ddd2; --brand:#9a3b18; --soft:#f4f1eb }}
@media (prefers-color-scheme: dark) {{
:root {{ --bg:#171614; --fg:#ece8e1; --line:#37332d; --brand:#f0a27c; --soft:#211f1c }} }}
body {{ margin:0; background:var(--bg); color:var(--fg); font:16px/1.55 system-ui,sans-serif }}
header {{ display:flex; gap:1rem; flex-wrap:wrap; align-items:center; padding:.7rem 1.2rem;
border-bottom:1px solid var(--line); background:var(--soft) }} header form {{ margin-left:auto }}
main {{ max-width:52rem; margin:0 auto; padding:1rem 1.2rem 4rem; overflow-wrap:anywhere }} a {{ color:var(--brand) }}
pre {{ overflow:auto; padding:.8rem; border:1px solid var(--line); border-radius:.45rem; background:var(--soft) }}
table {{ border-collapse:collapse; display:block; overflow:auto }} img {{ max-width:100% }}
th,td {{ border:1px solid var(--line); padding:.3rem .6rem; text-align:left; vertical-align:top }}
input {{ font:inherit; padding:.3rem .6rem; border:1px solid var(--line); border-radius:.45rem; background:var(--bg);
color:var(--fg) }} h1 {{ font-size:1.7rem }} h2 {{ font-size:1.25rem; margin-top:2rem }}
</style></head><body><header><a href="/">Roundhouse</a><a href="{root}/">Contents</a>
<form action="{root}/search"><input name="q" type="search" placeholder="Search" aria-label="Search" value="{query}">
</form></header><main>{body}</main></body></html>"""


def help_routes(*, site: Path, markdown: Path) -> list[Route]:
    """Return the routes of the help: files of the built site, or pages drawn from Markdown if there is no site."""
    manual = Manual(markdown)

    async def show(request: Request) -> Response:
        path = request.path_params.get("path", "")
        query = request.query_params.get("q", "")[:200]
        if (site / "index.html").is_file():
            if path == "search":  # the built site searches in a page of its own
                return RedirectResponse(f"{ADDRESS}/search.html?{urlencode({'q': query})}")
            return _file(site, path)
        if path == "search":
            return _page("Search", await run_in_threadpool(manual.search, query), query=query)
        if PurePosixPath(path).suffix in {".webp", ".png"}:
            return _file(markdown, path)
        try:
            return _page(*await run_in_threadpool(manual.draw, path or "index.html"))
        except NotFound as error:
            return _page("Not found", f"<h1>{html.escape(error.message)}</h1>", status=404)

    async def enter(_request: Request) -> Response:
        return RedirectResponse(f"{ADDRESS}/", status_code=308)

    return [Route(ADDRESS, enter), Route(f"{ADDRESS}/{{path:path}}", show)]


class Manual:
    """A folder of Markdown pages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def draw(self, path: str) -> tuple[str, str]:
        """Return title and HTML of the page with an address such as `tutorials/first-network.html`. Raises NotFound."""
        file = _within(self.folder, f"{path.removesuffix('.html')}.md")
        if file is None:
            raise NotFound(f"There is no chapter {path[:120]!r}.")
        text = re.sub(r"^```\{toctree\}.*?^```$", "", file.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        tokens = self._parser.parse(text)
        for token, inline in pairwise(tokens):
            if token.type == "heading_open":
                token.attrSet("id", slug(inline.content))
        for token in _links(tokens):
            href = str(token.attrGet("href"))
            token.attrSet("href", re.sub(r"(^(?!\w+:)[^#]*)\.md(?=#|$)", r"\1.html", href))
        return _title(text), str(self._parser.renderer.render(tokens, self._parser.options, {}))

    def search(self, query: str) -> str:
        """Return the chapters that hold all words of a query, as HTML: guides before background, and of each those
        with a word in their title first.
        """
        words = query.lower().split()
        results = []
        for file in sorted(self.folder.rglob("*.md")) if words else []:
            text = file.read_text("utf-8")
            chapter = file.relative_to(self.folder).with_suffix("")
            if chapter.as_posix() not in NOT_SEARCHED and all(word in text.lower() for word in words):
                title = _title(text)
                address = f"{ADDRESS}/{chapter.as_posix()}.html"
                blocks = re.split(r"\n\s*\n", text.lstrip().partition("\n")[2])
                lines = (line for block in blocks if words[0] in block.lower() for line in self._plain_lines(block))
                line = next((line for line in lines if words[0] in line.lower()), "")
                place = (chapter.parts[0] in BACKGROUND, not any(word in title.lower() for word in words))
                results.append((place, title, address, line.strip()[:200]))
        rows = [
            f'<p><a href="{html.escape(address)}">{html.escape(title)}</a><br>{html.escape(line)}</p>'
            for _, title, address, line in sorted(results)[:MAX_RESULTS]
        ]
        return f"<h1>Search</h1>{''.join(rows) or '<p>No chapter holds these words.</p>'}"

    def _plain_lines(self, block: str) -> Iterator[str]:
        """Yield the lines of a block of Markdown without its marks; the cells of a table's row are one line."""
        cells: list[str] = []
        in_cell = False
        for token in self._parser.parse(block):
            if token.type == "tr_close":
                yield " · ".join(filter(None, cells))
                cells = []
            elif token.type == "inline":
                text = "".join(child.content or "\n" * child.type.endswith("break") for child in token.children or [])
                if in_cell:
                    cells.append(text)
                else:
                    yield from text.splitlines()
            elif token.type in ("fence", "code_block") and not token.info.startswith("{"):
                yield from token.content.splitlines()
            in_cell = token.type in ("td_open", "th_open")


def slug(heading: str) -> str:
    """Return a heading's anchor, as GitHub and the built site write it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _links(tokens: list[Any]) -> Iterator[Any]:
    for token in tokens:
        if token.type == "link_open":
            yield token
        yield from _links(token.children or [])


def _title(text: str) -> str:
    return text.lstrip().splitlines()[0].removeprefix("# ") if text.strip() else ""


def _within(folder: Path, path: str) -> Path | None:
    """Return a file of a folder, or None if there is none or the path leads out of it."""
    file = (folder / path).resolve()
    return file if file.is_relative_to(folder.resolve()) and file.is_file() else None


def _file(folder: Path, path: str) -> Response:
    file = _within(folder, path) or _within(folder, f"{path.rstrip('/')}/index.html".lstrip("/"))
    return _page("Not found", "<h1>There is no such chapter.</h1>", status=404) if file is None else FileResponse(file)


def _page(title: str, body: str, *, query: str = "", status: int = 200) -> HTMLResponse:
    text = PAGE.format(title=html.escape(title), body=body, query=html.escape(query), root=ADDRESS)
    return HTMLResponse(text, status_code=status)
