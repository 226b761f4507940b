"""Reward models: transformers' sequence classification networks with a single label."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from backend.errors import InvalidInput
from jobs.modeling.build import allow_any_experts
from jobs.modeling.checkpoints import base_folder_of, check_folder, is_adapter, is_scorer, load_as, load_network, put_on


def load_scorer(folder: Path, *, pad_id: int, seed: int = 0, dropout: float | None = None) -> PreTrainedModel:
    """Load a scoring network in fp32 and evaluation mode.

    A causal network gets a new scoring head, drawn from `seed`. The score is read at the last token of a row that is
    not `pad_id`. Raises NotFound or InvalidInput (see `load_network`), and InvalidInput for a family without a scoring
    class.
    """
    check_folder(folder)
    if not is_scorer(folder):
        return _with_new_head(load_network(folder, dropout=dropout), pad_id=pad_id, seed=seed)
    if is_adapter(folder):
        base = load_scorer(base_folder_of(folder), pad_id=pad_id, seed=seed, dropout=dropout)
        return put_on(base, folder)
    scorer = load_as(AutoModelForSequenceClassification, folder, dtype=torch.float32, dropout=dropout)
    if scorer.config.num_labels != 1:
        raise InvalidInput(
            f"The model in {folder.name} sorts texts into {scorer.config.num_labels} classes, and a reward model"
            " gives one score."
        )
    return scorer.eval()


def _with_new_head(network: PreTrainedModel, *, pad_id: int, seed: int) -> PreTrainedModel:
    """Put a scoring head on the body of a causal network."""
    config = network.config
    if type(config) not in AutoModelForSequenceClassification._model_mapping:
        raise InvalidInput(
            f"transformers has no model of the family {config.model_type!r} that scores texts.",
            remedy="Choose a base of another family, such as llama, qwen3 or gpt2.",
            field="base",
        )
    config.num_labels, config.pad_token_id = 1, pad_id
    with torch.device("meta"):  # its body is discarded
        scorer = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    head = getattr(scorer, "score", None)
    if not isinstance(head, torch.nn.Linear):
        raise InvalidInput(
            f"A model of the family {config.model_type!r} scores in a way that can't be trained here.", field="base"
        )
    scorer.score = torch.nn.Linear(head.in_features, 1, bias=head.bias is not None)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        scorer.score.weight.normal_(0.0, float(getattr(config, "initializer_range", 0.02)), generator=draw)
        if scorer.score.bias is not None:
            scorer.score.bias.zero_()
    setattr(scorer, scorer.base_model_prefix, getattr(network, network.base_model_prefix))
    allow_any_experts(scorer)
    return scorer.eval()
