"""Copy a checkpoint folder from outside: its data files only, published atomically."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from backend.errors import InvalidInput, JobFailed
from backend.infra.checkpoints.candidates import TERMS, check_links, weight_files
from jobs.modeling.chat import ensure_template
from jobs.modeling.checkpoints import STATE_FOLDER, check_folder, write_card
from jobs.modeling.publishing import publish_folder
from jobs.modeling.tokenizer_folders import load_tokenizer

DATA_ENDINGS = (".safetensors", ".json", ".jinja", ".txt", ".model", ".md")
"""Weights, configs, tokenizers, templates and cards. Python files and pickles stay behind."""


def copy_checkpoint(
    source: Path,
    out_folder: Path,
    *,
    meta: Mapping[str, object],
    files: Sequence[Path] | None = None,
    move: bool = False,
    keep_free_bytes: int = 0,
    watch: Callable[[int, int], None] | None = None,
) -> dict[str, object]:
    """Copy a checkpoint's data files (or `files` of them) and write a card; return it. A tokenizer without a template
    gets the plain one.

    With `move` files are hard-linked if possible, for a source that is deleted afterwards. `watch` is called with the
    bytes copied and the total after each file; an exception from it ends the copy. Raises NotFound or InvalidInput if
    the source can't be used (see `check_folder`), JobFailed if the disk is too full.
    """
    check_folder(source)
    files = list_data_files(source) if files is None else files
    size = sum(path.stat().st_size for path in files)
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out_folder.parent).free - keep_free_bytes
    if free < size and not move:
        raise JobFailed(
            f"The disk has {free / 1e9:.2f} GB free, and the checkpoint needs {size / 1e9:.2f} GB.",
            remedy="Free space and try again.",
        )
    partial = out_folder.parent / f".{out_folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        done = 0
        for path in files:
            target = partial / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_file(path, target, move=move)
            done += path.stat().st_size
            if watch is not None:
                watch(done, size)
        add_plain_template(partial)
        card = write_card(partial, meta=meta)
        publish_folder(partial, out_folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        if error.errno == errno.ENOSPC:
            raise JobFailed(
                "The disk is full: the checkpoint could not be copied.", remedy="Free space and try again."
            ) from error
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return card


def copy_file(path: Path, target: Path, *, move: bool = False) -> None:
    """Copy a file; with `move` hard-link it if possible."""
    if move:
        try:
            os.link(path.resolve(), target)
        except OSError:  # another file system, or one without hard links
            shutil.copyfile(path, target)
    else:
        shutil.copyfile(path, target)


def base_files(source: Path) -> list[Path]:
    """List the data files of a checkpoint from outside: those at its top level, and only the weight files that are
    loaded.

    Raises InvalidInput as `list_data_files` and `backend.infra.checkpoints.candidates.weight_files`.
    """
    weights = set(weight_files(source))
    return [
        path
        for path in list_data_files(source)
        if path.parent == source and (path.suffix != ".safetensors" or path in weights)
    ]


def list_data_files(source: Path) -> list[Path]:
    """List a checkpoint's data files. Raises InvalidInput for links that lead out of the folder (see `check_links`)."""
    files = [
        path
        for path in sorted(source.rglob("*"))
        if path.is_file()
        and (path.suffix in DATA_ENDINGS or path.name in TERMS)
        and STATE_FOLDER not in path.relative_to(source).parts
    ]
    check_links(source, files)
    return files


def add_plain_template(folder: Path) -> None:
    """Save the plain chat template with a tokenizer that has none, and the fast form if it has only a slow one.

    Raises InvalidInput if the tokenizer can't be loaded or has no fast form, which training and chat need.
    """
    tokenizer = load_tokenizer(folder)
    if not tokenizer.is_fast:
        raise InvalidInput(
            "The checkpoint's tokenizer has no fast form (tokenizer.json).", remedy="Save it with AutoTokenizer first."
        )
    if not (folder / "tokenizer.json").is_file():
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    if not ensure_template(tokenizer):
        (folder / "chat_template.jinja").write_text(tokenizer.chat_template)
