"""`roundhouse architecture`: parameters, FLOPs and memory of an architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from backend.cli.output import CommandGroup, emit, read_text
from backend.domain.architectures.cost import count_parameters
from backend.domain.architectures.families import FAMILIES
from backend.domain.architectures.published import PUBLISHED
from backend.domain.estimates.architecture_report import ArchitectureReport, describe_architecture
from backend.domain.names import not_found
from backend.domain.training.config_sections import LoraConfig
from backend.domain.wording import format_bytes, plural
from backend.services.architectures import architecture_yaml, parse_architecture

app = CommandGroup(no_args_is_help=True)


@app.command("describe")
def describe_(
    file: Path,
    precision: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Number format of training; memory depends on it.")
    ] = "fp32",
    device: Annotated[
        Literal["cpu", "gpu"] | None,
        typer.Option(help="Device of training; when left out, gpu in bf16 and cpu in fp32. Memory depends on it."),
    ] = None,
    micro_batch: Annotated[int, typer.Option(min=1, help="Sequences in a micro-batch; memory depends on it.")] = 1,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens in a training sequence; the architecture's own when left out.")
    ] = None,
    lora_rank: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Train adapters of this rank instead of all weights.")
    ] = None,
) -> None:
    """Count parameters, FLOPs, cache and memory of the architecture in a YAML file."""
    config = parse_architecture(read_text(file))
    lora = None if lora_rank is None else LoraConfig(rank=lora_rank)
    report = describe_architecture(
        config,
        precision=precision,
        device=device or ("gpu" if precision == "bf16" else "cpu"),
        micro_batch=micro_batch,
        context=context,
        lora=lora,
    )
    emit(report.model_dump(mode="json"), text=_words(report))


@app.command("published")
def published_(name: Annotated[str | None, typer.Argument(help="Its name; all names when left out.")] = None) -> None:
    """List published architectures, or print one as YAML."""
    if name is None:
        sizes = {known: sum(count_parameters(config).values()) for known, config in PUBLISHED.items()}
        text = "\n".join(f"{known:<20}{count:>16,} parameters" for known, count in sizes.items())
        emit(sizes, text=text)
        return
    config = {known.lower(): one for known, one in PUBLISHED.items()}.get(name.lower())
    if config is None:
        raise not_found(
            "published architecture", name, PUBLISHED, remedy="`roundhouse architecture published` lists them."
        )
    emit(config.model_dump(mode="json", exclude_none=True), text=architecture_yaml(config).rstrip())


def _words(report: ArchitectureReport) -> str:
    family = FAMILIES[report.family]
    parts = "\n".join(f"  {name:<15}{count:>19,}" for name, count in report.parameters_by_component.items())
    lines = [f"{family.title} ({family.network_class}): {report.parameters:,} parameters", parts]
    if report.active_parameters != report.parameters:
        lines.append(f"{report.active_parameters:,} parameters are used for a token")
    if report.trainable_parameters != report.parameters:
        lines.append(f"{report.trainable_parameters:,} parameters of adapters are trained")
    lines += [
        f"{report.flops_per_token.forward:,} FLOPs per token forward, {report.flops_per_token.training:,} in training",
        (
            f"{report.kv_cache_bytes_per_token:,} bytes of KV cache per token, {report.kv_cache_bytes:,} for"
            f" {report.context:,} tokens"
        ),
        (
            f"{format_bytes(report.memory_bytes.total)} to train {report.micro_batch} x {report.context} tokens in"
            f" {report.precision} on a {report.device.upper()}"
        ),
    ]
    if report.pass_sequences < report.micro_batch:
        lines.append(f"with {plural(report.pass_sequences, 'sequence')} per forward pass, which fit the CPU's cache")
    return "\n".join(lines)
