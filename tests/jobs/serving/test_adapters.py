"""LoRA adapters beside one base: a mixed batch gives each request its own network, merged weights being the
reference.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from backend.domain.serving.protocol import FinishEvent, GenerationEvent, SamplingParams, TokenEvent
from backend.errors import InvalidInput
from jobs.modeling.checkpoints import load_network
from jobs.serving.adapters import AdapterBank, AdapterFolders, LoadedAdapter, groups_of
from jobs.serving.batching import BatchingEngine
from jobs.serving.drafts import Draft
from jobs.serving.engine import Choice, Engine
from jobs.serving.fused_layers import FusedLayer, fuse_layers
from jobs.serving.native.library import Library
from jobs.serving.precision import quantise_and_check
from jobs.serving.reading import PromptReader
from jobs.serving.serial import SerialEngine
from tests.support.networks.serving_networks import make_gpt2, make_llama, make_tokenizer, save_adapter, save_checkpoint

ATTENTION, ALL = ["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
IDS = make_tokenizer()("Once upon a time, in a village by the sea, ")["input_ids"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    base = save_checkpoint(root / "base", network=make_llama(context=512))
    gpt2 = save_checkpoint(root / "gpt2", network=make_gpt2())
    return {
        "base": base,
        "red": save_adapter(root / "red", base=base, targets=ATTENTION, seed=1),
        "blue": save_adapter(root / "blue", base=base, targets=ALL, seed=2, rank=8),
        "gpt2": gpt2,
        "green": save_adapter(root / "green", base=gpt2, targets=["c_attn", "c_fc"], seed=3),
    }


def generate(
    engine: Engine, ids: list[int], adapter: LoadedAdapter | None, **params: Any
) -> tuple[list[TokenEvent], FinishEvent]:
    return start(engine, ids, adapter, **params)()


def start(engine: Engine, ids: list[int], adapter: LoadedAdapter | None, **params: Any) -> Any:
    events: list[GenerationEvent] = []
    done = threading.Event()

    def take(event: GenerationEvent) -> None:
        events.append(event)
        if event.type != "token":
            done.set()

    settings = SamplingParams(**{"max_tokens": 12, "temperature": 0, "logprobs": 0, "ignore_eos": True, **params})
    engine.submit(ids, settings, take, choice=Choice(adapter=adapter))

    def wait() -> tuple[list[TokenEvent], FinishEvent]:
        assert done.wait(120)
        assert isinstance(events[-1], FinishEvent), events[-1]
        return [event for event in events if isinstance(event, TokenEvent)], events[-1]

    return wait


def scores(events: list[TokenEvent]) -> tuple[list[int], list[float]]:
    tokens = [token for event in events for token in event.logprobs or ()]
    return [token.token_id for token in tokens], [float(token.logprob or 0) for token in tokens]


def expected(folder: Path, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return torch.as_tensor(load_network(folder)(input_ids=torch.tensor([ids])).logits[0])


@pytest.mark.parametrize("is_fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize(("base", "names"), [("base", ["red", "blue"]), ("gpt2", ["green"])])
def test_a_mixed_batch_equals_merged_weights_and_the_base_bit_by_bit(
    folders: dict[str, Path], base: str, names: list[str], is_fused: bool
) -> None:
    network = load_network(folders[base])
    if is_fused:
        fuse_layers(network)
    bank = AdapterBank(folders[base], network)
    with torch.inference_mode():
        alone = network(input_ids=torch.tensor([IDS, IDS, IDS])).logits
        adapters = [None, *(bank.load(folders[name]) for name in names)]
        order = [adapters[row % len(adapters)] for row in range(3)]
        bank.activate(groups_of([(adapter, len(IDS)) for adapter in order], device=network.device))
        mixed = network(input_ids=torch.tensor([IDS, IDS, IDS])).logits
        bank.activate(())
        again = network(input_ids=torch.tensor([IDS, IDS, IDS])).logits
    assert torch.equal(mixed[0], alone[0])
    assert torch.equal(again, alone)
    for row, name in ((row, ["", *names][row % len(adapters)]) for row in range(1, 3)):
        reference = expected(folders[name], IDS) if name else alone[row]
        assert torch.allclose(mixed[row], reference, atol=1e-4)
        assert not name or (mixed[row] - alone[row]).abs().max() > 0.1


@pytest.mark.parametrize("kind", [BatchingEngine, SerialEngine])
@pytest.mark.parametrize("is_compiled", [False, True], ids=["plain", "compiled"])
def test_engines_answer_requests_of_all_adapters_at_once(
    folders: dict[str, Path], kind: Any, is_compiled: bool, library: Library
) -> None:
    network = load_network(folders["base"])
    if is_compiled:
        fuse_layers(network, library=library)
    bank = AdapterBank(folders["base"], network)
    engine = kind(network, make_tokenizer(), bank=bank)
    try:
        before = scores(generate(engine, IDS, None)[0])
        chosen = {"base": None, "red": bank.load(folders["red"]), "blue": bank.load(folders["blue"])}
        waits = {
            (name, copy): start(engine, [*IDS, copy], adapter) for name, adapter in chosen.items() for copy in range(3)
        }
        answers = {key: scores(wait()[0]) for key, wait in waits.items()}
        for (name, copy), (ids, logprobs) in answers.items():
            logits = expected(folders[name], [*IDS, copy, *ids])[len(IDS) : -1]
            assert ids == logits.argmax(-1).tolist(), name
            assert logprobs == pytest.approx(logits.log_softmax(-1).amax(-1).tolist(), abs=1e-4)
        assert scores(generate(engine, IDS, None)[0]) == before
    finally:
        engine.close()


def test_in_the_library_a_token_has_the_same_bits_whatever_adapters_are_beside_it(
    folders: dict[str, Path], library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_network(folders["base"])
    fuse_layers(network, library=library)
    bank = AdapterBank(folders["base"], network)
    engine = BatchingEngine(network, make_tokenizer(), bank=bank)
    monkeypatch.setattr(FusedLayer, "_compute", None)  # no step is left to operators
    try:
        adapters = [None, bank.load(folders["red"]), bank.load(folders["blue"])]
        alone = [scores(generate(engine, IDS, adapter)[0]) for adapter in adapters]
        waits = [start(engine, IDS, adapter) for _ in range(3) for adapter in adapters]
        assert [scores(wait()[0]) for wait in waits] == alone * 3
        assert len({tuple(ids) for ids, _ in alone}) > 1
    finally:
        engine.close()


def test_a_draft_of_the_base_changes_no_answer_of_an_adapter(folders: dict[str, Path], library: Library) -> None:
    answers, drafted = [], []
    for with_draft in (False, True):
        network, draft = (load_network(folders["base"]) for _ in range(2))
        for loaded in (network, draft):
            fuse_layers(loaded, library=library)
        bank = AdapterBank(folders["base"], network)
        engine = BatchingEngine(network, make_tokenizer(), bank=bank, draft=Draft(draft) if with_draft else None)
        try:
            waits = [
                start(engine, IDS, adapter, max_tokens=40)
                for adapter in (None, bank.load(folders["red"]), bank.load(folders["blue"]))
            ]
            answers.append([scores(wait()[0]) for wait in waits])
            drafted.append(engine.stats().drafted_tokens or 0)
        finally:
            engine.close()
    assert answers[0] == answers[1]
    assert drafted[1] > drafted[0] == 0


def test_cached_prompts_are_not_shared_between_adapters(folders: dict[str, Path]) -> None:
    network = load_network(folders["base"])
    bank = AdapterBank(folders["base"], network)
    engine = BatchingEngine(network, make_tokenizer(), bank=bank)
    long = (IDS * 10)[:400]
    try:
        adapters = {name: bank.load(folders[name]) for name in ("red", "blue")}
        for adapter in (None, adapters["red"], adapters["blue"]):
            assert generate(engine, long, adapter, max_tokens=2)[1].usage.cached_tokens == 0
        for adapter in (adapters["blue"], None, adapters["red"]):
            events, finish = generate(engine, long, adapter, max_tokens=2)
            assert finish.usage.cached_tokens > 200
            folder = folders["base"] if adapter is None else Path(adapter.folder)
            assert scores(events)[0][0] == int(expected(folder, long)[-1].argmax())
        bank.unload(folders["red"])
        assert generate(engine, long, bank.load(folders["red"]), max_tokens=2)[1].usage.cached_tokens > 200
    finally:
        engine.close()


def test_an_adapter_that_is_unloaded_finishes_its_open_answers(folders: dict[str, Path]) -> None:
    network = load_network(folders["base"])
    bank = AdapterBank(folders["base"], network)
    engine = BatchingEngine(network, make_tokenizer(), bank=bank)
    try:
        red = bank.load(folders["red"])
        first = scores(generate(engine, IDS, red, max_tokens=30)[0])
        wait = start(engine, IDS, red, max_tokens=30)
        assert bank.unload(folders["red"])
        assert bank.loaded == []
        assert scores(wait()[0])[0] == first[0]
    finally:
        engine.close()


def test_prompts_are_read_with_their_adapter(folders: dict[str, Path]) -> None:
    network = load_network(folders["base"])
    reader = PromptReader(network)
    bank = reader.bank = AdapterBank(folders["base"], network, reader.network)
    plain = reader.score(IDS, top=0)
    records = reader.score(IDS, top=0, adapter=bank.load(folders["blue"]))
    reference = expected(folders["blue"], IDS).log_softmax(-1)[range(len(IDS) - 1), IDS[1:]]
    assert [record.logprob for record in records[1:] if record] == pytest.approx(reference.tolist(), abs=1e-4)
    assert reader.score(IDS, top=0) == plain


def test_an_int8_base_carries_a_float_adapter(folders: dict[str, Path]) -> None:
    network = load_network(folders["base"])
    quantise_and_check(network)
    bank = AdapterBank(folders["base"], network)
    red = bank.load(folders["red"])
    ids = torch.tensor([IDS])
    with torch.inference_mode():
        base = network(input_ids=ids).logits[0]
        with bank.use(red):
            change = network(input_ids=ids).logits[0] - base
    float_change = expected(folders["red"], IDS) - expected(folders["base"], IDS)
    assert torch.nn.functional.cosine_similarity(change.flatten(), float_change.flatten(), dim=0) > 0.98


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "no plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, "no plain LoRA"),
        ({"peft_type": "IA3"}, "no plain LoRA"),
        ("shape", "does not fit"),
        ("nan", "no numbers"),
        ("name", "only LoRA"),
        ("base", "another base"),
    ],
)
def test_what_can_not_be_served_beside_the_base_is_refused(
    folders: dict[str, Path], tmp_path: Path, change: Any, message: str
) -> None:
    folder = save_adapter(tmp_path / "odd", base=folders["base"], targets=ATTENTION, seed=4)
    weights = load_file(folder / "adapter_model.safetensors")
    key = next(iter(weights))
    if isinstance(change, dict):
        config = json.loads((folder / "adapter_config.json").read_text()) | change
        (folder / "adapter_config.json").write_text(json.dumps(config))
    elif change == "shape":
        weights[key] = torch.zeros(4, 7)
    elif change == "nan":
        weights[key] = torch.full_like(weights[key], float("nan"))
    elif change == "name":
        weights["base_model.model.lm_head.weight"] = weights.pop(key)
    save_file(weights, folder / "adapter_model.safetensors")
    base = folders["gpt2"] if change == "base" else folders["base"]
    bank = AdapterBank(base, load_network(base))
    with pytest.raises(InvalidInput, match=message):
        bank.load(folder)
    assert bank.loaded == []


def test_an_adapter_renders_prompts_and_ends_turns_by_its_own_template(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = save_adapter(tmp_path / "chat", base=folders["base"], targets=ATTENTION, seed=6)
    make_tokenizer(chat_template="{% for m in messages %}{{ m.content }}<|user|>{% endfor %}").save_pretrained(folder)
    adapters = AdapterFolders(tmp_path, AdapterBank(folders["base"], load_network(folders["base"])), make_tokenizer())
    adapter = adapters.load("chat")
    assert adapter is adapters.load("chat")
    assert adapter.tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "a<|user|>"
    assert adapter.end_ids == {make_tokenizer().convert_tokens_to_ids("<|user|>")}
    assert adapters.unload("chat")
    other = make_tokenizer()
    other.add_tokens(["<|new|>"])
    other.save_pretrained(folder)
    with pytest.raises(InvalidInput, match="other tokens"):
        adapters.load("chat")
    with pytest.raises(InvalidInput, match="below the artifacts"):
        adapters.load("../outside")
