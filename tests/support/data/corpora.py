"""A corpus of several files: two languages, bad rows, faults, and texts that come again, also changed and elsewhere."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow
from pyarrow import parquet

ENGLISH = "the of and to in a is that it was for on are as with his they at be this from have or by not but what all"
GERMAN = "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus"


def write_corpus(folder: Path, *, files: int = 5, rows: int = 300) -> Path:
    """Write a folder of JSON lines, packed JSON lines and Parquet; return it."""
    draw = random.Random(7)
    folder.mkdir(parents=True)
    repeated = [_text(draw, ENGLISH, 40) for _ in range(12)]
    for number in range(files):
        texts = [_row(draw, repeated) for _ in range(rows)]
        lines = [json.dumps({"text": text}) for text in texts]
        lines.insert(rows // 2, "no JSON")
        data = "".join(f"{line}\n" for line in lines).encode()
        if number % 3 == 0:
            (folder / f"{number}.jsonl").write_bytes(data)
        elif number % 3 == 1:
            (folder / f"{number}.jsonl.gz").write_bytes(gzip.compress(data, mtime=0))
        else:
            parquet.write_table(pyarrow.table({"text": texts}), folder / f"{number}.parquet")
    return folder


def _text(draw: random.Random, words: str, count: int) -> str:
    return " ".join(draw.choices(words.split(), k=count))


def _row(draw: random.Random, repeated: list[str]) -> str:
    kind = draw.random()
    if kind < 0.1:
        text = draw.choice(repeated)
        return text.replace(" the ", " then ", 1) if draw.random() < 0.5 else text
    if kind < 0.13:
        return _text(draw, ENGLISH, 30) + " \ufffd"
    return _text(draw, GERMAN if kind < 0.4 else ENGLISH, draw.randint(2, 60))
