"""supervisord without its pauses: `python -m backend.cli.supervisor -n -c CONFIG`.

supervisord checks signals and programs to start once a second. Here signals and starts end the wait.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from supervisor.medusa import asyncore_25 as asyncore
from supervisor.options import ServerOptions
from supervisor.supervisord import Supervisor


class Wakeup:
    """The read end of a pipe that supervisord polls with its programs' output; Python writes a byte a signal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def readable(self) -> bool:
        """Poll for reading."""
        return True

    def writable(self) -> bool:
        """Do not poll for writing."""
        return False

    def handle_read_event(self) -> None:
        """Empty the pipe: the signals themselves are handled after the poll."""
        os.read(self._descriptor, 4096)

    def handle_error(self) -> None:
        """Re-raise the read error."""
        raise


class PromptSupervisor(Supervisor):
    """Supervisor that starts its programs and handles signals at once."""

    def runforever(self) -> None:
        """Supervise until a signal ends it."""
        ours, theirs = os.pipe()
        for descriptor in (ours, theirs):
            os.set_blocking(descriptor, False)
        # supervisord closes a program's socket when the last process that has it ends; held here, it outlives a
        # restart.
        groups = [group for group in self.process_groups.values() if hasattr(group, "socket_manager")]
        self._sockets = [group.socket_manager.get_socket() for group in groups]
        signal.set_wakeup_fd(theirs, warn_on_full_buffer=False)
        self.options.get_socket_map()[ours] = Wakeup(ours)
        os.write(theirs, b"\0")
        super().runforever()


def main(arguments: list[str]) -> None:
    """Read the configuration and supervise. There is no reload: every start writes a new configuration."""
    options: Any = ServerOptions()
    options.realize(arguments, doc=__doc__)
    options.first, options.test = True, False
    try:
        PromptSupervisor(options).main()
    except asyncore.ExitNow:
        pass
    finally:
        options.close_httpservers()
        options.close_logger()


if __name__ == "__main__":
    main(sys.argv[1:])
