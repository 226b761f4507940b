"""Which tests take long, for `make unit`, which runs the others: a plugin of pytest.

    pytest -p tests.support.slow_tests --quick          leaves out what tests/slow_tests.txt lists
    pytest -p tests.support.slow_tests --measure PATH   measures tests and renews their lines in the list

A line is a file, or a function of one. The figure is processor time, child processes included: time on the clock says
more about what else the machine does. A test that waits is listed by the clock.
"""

from __future__ import annotations

import resource
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

LIST = Path(__file__).parents[1] / "slow_tests.txt"
MAX_CPU_S, MAX_WAIT_S = 0.25, 2.0
"""A function of tests that takes more, all its cases together, is slow."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    parser.addoption("--quick", action="store_true", help="leave out the tests of tests/slow_tests.txt")
    parser.addoption("--measure", action="store_true", help="renew the lines of the tests that run")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file whose tests are all left out."""
    if not config.getoption("--quick"):
        return None
    return True if str(collection_path.relative_to(config.rootpath)) in _slow() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the functions that are listed."""
    if config.getoption("--quick"):
        slow = _slow()
        left_out = [item for item in items if item.nodeid.partition("[")[0] in slow]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.nodeid.partition("[")[0] not in slow]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Measure the fixtures that a test is the first to ask for."""
    yield from _measured(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Measure the test."""
    yield from _measured(item)


class _Times:
    """Times of the functions that have run, in the process that hears of all of them."""

    def __init__(self) -> None:
        self.by_function: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            times = self.by_function[report.nodeid.partition("[")[0]]
            for name, value in report.user_properties:
                if name in ("cpu_s", "wait_s") and isinstance(value, float):
                    times[name == "wait_s"] += value

    def pytest_sessionfinish(self) -> None:
        files = {function.partition("::")[0] for function in self.by_function}
        lines = {line for line in _slow() if line.partition("::")[0] not in files}
        for file in files:
            functions = {name: times for name, times in self.by_function.items() if name.partition("::")[0] == file}
            slow = {name for name, (cpu, wait) in functions.items() if cpu > MAX_CPU_S or wait > MAX_WAIT_S}
            lines |= {file} if slow == set(functions) else slow
        LIST.write_text("".join(f"{line}\n" for line in sorted(lines)))


def pytest_configure(config: pytest.Config) -> None:
    """Gather the times in the process that all others report to."""
    if config.getoption("--measure") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Times(), "times of tests")


def _slow() -> set[str]:
    return set(LIST.read_text().split()) if LIST.exists() else set()


def _measured(item: pytest.Item) -> Iterator[None]:
    started, cpu = time.monotonic(), _cpu_s()
    yield
    spent = _cpu_s() - cpu
    item.user_properties += [("cpu_s", spent), ("wait_s", time.monotonic() - started - spent)]


def _cpu_s() -> float:
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
