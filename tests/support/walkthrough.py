"""Follow a page of the documentation as a reader does: change files, write files, run the commands, compare the output.

What a page may say, each in a paragraph of its own:

    New file `PATH`:                              followed by a block, which becomes the file
    At the end of `PATH`:                         followed by a block
    In `PATH`, after the line `TEXT`:             followed by a block; also `before the line`, `(first)`, `(last)`
    In `PATH`, change `TEXT` to `TEXT`.

A block with `title="PATH"` becomes a file too. In a block of the language `console`, lines that begin with `$ ` are
run, `> ` continues one, and every other line has to be in the output of the command above; `...` stands for any text.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

from backend.settings import PROJECT
from tests.support.source_tree import list_files

_FENCE = re.compile(
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_NEW = re.compile(r"New file `([^`]+)`:")
_APPEND = re.compile(r"At the end of `([^`]+)`:")
_INSERT = re.compile(r"In `([^`]+)`, (after|before) the line `([^`]+)`(?: \((first|last)\))?:")
_CHANGE = re.compile(r"In `([^`]+)`, change `([^`]+)`\s+to\s+`([^`]+)`\.")


@dataclass(frozen=True)
class Command:
    """A command with the lines that its output has to hold."""

    line: str
    output: tuple[str, ...]


def copy_project(folder: Path) -> Path:
    """Copy the clone without what git ignores, as a repository of its own, since tests list files by git."""
    for path in list_files():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / path, target)
        copy_compiled(path, target)
    for arguments in (["init", "--quiet"], ["add", "--all"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def copy_compiled(path: str, target: Path) -> None:
    """Copy the compiled form of a module of the clone to a copy of it with the same text, size and time."""
    cache = Path(cache_from_source(str(PROJECT / path))).parent
    for compiled in cache.glob(f"{target.stem}.*.pyc") if path.endswith(".py") else ():
        (target.parent / "__pycache__").mkdir(exist_ok=True)
        shutil.copyfile(compiled, target.parent / "__pycache__" / compiled.name)


def read_commands(body: str) -> list[Command]:
    """Return the commands of a console block."""
    commands: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), []))
        elif line.startswith("> ") and commands:  # a command that goes on
            commands[-1] = (f"{commands[-1][0]}\n{line.removeprefix('> ')}", commands[-1][1])
        elif line.strip() and commands:
            commands[-1][1].append(line.strip())
    return [Command(line, tuple(output)) for line, output in commands]


def follow(page: Path, folder: Path, environment: dict[str, str], *, timeout_s: float = 300.0) -> int:
    """Follow a page in a folder and return how many commands were run.

    Fails where a step can't be done or a command says something else.
    """
    text = page.read_text()
    num_run = 0
    steps = sorted([*_FENCE.finditer(text), *_CHANGE.finditer(text)], key=lambda match: match.start())
    for match in steps:
        if match.re is _CHANGE:
            _change(folder, *match.groups())
        elif match["language"] == "console":
            for command in read_commands(match["body"]):
                _run(command, folder, environment, timeout_s=timeout_s)
                num_run += 1
        elif match["title"]:
            (folder / match["title"]).write_text(match["body"])
        else:
            _write(folder, text[: match.start()].rstrip().splitlines()[-1], match["body"])
    return num_run


def _write(folder: Path, lead: str, body: str) -> None:
    """Do what the line above a block says with it; a block without such a line is only shown."""
    if new := _NEW.fullmatch(lead):
        path = folder / new[1]
        assert not path.exists(), f"{new[1]} is there already"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    elif append := _APPEND.fullmatch(lead):
        path = folder / append[1]
        path.write_text(path.read_text() + body)
    elif insert := _INSERT.fullmatch(lead):
        file, where, line, which = insert.groups()
        lines = (folder / file).read_text().splitlines(keepends=True)
        places = [place for place, one in enumerate(lines) if one.strip() == line]
        assert len(places) == 1 or (places and which), f"the line {line!r} is in {file} {len(places)} times"
        place = places[-1 if which == "last" else 0] + (where == "after")
        (folder / file).write_text("".join([*lines[:place], body, *lines[place:]]))


def _change(folder: Path, file: str, old: str, new: str) -> None:
    text = (folder / file).read_text()
    assert text.count(old) == 1, f"{old!r} is in {file} {text.count(old)} times"
    (folder / file).write_text(text.replace(old, new))


def _run(command: Command, folder: Path, environment: dict[str, str], *, timeout_s: float) -> None:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.line],
        cwd=folder,
        env={**os.environ, **environment, "PATH": programs},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    shown = result.stdout + result.stderr
    assert result.returncode == 0, f"$ {command.line}\n{shown[-4000:]}"
    for line in command.output:
        pattern = r"\s+".join(
            ".*" if word == "..." else re.escape(word).replace(r"\.\.\.", ".*") for word in line.split()
        )
        assert re.search(pattern, shown), f"$ {command.line}\ndoes not say {line!r}:\n{shown[-4000:]}"
