"""A real Slurm of this machine: munged, slurmctld and two nodes, each a slurmd with two pretended GPUs."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil

from backend.infra.processes import die_with_parent
from tests.support.installation import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
CONFIG = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
GresTypes=gpu
SwitchType=switch/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=5
KillWait=5
MpiDefault=none
AccountingStorageType=accounting_storage/none
SchedulerParameters=bf_interval=1,sched_interval=1
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldPidFile={folder}/ctld.pid
SlurmctldLogFile={folder}/ctld.log
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n1} CPUs=2 RealMemory=2000 Gres=gpu:2
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={n2} CPUs=2 RealMemory=2000 Gres=gpu:2
PartitionName=low Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=30
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
"""
GPUS = """
NodeName=n1 Name=gpu File=/dev/null,/dev/zero
NodeName=n2 Name=gpu File=/dev/null,/dev/zero
"""


def slurm_problem() -> str:
    """Return the reason that no Slurm can be started here; empty if one can."""
    if missing := [name for name in PROGRAMS if shutil.which(name, path=search_path()) is None]:
        return f"{missing[0]} is not installed (Debian: apt install slurmctld slurmd slurm-client munge)."
    return "" if os.geteuid() == 0 else "Slurm's daemons of the tests are started by root alone."


def search_path() -> str:
    """Return where programs are looked for, those of administrators included."""
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Cluster:
    """A running Slurm. Its daemons stay in the foreground and end with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": search_path()}
        ctld, n1, n2 = free_port(), free_port(), free_port()
        (folder / "state").mkdir()
        (folder / "slurm.conf").write_text(CONFIG.format(folder=folder, ctld=ctld, n1=n1, n2=n2))
        (folder / "gres.conf").write_text(GPUS)
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        folder.chmod(0o755)

    def start(self) -> None:
        """Start everything, and wait until both nodes are idle."""
        files = {name: str(self.folder / f"munge.{name}") for name in ("socket", "pid", "seed", "log")}
        self._start(
            "munged",
            ["munged", "--foreground", "--force", f"--key-file={self.folder / 'key'}", f"--socket={files['socket']}"]
            + [f"--{name}-file={files[name]}" for name in ("pid", "seed", "log")],
        )
        self.wait_until(lambda: (self.folder / "munge.socket").exists(), "munged has no socket")
        self.start_controller("-i")
        for node in ("n1", "n2"):
            self.start_node(node)
        self.wait_until(lambda: self.nodes() == {"n1": "idle", "n2": "idle"}, "the nodes did not come up")

    def start_controller(self, *options: str) -> None:
        """Start slurmctld, with the state that it saved."""
        self._start("slurmctld", ["slurmctld", "-D", *options])
        self.wait_until(lambda: self.run("scontrol", "ping").returncode == 0, "slurmctld does not answer")

    def start_node(self, node: str) -> None:
        """Start a node's slurmd."""
        self._start(node, ["slurmd", "-D", "-N", node])

    def kill(self, name: str) -> None:
        """Kill a daemon, by the name of a node or `slurmctld`."""
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def kill_node(self, node: str) -> None:
        """Kill a node: its slurmd and everything that it started."""
        self.kill(node)
        for process in self._steps(f"slurmd.{node}.log"):
            _kill([process, *process.children(recursive=True)])

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=60)

    def nodes(self) -> dict[str, str]:
        """Return the state of each node."""
        lines = self.run("sinfo", "-h", "-N", "-p", "low", "-o", "%N %t").stdout.split("\n")
        return dict(line.split() for line in lines if line)

    def queue(self) -> dict[str, str]:
        """Return the state of each job that is not over, by its id."""
        lines = self.run("squeue", "-h", "-o", "%i %T").stdout.split("\n")
        return dict(line.split() for line in lines if line)

    def restore(self) -> None:
        """Make both nodes idle again: a controller that was killed may leave one drained, and jobs that it forgot."""

        def are_idle() -> bool:
            if (nodes := self.nodes()) == {"n1": "idle", "n2": "idle"}:
                return True
            self.run("scancel", "--me")
            for node, state in nodes.items():
                if not state.startswith(("idle", "alloc", "mix", "comp")) or state.endswith("*"):
                    self.run("scontrol", "update", f"NodeName={node}", "State=RESUME")
            return False

        self.wait_until(are_idle, "the nodes do not become idle", timeout_s=90)

    def stop(self) -> None:
        """End all jobs and all daemons."""
        if "slurmctld" in self.daemons:
            self.run("scancel", "--full", "--signal=KILL", "--me")
            self.run("scancel", "--me")
        for daemon in reversed(list(self.daemons.values())):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in self._steps():
            _kill([process, *process.children(recursive=True)])

    def wait_until(self, condition: Callable[[], object], complaint: str, *, timeout_s: float = 60.0) -> None:
        """Wait until a condition holds. Raises AssertionError with what the cluster says."""
        until = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > until:
                logs = "".join(path.read_text(errors="replace")[-1500:] for path in self.folder.glob("*.log"))
                raise AssertionError(f"{complaint}: {self.nodes()}, {self.queue()}\n{logs}")
            time.sleep(0.1)

    def _steps(self, log: str = "") -> list[psutil.Process]:
        """Return the processes that stand over the jobs of this cluster, or of the node with this log. They outlive its
        daemons, and their titles hide their environments.
        """
        logs = [str(self.folder / log)] if log else [str(path) for path in self.folder.glob("slurmd.*.log")]
        steps = [process for process in psutil.process_iter(["name"]) if "slurmstepd" in str(process.info["name"])]
        return [process for process in steps if any(path in _open_files(process) for path in logs)]

    def _start(self, name: str, command: list[str]) -> None:
        path = shutil.which(command[0], path=search_path()) or command[0]
        with (self.folder / f"{name}.out.log").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                [path, *command[1:]],
                env=self.environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                preexec_fn=partial(die_with_parent, signal.SIGTERM),
            )


def _open_files(process: psutil.Process) -> set[str]:
    try:
        return {file.path for file in process.open_files()}
    except psutil.Error:
        return set()


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


@contextlib.contextmanager
def run_slurm(folder: Path) -> Iterator[Cluster]:
    """Run a Slurm in an empty folder."""
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
