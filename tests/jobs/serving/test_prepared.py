"""Weights prepared once: a second replica maps the first one's file, and whatever is wrong with the file, it serves the
same.
"""

from __future__ import annotations

import logging
import os
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.domain.serving.memory import replica_memory
from backend.domain.serving.precision import Precision
from backend.domain.serving.protocol import GenerationEvent, SamplingParams, TokenEvent
from backend.errors import InvalidInput
from jobs.modeling.checkpoints import load_network
from jobs.serving import prepared as preparing
from jobs.serving.adapters import AdapterBank, LoadedAdapter
from jobs.serving.batching import BatchingEngine
from jobs.serving.engine import Choice
from jobs.serving.fused_layers import FusedLayer, fuse_layers
from jobs.serving.native.library import Library
from jobs.serving.prepared import (
    Damaged,
    LoadedNetwork,
    PreparedFolder,
    list_tensors,
    load_own,
    load_prepared,
    map_tensors,
    write_tensors,
)
from tests.support.networks.base_folders import config_from_checkpoint
from tests.support.networks.serving_networks import (
    make_gpt2,
    make_llama,
    make_mamba,
    make_tokenizer,
    save_adapter,
    save_checkpoint,
)

CPU = torch.device("cpu")
IDS = [5, 6, 7, 8, 9]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = make_llama(hidden=64)
    network.generation_config.temperature = 0.7
    network.generation_config.do_sample = True
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), network=network)


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedFolder:
    return PreparedFolder(tmp_path / "prepared")


def load(folder: Path, prepared: PreparedFolder, precision: Precision = "int8") -> LoadedNetwork:
    return load_prepared(folder, device=CPU, precision=precision, prepared=prepared)


@torch.inference_mode()
def logits(network: Any) -> torch.Tensor:
    return torch.as_tensor(network(input_ids=torch.tensor([IDS])).logits[0])


def answers(network: Any, *, bank: AdapterBank, adapters: list[LoadedAdapter | None]) -> list[list[int]]:
    """Return the greedy tokens of an engine, decoded by the compiled library where no adapter is active."""
    engine = BatchingEngine(network, make_tokenizer(), max_running=1, bank=bank)
    tokens: list[list[int]] = []
    try:
        for adapter in adapters:
            done = threading.Event()
            tokens.append([])

            def on_event(event: GenerationEvent, done: threading.Event = done) -> None:
                if isinstance(event, TokenEvent):
                    tokens[-1].extend(event.token_ids)
                else:
                    done.set()

            engine.submit(
                IDS,
                SamplingParams(max_tokens=12, temperature=0, ignore_eos=True),
                on_event,
                choice=Choice(adapter=adapter),
            )
            assert done.wait(120)
    finally:
        engine.close()
    return tokens


@pytest.mark.parametrize(
    ("make", "precision"),
    [
        (make_llama, "float32"),
        (make_llama, "int8"),
        (make_gpt2, "float32"),
        (make_gpt2, "bfloat16"),
        (make_gpt2, "int8"),
        (make_mamba, "float32"),
    ],
    ids=["llama", "llama int8", "gpt2", "gpt2 bfloat16", "gpt2 int8", "mamba"],
)
def test_a_second_replica_maps_the_first_ones_file_and_answers_bit_for_bit_the_same(
    make: Any, precision: Precision, prepared: PreparedFolder, tmp_path: Path, library: Library
) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint", network=make())
    own = load_own(folder, device=CPU, precision=precision, library=library)
    first, second = load(folder, prepared, precision), load(folder, prepared, precision)
    assert first.file == second.file is not None
    assert first.check == second.check == own.check
    assert second.network.config.to_dict() == own.network.config.to_dict()
    expected, shared = list_tensors(own.network)
    tensors, mapped_shared = list_tensors(second.network)
    assert shared == mapped_shared
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors.values() if tensor.numel())
    assert torch.equal(logits(second.network), logits(own.network))
    assert torch.equal(logits(first.network), logits(own.network))


def test_a_mapped_network_is_fused_and_has_the_checkpoints_generation_config(
    folder: Path, prepared: PreparedFolder
) -> None:
    load(folder, prepared)
    network = load(folder, prepared).network
    assert all(isinstance(layer, FusedLayer) for layer in network.model.layers)
    assert network.generation_config.to_dict() == load_network(folder).generation_config.to_dict()
    assert not network.training


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_size_of_the_file_is_the_estimate_of_a_replicas_weights(
    folder: Path, prepared: PreparedFolder, precision: Precision
) -> None:
    file = load(folder, prepared, precision).file
    assert file is not None
    parameters = sum(weight.numel() for weight in load_network(folder).parameters())
    estimate = replica_memory(
        parameters=parameters, shape=config_from_checkpoint(folder), device="cpu", precision=precision
    )
    assert sum(tensor.nbytes for tensor in map_tensors(file)[0].values()) == pytest.approx(
        estimate.weight_bytes, rel=0.01
    )


@pytest.fixture(scope="module")
def folder_16_bit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint_16_bit"), network=make_llama().bfloat16())


def test_a_checkpoint_of_16_bits_stays_in_16_bits_and_answers_as_in_float32(
    folder_16_bit: Path, prepared: PreparedFolder, library: Library
) -> None:
    load(folder_16_bit, prepared, "float32")
    mapped = load(folder_16_bit, prepared, "float32")
    assert mapped.file is not None
    parameters = sum(weight.numel() for weight in load_network(folder_16_bit).parameters())
    shape = config_from_checkpoint(folder_16_bit)
    estimate = replica_memory(parameters=parameters, shape=shape, device="cpu", is_16_bit=True)
    assert sum(tensor.nbytes for tensor in map_tensors(mapped.file)[0].values()) == pytest.approx(
        estimate.weight_bytes, rel=0.01
    )
    assert estimate.weight_bytes < 2.1 * parameters
    wide = load_network(folder_16_bit)
    fuse_layers(wide, library=library)
    given = [
        answers(network, bank=AdapterBank(folder_16_bit, network), adapters=[None])
        for network in (mapped.network, wide)
    ]
    assert given[0] == given[1]


def test_bfloat16_rounds_float32_weights_and_measures_the_price(
    folder: Path, prepared: PreparedFolder, library: Library
) -> None:
    check = load(folder, prepared, "bfloat16").check
    assert check is not None
    assert check.precision == "bfloat16"
    assert 1 < check.perplexity_ratio < 1.001
    mapped = load(folder, prepared, "bfloat16")
    assert mapped.check == check
    rounded = load_network(folder)
    for parameter in rounded.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.bfloat16().float()
    fuse_layers(rounded, library=library)
    given = [
        answers(network, bank=AdapterBank(folder, network), adapters=[None]) for network in (mapped.network, rounded)
    ]
    assert given[0] == given[1]


def test_bfloat16_without_a_compiler_is_refused(
    folder: Path, prepared: PreparedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "compile_library", lambda: None)
    with pytest.raises(InvalidInput, match=r"needs a C\+\+ compiler"):
        load(folder, prepared, "bfloat16")


def test_the_price_of_int8_is_measured_once(
    folder: Path, prepared: PreparedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = load(folder, prepared).check
    assert check is not None
    monkeypatch.setattr(preparing, "quantise_and_check", lambda *_, **__: pytest.fail("measured again"))
    assert load(folder, prepared).check == check


@pytest.mark.skipif(not Path("/proc/self/smaps").is_file(), reason="reads /proc/self/smaps")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_adapters_work_on_mapped_weights_and_write_nothing_into_them(
    tmp_path: Path, prepared: PreparedFolder, precision: Precision, library: Library
) -> None:
    folder = save_checkpoint(tmp_path / "base", network=make_llama())
    adapter = save_adapter(tmp_path / "red", base=folder, targets=["q_proj", "v_proj", "down_proj", "up_proj"], seed=1)
    load(folder, prepared, precision)
    given = []
    for loaded in (
        load_own(folder, device=CPU, precision=precision, library=library),
        load(folder, prepared, precision),
    ):
        bank = AdapterBank(folder, loaded.network)
        given.append(answers(loaded.network, bank=bank, adapters=[None, bank.load(adapter), None]))
    assert given[0] == given[1]
    assert given[0][0] == given[0][2] != given[0][1]
    assert loaded.file is not None
    assert _copied_kb(loaded.file) == 0


def _copied_kb(file: Path) -> int:
    """Return the kilobytes of a mapped file's pages that this process has copied by writing."""
    copied, is_file = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split(" ")[0]:
            is_file = line.endswith(str(file))
        elif is_file and line.startswith("Anonymous:"):
            copied += int(line.split()[1])
    return copied


def test_an_adapter_deployed_by_itself_is_mapped_merged(folder: Path, prepared: PreparedFolder, tmp_path: Path) -> None:
    adapter = save_adapter(tmp_path / "adapter", base=folder, targets=["q_proj", "down_proj"], seed=2)
    load(adapter, prepared, "float32")
    mapped = load(adapter, prepared, "float32")
    assert mapped.file is not None
    merged = load_network(adapter)
    assert torch.allclose(logits(mapped.network), logits(merged), atol=1e-4)
    assert not torch.allclose(logits(merged), logits(load_network(folder)), atol=0.1)


@pytest.mark.parametrize("damage", ["truncated", "empty", "one byte", "header", "another model"])
def test_a_damaged_file_is_noticed_and_made_again(
    folder: Path, prepared: PreparedFolder, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = load(folder, prepared, "float32").file
    assert file is not None
    intact = file.read_bytes()
    file.unlink()  # what the first replica has mapped stays
    damaged = {
        "truncated": intact[:-100],
        "empty": b"",
        "one byte": intact[: (middle := len(intact) * 2 // 3)] + bytes([intact[middle] ^ 1]) + intact[middle + 1 :],
        "header": (2**40).to_bytes(8, "little") + intact[8:],
        "another model": intact,
    }
    file.write_bytes(damaged[damage])
    if damage == "another model":
        write_tensors(file, {"weight": torch.zeros(3)}, about={"shared": "{}", "check": ""})
    again = load(folder, prepared, "float32")
    assert "made again" in caplog.text
    assert again.file == file
    assert file.read_bytes() == intact


def test_two_replicas_that_start_at_once_prepare_once(
    folder: Path, prepared: PreparedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_prepared = []
    both = threading.Barrier(2)
    original = preparing.load_own

    def counted(*args: Any, **kwargs: Any) -> LoadedNetwork:
        num_prepared.append(1)
        return original(*args, **kwargs)

    def start(_: int) -> LoadedNetwork:
        both.wait()
        return load(folder, prepared, "float32")

    monkeypatch.setattr(preparing, "load_own", counted)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(start, range(2))
    assert len(num_prepared) == 1
    assert first.file == second.file is not None
    assert sorted(path.name for path in prepared.path.iterdir()) == [".lock", first.file.name]


@contextmanager
def _files_of_at_most(num_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_without_room_leaves_a_replica_with_weights_of_its_own(
    folder: Path, prepared: PreparedFolder, caplog: pytest.LogCaptureFixture
) -> None:
    with _files_of_at_most(10_000):
        own = load(folder, prepared, "float32")
    assert "can't be written" in caplog.text
    kept_free = load(folder, PreparedFolder(prepared.path, keep_free_bytes=2**60), "float32")
    assert "B are free" in caplog.text
    assert own.file is kept_free.file is None
    assert [path.name for path in prepared.path.iterdir()] == [".lock"]
    assert torch.equal(logits(own.network), logits(load(folder, prepared, "float32").network))


def test_a_folder_that_can_not_be_made_leaves_a_replica_with_weights_of_its_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert load(folder, PreparedFolder(tmp_path / "file" / "prepared"), "float32").file is None


def test_other_contents_are_another_file_and_older_files_of_the_precision_go(
    prepared: PreparedFolder, tmp_path: Path
) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint")
    before = load(folder, prepared, "float32").file
    int8 = prepared.path / "int8-of-another-precision.safetensors"
    int8.write_text("")
    left = prepared.path / ".float32-old.partial"
    left.write_text("")
    os.utime(left, (0, 0))
    network = make_llama()
    network.lm_head.weight.data[0] += 1
    save_checkpoint(folder, network=network)
    changed = load(folder, prepared, "float32").file
    assert changed != before
    assert set(prepared.path.iterdir()) == {prepared.path / ".lock", changed, int8}


def test_without_a_compiler_int8_has_weights_of_its_own(
    folder: Path, prepared: PreparedFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "compile_library", lambda: None)
    assert load(folder, prepared, "int8").file is None
    assert load(folder, prepared, "float32").file is not None


def test_layers_that_torch_packs_are_not_shared(
    prepared: PreparedFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    network = make_llama(hidden=40)  # no multiple of 16
    assert load(save_checkpoint(tmp_path / "checkpoint", network=network), prepared, "int8").file is None
    assert "can't be shared" in caplog.text


def test_texts_about_tensors_are_part_of_the_checksum(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    tensors = {"a": torch.arange(5000), "b": torch.ones(3, 7, dtype=torch.bfloat16), "c": torch.empty(0)}
    write_tensors(file, tensors, about={"check": "0.5"})
    mapped, about = map_tensors(file)
    assert about == {"check": "0.5"}
    assert all(torch.equal(mapped[name], tensor) for name, tensor in tensors.items())
    file.write_bytes(file.read_bytes().replace(b'"0.5"', b'"0.9"'))
    with pytest.raises(Damaged, match="other contents"):
        map_tensors(file)
