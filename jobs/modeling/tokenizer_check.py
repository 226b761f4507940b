"""Refuse untrusted tokenizers that would exhaust memory or time when they encode a text.

The files are checked first, because the library aborts the process on some. Then a process of its own encodes a few
texts: a pattern that backtracks ends in a panic that is no `Exception`, and text that grows at each step ends in
nothing.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backend.domain.json_values import JsonObject
from backend.errors import InvalidInput
from backend.infra.checkpoints.candidates import MAX_JSON_BYTES, read_json_file

MAX_ID = 10_000_000
MAX_ADDED_TOKENS = 20_000
MAX_TOKEN_CHARACTERS = 1_000
"""Longest added token. The longest in use are runs of spaces and the marks of tools."""
MAX_PATTERN_CHARACTERS = 20_000
MAX_INSERTED_CHARACTERS = 100
MAX_GROWTH = 10_000
MAX_STEPS = 100
"""Normalizers, pre-tokenizers and decoders of one tokenizer."""
PROBE_S = 60.0
TOKENIZER_JSON = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
REMEDY = "Use a tokenizer from a source that you trust."
PROJECT = Path(__file__).resolve().parents[2]


def check_tokenizer_files(folder: Path) -> None:
    """Raise InvalidInput if a file of a folder's tokenizer is too large or damaged, or claims what no tokenizer has."""
    for name in TOKENIZER_JSON:
        file = folder / name
        if not file.is_file():
            continue
        if file.stat().st_size > MAX_JSON_BYTES:
            raise InvalidInput(f"{name} of {folder.name} has {file.stat().st_size:,} bytes.", remedy=REMEDY)
        data = read_json_file(file)
        try:
            _check(name, data)
        except (AttributeError, TypeError, LookupError, RecursionError) as error:
            raise InvalidInput(f"{name} of {folder.name} is damaged: {str(error)[:200]}", remedy=REMEDY) from error


def probe_tokenizer(folder: Path, *, name: str) -> None:
    """Encode a few texts in a process of its own. Raises InvalidInput if it fails or takes over `timeout_s`."""
    command = [sys.executable, "-m", "jobs.modeling.tokenizer_probe", str(folder / "tokenizer.json")]
    try:
        ended = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, errors="replace", timeout=PROBE_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise InvalidInput(
            f"The tokenizer of {name} takes more than {PROBE_S:.0f} s for some short texts: its patterns backtrack.",
            remedy=REMEDY,
        ) from None
    if ended.returncode != 0:
        cause = (ended.stdout.strip().splitlines() or ["its process was killed, most often for its memory"])[-1]
        raise InvalidInput(f"The tokenizer of {name} can't encode some short texts: {cause[:300]}", remedy=REMEDY)


def _check(name: str, data: JsonObject) -> None:
    if name == "vocab.json":
        _check_ids(name, data.values())
        return
    if name != "tokenizer.json":
        content = (
            data
            if name == "added_tokens.json"
            else {key: value for key, value in data.items() if key != "chat_template"}
        )
        _check_added(name, [(text, 0) for text in _texts(content)])
        if name == "added_tokens.json":
            _check_ids(name, data.values())
        return
    added = data.get("added_tokens") or []
    _check_added(name, [(entry["content"], entry["id"]) for entry in added])
    vocabulary = data["model"].get("vocab") or {}
    _check_ids(name, vocabulary.values() if isinstance(vocabulary, dict) else ())
    padding = data.get("padding") or {}
    strategy = padding.get("strategy")
    if isinstance(strategy, dict) and not 0 <= strategy.get("Fixed", 0) <= MAX_ID:
        raise InvalidInput(f"{name} pads every text to {strategy['Fixed']:,} tokens.", remedy=REMEDY)
    parts = list(_parts([data.get("normalizer"), data.get("pre_tokenizer"), data.get("decoder")]))
    if len(parts) > MAX_STEPS:
        raise InvalidInput(f"{name} has {len(parts):,} steps, and at most {MAX_STEPS} are taken.", remedy=REMEDY)
    growth = 1
    for part in parts:
        _check_step(name, part)
        growth *= max(1, len(part.get("content") or "")) if part.get("type") == "Replace" else 1
    if growth > MAX_GROWTH:
        raise InvalidInput(
            f"{name} replaces characters by longer texts, again and again: a text can grow {growth:,} times.",
            remedy=REMEDY,
        )


def _check_step(name: str, part: JsonObject) -> None:
    pattern = part.get("pattern")
    for text in (pattern or {}).values() if isinstance(pattern, dict) else ():
        if len(text) > MAX_PATTERN_CHARACTERS:
            raise InvalidInput(f"{name} has a pattern of {len(text):,} characters.", remedy=REMEDY)
    inserted = max(
        (len(part.get(key) or "") for key in ("content", "prepend", "replacement", "prefix", "suffix")), default=0
    )
    if inserted > MAX_INSERTED_CHARACTERS:
        raise InvalidInput(f"{name} inserts {inserted:,} characters at a time into every text.", remedy=REMEDY)


def _check_ids(name: str, ids: Any) -> None:
    for index in ids:
        if not isinstance(index, int) or not 0 <= index < MAX_ID:
            raise InvalidInput(
                f"{name} numbers a token {str(index)[:40]}, and ids go from 0 to {MAX_ID - 1:,}.", remedy=REMEDY
            )


def _check_added(name: str, tokens: list[tuple[Any, Any]]) -> None:
    if len(tokens) > MAX_ADDED_TOKENS:
        raise InvalidInput(
            f"{name} adds {len(tokens):,} tokens, and at most {MAX_ADDED_TOKENS:,} are taken.", remedy=REMEDY
        )
    longest = max((len(text) for text, _ in tokens), default=0)
    if longest > MAX_TOKEN_CHARACTERS:
        raise InvalidInput(f"{name} adds a token of {longest:,} characters.", remedy=REMEDY)
    _check_ids(name, [index for _, index in tokens])


def _parts(values: list[Any]) -> Iterator[JsonObject]:
    """Yield every step of a tokenizer, those inside a sequence as well."""
    waiting = [value for value in values if isinstance(value, dict)]
    while waiting:
        part = waiting.pop()
        yield part
        for key in ("normalizers", "pretokenizers", "decoders"):
            waiting.extend(inside for inside in part.get(key) or () if isinstance(inside, dict))


def _texts(data: Mapping[str, object]) -> Iterator[str]:
    """Yield the names and texts of a small config: tokens stand in both."""
    waiting: list[Any] = [data]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting.extend((*value.keys(), *value.values()))
        elif isinstance(value, list):
            waiting.extend(value)
