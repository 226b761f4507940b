"""`roundhouse data`: datasets."""

from __future__ import annotations

from backend.bootstrap import get_context
from backend.cli.data.imports import import_
from backend.cli.data.reports import report
from backend.cli.data.versions import card, delete, derive, diff, export, show, version_data
from backend.cli.output import CommandGroup, emit
from backend.domain.jobs.states import status_word
from backend.services.data.datasets import list_datasets

app = CommandGroup(no_args_is_help=True)
for verb in (report, show, diff, derive, card, export, delete):
    app.command(verb.__name__)(verb)
app.command("import")(import_)


@app.command("list")
def list_() -> None:
    """List datasets with their newest versions."""
    versions = [dataset.newest for dataset in list_datasets(get_context())]
    ready = [version for version in versions if version is not None]
    emit(
        {"datasets": [version_data(version) for version in ready]},
        text="\n".join(
            f"{v.label}  {v.kind}  {v.amount}  {'' if v.is_ready else status_word(v.status)}".rstrip() for v in ready
        )
        or "No datasets yet.",
    )
