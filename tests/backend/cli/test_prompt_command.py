"""`roundhouse prompt`: the team's prompts in a shell."""

from __future__ import annotations

from pathlib import Path

from backend.services.context import Context
from tests.support.command_line import roundhouse


def test_prompts_are_saved_shown_compared_listed_and_deleted(command_line: Context, tmp_path: Path) -> None:
    (file := tmp_path / "message.txt").write_text("Retell {{tale}}\n")
    (system := tmp_path / "system.txt").write_text("Be brief.\n")
    saved = roundhouse("prompt", "save", "retell", str(file), "--system", str(system), "--note", "first")
    assert (saved["version"], saved["text"], saved["system"]) == (1, "Retell {{tale}}", "Be brief.")
    file.write_text("Retell {{tale}} at length\n")
    assert roundhouse("prompt", "save", "retell", str(file))["system"] == "Be brief.", "kept"
    assert roundhouse("prompt", "save", " retell  ", str(file))["system"] == "Be brief.", (
        "also under the name unstripped"
    )
    (line,) = roundhouse("prompt", "list")["prompts"]
    assert (line["version"], line["variables"]) == (2, ["tale"])
    assert "+Retell {{tale}} at length" in roundhouse("prompt", "show", "retell", "--against", "1")["diff"]
    assert roundhouse("prompt", "show", "retell", "--version", "1")["note"] == "first"
    refused = roundhouse("prompt", "show", "retel", status=2)
    assert "retell" in str(refused)
    file.write_text("{{tale")
    assert "is not a template" in str(roundhouse("prompt", "save", "retell", str(file), status=2))
    roundhouse("prompt", "delete", "retell")
    assert roundhouse("prompt", "list")["prompts"] == []
