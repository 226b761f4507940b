"""Encode texts that bring bad tokenizers to a halt: `python -m jobs.modeling.tokenizer_probe tokenizer.json`.

Ends with 0, or prints the cause and ends with 1. The process that starts it bounds time and memory.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer

LENGTH = 3000
ALWAYS = "a \n0!.é日\u200b"
MAX_TOKENS_PER_CHARACTER = 40
MAX_CHARACTERS_OF_PATTERNS = 64


def probe_texts(described: str) -> list[str]:
    """Return runs of the characters that occur in a tokenizer's patterns, each ending in what does not match."""
    data = json.loads(described)
    patterns = json.dumps([data.get("normalizer"), data.get("pre_tokenizer")], ensure_ascii=False)
    characters = list(dict.fromkeys([*ALWAYS, *(c for c in patterns if c.isalnum())]))[:MAX_CHARACTERS_OF_PATTERNS]
    return [
        *(c * LENGTH + end for c in characters for end in ("!", "\x00")),
        "aA0 !\n" * (LENGTH // 6),
        *(c * 31 + "!" for c in characters),
    ]


def main(file: Path) -> int:
    """Encode every text; return the exit status."""
    try:
        tokenizer = Tokenizer.from_file(str(file))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        for text in probe_texts(file.read_text(encoding="utf-8")):
            num_tokens = len(tokenizer.encode(text).ids)
            if num_tokens > MAX_TOKENS_PER_CHARACTER * len(text):
                sys.stdout.write(f"{len(text):,} characters become {num_tokens:,} tokens\n")
                return 1
    except BaseException as error:  # a panic of the library is no Exception
        sys.stdout.write(" ".join(str(error).split())[:300] + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
