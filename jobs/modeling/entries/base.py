"""The job that adds a base: copies a folder, converts a GGUF file or downloads a repository to a checkpoint folder."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import psutil
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from backend.domain.jobs.payloads import AddBasePayload
from backend.domain.jobs.results import AddBaseResult
from backend.errors import InvalidInput, JobFailed, NotFound
from backend.infra.checkpoints.candidates import BaseFacts, describe_base, read_json_file, weight_files
from backend.infra.checkpoints.weight_headers import read_safetensors
from backend.infra.files.hashes import hash_file
from jobs.modeling.build import allow_any_experts
from jobs.modeling.checkpoints import inspect_folder, is_scorer
from jobs.modeling.copying import base_files, copy_checkpoint
from jobs.modeling.devices import is_out_of_memory
from jobs.modeling.gguf import convert_gguf
from jobs.modeling.hub import Fetched, fetched_base
from jobs.modeling.tokenizer_check import check_tokenizer_files, probe_tokenizer
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.unusable import UNUSABLE, one_line
from jobs.reporter import JobSpec, Reporter

NOT_STATED = "not stated"


def run(spec: JobSpec[AddBasePayload], reporter: Reporter) -> AddBaseResult:
    """Write the payload's base to `out`, load it once, and describe it.

    Payload: `source` (a path, absolute or among the artifacts) or `hub` (an id) with `revision` (a branch, tag or
    commit; default main); `out`; `keep_free_bytes` of the disk that stay free. Returns `inspect_folder` of it, plus
    `folder`, `licence` ("not stated" if unknown) and, from the Hub, `revision` (the commit) and `requested_revision`.
    Raises InvalidInput for what can't be a base.
    """
    payload, out = spec.payload, spec.path(spec.payload.out)
    keep = payload.keep_free_bytes
    with _source(spec, reporter, keep=keep) as source:
        if not source.path.exists():
            raise NotFound(
                f"There is no {source.path}.", remedy="Check the path on the worker's machine.", field="source"
            )
        facts = describe_base(source.path)
        if facts.kind == "folder":
            check_tokenizer_files(source.path)
        licence = facts.licence or source.licence or NOT_STATED
        meta: dict[str, object] = {"job": spec.id, "source": payload.hub or source.path.name, "licence": licence}
        pinned: dict[str, object] = {}
        if source.commit:
            pinned = {"revision": source.commit, "requested_revision": payload.revision or "main"}
        if facts.kind == "gguf":
            pinned["gguf_hash"] = hash_file(source.path)
        _write(source, facts, spec, meta={**meta, **pinned}, keep=keep, reporter=reporter)
    try:
        probe_tokenizer(out, name=payload.hub or Path(str(payload.source)).name)
        check_network(out, reporter)
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
    return AddBaseResult(**{**dict(inspect_folder(out)), "folder": payload.out, "licence": licence, **pinned})


def _source(spec: JobSpec[AddBasePayload], reporter: Reporter, *, keep: int) -> AbstractContextManager[Fetched]:
    """Yield the base's files, which a download may delete when the block ends."""
    payload = spec.payload
    if payload.hub is not None:
        root = spec.path("fetched")
        return fetched_base(payload.hub, revision=payload.revision, root=root, keep_free_bytes=keep, reporter=reporter)
    return nullcontext(Fetched(spec.path(str(payload.source)), commit="", licence=None, is_ours=False))


def _write(
    source: Fetched,
    facts: BaseFacts,
    spec: JobSpec[AddBasePayload],
    *,
    meta: Mapping[str, object],
    keep: int,
    reporter: Reporter,
) -> None:
    """Write the base's files to the payload's `out`."""
    path, out = source.path, spec.path(spec.payload.out)
    if facts.kind == "gguf":
        reporter.log(f"Converting {path.name} to safetensors.")
        reporter.progress(0, 1, unit="file", message=f"Converting {path.name}")
        convert_gguf(path, out, meta=meta, move=source.is_ours, keep_free_bytes=keep)
        return
    name = meta["source"]
    reporter.log(f"Copying {name}.")

    def watch(done: int, total: int) -> None:
        reporter.progress(done, total, unit="byte", message=f"Copying {name}")
        if reporter.should_stop() is not None:
            raise JobFailed(
                "Adding the base was stopped on request.", remedy="No files were kept; add it again to retry."
            )

    copy_checkpoint(
        path, out, meta=meta, files=base_files(path), move=source.is_ours, keep_free_bytes=keep, watch=watch
    )


SLACK = 1.02
SHOWN = 4


def check_network(folder: Path, reporter: Reporter) -> None:
    """Build the config's network, compare it with the weights, load it and run it on a few tokens.

    A network larger than free memory is not run, which is logged. Raises InvalidInput for an unknown family or one that
    generates no text, for missing or mismatched weights, and for logits that are not finite.
    """
    transformers.utils.logging.disable_progress_bar()
    config = _read_config(folder)
    files = weight_files(folder)
    tensors = {name: tensor for file in files for name, tensor in read_safetensors(file).items()}
    _check_size(folder, config, sum(tensor.numbers for tensor in tensors.values()))
    size = sum(file.stat().st_size for file in files)
    if size * 1.3 > psutil.virtual_memory().available:
        reporter.log(f"The model has {size / 1e9:,.1f} GB, more than this machine's free memory, so it was not run.")
        return
    reporter.progress(0, 1, unit="model", message="Loading the model once")
    _run_once(folder, reporter)


def _read_config(folder: Path) -> PretrainedConfig:
    family = str(read_json_file(folder / "config.json").get("model_type"))
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except UNUSABLE as error:
        raise InvalidInput(f"The model in {folder.name} can't be loaded: {one_line(error)}") from error
    if type(config) not in AutoModelForCausalLM._model_mapping or is_scorer(folder):
        raise InvalidInput(
            f"A model of the family {family!r} generates no text.", remedy="Choose a causal language model."
        )
    return config


def _check_size(folder: Path, config: PretrainedConfig, num_weights: int) -> None:
    """Compare the network's size with the weights' before memory is allocated: a hostile config may ask for more than
    any machine has.
    """
    try:
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        parameters = sum(math.prod(parameter.shape) for parameter in network.parameters())
    except UNUSABLE as error:
        raise InvalidInput(f"The model in {folder.name} can't be loaded: {one_line(error)}") from error
    if parameters > num_weights * SLACK:
        raise InvalidInput(
            f"The model in {folder.name} can't be loaded: its config has {parameters:,} parameters, and the weights"
            f" {num_weights:,}.",
            remedy="Check that config.json belongs to these weights.",
        )


def _run_once(folder: Path, reporter: Reporter) -> None:
    try:
        network, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype="auto",
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise InvalidInput(
                f"The model in {folder.name} can't be loaded: {len(missing)} of its tensors have no weights, "
                f"among them {', '.join(missing[:SHOWN])}."
            )
        allow_any_experts(network)
        with torch.inference_mode():
            logits = network.eval()(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits
    except UNUSABLE as error:
        if is_out_of_memory(error):
            raise
        raise InvalidInput(f"The model in {folder.name} can't be loaded: {one_line(error)}") from error
    if not torch.isfinite(logits).all():
        raise InvalidInput(
            "The model's logits are not finite.", remedy="The files may be damaged: download them again."
        )
    rows, words = network.get_input_embeddings().num_embeddings, len(load_tokenizer(folder))
    if words > rows:
        reporter.log(
            f"The tokenizer knows {words:,} tokens and the model {rows:,}: text with the other tokens can't be"
            " processed."
        )
