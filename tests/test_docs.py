"""The documentation says what the code says."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.services.training.sweeps import read_sweep
from backend.settings import PROJECT


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", PROJECT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("file", ["settings.md", "schema.md", "decisions/README.md"])
def test_a_generated_page_is_up_to_date(file: str) -> None:
    assert (PROJECT / "docs" / file).read_text() == load_generator().PAGES[file](), "run: python docs/generate.py"


def test_decisions_are_numbered_once_and_titled_alike() -> None:
    files = sorted((PROJECT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [int(file.name[:4]) for file in files] == list(range(1, len(files) + 1))
    assert all(re.match(rf"# {file.name[:4]}: \S", file.read_text()) for file in files)


def test_every_relative_link_of_the_documentation_leads_somewhere() -> None:
    broken = []
    for page in [PROJECT / "README.md", PROJECT / "CHANGELOG.md", *(PROJECT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_every_command_in_the_readme_exists() -> None:
    commands = set(
        re.findall(r"^\s*roundhouse ([a-z]+(?: [a-z]+)?)", (PROJECT / "README.md").read_text(), flags=re.MULTILINE)
    )
    assert commands
    runner = CliRunner()
    for command in commands:
        words = command.split()
        result = runner.invoke(app, [*words, "--help"])
        if result.exit_code != 0:  # the second word may be an argument
            result = runner.invoke(app, [words[0], "--help"])
        assert result.exit_code == 0, command


def test_the_sweep_of_the_documentation_can_be_read() -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", (PROJECT / "docs" / "sweeps.md").read_text(), flags=re.DOTALL)
    sweep = read_sweep(example)
    assert (sweep.method, sweep.num_runs, list(sweep.vary)) == ("bayesian", 12, ["learning_rate", "lora.rank"])
    table = (PROJECT / "docs" / "sweeps.md").read_text()
    assert all(f"`{field}`" in table for field in type(sweep).model_fields)


def test_every_variable_of_the_example_environment_is_a_setting() -> None:
    known = re.findall(r"`([A-Z_]+)`", (PROJECT / "docs" / "settings.md").read_text())
    composed = re.findall(r"\$\{([A-Z_]+)", (PROJECT / "deploy" / "compose.yaml").read_text())
    variables = re.findall(r"^#? ?([A-Z_]+)=", (PROJECT / ".env.example").read_text(), flags=re.MULTILINE)
    assert set(variables) <= {*known, *composed}
    assert set(composed) <= set(variables)


def test_the_pages_folder_holds_nothing_directly_but_the_shell() -> None:
    files = {path.name for path in (PROJECT / "pages").iterdir() if path.is_file()}
    assert files == {"shell.py", "__init__.py"}
