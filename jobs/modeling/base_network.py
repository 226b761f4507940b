"""Load and run a base once when it is added, so that an unusable one is refused at once."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from backend.errors import InvalidInput
from backend.infra.checkpoints.candidates import read_json_file, weight_files
from backend.infra.checkpoints.weight_headers import read_safetensors
from jobs.modeling.build import allow_any_experts
from jobs.modeling.checkpoints import is_scorer
from jobs.modeling.memory_errors import is_out_of_memory
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.modeling.unusable import UNUSABLE, one_line
from jobs.reporter import Reporter

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
