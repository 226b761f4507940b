"""Optimizer state in bytes, by optimizer and kind of parameter. Pure."""

from __future__ import annotations

from collections.abc import Callable

from backend.domain.architectures.config import ArchitectureConfig
from backend.domain.architectures.cost import WeightMatrix, count_lora_parameters, count_parameters, list_matrices
from backend.domain.architectures.families import FAMILIES
from backend.domain.estimates.setting import TrainingSetting
from backend.domain.training.config import RunConfig

FLOAT = 4
EIGHT_BIT = 2 * (1 + FLOAT / 256)
"""Bytes of adamw_8bit: two moments of a byte, with an fp32 scale for each 256 of them (small tensors stay in fp32)."""


BYTES_PER_PARAMETER = {"adamw": 8.0, "muon": 8.0, "lion": 4.0, "adafactor": 0.5, "adamw_8bit": 4.0}
"""Upper bounds of an optimizer's bytes for each trained parameter, for networks of any shape."""
TOKENIZER_BYTES = 2_000_000


def checkpoint_size(config: RunConfig, *, stored: int, trained: int) -> int:
    """Return an upper bound of a checkpoint's bytes: `stored` weights, the optimizer's state of `trained` ones, and the
    tokenizer.

    With an EMA, the checkpoint stores the average, and the training state also holds the trained weights.
    """
    state = BYTES_PER_PARAMETER[config.optimizer] + (FLOAT if config.ema_decay else 0)
    return round(FLOAT * stored + state * trained) + TOKENIZER_BYTES


def count_frozen(config: ArchitectureConfig, blocks: int) -> int:
    """Count the frozen parameters when the first `blocks` blocks and the embeddings are frozen; a tied head is among
    them.

    Example:
        >>> config = ArchitectureConfig()
        >>> count_frozen(config, config.num_layers) == sum(count_parameters(config).values()) - config.width
        True
    """
    if not blocks:
        return 0
    parts = count_parameters(_first(config, blocks))
    return sum(parts.values()) - parts["output_head"] - _final_norm(config)


def _first(config: ArchitectureConfig, blocks: int) -> ArchitectureConfig:
    """Return the network's first blocks as an architecture."""
    return config.model_copy(update={"num_layers": min(blocks, config.num_layers)})


def _final_norm(config: ArchitectureConfig) -> int:
    return config.width * (1 if FAMILIES[config.family].rotary else 2)


def optimizer_bytes(setting: TrainingSetting) -> int:
    """Return the bytes of the optimizer's state.

    adamw: two fp32 moments; lion: one; muon: one for matrices inside the blocks, two elsewhere; adafactor: a sum for
    each row and column of a matrix, one moment of a vector; adamw_8bit: two bytes and a little, embeddings in fp32.
    """
    config, rank = setting.architecture, setting.lora_rank
    parts = count_parameters(config)
    total = (
        count_lora_parameters(config, rank=rank)
        if rank
        else sum(parts.values()) - count_frozen(config, setting.frozen_blocks)
    )
    if setting.optimizer == "lion":
        return FLOAT * total
    if setting.optimizer == "adafactor":
        return FLOAT * _sums(setting)
    if setting.optimizer == "muon":
        return 2 * FLOAT * total - FLOAT * _hidden(setting, total)
    if setting.optimizer == "adamw_8bit":
        embeddings = 0 if rank or setting.frozen_blocks else parts["embedding"] + parts.get("positions", 0)
        vectors = 0 if rank else parts["norms"] + parts.get("biases", 0)
        full_precision = min(total, embeddings + vectors)
        return round(2 * FLOAT * full_precision + EIGHT_BIT * (total - full_precision))
    return 2 * FLOAT * total


def _hidden(setting: TrainingSetting, total: int) -> int:
    """Return the parameters of matrices inside the trained blocks. Experts (3-dimensional) do not count."""
    return (
        total
        if setting.lora_rank
        else _in_blocks(setting, lambda matrix: 0 if matrix.part == "experts" else matrix.size)
    )


def _in_blocks(setting: TrainingSetting, numbers: Callable[[WeightMatrix], int]) -> int:
    """Add up a number of each matrix inside the blocks that are trained."""

    def count(config: ArchitectureConfig) -> int:
        return sum(numbers(matrix) * matrix.copies for matrix in list_matrices(config) if matrix.part != "output_head")

    return count(setting.architecture) - count(_first(setting.architecture, setting.frozen_blocks))


def _sums(setting: TrainingSetting) -> int:
    """Return the numbers in adafactor's state: one per entry of a vector, one per row and column of a matrix."""
    config, rank = setting.architecture, setting.lora_rank
    if rank:
        return _in_blocks(
            setting,
            lambda matrix: (
                matrix.inputs + matrix.outputs + 2 * rank * matrix.adapter_ranks if matrix.adapter_ranks else 0
            ),
        )
    parts, frozen = count_parameters(config), count_parameters(_first(config, setting.frozen_blocks))
    table = config.vocab_size + config.width
    outside = 0 if config.tie_embeddings else table
    if setting.frozen_blocks:
        vectors = (
            parts["norms"] - frozen["norms"] + _final_norm(config) + parts.get("biases", 0) - frozen.get("biases", 0)
        )
    else:
        vectors = parts["norms"] + parts.get("biases", 0)
        outside += table + (config.context + config.width if "positions" in parts else 0)
    return _in_blocks(setting, lambda matrix: matrix.inputs + matrix.outputs) + vectors + outside
