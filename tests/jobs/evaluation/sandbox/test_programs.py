"""Nothing leaves the process in which a model's program runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backend.errors import Unavailable
from jobs.evaluation.sandbox import programs
from jobs.evaluation.sandbox.programs import ProgramLimits, check_sandbox, run_program


@pytest.fixture(scope="module", autouse=True)
def _sandbox() -> None:
    try:
        check_sandbox()
    except Unavailable as error:
        pytest.skip(str(error))


def test_the_standard_library_its_folder_and_threads_work() -> None:
    result = run_program(
        "import collections, decimal, hashlib, heapq, itertools, math, random, re, string, tempfile, threading,"
        " typing\nthread = threading.Thread(target=print, args=('from a thread',)); thread.start();"
        " thread.join()\nopen('note.txt', 'w').write('x'); assert open('note.txt').read() == 'x'\nassert math.sqrt(4)"
        " == 2\n"
    )
    assert (result.outcome, result.error, result.output) == ("passed", "", "from a thread\n")
    assert any(layer.startswith("Landlock") for layer in result.layers)
    assert "seccomp" in result.layers


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.create_connection(('127.0.0.1', 80))",
        "import socket; socket.socketpair()",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['ls'])",
        "import os; os.execv('/bin/ls', ['ls'])",
        "import os; os.kill(os.getppid(), 0)",
        "import fcntl, os; fcntl.fcntl(1, fcntl.F_SETOWN, os.getppid())",
        "import os, resource; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
        "open('/etc/passwd')",
        "open('/proc/self/environ')",
        "import os; os.symlink('/etc/passwd', 'link'); open('link')",
        (
            "import ctypes; call = ctypes.CDLL(None).syscall\nfor number, argument in ((101, 16), (425, 1), (272,"
            " 0x10000000), (0x40000000 + 57, 0), (57, 0), (56, 17)):\n    assert call(number, argument, 1, 0, 0, 0) =="
            " -1, number\nraise OSError('every one was refused')"
        ),
    ],
    ids=[
        "connect",
        "socketpair",
        "fork",
        "subprocess",
        "exec",
        "signal",
        "owner",
        "prlimit",
        "read",
        "proc",
        "link",
        "syscalls",
    ],
)
def test_what_leaves_the_process_is_refused(program: str) -> None:
    """The last one calls ptrace, io_uring_setup, unshare, fork by the x32 table, fork and clone directly (numbers of
    x86_64).
    """
    result = run_program(program)
    assert result.outcome == "failed"
    assert result.error.startswith(("PermissionError", "OSError: every one"))


def test_files_of_the_installation_can_be_neither_read_nor_changed(tmp_path: Path) -> None:
    database = tmp_path / "models.db"
    database.write_text("rows")
    database.chmod(0o666)
    for action in (
        "open({0!r}).read()",
        "open({0!r}, 'a')",
        "import os; os.truncate({0!r}, 0)",
        "import os; os.chmod({0!r}, 0)",
    ):
        assert run_program(action.format(str(database))).error.startswith("PermissionError")
    assert run_program(f"open({str(tmp_path / 'new')!r}, 'w')").error.startswith("PermissionError")
    assert run_program(f"import os; os.rename('/etc/hosts', {str(tmp_path / 'new')!r})").outcome == "failed"
    assert (database.read_text(), sorted(tmp_path.iterdir())) == ("rows", [database])


@pytest.mark.parametrize(
    ("program", "limits", "outcome"),
    [
        ("x = []\nwhile True: x.append(bytearray(10**7))", ProgramLimits(memory_bytes=2**28), "memory"),
        ("while True: pass", ProgramLimits(cpu_s=1), "time"),
        ("import time; time.sleep(60)", ProgramLimits(wall_s=0.5), "time"),
        ("while True: print('x' * 10000)", ProgramLimits(output_bytes=2**16), "output"),
        (
            "n = 0\nwhile True:\n    open(str(n), 'wb').write(bytes(10**6)); n += 1",
            ProgramLimits(folder_bytes=2**22),
            "output",
        ),
        (
            (
                "import os\nkept = []\nfor n in range(50):\n    kept.append(open(str(n), 'w+b', buffering=0));"
                " os.unlink(str(n))\n    for _ in range(3): kept[-1].write(bytes(10**6))\nimport time; time.sleep(60)"
            ),
            ProgramLimits(),
            "output",
        ),
        (
            (
                "import os\nfor n in range(50):\n    fd = os.open('.', os.O_TMPFILE | os.O_RDWR)\n    os.write(fd,"
                " bytes(10**6))\nimport time; time.sleep(60)"
            ),
            ProgramLimits(),
            "output",
        ),
        (
            (
                "import ctypes, os\nlibc = ctypes.CDLL(None)\nfor n in range(50):\n    fd = os.open(str(n), os.O_CREAT"
                " | os.O_RDWR)\n    os.write(fd, bytes(10**6)); os.unlink(str(n)); libc.mmap(None, 4096, 1, 1, fd, 0);"
                " os.close(fd)\nimport time; time.sleep(60)"
            ),
            ProgramLimits(),
            "output",
        ),
        (
            "import os, time\nfor n in range(10**6):\n    os.mkdir(str(n))\ntime.sleep(60)",
            ProgramLimits(folder_bytes=2**20),
            "output",
        ),
        (
            "import os, time\nfor _ in range(2000):\n    os.mkdir('d' * 9); os.chdir('d' * 9)\ntime.sleep(60)",
            ProgramLimits(),
            "output",
        ),
    ],
    ids=[
        "memory",
        "loop",
        "sleep",
        "output",
        "disk",
        "deleted files",
        "files without a name",
        "mapped files",
        "folders",
        "depth",
    ],
)
def test_a_limit_ends_the_program(program: str, limits: ProgramLimits, outcome: str) -> None:
    assert run_program(program, limits=limits).outcome == outcome


THREADS = (
    "import threading, time\nthreading.stack_size(32768)\nstarted = []\nfor _ in range({count}):\n   "
    " threading.Thread(target=time.sleep, args=({seconds},), daemon=True).start();"
    " started.append(1)\nprint(len(started), flush=True)\n"
)


def test_threads_are_bounded() -> None:
    """532 of them started, each with a kernel's stack that no limit of memory counts."""
    result = run_program(THREADS.format(count=600, seconds=60) + "time.sleep(60)")
    assert result.outcome in ("failed", "threads")
    if result.outcome == "failed":  # by the kernel, before the parent saw it
        assert "can't start new thread" in result.error
    assert run_program(THREADS.format(count=20, seconds=0)).output == "20\n"


def test_what_the_kernel_refuses_by_itself_bounds_what_a_program_holds_between_two_looks() -> None:
    """Without a look at it 64 open files held 1 GB; a file has a quarter of the folder now, and space can't be
    reserved.
    """
    result = run_program(
        "file = open('a', 'wb', buffering=0)\nwhile True: file.write(bytes(10**6))",
        limits=ProgramLimits(folder_bytes=2**24),
    )
    assert result.error.startswith("OSError: [Errno 27]")
    assert run_program("import ctypes, os\nassert ctypes.CDLL(None).syscall(285, 3, 0, 0, 4096) == -1").passed
    own_files = "import ctypes\nassert ctypes.CDLL(None).syscall(56, 0x00010000 | 0x800 | 0x100, 0, 0, 0, 0) == -1"
    assert run_program(own_files).passed  # a thread with open files of its own


@pytest.mark.parametrize(
    "program",
    [
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        (
            'import os\nfor fd in range(3, 9):\n  try: os.write(fd, b\'{"outcome": "passed", "error": "", "nonce":'
            ' "x"}\\n\')\n  except OSError: pass\nos._exit(0)'
        ),
    ],
    ids=["exit", "system exit", "forged report"],
)
def test_a_program_that_ends_before_its_tests_has_not_passed(program: str) -> None:
    assert run_program(program + "\nassert False").outcome == "exited"


def test_secrets_of_the_environment_are_not_handed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert run_program("import os; assert 'HF_TOKEN' not in os.environ, 'leaked'").passed


def test_without_a_required_layer_nothing_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Landlock's call is answered with an error, as by a kernel that lacks it."""
    marker = tmp_path / "ran"
    crippled = tmp_path / "confined.py"
    source = programs.CONFINED.read_text()
    assert "CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446" in source
    crippled.write_text(source.replace("RESTRICT_SELF = 444, 445, 446", "RESTRICT_SELF = 9999, 445, 446"))
    monkeypatch.setattr(programs, "CONFINED", crippled)
    with pytest.raises(Unavailable, match="not run: Landlock"):
        run_program(f"open({str(marker)!r}, 'w')")
    check_sandbox.cache_clear()
    with pytest.raises(Unavailable, match="not run: Landlock"):
        check_sandbox()
    assert not marker.exists()


@pytest.mark.parametrize(
    "program",
    [
        "os.makedirs('a/b'); open('a/b/c', 'w').write('x')",
        "os.mkdir('a', 0o300); open('a/b', 'w').write('x'); time.sleep(9)",
        "for _ in range(2000): os.mkdir('d'); os.chdir('d')",
    ],
    ids=["folders", "a folder that can't be listed", "depth"],
)
def test_no_folder_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run_program(f"import os, time\n{program}")
    assert os.listdir(tmp_path) == []
