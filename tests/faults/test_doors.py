"""A whole installation as another user of the machine, a neighbour and an operator meet it."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.support.installation import Installation, wait_until

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def old_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder whose files everybody may read, as earlier versions left them."""
    home = tmp_path_factory.mktemp("readable") / "home"
    (home / "artifacts" / "jobs" / "old").mkdir(parents=True)
    (home / "artifacts" / "jobs" / "old" / "job.json").write_text('{"internal_token": "x"}')
    (home / "logs").mkdir()
    (home / "logs" / "pages.log").write_text("x")
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return home


@pytest.fixture(scope="module")
def installation(old_home: Path) -> Iterator[Installation]:
    """It runs on that folder, started with an open umask, the settings of a TLS proxy on the same machine, and a first
    account.
    """
    before = os.umask(0o022)
    running = Installation(
        old_home,
        ROUNDHOUSE_SIGN_IN="always",
        ROUNDHOUSE_PUBLIC_URL="https://lab.example.org",
        ROUNDHOUSE_TRUST_PROXY="127.0.0.1",
        ROUNDHOUSE_ADMIN_PASSWORD="a long enough password",
    )
    running.start()
    os.umask(before)
    yield running
    running.stop(how=signal.SIGINT)


def everything_in(folder: Path) -> list[Path]:
    """Return a folder and what is in it; what is taken away meanwhile may be left out."""
    return [folder, *(Path(root) / name for root, folders, files in os.walk(folder) for name in (*folders, *files))]


def mode_of(path: Path) -> int | None:
    """Return the mode of a file, None if it is gone: work that goes on replaces files."""
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def test_no_one_else_may_read_its_files(installation: Installation) -> None:
    def ran_a_job() -> bool:
        return any(path.parent.name != "old" for path in (installation.home / "artifacts" / "jobs").rglob("job.json"))

    wait_until(ran_a_job, what="the job that imports the starter data")
    modes = {path: mode for path in everything_in(installation.home) if (mode := mode_of(path)) is not None}
    assert len(modes) > 10
    assert {
        path: f"{stat.S_IMODE(mode):o}" for path, mode in modes.items() if not stat.S_ISLNK(mode) and mode & 0o077
    } == {}
    assert (installation.home / "models.db").exists()


def test_only_pages_and_gateway_have_ports(installation: Installation) -> None:
    ports = set()
    for process in installation.processes():
        try:
            ports |= {one.laddr.port for one in process.net_connections(kind="tcp") if one.status == psutil.CONN_LISTEN}
        except psutil.Error:
            continue
    assert ports == {installation.port, installation.gateway_port}


def test_behind_the_proxy_everybody_signs_in_and_the_proxys_name_is_the_only_other_one(
    installation: Installation,
) -> None:
    proxied = {
        "Host": "lab.example.org",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-For": "203.0.113.9",
        "Accept": "text/html",
    }
    assert httpx2.get(installation.url, headers=proxied).headers["location"].startswith("/auth/login")
    form = {"name": "admin", "password": "a long enough password"}
    answer = httpx2.post(
        f"{installation.url}/auth/login", data=form, headers={**proxied, "Origin": "https://lab.example.org"}
    )
    assert answer.status_code == 303
    assert all("Secure" in cookie for cookie in answer.headers.get_list("set-cookie"))
    assert httpx2.get(f"{installation.gateway_url}/models", headers={"Host": "lab.example.org"}).status_code == 401
    for url in (installation.url, f"{installation.gateway_url}/models"):
        assert httpx2.get(url, headers={"Host": "evil.example"}).status_code == 400
