"""Which test process takes which file: some wait for browsers and killed processes while the others compute.

In the order of the folders all processes would wait together, with idle cores, and compute together later.
"""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

WAITING = (
    *("tests/e2e/", "tests/faults/", "tests/clients/"),
    "tests/test_dependencies.py",
)
"""Folders and files whose tests wait most of their time, for other processes or for a package index."""


class Lanes(LoadFileScheduling):  # type: ignore[misc]
    """Files as `--dist loadfile` hands them out, but half of the processes take those of `WAITING` first and the others
    the rest first.
    """

    def _assign_work_unit(self, node: WorkerController) -> None:
        waits = self.nodes.index(node) % 2 == 0
        fitting = (file for file in self.workqueue if file.startswith(WAITING) == waits)
        self.workqueue.move_to_end(next(fitting, next(iter(self.workqueue))), last=False)
        super()._assign_work_unit(node)
