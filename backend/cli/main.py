"""`roundhouse NOUN VERB`: what the pages do, from a shell. Every command is built on the same services."""

from __future__ import annotations

import json
import sys

import typer

from backend.cli import architecture, base, doctor, endpoint, eval, export, generate, inspect, key, rating, tokenizer, up, user
from backend.cli.data import commands as data
from backend.cli.output import DONE, FAILED, MISUSED
from backend.cli.scaling import plan
from backend.cli.training import run
from backend.infra.files.private import set_private_umask

app = typer.Typer(name="roundhouse", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for module in (up, doctor, generate, export, inspect):  # commands without a noun
    app.add_typer(module.app)
app.add_typer(architecture.app, name="architecture", help="Describe an architecture: parameters, FLOPs, memory.")
app.add_typer(data.app, name="data", help="Datasets.")
app.add_typer(tokenizer.app, name="tokenizer", help="Tokenizers: train, compare, see a text in tokens.")
app.add_typer(base.app, name="base", help="Bases: checkpoints that come from elsewhere.")
app.add_typer(run.app, name="run", help="Runs.")
app.add_typer(plan.app, name="plan", help="Plan a run for a budget; fit scaling laws.")
app.add_typer(eval.app, name="eval", help="Evaluations.")
app.add_typer(rating.app, name="rating", help="Ratings from votes.")
app.add_typer(endpoint.app, name="endpoint", help="Endpoints.")
app.add_typer(user.app, name="user", help="Accounts.")
app.add_typer(key.app, name="key", help="Keys for /v1.")


UsageError: type[typer.BadParameter] = typer.BadParameter.__mro__[1]  # of whichever click typer carries


def main() -> None:
    """Entry of the `roundhouse` script. With --json a command line that can't be read is answered in JSON, too."""
    set_private_umask()
    if "--json" not in sys.argv[1:]:
        app()
    try:
        status = app(standalone_mode=False)
    except UsageError as error:
        sys.stdout.write(json.dumps({"error": error.format_message()}, ensure_ascii=False) + "\n")
        sys.stderr.write(f"roundhouse: {error.format_message()}\n")
        sys.exit(MISUSED)
    except typer.Abort:  # a prompt that was left
        sys.stdout.write(json.dumps({"error": "Aborted."}) + "\n")
        sys.exit(FAILED)
    sys.exit(status if isinstance(status, int) else DONE)


if __name__ == "__main__":
    main()
