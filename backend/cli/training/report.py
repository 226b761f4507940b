"""`roundhouse run report` and `roundhouse run cluster`: a run's report, and a recipe as config files for other
launchers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
import yaml

from backend.bootstrap import get_context
from backend.cli.output import command, emit, read_text
from backend.domain.training.config import parse_run_config
from backend.domain.training.launcher_files import NOT_RUN, accelerate_config, deepspeed_config, describe_distribution
from backend.errors import InvalidInput
from backend.recipes import RECIPES, get_recipe
from backend.services.training.reports import run_report_text


@command
def report(
    run: Annotated[str, typer.Argument(help="Name or id.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="A file to write, .md or .html; printed as Markdown when left out."),
    ] = None,
) -> None:
    """Write a run's report: config, data, cost, curves, evaluations, samples, lineage, and the command that repeats
    it.
    """
    form = "html" if out is not None and out.suffix in (".html", ".htm") else "md"
    if out is not None and out.suffix not in (".html", ".htm", ".md"):
        raise InvalidInput(
            f"A report is .md or .html, and {out.name} is neither.",
            remedy="Choose one of the two endings.",
            field="out",
        )
    text = run_report_text(get_context(), run, form=form)
    if out is None:
        emit({"report": text}, text=text)
        return
    out.write_text(text, encoding="utf-8")
    emit({"file": str(out), "bytes": out.stat().st_size}, text=f"Written to {out}.")


@command
def cluster(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or the name of a recipe.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the files.")] = Path("cluster"),
) -> None:
    """Write Accelerate's and DeepSpeed's configs for a recipe's devices, for other training scripts."""
    config = get_recipe(recipe).config if recipe in RECIPES else parse_run_config(read_text(Path(recipe)))
    out.mkdir(parents=True, exist_ok=True)
    files = {
        "accelerate.yaml": yaml.safe_dump(accelerate_config(config, deepspeed_file="deepspeed.json"), sort_keys=False)
    }
    if config.devices.sharding in ("zero2", "zero3"):
        files["deepspeed.json"] = json.dumps(deepspeed_config(config), indent=2) + "\n"
    for name, text in files.items():
        (out / name).write_text(text)
    data = {"folder": str(out), "files": sorted(files), "share": describe_distribution(config), "state": NOT_RUN}
    emit(data, text=f"{describe_distribution(config)}: {', '.join(sorted(files))} in {out}. {NOT_RUN}")
