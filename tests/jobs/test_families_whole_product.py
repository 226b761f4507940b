"""Every family through the whole product: trained, saved, loaded by anybody, fine-tuned with adapters, scored, served,
exported.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.families import FAMILIES, FAMILY_NAMES
from backend.domain.estimates.architecture_report import describe_architecture
from backend.domain.serving.protocol import GenerationEvent, SamplingParams
from backend.domain.training.config_sections import LoraConfig
from backend.errors import InvalidInput
from jobs.evaluation import run_loglikelihood
from jobs.modeling.checkpoints import inspect_folder, load_network
from jobs.modeling.entries import export as run_export
from jobs.modeling.loglikelihood import encode_pairs
from jobs.modeling.tokenizer_folders import load_tokenizer
from jobs.serving.engine import Engine
from jobs.serving.start import start_engine
from jobs.training import run as training
from tests.support.jobs import with_payload
from tests.support.networks.base_folders import config_from_checkpoint
from tests.support.training_rooms import TINY, Recorder, Rooms

SERVED_ONE_BY_ONE = {"bloom": "has its own attention", "deepseek_v3": "caches latents"}
TEXT = "Mira found a lamp and gave it to Tom. Everyone was glad."


@pytest.fixture(scope="module")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rooms]:
    threads = torch.get_num_threads()
    yield Rooms(tmp_path_factory.mktemp("product"))
    torch.set_num_threads(threads)


def pretrain(rooms: Rooms, config: ArchitectureConfig, *, run: str) -> str:
    """Train three steps and return the checkpoint's folder, relative to the artifacts."""
    steps: dict[str, Any] = {"max_steps": 3, "eval_every": 3, "checkpoint_every": 3, "architecture": config}
    spec = rooms.training("pretrain", run=f"{run}/pretrain", job=f"{run}-pretrain", **steps)
    spec = with_payload(spec, architecture=config)
    reporter = Recorder()
    result = training.run(spec, reporter)
    (saved,) = reporter.of("checkpoint")
    assert (saved["family"], saved["parameters"]) == (
        FAMILIES[config.family].model_type,
        describe_architecture(config).parameters,
    )
    assert saved["facts"] == {"context": config.context, "vocab_size": config.vocab_size}
    assert result.metrics["val_loss"] < 5.9  # ln 320 is 5.77
    return str(result.checkpoint)


def tune(rooms: Rooms, family: str, base: str, **lora: Any) -> str:
    """Train adapters for two steps and return their folder."""
    steps: dict[str, Any] = {
        "max_steps": 2,
        "eval_every": 2,
        "checkpoint_every": 2,
        "method": "lora",
        "lora": LoraConfig(rank=2, **lora),
    }
    spec = rooms.training("sft", run=f"{family}/sft", job=f"{family}-sft", **steps)
    spec = with_payload(spec, base=base)
    return str(training.run(spec, Recorder()).checkpoint)


def answer(engine: Engine, prompts: list[list[int]], *, tokens: int) -> list[list[int]]:
    """Return greedy completions of prompts that are asked for at once."""
    answers: list[list[int]] = [[] for _ in prompts]
    ended = [threading.Event() for _ in prompts]
    for index, ids in enumerate(prompts):

        def on_event(event: GenerationEvent, index: int = index) -> None:
            if event.type == "token":
                answers[index].extend(event.token_ids)
            else:
                ended[index].set()

        engine.submit(ids, SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True), on_event)
    assert all(event.wait(60) for event in ended)
    return answers


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_family_passes_through_the_whole_product(rooms: Rooms, family: str, caplog: pytest.LogCaptureFixture) -> None:
    kv_heads = {} if "num_kv_heads" in FAMILIES[family].fixed else {"num_kv_heads": 2}
    window = {"window": 16} if "window" in FAMILIES[family].fields else {}
    config = ArchitectureConfig(
        family=family, num_layers=2, width=32, context=64, vocab_size=TINY.vocab_size, **kv_heads, **window
    )
    base = pretrain(rooms, config, run=family)
    anybodys = AutoModelForCausalLM.from_pretrained(rooms.root / base)
    ours = load_network(rooms.root / base)
    ids = torch.tensor([rooms.tokenizer.encode(TEXT * 2)[:60]])
    assert type(anybodys).__name__ == FAMILIES[family].network_class
    assert torch.equal(anybodys.eval()(input_ids=ids).logits, ours(input_ids=ids).logits)
    assert config_from_checkpoint(rooms.root / base) == config
    facts = inspect_folder(rooms.root / base)
    assert (facts.parameters, facts.context) == (describe_architecture(config).parameters, 64)
    if family == "deepseek_v3":
        assert ours.model.layers[1].mlp.gate.e_score_correction_bias.abs().sum() > 0  # moved, kept, and read again

    adapter = tune(rooms, family, base)
    spec = rooms.spec(
        {"checkpoint": adapter, "checkpoint_id": "c", "format": "merged", "out": f"{family}/merged"},
        kind="export",
        job=f"{family}-export",
    )
    run_export.run(spec, Recorder())
    merged = load_network(rooms.root / f"{family}/merged")
    whole = load_network(rooms.root / base)
    tuned = peft.PeftModel.from_pretrained(whole, str(rooms.root / adapter)).eval()
    assert torch.allclose(merged(input_ids=ids).logits, tuned(input_ids=ids).logits, atol=1e-5)

    check_scores(rooms, family, merged)
    check_serving(rooms, family, merged, caplog)


@pytest.mark.parametrize(
    "sizes", [{"width": 40, "expert_feed_forward": 23}, {"width": 30, "num_heads": 3, "expert_feed_forward": 24}]
)
def test_experts_of_any_size_are_trained_and_read_again(rooms: Rooms, sizes: dict[str, int]) -> None:
    """Rows that are no whole 16 bytes once ended a run with torch's words on strides."""
    name = "odd-" + "-".join(str(size) for size in sizes.values())
    config = ArchitectureConfig(family="qwen3_moe", num_layers=2, context=64, vocab_size=TINY.vocab_size, **sizes)
    base = pretrain(rooms, config, run=name)
    adapter = tune(rooms, name, base)
    ids = torch.tensor([rooms.tokenizer.encode(TEXT)])
    for folder in (base, adapter):
        assert load_network(rooms.root / folder)(input_ids=ids).logits.isfinite().all()


def check_scores(rooms: Rooms, family: str, network: Any) -> None:
    """Rows of unlike lengths, scored in one batch, get what the network gives each alone."""
    pairs = [("Mira found", " a lamp."), ("Tom", " found the old boat and a song."), ("Everyone was", " glad")]
    (rooms.root / f"{family}.jsonl").write_text(
        "\n".join(json.dumps({"context": a, "continuation": b}) for a, b in pairs)
    )
    payload = {"checkpoint": f"{family}/merged", "rows_file": f"{family}.jsonl", "threads": 1}
    result = run_loglikelihood.run(rooms.spec(payload, job=f"{family}-score", kind="loglikelihood"), Recorder())
    scores = [json.loads(line) for line in (rooms.root / result.items_file).read_text().splitlines()]
    for (context, continuation), score in zip(pairs, scores, strict=True):
        ((head, tail),) = encode_pairs(rooms.tokenizer, [(context, continuation)])
        ids = torch.tensor([head + tail])
        with torch.no_grad():
            log_p = network(input_ids=ids).logits.log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None]).flatten()
        assert score["sum_logprob"] == pytest.approx(float(log_p[-len(tail) :].sum()), abs=1e-4)


def check_serving(rooms: Rooms, family: str, network: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Two prompts at once, longer than any window, are continued as transformers itself continues each."""
    torch.manual_seed(2)
    with torch.no_grad():
        for (
            name,
            weight,
        ) in network.named_parameters():  # strong blocks write a text that wanders, so that equality means something
            if weight.dim() > 1:
                weight.normal_(std=0.05 if "embed" in name else 0.5)
    ids = rooms.tokenizer.encode(TEXT * 2, add_special_tokens=False)
    prompts = [ids[:40], ids[3:25]]
    engine = start_engine(network, load_tokenizer(rooms.root / f"{family}/merged"))
    try:
        answers = answer(engine, prompts, tokens=12)
    finally:
        engine.close()
    assert engine.name == ("serial" if family in SERVED_ONE_BY_ONE else "batching")
    assert family not in SERVED_ONE_BY_ONE or SERVED_ONE_BY_ONE[family] in caplog.text
    for prompt, given in zip(prompts, answers, strict=True):
        one = torch.tensor([prompt])
        alone = network.generate(
            one, attention_mask=torch.ones_like(one), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert given == alone[0, len(prompt) :].tolist()
        assert len(set(given)) > 2


def test_adapters_of_experts_with_dropout_are_refused(rooms: Rooms) -> None:
    config = ArchitectureConfig(
        family="mixtral", num_layers=1, width=16, context=64, vocab_size=TINY.vocab_size, feed_forward=8
    )
    base = pretrain(rooms, config, run="dropout")
    with pytest.raises(InvalidInput, match=r"has experts.*dropout of 0\.1") as caught:
        tune(rooms, "dropout", base, dropout=0.1)
    assert caught.value.field == "lora.dropout"
