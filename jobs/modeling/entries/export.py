"""The job that exports a checkpoint as a folder, a merged folder or a GGUF file, and uploads it if asked to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from backend.domain.jobs.payloads import ExportPayload
from backend.domain.jobs.results import CheckpointDescription, ExportResult
from backend.domain.serving.precision import PrecisionCheck
from backend.errors import Conflict, InvalidInput
from backend.infra.checkpoints.weight_headers import read_gguf
from backend.infra.files.hashes import hash_file
from jobs.modeling.checkpoints import (
    base_folder_of,
    inspect_folder,
    is_adapter,
    is_scorer,
    load_network,
    load_scorer,
    read_card,
    save_checkpoint,
)
from jobs.modeling.copying import copy_checkpoint
from jobs.modeling.devices import faster_threads
from jobs.modeling.gguf import check_gguf, check_installed, read_network, write_gguf
from jobs.modeling.hub import push_folder
from jobs.modeling.precision_check import TEXT_TOKENS, compare_precisions, log_probabilities, write_texts
from jobs.modeling.publishing import refuse_stopped_export
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.tokenizers import padding_id
from jobs.reporter import JobSpec, Reporter


def run(spec: JobSpec[ExportPayload], reporter: Reporter) -> ExportResult:
    """Write the payload's `checkpoint` in `format` ("hf": unchanged, without training state; "merged": adapter merged;
    "gguf").

    It is written to `out` (relative to the artifacts), with `card` as its README.md if it has none; a GGUF file is
    named by `name` and `numbers`, and what a quantisation costs is measured. With `push` ({repo, private}) it is
    uploaded as well. Returns `inspect_folder` of it, plus `folder`, `pushed` and `check`. A full network exports as
    itself in either folder format. Raises Conflict if the target already exists.
    """
    payload = spec.payload
    source = spec.path(payload.checkpoint)
    target = spec.path(payload.out)
    if target.exists() and spec.attempt > 1:
        shutil.rmtree(target)  # left by an earlier attempt
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Conflict(
            f"{target} exists already and is not empty.", remedy="Name a folder that does not exist yet.", field="to"
        )
    if target.exists():
        target.rmdir()
    try:
        check, card = None, payload.card
        if payload.format == "gguf":
            described, check = _write_file(spec, reporter, source, target)
            numbers = f"{described.quantisation}, {described.bits_per_weight} bits per weight"
            measured = f" ({check.describe()})" if check else ""
            card = card and f"{card.rstrip()}\n\n## File\n\nGGUF: {numbers}{measured}\n"
        else:
            described = _write_folder(spec, reporter, source, target)
        if card and not (target / "README.md").exists():  # a base may have one of its own
            (target / "README.md").write_text(card, encoding="utf-8")
        pushed = None
        if payload.push is not None:
            message = f"Upload {payload.name or source.name} as {payload.format}"
            pushed = push_folder(
                target, repo=payload.push.repo, private=payload.push.private, message=message, reporter=reporter
            )
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    files = list(target.glob("*.gguf"))
    return ExportResult(
        **dict(described),
        folder=payload.out,
        pushed=pushed,
        check=check,
        **({"gguf_hash": hash_file(files[0])} if files else {}),
    )


def _write_folder(
    spec: JobSpec[ExportPayload], reporter: Reporter, source: Path, target: Path
) -> CheckpointDescription:
    """Write a folder and describe it."""
    payload = spec.payload
    if payload.format == "merged" and is_adapter(source):
        reporter.log("Merging the adapter into its base.")
        reporter.progress(0, 1, unit="", message="Merging the adapter into its base")
        merge_adapter(source, target)
    else:
        meta = {
            key: value
            for key, value in read_card(source).items()
            if key not in ("files", "versions", "format", "base_path")
        }

        def watch(done: int, total: int) -> None:
            reporter.progress(done, total, unit="byte", message="Copying")
            refuse_stopped_export(reporter)

        copy_checkpoint(source, target, meta=meta, watch=watch)
        if is_adapter(target):
            _name_base(source, target)
    return inspect_folder(source if is_adapter(target) else target)


def _write_file(
    spec: JobSpec[ExportPayload], reporter: Reporter, source: Path, target: Path
) -> tuple[CheckpointDescription, PrecisionCheck | None]:
    """Write the GGUF file, and describe it with what its quantisation costs."""
    numbers, name = spec.payload.numbers, spec.payload.name or source.name
    check_installed(numbers)
    reporter.progress(0, 1, unit="", message="Loading the model")
    model_folder = base_folder_of(source) if is_adapter(source) else source
    network = load_network(source)
    check_gguf(network.config)
    target.mkdir(parents=True)

    def watch(done: int, total: int) -> None:
        reporter.progress(done, total, unit="tensor", message=f"Writing {name}-{numbers}.gguf")
        refuse_stopped_export(reporter)

    file = target / f"{name}-{numbers}.gguf"
    parameters = network.num_parameters()
    texts = before = None
    if numbers.startswith("q"):
        texts = _write_texts(network, reporter)
        before = log_probabilities(network, texts)
    write_gguf(file, network=network, tokenizer=load_tokenizer(source), name=name, numbers=numbers, watch=watch)
    described = inspect_folder(model_folder)
    header = read_gguf(file)
    check = None
    if texts is not None and before is not None:
        del network  # both copies at once could be more than a job may hold
        reporter.progress(0, 1, unit="", message=f"Measuring the quality of {numbers}")
        num_layers = sum(len(tensor.shape) > 1 for tensor in header.tensors.values())
        after = log_probabilities(read_network(file), texts)
        check = compare_precisions(before, after, precision=numbers, num_layers=num_layers)
        reporter.log(check.describe())
    changes = {
        "quantisation": header.quantisation,
        "bits_per_weight": header.bits_per_weight,
        "parameters": parameters,
        "adapter": False,
        "dtype": numbers,
        "bytes": file.stat().st_size,
        "files": (file.name,),
    }
    return described.model_copy(update=changes), check


@torch.inference_mode()
def _write_texts(network: Any, reporter: Reporter) -> torch.Tensor:
    def watch(done: int, total: int) -> None:
        reporter.progress(done, total, unit="token", message="Writing texts to measure the quality with")
        refuse_stopped_export(reporter)

    watch(0, TEXT_TOKENS)
    one_token = torch.zeros((1, 1), dtype=torch.long)
    with faster_threads(lambda: network(input_ids=one_token, use_cache=False)):
        return write_texts(network, watch)


def _name_base(source: Path, target: Path) -> None:
    """Set an adapter's base to its Hub id, if the base was downloaded from a Hub."""
    card = read_card(base_folder_of(source)) if read_card(source).get("base_path") else {}
    if not card.get("revision") or not card.get("source"):
        return
    file = target / "adapter_config.json"
    config = json.loads(file.read_text())
    config |= {"base_model_name_or_path": card["source"], "revision": card["revision"]}
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def merge_adapter(folder: Path, out_folder: Path) -> dict[str, object]:
    """Write the merged network in fp32, with its tokenizer; return the new card.

    Raises InvalidInput if the folder is not an adapter.
    """
    if not is_adapter(folder):
        raise InvalidInput(
            f"{folder.name} is not an adapter: there is nothing to merge.", remedy="Export it with format hf."
        )
    card = read_card(folder)
    meta = {key: value for key, value in card.items() if key not in ("files", "versions", "base_path", "format")}
    meta["merged_from"] = {"step": card.get("step"), "run_folder": card.get("run_folder")}
    tokenizer = load_tokenizer(folder)
    network = load_scorer(folder, pad_id=padding_id(tokenizer)) if is_scorer(folder) else load_network(folder)
    return save_checkpoint(out_folder, model=network, tokenizer=tokenizer, meta=meta)
