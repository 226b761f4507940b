"""Copy a checkpoint folder from elsewhere: the files that are known to be data, published atomically."""

from __future__ import annotations

import errno
import shutil
import uuid
from pathlib import Path
from typing import Any

from backend.errors import InvalidInput, JobFailed
from jobs.modeling.chat import ensure_template
from jobs.modeling.checkpoints import STATE_FOLDER, check_folder, load_tokenizer, publish, write_card

DATA_ENDINGS = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md")
"""Weights, configs, tokenizers, templates and cards. Python files and pickles stay behind."""


def copy_checkpoint(source: Path, out_folder: Path, *, meta: dict[str, Any], keep_state: bool = False) -> dict[str, Any]:
    """Copy a checkpoint's data files and write a card; return it. A bare base's tokenizer gets the plain chat template.

    Raises NotFound or InvalidInput if the source can't be used (see `check_folder`), JobFailed if the disk is too full.
    """
    check_folder(source)
    files = data_files(source, keep_state=keep_state)
    size = sum(path.stat().st_size for path in files)
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out_folder.parent).free
    if free < size:
        raise JobFailed(
            f"The disk has {free / 1e9:.2f} GB free, and the checkpoint needs {size / 1e9:.2f} GB.", remedy="Free space and try again."
        )
    partial = out_folder.parent / f".{out_folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        for path in files:
            target = partial / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        add_plain_template(partial)
        card = write_card(partial, meta=meta)
        publish(partial, out_folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno == errno.ENOSPC:
            raise JobFailed("The disk is full: the checkpoint could not be copied.", remedy="Free space and try again.") from error
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return card


def data_files(source: Path, *, keep_state: bool = False) -> list[Path]:
    """Return the files of a checkpoint that are data.

    Raises InvalidInput if one is a link that leads out of the folder: whoever made the folder would choose what is read on this
    machine. The Hub's cache, whose snapshots are links to the `blobs` beside them, may be given as it is.
    """
    inside = source.resolve()
    allowed = (inside, inside.parent.parent / "blobs")
    files = []
    for path in sorted(source.rglob("*")):
        if not path.is_file() or path.suffix not in DATA_ENDINGS or (STATE_FOLDER in path.relative_to(source).parts and not keep_state):
            continue
        if not any(path.resolve().is_relative_to(root) for root in allowed):
            raise InvalidInput(
                f"{path.relative_to(source)} in {source.name} is a link that leads out of the folder.",
                remedy="Put the file itself there if you trust it.",
                field="source",
            )
        files.append(path)
    return files


def add_plain_template(folder: Path) -> None:
    """Store the plain chat template with a tokenizer that has none of its own.

    Raises InvalidInput if the tokenizer can't be loaded or has no fast form, without which a checkpoint can neither learn nor chat.
    """
    tokenizer = load_tokenizer(folder)
    if not tokenizer.is_fast:
        raise InvalidInput("The checkpoint's tokenizer has no fast form (tokenizer.json).", remedy="Save it with AutoTokenizer first.")
    if not ensure_template(tokenizer):
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template)
