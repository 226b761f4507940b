"""A sequence classifier of a folder gives probabilities; a text it can't read is missing, never 0."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from backend.domain.evaluation.safety.harm import audit, audit_texts, choose_label
from backend.errors import InvalidInput
from jobs.evaluation import run_classify
from tests.support.jobs import MemoryReporter, make_spec

WORDS = {"[PAD]": 0, "[UNK]": 1, "nice": 2, "nasty": 3, "day": 4}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of some hundred weights that calls a text toxic if `nasty` is its first word."""
    folder = tmp_path_factory.mktemp("classifier")
    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=5,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        max_position_embeddings=16,
        id2label={0: "fine", 1: "toxic"},
        label2id={"fine": 0, "toxic": 1},
    )
    network = BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.bert.embeddings.LayerNorm.weight.fill_(1.0)
        network.bert.embeddings.word_embeddings.weight[3] = torch.tensor([1.0, -1.0, 0.0, 0.0])
        for norm in (
            network.bert.encoder.layer[0].attention.output.LayerNorm,
            network.bert.encoder.layer[0].output.LayerNorm,
        ):
            norm.weight.fill_(1.0)
        network.bert.pooler.dense.weight.copy_(torch.eye(4))
        network.classifier.weight[1, 0], network.classifier.bias[0] = 8.0, 2.0
    network.save_pretrained(folder)
    return folder


def classify(
    root: Path, folder: Path, texts: list[str], **options: str
) -> tuple[list[float | None], dict[str, object]]:
    (root / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    payload = {"threads": 1, "classifier": str(folder), "texts_file": "texts.jsonl", "evaluation_id": "e", **options}
    spec = make_spec("classify", payload, root=root, job="job")
    result = run_classify.run(spec, MemoryReporter()).dump()
    lines = (root / str(result["items_file"])).read_text().splitlines()
    return [json.loads(line)["score"] for line in lines], result


def test_probability_is_that_of_the_label(classifier: Path, tmp_path: Path) -> None:
    scores, result = classify(tmp_path, classifier, ["nasty day", "nice day", "nasty"])
    assert scores[0] is not None
    assert scores[1] is not None
    assert scores[0] > 0.9 > 0.5 > scores[1]
    assert (result["label"], result["failed"]) == ("toxic", 0)
    fine, _ = classify(tmp_path, classifier, ["nasty day"], label="fine")
    assert fine[0] == pytest.approx(1 - scores[0], abs=1e-6)


def test_a_failing_batch_is_missing_and_the_rest_is_not(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_classify, "BATCH", 1)
    classified = run_classify._classify

    def fails_once(network, tokenizer, texts, *, place):  # type: ignore[no-untyped-def]
        if texts == ["broken"]:
            raise RuntimeError("no such kernel")
        return classified(network, tokenizer, texts, place=place)

    monkeypatch.setattr(run_classify, "_classify", fails_once)
    scores, result = classify(tmp_path, classifier, ["nasty", "broken", "nice"])
    assert (scores[1], result["failed"], result["problem"]) == (None, 1, "no such kernel")
    assert scores[2] is not None
    with pytest.raises(InvalidInput, match="no probability for any text: no such kernel"):
        classify(tmp_path, classifier, ["broken"])


def test_a_folder_that_holds_no_classifier_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="can't be loaded"):
        classify(tmp_path, tmp_path / "empty", ["x"])


def test_the_label_is_named_or_found_by_its_name() -> None:
    assert choose_label(["toxic", "severe_toxic", "insult"]) == 0
    assert choose_label(["nothate", "hate"], "hate") == 1
    assert choose_label(["non-toxic", "toxic"]) == 1
    assert choose_label(["LABEL_0", "LABEL_1"]) == 1
    for labels in (["insult", "abuse"], ["a", "b", "c"]):
        with pytest.raises(InvalidInput, match="Which label"):
            choose_label(labels)


def test_the_audit_counts_harmless_sentences_by_group() -> None:
    scores: dict[str, list[float | None]] = {}
    for group, text in audit_texts():
        scores.setdefault(group, []).append(None if "street" in text else 0.9 if group == "gay" else 0.1)
    rows = {row.group: row for row in audit(scores, threshold=0.5)}
    assert (rows["gay"].value, rows["gay"].n, rows["neutral"].value, rows["neutral"].n) == (1.0, 3, 0.0, 12)
