"""`roundhouse architecture`: what a network would cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from backend.cli.output import JsonFlag, command, emit, read_text
from backend.domain.architecture import ArchitectureConfig
from backend.domain.consequences import describe
from backend.errors import InvalidInput, NotFound
from backend.services.architectures import parse_architecture

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Architectures."""


@app.command("describe")
@command
def describe_(
    file: Path,
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    micro_batch: Annotated[int, typer.Option(min=1, help="Sequences in one forward pass; memory depends on it.")] = 1,
    context: Annotated[int | None, typer.Option(min=1, help="Tokens in a training sequence; the architecture's own when left out.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Count parameters, FLOPs and memory of the architecture in a YAML file."""
    config = read_architecture(file)
    report = describe(config, precision=_precision(precision), micro_batch=micro_batch, context=context)
    data = report.model_dump(mode="json")
    parts = "\n".join(f"  {name:<14}{count:>16,}" for name, count in report.parameters_by_component.items())
    text = (
        f"{report.parameters:,} parameters\n{parts}\n"
        f"{report.flops_per_token.forward:,} FLOPs per token forward, {report.flops_per_token.training:,} in training\n"
        f"{report.kv_cache_bytes_per_token:,} bytes of KV cache per token\n"
        f"{report.memory_bytes.total / 1e6:,.1f} MB to train {micro_batch} x {report.context} tokens in {precision}"
    )
    emit(data, as_json=as_json, text=text)


def read_architecture(file: Path) -> ArchitectureConfig:
    """Read an architecture from a YAML file. Raises NotFound or InvalidInput."""
    if not file.is_file():
        raise NotFound(f"There is no file {file}.")
    return parse_architecture(read_text(file))


def _precision(text: str) -> Literal["fp32", "bf16"]:
    if text == "fp32":
        return "fp32"
    if text == "bf16":
        return "bf16"
    raise InvalidInput(f"There is no precision {text!r}.", remedy="Choose fp32 or bf16.")
