"""`roundhouse lineage`: what an endpoint or checkpoint was made of."""

from __future__ import annotations

from backend.bootstrap import get_context
from backend.cli.output import CommandGroup, emit
from backend.services.lineage import Lineage, lineage_of

app = CommandGroup()


@app.command("lineage")
def lineage(name: str) -> None:
    """Show the lineage of an endpoint, a checkpoint, a run or an alias, back to the files."""
    view = lineage_of(get_context(), name)
    emit(view.to_document(), text=lineage_text(view))


def lineage_text(lineage: Lineage) -> str:
    """Return the lineage as an indented tree; an object that was shown above is only named."""
    names = {node.id: node for node in lineage.nodes}
    lines: list[str] = []
    shown: set[str] = set()

    def show(node_id: str, label: str, depth: int) -> None:
        node = names[node_id]
        facts = "" if node_id in shown else ", ".join(f"{key.lower()} {value}" for key, value in node.facts)
        lines.append(
            f"{'  ' * depth}{f'{label}: ' if label else ''}{node.kind} {node.name}" + (f" ({facts})" if facts else "")
        )
        if node_id in shown:
            return
        shown.add(node_id)
        for edge in lineage.edges:
            if edge.made == node_id:
                show(edge.source, edge.label, depth + 1)

    show(lineage.root, "", 0)
    return "\n".join([*lines, *lineage.gaps])
