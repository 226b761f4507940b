"""`roundhouse NOUN VERB`: what the pages do, from a shell. Every command is built on the same services."""

from __future__ import annotations

import typer

from backend.cli import architecture, base, data, doctor, endpoint, eval, export, generate, key, rating, run, up, user

app = typer.Typer(name="roundhouse", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
for module in (up, doctor, generate, export):  # commands without a noun
    app.add_typer(module.app)
app.add_typer(architecture.app, name="architecture", help="Describe an architecture: parameters, FLOPs, memory.")
app.add_typer(data.app, name="data", help="Datasets.")
app.add_typer(base.app, name="base", help="Bases: checkpoints that come from elsewhere.")
app.add_typer(run.app, name="run", help="Runs.")
app.add_typer(eval.app, name="eval", help="Evaluations.")
app.add_typer(rating.app, name="rating", help="Ratings from votes.")
app.add_typer(endpoint.app, name="endpoint", help="Endpoints.")
app.add_typer(user.app, name="user", help="Accounts.")
app.add_typer(key.app, name="key", help="Keys for /v1.")


def main() -> None:
    """Entry of the `roundhouse` script."""
    app()


if __name__ == "__main__":
    main()
