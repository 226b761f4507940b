"""The built wheel starts where nothing of the clone is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from backend.settings import PROJECT
from tests.support.installation import free_port, wait_until
from tests.support.walkthrough import copy_compiled


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=PROJECT, check=True, capture_output=True)
    (path,) = folder.glob("roundhouse-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the `bin` folder of a new environment with the wheel; its dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("bare") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "--python", str(python), *install], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for module in site.rglob("*.py"):  # the four processes of a start would each compile the product
        path = module.relative_to(site).as_posix()
        if (PROJECT / path).is_file():
            shutil.copystat(PROJECT / path, module)
            copy_compiled(path, module)
    return folder / "bin"


@pytest.fixture
def bare_environment(tmp_path: Path) -> dict[str, str]:
    """An environment with a user's folder of its own, and no word of where the clone is."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ}
    return {
        **kept,
        "HOME": str(tmp_path),
        "ROUNDHOUSE_PORT": str(free_port()),
        "ROUNDHOUSE_GATEWAY_PORT": str(free_port()),
    }


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_the_wheel_holds_each_file_of_the_packages_and_no_test(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "backend", "jobs", "pages"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {path for path in listed.stdout.splitlines() if (PROJECT / path).is_file()} - names == set()
    assert {name.split("/")[0] for name in names} == {"backend", "jobs", "pages", "roundhouse-0.1.0.dist-info"}
    assert {"pages/server/app.py", "pages/server/.streamlit/config.toml"} <= names


def test_an_installed_wheel_starts_and_keeps_its_data_outside_the_package(
    installed: Path, bare_environment: dict[str, str], tmp_path: Path
) -> None:
    (site,) = installed.parent.glob("lib/python*/site-packages")
    before = files_below(site)
    process = subprocess.Popen(
        [str(installed / "roundhouse"), "up"],
        cwd=tmp_path,
        env=bare_environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        lines = list(until_ready(process.stdout))
        assert "is ready" in lines[-1], "".join(lines)
        pages = f"http://127.0.0.1:{bare_environment['ROUNDHOUSE_PORT']}"
        assert httpx.get(f"{pages}/runs").status_code == 200
        assert httpx.get(f"{pages}/no-such-page").status_code == 404  # the middleware of app.py
        gateway = f"http://127.0.0.1:{bare_environment['ROUNDHOUSE_GATEWAY_PORT']}"
        assert httpx.get(f"{gateway}/v1/models").json()["data"] == []
        imports = partial(datasets, installed, bare_environment)
        wait_until(imports, what="the first import, by a worker", every_s=2)  # each look is a Python
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=200)
    assert files_below(site) == before
    assert {"models.db", "artifacts", "logs"} <= {path.name for path in (tmp_path / ".roundhouse").iterdir()}


def until_ready(output: Iterator[str]) -> Iterator[str]:
    for line in output:
        yield line
        if "is ready" in line:
            return


def datasets(installed: Path, environment: dict[str, str]) -> bool:
    command = [str(installed / "roundhouse"), "data", "list", "--json"]
    shown = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, cwd=environment["HOME"]
    )
    return '"versions": 1' in shown.stdout or '"rows"' in shown.stdout
