"""Each optimizer against its paper's update on small matrices, and its state saved and restored."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import count_parameters
from backend.domain.estimates.optimizer_state import count_frozen, optimizer_bytes
from backend.domain.estimates.setting import TrainingSetting
from backend.domain.training.config import RunConfig
from backend.errors import InvalidInput
from jobs.modeling.build import build_network
from jobs.modeling.checkpoints import STATE_FOLDER
from jobs.training.checkpoints import Counters, RandomState, gather_state, load_state, save_state, seed_everything
from jobs.training.distributed import ProcessGroup
from jobs.training.network import optimizers
from jobs.training.network.ema import Ema, named_states
from jobs.training.network.load import freeze_blocks
from jobs.training.network.optimizers import check_optimizer, hidden_matrices, make_optimizer
from tests.support.training_rooms import TINY

RATE, DECAY, BETA1, BETA2 = 0.01, 0.1, 0.9, 0.95
ALL = ("adamw", "muon", "lion", "adafactor", "adamw_8bit")


def config(optimizer: str, **values: Any) -> RunConfig:
    parts = {
        "dataset": "d",
        "architecture": "a",
        "tokenizer": "t",
        "learning_rate": RATE,
        "weight_decay": DECAY,
        "beta1": BETA1,
    }
    return RunConfig.model_validate({**parts, "beta2": BETA2, "optimizer": optimizer, **values})


class Small(torch.nn.Module):
    """A module with an embedding, a matrix and a vector, which optimizers treat differently."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.embedding = torch.nn.Embedding(5, 4)
        self.matrix = torch.nn.Parameter(torch.randn(6, 4, generator=generator))
        self.vector = torch.nn.Parameter(torch.randn(4, generator=generator))
        with torch.no_grad():
            self.embedding.weight.copy_(torch.randn(5, 4, generator=generator))


def gradients(model: torch.nn.Module, step: int) -> list[torch.Tensor]:
    """Set a model's gradients for a step, deterministically."""
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return [parameter.grad.double() for parameter in model.parameters() if parameter.grad is not None]


def adamw_by_hand(weight: torch.Tensor, grads: list[torch.Tensor], decay: float) -> torch.Tensor:
    """Algorithm 2 of arXiv 1711.05101."""
    mean = square = torch.zeros_like(weight)
    for step, grad in enumerate(grads, 1):
        mean, square = BETA1 * mean + (1 - BETA1) * grad, BETA2 * square + (1 - BETA2) * grad**2
        update = mean / (1 - BETA1**step) / ((square / (1 - BETA2**step)).sqrt() + 1e-8)
        weight = weight - RATE * (update + decay * weight)
    return weight


def lion_by_hand(weight: torch.Tensor, grads: list[torch.Tensor], decay: float) -> torch.Tensor:
    """Algorithm 2 of arXiv 2302.06675."""
    mean = torch.zeros_like(weight)
    for grad in grads:
        weight = weight - RATE * ((BETA1 * mean + (1 - BETA1) * grad).sign() + decay * weight)
        mean = BETA2 * mean + (1 - BETA2) * grad
    return weight


def adafactor_by_hand(weight: torch.Tensor, grads: list[torch.Tensor], decay: float) -> torch.Tensor:
    """Algorithms 4 and 5 of arXiv 1804.04235, section 7.2's decay, with a given learning rate and no scale by the
    parameters.
    """
    row, column, whole = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    for step, grad in enumerate(grads, 1):
        beta, square = 1 - step**-0.8, grad**2 + 1e-30
        if weight.dim() == 2:
            row, column = beta * row + (1 - beta) * square.mean(1), beta * column + (1 - beta) * square.mean(0)
            update = grad / (torch.outer(row, column) / row.mean()).sqrt()
        else:
            whole = beta * whole + (1 - beta) * square
            update = grad / whole.sqrt()
        update = update / max(1.0, float(update.norm() / update.numel() ** 0.5))
        weight = weight - RATE * decay * weight - RATE * update
    return weight


def muon_by_hand(weight: torch.Tensor, grads: list[torch.Tensor], decay: float) -> torch.Tensor:
    """Jordan et al. 2024 with the size of arXiv 2502.16982, equation 4; the orthogonal matrix by Newton and Schulz, in
    fp64.
    """
    momentum = torch.zeros_like(weight)
    for grad in grads:
        momentum = 0.95 * momentum + 0.05 * grad
        near = 0.05 * grad + 0.95 * momentum
        near = near / near.norm()
        for _ in range(5):
            gram = near.T @ near  # 6 x 4: the smaller side
            near = 3.4445 * near + near @ (-4.7750 * gram + 2.0315 * gram @ gram)
        weight = weight * (1 - RATE * decay) - RATE * 0.2 * max(weight.shape) ** 0.5 * near
    return weight


BY_HAND: dict[str, Any] = {"adamw": adamw_by_hand, "lion": lion_by_hand, "adafactor": adafactor_by_hand}


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor"])
def test_an_update_is_that_of_the_paper(name: str) -> None:
    model, began = Small(), Small()
    optimizer, seen = make_optimizer(model, config(name)), []
    for step in range(3):
        seen.append(gradients(model, step))
        optimizer.step()
    for index, (before, after) in enumerate(zip(began.parameters(), model.parameters(), strict=True)):
        decay = DECAY if before.dim() == 2 else 0.0
        expected = BY_HAND[name](before.detach().double(), [grads[index] for grads in seen], decay)
        torch.testing.assert_close(after.detach().double(), expected, rtol=1e-5, atol=1e-6)


def test_muon_updates_the_matrix_and_adamw_the_rest() -> None:
    model, began = Small(), Small()
    optimizer, seen = make_optimizer(model, config("muon")), []
    for step in range(3):
        seen.append(gradients(model, step))
        optimizer.step()
    weights = {
        name: (parameter.detach().double(), place) for place, (name, parameter) in enumerate(model.named_parameters())
    }
    for name, before in began.named_parameters():
        after, place = weights[name]
        by_hand = muon_by_hand if name == "matrix" else adamw_by_hand
        expected = by_hand(
            before.detach().double(), [grads[place] for grads in seen], DECAY if before.dim() == 2 else 0.0
        )
        rounding = 0.02 * RATE if name == "matrix" else 1e-6  # torch orthogonalises in bf16
        torch.testing.assert_close(after, expected, rtol=1e-5, atol=rounding)


def test_adamw_updates_embedding_head_and_norms_beside_muon() -> None:
    network = build_network(TINY.model_copy(update={"tie_embeddings": False}), seed=1)
    chosen = {id(parameter) for parameter in hidden_matrices(network)}
    names = {name for name, parameter in network.named_parameters() if id(parameter) in chosen}
    assert names
    assert all(name.endswith("proj.weight") for name in names)
    others = {name for name, _ in network.named_parameters()} - names
    assert {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"} <= others


def test_every_combined_optimizer_follows_the_groups_learning_rate() -> None:
    model = Small()
    optimizer = make_optimizer(model, config("muon", weight_decay=0.0))
    before = copy.deepcopy(model.state_dict())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    gradients(model, 0)
    optimizer.step()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ALL)
def test_an_optimizer_resumes_from_its_saved_state_bit_for_bit(name: str, tmp_path: Path) -> None:
    if name == "adamw_8bit":
        pytest.importorskip("bitsandbytes")

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer, ema: Ema, steps: range) -> None:
        for step in steps:
            gradients(model, step)
            optimizer.step()
            ema.update(step)

    whole = Small()
    ema = Ema(whole, decay=0.9)
    optimizer = make_optimizer(whole, config(name))
    train(whole, optimizer, ema, range(4))
    with ema.swapped_in():
        saved = copy.deepcopy(whole.state_dict())
        save_state(tmp_path, gathered=gather_state(optimizer, named_states(ema)), counters=Counters(step=4))
    train(whole, optimizer, ema, range(4, 7))

    resumed = Small()
    resumed.load_state_dict(saved)
    ema_again, optimizer_again = Ema(resumed, decay=0.9), make_optimizer(resumed, config(name))
    assert load_state(tmp_path, optimizer=optimizer_again, states=named_states(ema_again)).step == 4
    train(resumed, optimizer_again, ema_again, range(4, 7))
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in resumed.state_dict().items())
    with ema.swapped_in(), ema_again.swapped_in():
        assert all(torch.equal(value, whole.state_dict()[key]) for key, value in resumed.state_dict().items())
    assert not [file for file in (tmp_path / STATE_FOLDER).iterdir() if file.suffix not in (".json", ".safetensors")]
    assert json.loads((tmp_path / STATE_FOLDER / "state.json").read_text())["optimizer"]


def test_a_table_that_all_parameters_share_is_saved_once(tmp_path: Path) -> None:
    model, table = Small(), torch.arange(256.0)
    optimizer = make_optimizer(model, config("adamw"))
    gradients(model, 0)
    optimizer.step()
    for state in optimizer.state.values():
        state["table"] = table  # as bitsandbytes does
    save_state(tmp_path, gathered=gather_state(optimizer), counters=Counters())
    again = make_optimizer(model, config("adamw"))
    load_state(tmp_path, optimizer=again)
    assert all(torch.equal(state["table"], table) for state in again.state.values())


def test_a_state_of_another_optimizer_or_network_is_refused(tmp_path: Path) -> None:
    model = Small()
    save_state(tmp_path, gathered=gather_state(make_optimizer(model, config("lion"))), counters=Counters())
    with pytest.raises(InvalidInput, match="is that of Lion, and the run's optimizer is AdamW"):
        load_state(tmp_path, optimizer=make_optimizer(model, config("adamw")))
    model.matrix = torch.nn.Parameter(torch.zeros(3, 4))
    with pytest.raises(InvalidInput, match="another model"):
        load_state(tmp_path, optimizer=make_optimizer(model, config("lion")))


def test_a_missing_optimizer_library_is_named_with_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimizers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput, match="bitsandbytes") as refusal:
        check_optimizer(config("adamw_8bit"))
    assert refusal.value.field == "optimizer"
    assert "adafactor" in refusal.value.remedy
    check_optimizer(config("lion"))


def test_the_ema_warms_up_and_equals_torchs_afterwards() -> None:
    model = Small()
    ema = Ema(model, decay=0.5)
    theirs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    theirs.update_parameters(model)
    for step in range(20, 24):  # late enough for the configured decay
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(step))
        ema.update(step)
        theirs.update_parameters(model)
    held = copy.deepcopy(model.state_dict())
    with ema.swapped_in():
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, theirs.module.state_dict()[name])
    assert all(torch.equal(held[name], value) for name, value in model.state_dict().items())
    early = Ema(model, decay=0.999)
    with torch.no_grad():
        model.vector.zero_()
    early.update(1)
    with early.swapped_in():
        torch.testing.assert_close(model.vector.detach(), held["vector"] * 2 / 11)


SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"num_kv_heads": 2, "tie_embeddings": False},
    "gpt2": {},
    "bloom": {},
    "qwen3_moe": {"num_experts": 4, "experts_per_token": 2, "dense_layers": 1},
    "deepseek_v3": {"dense_layers": 1},
}


class Silent:
    """A reporter that drops everything."""

    def log(self, text: str) -> None:
        self.text = text


def held_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of all tensors in an optimizer's state except counters."""
    tensors = [
        value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor.dim())


@pytest.mark.parametrize("family", SHAPES)
@pytest.mark.parametrize("frozen", [0, 2])
def test_parameters_trained_and_bytes_of_each_optimizer_are_as_arithmetic_says(family: str, frozen: int) -> None:
    small = {"num_layers": 3, "width": 32, "num_heads": 4, "context": 64, "vocab_size": 320}
    shape = ArchitectureConfig.model_validate({"family": family, **small, **SHAPES[family]})
    network, reporter = build_network(shape, seed=1), Silent()
    freeze_blocks(network, frozen, reporter=reporter)  # type: ignore[arg-type]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in trained)
    assert count == sum(count_parameters(shape).values()) - count_frozen(shape, frozen)
    assert not frozen or f"; {count:,} of " in reporter.text
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    for name in ("adamw", "muon", "lion", "adafactor"):
        optimizer = make_optimizer(network, config(name, learning_rate=1e-9))
        optimizer.step()
        estimated = optimizer_bytes(
            TrainingSetting.model_validate({"architecture": shape, "optimizer": name, "frozen_blocks": frozen})
        )
        # keys and queries in one matrix share adafactor's factors, so counting them apart is slightly too much
        assert estimated == pytest.approx(held_bytes(optimizer), rel=0.1 if name == "adafactor" else 1e-9), name


def test_a_setting_measured_before_a_field_existed_equals_its_default() -> None:
    setting = TrainingSetting(architecture=TINY)
    stored = setting.model_dump(mode="json")
    del stored["optimizer"]
    assert TrainingSetting.model_validate(stored).fingerprint == setting.fingerprint
    assert setting.model_copy(update={"optimizer": "lion"}).fingerprint != setting.fingerprint


def test_adamw_updates_the_head_of_a_reward_model_beside_muon() -> None:
    shape = build_network(TINY, seed=1).config
    shape.num_labels = 1
    scorer = AutoModelForSequenceClassification.from_config(shape)
    chosen = {id(parameter) for parameter in hidden_matrices(scorer)}
    assert chosen
    assert id(scorer.score.weight) not in chosen


def test_each_rank_restores_its_random_state_and_another_number_of_ranks_is_seeded(tmp_path: Path) -> None:
    model = Small()
    optimizer, states, expected = make_optimizer(model, config("adamw")), [], []
    for rank in range(2):
        seed_everything(rank)
        states.append(RandomState.capture())
        expected.append(float(torch.rand(())))
    save_state(tmp_path, gathered=gather_state(optimizer), counters=Counters(step=3), randomness=states)

    def drawn(group: ProcessGroup) -> float:
        load_state(tmp_path, optimizer=optimizer, process_group=group, seed=7)
        return float(torch.rand(()))

    assert [drawn(ProcessGroup(rank=rank, count=2)) for rank in range(2)] == expected
    others = [drawn(ProcessGroup(rank=rank, count=3)) for rank in range(3)]
    assert len({*others, *expected}) == 5
    assert others == [drawn(ProcessGroup(rank=rank, count=3)) for rank in range(3)]
