"""A replica in a process that a test kills: FOLDER ENGINE."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.support.serving_replica import RunningReplica

if __name__ == "__main__":
    RunningReplica(Path(sys.argv[1]), engine=sys.argv[2]).thread.join()
