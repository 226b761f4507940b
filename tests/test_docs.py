"""The documentation says what the code says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.services.people.accounts import ROLES
from backend.services.training.sweeps import read_sweep
from backend.settings import PROJECT
from pages.components import routes


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", PROJECT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "file", ["fields.md", "settings.md", "schema.md", "decisions/README.md", "benchmarks/README.md"]
)
def test_a_generated_page_is_up_to_date(file: str) -> None:
    assert (PROJECT / "docs" / file).read_text() == load_generator().PAGES[file](), "run: python docs/generate.py"


def test_decisions_are_numbered_once_and_carry_date_room_and_status() -> None:
    files = sorted((PROJECT / "docs" / "decisions").glob("[0-9]*.md"))
    assert len({file.name[:4] for file in files}) == len(files)
    head = re.compile(r"# (\d{4}): \S.*\n\n20\d\d-[01]\d-[0-3]\d · [A-Z]\w+ · (Accepted|Proposed|Rejected)\b.*\n\n")
    odd = [file.name for file in files if not (match := head.match(file.read_text())) or match[1] != file.name[:4]]
    assert odd == []


def test_every_relative_link_of_the_documentation_leads_somewhere() -> None:
    broken = []
    for page in [
        PROJECT / "README.md",
        PROJECT / "CONTRIBUTING.md",
        PROJECT / "CHANGELOG.md",
        *(PROJECT / "docs").rglob("*.md"),
    ]:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            is_built = target.startswith("reference/")  # the site's build writes these, and checks the links to them
            if "://" not in target and not is_built and not (page.parent / target).exists():
                broken.append(f"{page.name}: {target}")
    assert broken == []


def test_every_command_in_the_readme_exists() -> None:
    commands = set(
        re.findall(r"^\s*\$ roundhouse ([a-z]+(?: [a-z]+)?)", (PROJECT / "README.md").read_text(), flags=re.MULTILINE)
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


def test_the_guide_for_teams_says_of_each_role_what_the_page_says() -> None:
    table = re.findall(r"^\| ([a-z]+) \| (.+) \|$", (PROJECT / "docs" / "team.md").read_text(), re.MULTILINE)
    assert dict(table[1:]) == ROLES


def test_every_variable_of_the_example_environment_is_a_setting() -> None:
    known = re.findall(r"`([A-Z_]+)`", (PROJECT / "docs" / "settings.md").read_text())
    composed = re.findall(r"\$\{([A-Z_]+)", (PROJECT / "deploy" / "compose.yaml").read_text())
    variables = re.findall(r"^#? ?([A-Z_]+)=", (PROJECT / ".env.example").read_text(), flags=re.MULTILINE)
    assert set(variables) <= {*known, *composed}
    assert set(composed) <= set(variables)


def test_the_pages_folder_holds_nothing_directly_but_the_shell() -> None:
    files = {path.name for path in (PROJECT / "pages").iterdir() if path.is_file()}
    assert files == {"shell.py", "__init__.py"}


def test_the_readme_is_short_and_its_pictures_are_small() -> None:
    text = (PROJECT / "README.md").read_text()
    assert 500 <= len(text.split()) <= 600
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert pictures
    assert all((PROJECT / picture).stat().st_size < 200_000 for picture in pictures)


def test_every_page_links_a_chapter_that_is_there() -> None:
    scripts = {value for name, value in vars(routes).items() if name.isupper() and isinstance(value, str)}
    assert scripts == {page.script for page in routes.listed_pages()}
    chapters = {page.chapter for page in routes.listed_pages()}
    assert {chapter for chapter in chapters if not (PROJECT / "docs" / f"{chapter}.md").is_file()} == set()
    assert routes.help_address("battles") == "/help/campaigns.html"
    assert routes.help_address("") == "/help/tutorials/first-network.html"


def test_the_reference_names_commands_and_routes() -> None:
    pages = {file: page() for file, page in load_generator().REFERENCE.items()}
    assert "## roundhouse run launch" in pages["commands.md"]
    assert "## roundhouse endpoint deploy" in pages["commands.md"]
    assert "| `/v1/chat/completions` | POST |" in pages["routes.md"]


def test_the_site_builds_without_a_broken_link_or_anchor_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-c",
        "docs/site",
        "docs",
        str(tmp_path / "site"),
    ]
    built = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 100
    foreign = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=\"https?://[^\"]+")
    assert [match[0] for page in pages if (match := foreign.search(page.read_text()))] == []
    index = (tmp_path / "site" / "searchindex.js").read_text()
    assert "campaign" in index
    assert (tmp_path / "site" / "benchmarks" / "walk.html").is_file()
    assert "where they stumbled" not in index, "no help"
