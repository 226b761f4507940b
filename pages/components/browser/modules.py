"""Components of the browser: ES modules, joined into the one script that Streamlit takes, each in its own scope."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

IMPORT = re.compile(r'^import \{ ([\w, ]+) \} from "(\.[\w./-]+\.js)"$', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|class|const|let) (\w+))", re.MULTILINE)
DEFAULT = re.compile(r"^export default function", re.MULTILINE)


HERE = Path(__file__).parent


def declare_component(name: str, html: str, script: str, *, styles: Sequence[str] = ()) -> Callable[..., Any]:
    """Return what mounts a component, made of a script and its styles, by default `style.css` beside it; paths are
    relative to this folder.
    """
    sheets = styles or (f"{Path(script).parent}/style.css",)
    css = "".join((HERE / sheet).read_text() for sheet in sheets)
    mount: Callable[..., Any] = st.components.v2.component(
        name, html=html, css=css, js=join_modules(HERE / script), isolate_styles=False
    )
    return mount


def join_modules(entry: Path) -> str:
    """Return `entry` with every module that it imports, directly or not, before it; its default export is the script's.

    Streamlit hands a component's script over as one text with no address of its own, so a browser can't resolve an
    import in it. Of ES modules' syntax, named imports and exports on one line are known. Raises ValueError for any
    other import or export, and for an import cycle.
    """
    names: dict[Path, str] = {}
    parts: list[str] = []
    _join(entry.resolve(), names, parts, ())
    return "\n".join([*parts, f"export default {names[entry.resolve()]}.default;", ""])


def _join(file: Path, names: dict[Path, str], parts: list[str], above: tuple[Path, ...]) -> None:
    if file in above:
        raise ValueError(f"{file.name} imports itself by way of {', '.join(one.name for one in above)}.")
    if file in names:
        return
    text = file.read_text()
    for match in IMPORT.finditer(text):
        _join((file.parent / match[2]).resolve(), names, parts, (*above, file))
    body = IMPORT.sub(lambda match: f"const {{ {match[1]} }} = {names[(file.parent / match[2]).resolve()]}", text)
    exports = [match[1] for match in EXPORT.finditer(body)]
    body, defaults = DEFAULT.subn("const default_ = function", EXPORT.sub("", body))
    if left := re.search(r"^(?:import|export)\b.*", body, re.MULTILINE):
        raise ValueError(f"{file.name}: `{left[0]}` is not supported: write named imports and exports on one line.")
    names[file] = f"module_{len(names)}"
    returned = ", ".join([*exports, *(["default: default_"] if defaults else [])])
    parts.append(f"const {names[file]} = (() => {{\n{body}\nreturn {{ {returned} }}\n}})();")
