"""The process that makes tokens while a run reads them: `python -m jobs.batches.token_maker SPEC`.

First the part of the train split that a run begins with, then the val split, then the rest. It ends with the run that
started it; the next one continues what it leaves.
"""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from backend.errors import InvalidInput, RoundhouseError
from backend.infra.processes import die_with_parent
from jobs.batches.preference import PAIRS, RATED
from jobs.batches.pretrain import PART_TOKENS, TEXT
from jobs.batches.prompts import PROMPTS
from jobs.batches.sft import CHAT, PART_ITEMS
from jobs.batches.token_files import TokenWriter
from jobs.batches.token_making import Maker, TokenForm, TokenSource, make_tokens
from jobs.modeling.chat import teach_template
from jobs.modeling.dataset_files import split_file
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.reporter import SilentReporter

FORMS: dict[str, TokenForm] = {form.name: form for form in (TEXT, CHAT, PAIRS, RATED, PROMPTS)}
WAIT_S = 2.0
POLL_S = 0.2


@dataclass(frozen=True)
class MakerSpec:
    """The input of a maker: folders, the name of the form, and the process that it must not outlive."""

    parent: int
    dataset: str
    tokenizer: str
    root: str
    form: str

    def write(self, folder: Path) -> Maker:
        """Write the spec to a folder; return the process that reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        file, error = folder / "tokens.json", folder / "tokens-error.json"
        file.write_text(json.dumps({**asdict(self), "error": str(error)}), encoding="utf-8")
        error.unlink(missing_ok=True)
        return Maker([sys.executable, "-m", "jobs.batches.token_maker", str(file)], error)


class _Enough(Exception):
    """The first part is made."""


def _stop_after_first_part(writer: TokenWriter) -> None:
    # a part ends with a whole window
    if writer.num_tokens > PART_TOKENS + PART_TOKENS // 8 or writer.num_items > PART_ITEMS:
        raise _Enough


def main(file: Path) -> int:
    """Make the tokens, or leave once another process does. Returns the exit status; an error is left in a file."""
    record = json.loads(file.read_text(encoding="utf-8"))
    error_file = Path(record.pop("error"))
    spec = MakerSpec(**record)
    die_with_parent(parent=spec.parent)
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    form = FORMS[spec.form]
    try:
        tokenizer = load_tokenizer(Path(spec.tokenizer))
        teach_template(tokenizer, chats=form.renders)
        source = TokenSource(Path(spec.dataset), tokenizer, Path(spec.root), SilentReporter())
        train, until = source.split_folder(form, "train"), time.monotonic() + WAIT_S
        with suppress(_Enough):
            make_tokens(source, train, tell=_stop_after_first_part)
        if split_file(source.dataset, "val") is not None:
            make_tokens(source, source.split_folder(form, "val"))
        # another process may only have tested the lock
        while not make_tokens(source, train) and time.monotonic() < until:
            time.sleep(POLL_S)
    except RoundhouseError as error:
        failure = {
            "cause": error.message,
            "remedy": error.remedy,
            "field": error.field,
            "invalid": isinstance(error, InvalidInput),
        }
        error_file.write_text(json.dumps(failure), encoding="utf-8")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
