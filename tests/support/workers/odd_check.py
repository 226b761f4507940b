"""A check's process in place of `jobs.gpu_checks`, without torch: `python -m tests.support.workers.odd_check NAME
FOLDER` ends as the variable ODD_DEEDS says for its name.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from backend.domain.jobs.gpu_check import GpuCheckResult


def main() -> None:
    """Pass, exit, die by a signal, hang with a child, or end without a result."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    deed = json.loads(os.environ["ODD_DEEDS"]).get(name, "pass")
    print(f"deed: {deed}", flush=True)
    if deed == "hang":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (folder.parent / "child").write_text(str(child.pid))
        time.sleep(600)
    elif deed.startswith("SIG"):
        os.kill(os.getpid(), signal.Signals[deed])
    elif deed == "exit":
        os._exit(3)
    elif deed == "pass":
        (folder / f"{name}.json").write_text(
            GpuCheckResult(name=name, device="A device", verdict="pass", figure="7 tokens/s").model_dump_json()
        )


if __name__ == "__main__":
    main()
