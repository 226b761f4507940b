"""A real PgBouncer before a PostgreSQL server of the tests: 200 clients share 20 connections, by transaction."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from tests.support.installation import free_port, wait_until

CONFIG = """[databases]
* = host=127.0.0.1 port={server} user=test
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_client_conn = 200
default_pool_size = 20
max_prepared_statements = 200
logfile = {folder}/log
pidfile = {folder}/pid
"""


def pgbouncer_binary() -> str | None:
    """Return PgBouncer's program, if it is installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextmanager
def run_pgbouncer(url: str) -> Iterator[int]:
    """Start one before the server of a URL, and yield its port. It refuses to run as root, so root lends it another
    account.
    """
    folder, port = Path(tempfile.mkdtemp(prefix="pgbouncer-")), free_port()
    config = folder / "config"
    config.write_text(CONFIG.format(server=make_url(url).port, port=port, folder=folder))
    account: dict[str, Any] = {}
    if os.getuid() == 0:
        lent = pwd.getpwnam("postgres")
        for path in (folder, config):
            os.chown(path, lent.pw_uid, lent.pw_gid)
        account = {"user": lent.pw_uid, "group": lent.pw_gid, "extra_groups": []}
    with (folder / "output").open("w") as output:
        command = [str(pgbouncer_binary()), str(config)]
        proxy = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder, **account)
    try:
        wait_until(lambda: (folder / "pid").exists() or proxy.poll() is not None, what="the start of PgBouncer")
        assert proxy.poll() is None, (folder / "output").read_text()
        yield port
    finally:
        proxy.kill()
        proxy.wait()
        shutil.rmtree(folder, ignore_errors=True)


def through(url: str, port: int) -> str:
    """Return the URL of a database through a PgBouncer."""
    return make_url(url).set(port=port).render_as_string(hide_password=False)
