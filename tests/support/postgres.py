"""A real PostgreSQL server for the tests, in a folder of its own on a free port."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from backend.infra.processes import die_with_parent
from tests.support.installation import free_port, wait_until


def find_binaries() -> Path | None:
    """Return the folder with `initdb` and `postgres`, newest version first, or None."""
    if binary := shutil.which("initdb"):
        return Path(binary).parent
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return candidates[-1].parent if candidates else None


@contextmanager
def run_postgres() -> Iterator[str]:
    """Start a server and yield its SQLAlchemy URL. It ends with this process, also if that is killed. It refuses to run
    as root, so root lends it another account.
    """
    binaries = find_binaries()
    if binaries is None:
        raise FileNotFoundError("initdb")
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    account: dict[str, Any] = {}
    if os.getuid() == 0:
        lent = pwd.getpwnam("postgres")
        os.chown(folder, lent.pw_uid, lent.pw_gid)
        account = {"user": lent.pw_uid, "group": lent.pw_gid, "extra_groups": [], "cwd": folder}
    port = free_port()
    data = folder / "data"
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "test", "-A", "trust", "-E", "UTF8", "--no-sync"],
        check=True,
        capture_output=True,
        **account,
    )
    options = [f"-p{port}", f"-k{folder}", "-clisten_addresses=127.0.0.1", "-cfsync=off"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [binaries / "postgres", "-D", data, *options],
            stdout=log,
            stderr=log,
            preexec_fn=partial(die_with_parent, signal.SIGQUIT),  # at once, without writing what is in memory
            **account,
        )
    try:
        state = data / "postmaster.pid"  # whose last line says it
        wait_until(lambda: state.exists() and "ready" in state.read_text(), what="the start of PostgreSQL")
        yield f"postgresql+psycopg://test@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)
