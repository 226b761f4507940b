"""What every test may use: a fresh installation on a real SQLite file, without a broker unless a test starts one."""

from __future__ import annotations

import contextlib
import gc
import os

gc.disable()  # two fifths of the time of the imports below and of the collection, whose end switches it on again
# A second thread gains nothing in arrays this small, and spins while it waits for a core that another test holds. NumPy
# reads this when an import below brings it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# ruff: noqa: E402
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpcore2
import httpx2
import psutil
import pytest
from argon2 import PasswordHasher
from hypothesis import settings as hypothesis_settings
from sqlalchemy import URL, Engine, create_engine

from backend.bootstrap import build_context
from backend.db import engine
from backend.infra.artifacts import Artifacts
from backend.services.context import Context
from backend.services.people import accounts
from tests.support.pgbouncer import pgbouncer_binary, run_pgbouncer, through
from tests.support.postgres import copy_database, empty_database, find_binaries, run_postgres
from tests.support.settings import DATABASE_FILE, make_settings

if TYPE_CHECKING:
    from tests.support.networks.chat_world import ChatWorld
    from tests.support.scenario import Scenario

# `make test` draws the same examples every time, so that a change is what turns it red; `make explore` draws new ones.
hypothesis_settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis_settings.register_profile("explore", deadline=None)
hypothesis_settings.load_profile("steady")

# What a server answers at once on an idle machine takes its time on a busy one.
httpx2._config.DEFAULT_TIMEOUT_CONFIG.__init__(200.0)  # type: ignore[attr-defined, misc]

# A client that is made for one request to a server of the test would read all certificates of the system for it.
httpcore2.default_ssl_context = cache(httpcore2.default_ssl_context)

MARK = "ROUNDHOUSE_TEST_SESSION"
os.environ.setdefault(MARK, str(os.getpid()))  # every process that a test starts has it, and those that they start

SLOWEST_FIRST = (
    "faults/machines/test_gang.py",
    "faults/machines/test_slurm.py",
    "faults/machines/test_exchange.py",
    "e2e/test_every_page.py",
    "faults/test_starting_and_stopping.py",
    "faults/test_replica_killed.py",
    "e2e/test_tutorials.py",
    "e2e/test_guides.py",
    "e2e/test_journey.py",
    "e2e",
    "faults",
    "test_dependencies.py",
    "clients",
    "test_docs.py",
    "test_house.py",
    "jobs",
    "pages",
)
"""Long files, the longest of all first, and folders with long files: started last, one of them would run alone at the
end.
"""


DATABASES = ("sqlite", "postgresql", "pgbouncer")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that runs tests with an installation on PostgreSQL: what SQLite forgives shows there."""
    parser.addoption(
        "--database",
        choices=DATABASES,
        default="sqlite",
        help="the database of installations that tests make",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slowest files and folders first."""
    root = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(root)
        names = {str(path), path.parts[0]}
        return next((number for number, name in enumerate(SLOWEST_FIRST) if name in names), len(SLOWEST_FIRST))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    """Collect garbage again, without a look at the modules and tests, which stay, and less often than by default."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()


ENDING_WITH_THIS_PROCESS = (
    *("tests.support.page_server", "tests.support.forked_workers", "multiprocessing."),
    *("playwright/driver", "jobs.fork_server"),
)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a session that leaves processes behind."""
    if os.environ[MARK] != str(os.getpid()) or session.config.option.collectonly:
        return  # a worker, or a session within another: that one looks, once they have ended
    if left := processes_left(str(session.config._tmp_path_factory.getbasetemp())):  # type: ignore[attr-defined]
        print("\nProcesses that the tests started and did not end:", *left, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Import all tests once for all processes of a parallel run."""
    from tests.support.forked_workers import fork_workers  # where tests run in one process, xdist may be absent

    fork_workers(config)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let some processes wait while others compute, where files are handed out whole."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.lanes import Lanes  # where tests run in one process, xdist may be absent

    return Lanes(config, log)


def processes_left(folder: str, *, grace_s: float = 180.0) -> list[str]:
    """Return the processes of this session that still run after a while, as texts: those with its mark, and those in or
    of its folder, whose mark may be gone (a broker's title lies over its environment). Helpers that end with this
    process are left out.
    """

    def is_left(process: psutil.Process) -> bool:
        try:
            command = " ".join(process.cmdline())
            if process in mine or process.status() == psutil.STATUS_ZOMBIE:
                return False
            if process.ppid() == os.getpid() and any(name in command for name in ENDING_WITH_THIS_PROCESS):
                return False
            if process.create_time() < mine[0].create_time():
                return False
            return (
                process.environ().get(MARK) == os.environ[MARK] or folder in command or process.cwd().startswith(folder)
            )
        except (psutil.Error, OSError):  # it has ended, or is another account's
            return False

    mine = [psutil.Process(), *psutil.Process().parents()]
    until = time.monotonic() + grace_s
    while (left := [process for process in psutil.process_iter() if is_left(process)]) and time.monotonic() < until:
        time.sleep(0.2)
    names = []
    for process in left:
        with contextlib.suppress(psutil.Error, OSError):  # it ends while it is asked
            if is_left(process):
                names.append(f"{process.pid} {' '.join(process.cmdline())[:300]}")
    return names


@pytest.fixture(scope="session", autouse=True)
def product_hasher() -> Iterator[PasswordHasher]:
    """The product's password hasher. Tests use argon2id too, at a hundredth of its cost."""
    product, accounts._hasher = accounts._hasher, PasswordHasher(time_cost=1, memory_cost=1024, parallelism=1)
    yield product
    accounts._hasher = product


@pytest.fixture(scope="session", autouse=True)
def _statements_are_compiled_once() -> Iterator[None]:
    """Give the SQLite engines of all tests one dialect and one cache of compiled statements: each would have its own,
    and a test compiles every statement for the first time, a sixth of the time of what reads a database.
    """
    shared = create_engine("sqlite://")
    shared.connect().close()  # the dialect asks the first connection for the library's version
    create = engine._create

    def create_with_shared_cache(url: URL, is_sqlite: bool) -> Engine:
        created = create(url, is_sqlite)
        if is_sqlite:
            created.dialect, created._compiled_cache = shared.dialect, shared._compiled_cache
        return created

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_create", create_with_shared_cache)
        yield
    shared.dispose()


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One migrated database that tests copy: migrating takes longer than copying."""
    home = tmp_path_factory.mktemp("template")
    context = build_context(make_settings(home))
    with context.db.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    context.db.engine.dispose(close=False)
    return home / "models.db"


@pytest.fixture
def home(new_home: Path) -> Path:
    """The folder of an installation; folders of tests that need more in it than a database bring their own."""
    return new_home


@pytest.fixture
def new_home(tmp_path: Path, migrated_database: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder of a fresh installation, database included."""
    folder = tmp_path / "home"
    folder.mkdir()
    if request.config.getoption("--database") != "sqlite":
        database = request.getfixturevalue("postgres_database")
        (folder / DATABASE_FILE).write_text(_address(request, database))
        yield folder
        empty_database(database)
        return
    (folder / "models.db").write_bytes(migrated_database.read_bytes())
    yield folder


@pytest.fixture
def ctx(home: Path) -> Iterator[Context]:
    """A context whose broker does not answer: what is submitted stays queued until a test runs it."""
    context = build_context(make_settings(home), migrate=False)
    yield context
    context.db.engine.dispose()


@pytest.fixture
def scenario(ctx: Context) -> Scenario:
    """A builder of what a test starts from, in that context."""
    from tests.support.scenario import Scenario

    return Scenario(ctx)


@pytest.fixture
def chat(ctx: Context) -> Iterator[ChatWorld]:
    """Two endpoints, `tales` and `verse`, with scripted replicas behind a gateway."""
    from tests.support.networks.chat_world import chat_world

    with chat_world(ctx, "tales", "verse") as chat:
        yield chat


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    """An empty artifacts folder."""
    return Artifacts(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A running PostgreSQL server; skipped where none is installed."""
    if find_binaries() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with run_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a migrated database on a server, which tests copy."""
    database = copy_database(postgres_url, template="template1")
    build_context(make_settings(tmp_path_factory.mktemp("template"), database_url=database)).db.engine.dispose()
    return database


@pytest.fixture(scope="session")
def postgres_database(migrated_postgres: str) -> str:
    """The URL of a migrated database that is emptied after each test."""
    return copy_database(migrated_postgres)


@pytest.fixture(scope="session")
def second_postgres_database(migrated_postgres: str) -> str:
    """Another such database, for a context beside the installation's."""
    return copy_database(migrated_postgres)


@pytest.fixture(scope="session")
def pgbouncer(postgres_url: str) -> Iterator[int]:
    """The port of a PgBouncer before that server; skipped where none is installed."""
    if pgbouncer_binary() is None:
        pytest.skip("PgBouncer is not installed (Debian: apt install pgbouncer)")
    with run_pgbouncer(postgres_url) as port:
        yield port


@pytest.fixture(params=["sqlite", "postgresql"])
def any_ctx(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Context]:
    """A context on each of the two databases, empty."""
    if request.param == "sqlite":
        yield request.getfixturevalue("ctx_sqlite")
        return
    database = request.getfixturevalue("second_postgres_database")
    url = _address(request, database)
    context = build_context(make_settings(tmp_path / "pg-home", database_url=url), migrate=False)
    yield context
    context.db.engine.dispose()
    empty_database(database)


def _address(request: pytest.FixtureRequest, database: str) -> str:
    """Return the URL by which tests use a database: through PgBouncer if that is asked for."""
    if request.config.getoption("--database") != "pgbouncer":
        return database
    return through(database, request.getfixturevalue("pgbouncer"))


@pytest.fixture
def ctx_sqlite(tmp_path: Path, migrated_database: Path) -> Iterator[Context]:
    """The SQLite half of `any_ctx`, so that a test may call its own fixture `ctx`."""
    folder = tmp_path / "sqlite-home"
    folder.mkdir()
    (folder / "models.db").write_bytes(migrated_database.read_bytes())
    context = build_context(make_settings(folder), migrate=False)
    yield context
    context.db.engine.dispose()
