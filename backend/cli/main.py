"""`roundhouse NOUN VERB`: what the pages do, from a shell. Every command is built on the same services."""

from __future__ import annotations

import typer

from backend.cli import doctor, up, user

app = typer.Typer(name="roundhouse", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(up.app)
app.add_typer(doctor.app)
app.add_typer(user.app, name="user", help="Accounts.")


def main() -> None:
    """Entry of the `roundhouse` script."""
    app()


if __name__ == "__main__":
    main()
