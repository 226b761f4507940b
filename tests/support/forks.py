"""Processes that have imported torch and transformers already: forked by a server of this test process, as a worker
forks its jobs.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from pathlib import Path

from backend.domain.jobs.states import JobKind
from backend.infra.engines import VARIABLES
from jobs.environment import child_environment
from jobs.fork_server import ForkedChild, ForkServer

_servers: list[ForkServer] = []


def fork_module(module: str, arguments: Sequence[str], output: Path, **variables: str) -> ForkedChild:
    """Run a module as `python -m` would, without a GPU, and add what it prints to a file."""
    environment = {**child_environment(JobKind.REPLICA), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    if not _servers or _servers[-1].process.poll() is not None:
        shared = {name: value for name, value in environment.items() if name not in VARIABLES}
        _servers.append(ForkServer(JobKind.REPLICA, shared))
        atexit.register(_servers[-1].close)
        _servers[-1].await_imports(lambda: None)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        return _servers[-1].start(module, list(arguments), {**environment, **variables}, descriptor)
    finally:
        os.close(descriptor)
