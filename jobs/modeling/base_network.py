"""A base is loaded once when it is added: one that can't be used is refused then, not when it is needed."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from backend.errors import InvalidInput
from backend.infra.checkpoints.candidates import read_json, weight_files
from backend.infra.checkpoints.weight_headers import read_safetensors
from jobs.modeling.build import allow_any_experts
from jobs.modeling.checkpoints import UNUSABLE, in_a_line, is_scorer, load_tokenizer
from jobs.reporter import Reporter

SLACK = 1.02
SHOWN = 4


def check_network(folder: Path, reporter: Reporter) -> None:
    """Build the config's network, compare it with the weights, load it and run it on a few tokens.

    Where the memory does not hold it the running is left out, and the log says so. Raises InvalidInput for a family that transformers
    does not know or that writes no text, for weights that are missing or don't fit, and for numbers that are not finite.
    """
    transformers.utils.logging.disable_progress_bar()
    config = _read_config(folder)
    files = weight_files(folder)
    tensors = {name: tensor for file in files for name, tensor in read_safetensors(file).items()}
    _check_size(folder, config, sum(tensor.numbers for tensor in tensors.values()))
    size = sum(file.stat().st_size for file in files)
    if size * 1.3 > psutil.virtual_memory().available:
        reporter.log(f"The network has {size / 1e9:,.1f} GB, more than this machine's free memory: it was not run.")
        return
    reporter.progress(0, 1, unit="network", message="Loading the network once")
    _run_once(folder, reporter)


def _read_config(folder: Path) -> PretrainedConfig:
    named = str(read_json(folder / "config.json").get("model_type"))
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, local_files_only=True)
    except UNUSABLE as error:
        raise InvalidInput(f"The network in {folder.name} can't be loaded: {in_a_line(error)}") from error
    if type(config) not in AutoModelForCausalLM._model_mapping or is_scorer(folder):
        raise InvalidInput(f"A network of the family {named!r} writes no text.", remedy="Give a causal language network.")
    return config


def _check_size(folder: Path, config: PretrainedConfig, held: int) -> None:
    """Compare the network's size with the weights' before any memory is taken for it: a config may ask for what no machine has."""
    try:
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        wanted = sum(math.prod(parameter.shape) for parameter in network.parameters())
    except UNUSABLE as error:
        raise InvalidInput(f"The network in {folder.name} can't be loaded: {in_a_line(error)}") from error
    if wanted > held * SLACK:
        raise InvalidInput(
            f"The network in {folder.name} can't be loaded: its config asks for {wanted:,} parameters, and the weights hold {held:,}.",
            remedy="Check that config.json belongs to these weights.",
        )


def _run_once(folder: Path, reporter: Reporter) -> None:
    try:
        network, report = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype="auto", use_safetensors=True, trust_remote_code=False, local_files_only=True, output_loading_info=True
        )
        missing = sorted(report["missing_keys"])
        if missing:
            raise InvalidInput(
                f"The network in {folder.name} can't be loaded: {len(missing)} of its tensors have no weights, among them {', '.join(missing[:SHOWN])}."
            )
        allow_any_experts(network)
        with torch.inference_mode():
            logits = network.eval()(input_ids=torch.zeros(1, 4, dtype=torch.long)).logits
    except UNUSABLE as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InvalidInput(f"The network in {folder.name} can't be loaded: {in_a_line(error)}") from error
    if not torch.isfinite(logits).all():
        raise InvalidInput("The network computes numbers that are not finite.", remedy="The files may be damaged: fetch them again.")
    rows, words = network.get_input_embeddings().num_embeddings, len(load_tokenizer(folder))
    if words > rows:
        reporter.log(f"The tokenizer knows {words:,} tokens and the network {rows:,}: text that uses the others can't be read.")
