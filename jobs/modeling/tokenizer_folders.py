"""Tokenizers on disk. Apart from their training, which needs no torch, and from checkpoints, whose networks take twice
as long to import as all that makes tokens.
"""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from backend.errors import InvalidInput, NotFound
from jobs.modeling.chat import ensure_template
from jobs.modeling.unusable import is_unusable, one_line


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load a checkpoint's tokenizer with its chat template, or with the plain one if it has none."""
    if not folder.is_dir():
        raise NotFound(f"There is no tokenizer folder {folder}.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True, use_fast=True
        )
    except Exception as error:
        if not is_unusable(error):
            raise
        raise InvalidInput(f"The tokenizer in {_final_name(folder)} can't be loaded: {one_line(error)}") from error
    ensure_template(tokenizer)
    return tokenizer


def _final_name(folder: Path) -> str:
    """Return a folder's name, also while it is written under a partial one (see `save_checkpoint`)."""
    return folder.name[1:].rsplit(".", 2)[0] if folder.name.endswith(".partial") else folder.name
