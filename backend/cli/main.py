"""`roundhouse NOUN VERB`: the functions of the pages in a shell, built on the same services."""

from __future__ import annotations

import gc
import importlib
import json
import sys
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from backend.cli.exit_status import DONE, FAILED, MISUSED
from backend.infra.files.private import set_private_umask

VERBS: dict[str, tuple[str, str]] = {
    "up": ("backend.cli.up", "Start broker, worker, gateway and pages, print the address, and stay until Ctrl-C."),
    "down": ("backend.cli.up", "Stop the installation that runs from this home folder."),
    "worker": ("backend.cli.up", "Serve queues on this machine."),
    "doctor": (
        "backend.cli.doctor",
        "Check Python, packages, disk, ports, broker, database, files, alerts, devices, sign-in, compiled library.",
    ),
    "generate": ("backend.cli.generate", "Complete a prompt with a checkpoint."),
    "export": (
        "backend.cli.export",
        "Write a checkpoint in the format of another tool: a Hugging Face folder or GGUF.",
    ),
    "promote": ("backend.cli.serving.alias", "Promote a checkpoint to an alias by a campaign's verdict"),
    "lineage": (
        "backend.cli.serving.lineage",
        "Show the lineage of an endpoint, a checkpoint, a run or an alias, back to the files.",
    ),
    "inspect": ("backend.cli.inspect", "Show per-token loss, attention, logit lens and weights of a checkpoint."),
}
NOUNS: dict[str, tuple[str, str]] = {
    "architecture": ("backend.cli.architecture", "Count parameters, FLOPs and memory of an architecture."),
    "data": ("backend.cli.data.commands", "Import, report on, derive, export and delete datasets."),
    "tokenizer": ("backend.cli.tokenizer", "Train and compare tokenizers; encode text."),
    "base": ("backend.cli.base", "Add and check bases: checkpoints from outside."),
    "run": ("backend.cli.training.run", "Launch, forecast, follow and cancel training runs and sweeps."),
    "plan": ("backend.cli.plan", "Plan a run for a budget; fit scaling laws."),
    "eval": ("backend.cli.eval", "Evaluate checkpoints on benchmarks and compare the scores."),
    "task": ("backend.cli.evaluation.task", "List, show, check and convert the tasks of evaluations."),
    "gate": ("backend.cli.evaluation.gate", "Save gates, and require them of endpoints."),
    "rating": ("backend.cli.rating", "Ratings, verdicts and agreement from a file of votes."),
    "campaign": (
        "backend.cli.battles.campaign",
        "Start, list and close campaigns of blind votes; make links for raters; import votes.",
    ),
    "prompt": ("backend.cli.serving.prompt", "List, show and save the team's prompts."),
    "alias": ("backend.cli.serving.alias", "Move, list and roll back aliases of checkpoints."),
    "endpoint": ("backend.cli.endpoint", "Deploy checkpoints to endpoints; list and stop endpoints."),
    "user": ("backend.cli.user", "Add and list accounts."),
    "cost": ("backend.cli.serving.cost", "Report what devices, requests, runs and evaluations cost."),
    "key": ("backend.cli.key", "Create and list keys for /v1."),
}
UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]  # from the click that typer bundles


class LazyGroup(TyperGroup):
    """Lists commands from the tables above, and imports a command's module only when it runs."""

    def __init__(self, **options: Any) -> None:
        summaries = {name: summary for name, (_, summary) in (VERBS | NOUNS).items()}
        super().__init__(
            **options | {"commands": {name: TyperCommand(name, help=text) for name, text in summaries.items()}}
        )

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name, the imported command and the arguments that are left for it."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed if name is None else load_command(name), rest


def load_command(name: str) -> Any:
    """Import the command or the group of commands of this name, without garbage collection: a third less time."""
    module, summary = (VERBS | NOUNS)[name]
    gc.disable()
    try:
        commands = importlib.import_module(module).app
    finally:
        gc.freeze()
        gc.enable()
    group = typer.main.get_group(commands)
    if name in VERBS:
        return group.commands[name]
    group.help = summary
    return group


app = typer.Typer(
    cls=LazyGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)


@app.callback()
def roundhouse() -> None:
    """Take no options: every option belongs to a command."""


def main() -> None:
    """Run the `roundhouse` script. With --json, usage errors are JSON, too."""
    set_private_umask()
    try:
        _run()
    finally:
        _finish_uploads()


def _finish_uploads() -> None:
    """Let the store of artifacts have what a command has added, if a command opened the installation at all."""
    bootstrap = sys.modules.get("backend.bootstrap")
    if bootstrap is not None and bootstrap.get_context.cache_info().currsize:
        bootstrap.get_context().artifacts.finish_sending(within_s=60)


def _run() -> None:
    if "--json" not in sys.argv[1:]:
        app()
    try:
        status = app(standalone_mode=False)
    except UsageError as error:
        sys.stdout.write(json.dumps({"error": error.format_message()}, ensure_ascii=False) + "\n")
        sys.stderr.write(f"roundhouse: {error.format_message()}\n")
        sys.exit(MISUSED)
    except typer.Abort:  # a prompt was aborted
        sys.stdout.write(json.dumps({"error": "Aborted."}) + "\n")
        sys.exit(FAILED)
    sys.exit(status if isinstance(status, int) else DONE)


if __name__ == "__main__":
    main()
