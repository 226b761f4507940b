"""Entry of a classification job: the probability of one label of a sequence classifier, for the texts of a file.

Payload: `classifier` (a folder, or an id of the Hub), `texts_file` (JSONL of {text}, relative to the artifacts),
`label`. The result names `items_file`, JSONL in the same order: {score}, null where a text could not be classified.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from backend.domain.evaluation.safety.harm import choose_label
from backend.domain.jobs.payloads import ClassifyPayload
from backend.domain.jobs.results import ClassifyResult
from backend.errors import InvalidInput
from jobs.evaluation.ledger import check_stop
from jobs.modeling.devices import is_out_of_memory, pick_device, set_threads
from jobs.modeling.unusable import UNUSABLE, one_line
from jobs.reporter import JobSpec, Reporter

BATCH = 16
MAX_TOKENS = 512


def run(spec: JobSpec[ClassifyPayload], reporter: Reporter) -> ClassifyResult:
    """Classify the texts; see the module's first lines. Raises InvalidInput without a usable classifier."""
    payload = spec.payload
    set_threads(payload.threads)
    texts = [
        json.loads(line)["text"]
        for line in spec.path(payload.texts_file).read_text(encoding="utf-8").split("\n")
        if line
    ]
    reporter.progress(0, len(texts), unit="texts", message="Loading the classifier")
    folder = spec.path(payload.classifier)
    network, tokenizer = _load(str(folder) if folder.is_dir() else payload.classifier)
    labels = [str(network.config.id2label[index]) for index in range(network.config.num_labels)]
    place = choose_label(labels, payload.label)
    scores: list[float | None] = [None] * len(texts)
    problem = ""
    for at in range(0, len(texts), BATCH):
        check_stop(reporter)
        try:
            scores[at : at + BATCH] = _classify(network, tokenizer, texts[at : at + BATCH], place=place)
        except (
            RuntimeError,
            ValueError,
            IndexError,
            TypeError,
        ) as error:  # only the texts of this batch are missing
            if is_out_of_memory(error):
                raise
            problem = problem or one_line(error)
        reporter.progress(min(at + BATCH, len(texts)), len(texts), unit="texts")
    if all(score is None for score in scores):
        raise InvalidInput(
            f"The classifier gives no probability for any text: {problem or 'not a number'}.", field="classifier"
        )
    file = spec.folder / "classified.jsonl"
    file.write_text("".join(json.dumps({"score": score}) + "\n" for score in scores), encoding="utf-8")
    failed = sum(score is None for score in scores)
    return ClassifyResult(
        count=len(scores),
        failed=failed,
        label=labels[place],
        items_file=spec.relative(Path(file)),
        problem=problem[:300],
    )


def _load(name: str) -> tuple[Any, Any]:
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": Path(name).is_dir()}
    try:
        network = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, use_safetensors=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except UNUSABLE as error:
        if is_out_of_memory(error):
            raise
        raise InvalidInput(
            f"The classifier {Path(name).name!r} can't be loaded: {one_line(error)}",
            remedy="Give the folder of a sequence classifier with safetensors, or its id on the Hub.",
            field="classifier",
        ) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if network.config.pad_token_id is None:
        network.config.pad_token_id = tokenizer.pad_token_id
    return network.to(pick_device()).eval(), tokenizer


@torch.inference_mode()
def _classify(network: Any, tokenizer: Any, texts: list[str], *, place: int) -> list[float | None]:
    longest = min(MAX_TOKENS, int(getattr(network.config, "max_position_embeddings", MAX_TOKENS) or MAX_TOKENS))
    batch = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=longest).to(network.device)
    batch.pop("token_type_ids", None) if not getattr(network.config, "type_vocab_size", 0) else None
    logits = network(**batch).logits.float()
    several = network.config.num_labels == 1 or network.config.problem_type == "multi_label_classification"
    probabilities = torch.sigmoid(logits[:, place]) if several else logits.softmax(-1)[:, place]
    return [value if math.isfinite(value) else None for value in probabilities.tolist()]
