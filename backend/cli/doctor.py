"""`roundhouse doctor`: check everything that can keep an installation from starting, and name the cure.

`roundhouse up` makes those of `start_checks` before it starts, so checks import what they need lazily.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Collection
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from uuid import uuid4

import psutil
import typer

from backend.cli.exit_status import FAILED
from backend.cli.output import CommandGroup, emit
from backend.cli.processes import broker_binary, running_pid
from backend.domain.jobs.placement import SHARDS
from backend.domain.wording import format_bytes, plural
from backend.errors import Conflict, InvalidInput, RoundhouseError
from backend.infra.devices import read_gpus, visible_devices
from backend.settings import Settings, variable_of

if TYPE_CHECKING:
    from backend.infra.compute.base import ComputeProvider
    from backend.services.context import Context

MIN_FREE_BYTES = 2 * 2**30
MIN_START_BYTES = 64 * 2**20
"""Free space without which not even pages start, whose database and logs grow."""
REQUIRED_PACKAGES = ("torch", "transformers", "peft", "celery", "streamlit")
"""Modules without which no job runs; each belongs to a core dependency."""
COMPILE_S = 300.0
STORE_S = 10.0
PREFIX = "ROUNDHOUSE_"
MAX_NAMED = 6
"""Objects with missing files that are named; the others are counted."""
COMPILER_CURE = "Install a C++ compiler (Debian, Ubuntu: `apt install g++`; macOS: `xcode-select --install`)."
app = CommandGroup()


@dataclass(frozen=True)
class CheckResult:
    """The result of one check. `cure` is empty if it passed."""

    name: str
    state: Literal["ok", "warning", "problem"]
    detail: str
    cure: str = ""


def check_python() -> CheckResult:
    """Return version and path of this Python."""
    return CheckResult("python", "ok", f"Python {'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}")


def check_disk(settings: Settings) -> CheckResult:
    """Check the free space under the home folder."""
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{format_bytes(free)} free under {settings.home}"
    if not os.access(folder, os.W_OK):
        return CheckResult(
            "disk",
            "problem",
            f"{folder} can't be written.",
            "Make it writable or set ROUNDHOUSE_HOME to a folder that is.",
        )
    if free < MIN_START_BYTES:
        return CheckResult(
            "disk",
            "problem",
            f"The disk is full: {detail}.",
            "Free some space, or set ROUNDHOUSE_HOME to a folder on a larger disk.",
        )
    if free < settings.keep_free_mb * 2**20:
        return CheckResult(
            "disk",
            "warning",
            f"No space for jobs: {detail}, and {settings.keep_free_mb:,} MB are to stay free.",
            "Free some space (the pages delete runs, checkpoints and datasets), or lower ROUNDHOUSE_KEEP_FREE_MB.",
        )
    if free < MIN_FREE_BYTES:
        return CheckResult(
            "disk", "warning", f"Little space: {detail}.", "Checkpoints need room; free some space soon."
        )
    return CheckResult("disk", "ok", detail)


def check_variables() -> CheckResult:
    """Check for variables of the environment that are settings but for a letter, and have no effect."""
    known = [variable_of(name) for name in Settings.model_fields]
    known = [name for name in known if name.startswith(PREFIX)]
    strange = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    near = {name: get_close_matches(name, known, n=1, cutoff=0.9) for name in strange}
    if misspelt := {name: nearest[0] for name, nearest in near.items() if nearest}:
        words = "; ".join(f"{name} is no setting: did you mean {setting}?" for name, setting in misspelt.items())
        return CheckResult("settings", "warning", words, "Correct the name.")
    return CheckResult("settings", "ok", "no variable of the environment is misspelt")


def check_port(name: str, port: int, variable: str, *, host: str = "127.0.0.1") -> CheckResult:
    """Check that a port is free; otherwise name the process that holds it."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            holder = _holder(port)
            who = f" by {holder}" if holder else f" ({error.strerror})"
            return CheckResult(
                f"port {port}",
                "problem",
                f"Port {port}, for the {name}, is taken{who}.",
                f"Stop it, or set {variable} to a free port.",
            )
    return CheckResult(f"port {port}", "ok", f"free, for the {name}")


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if (
                connection.laddr
                and connection.laddr.port == port
                and connection.status == psutil.CONN_LISTEN
                and connection.pid
            ):
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, PermissionError):
        return ""
    return ""


def check_broker(settings: Settings, *, running: bool = False) -> CheckResult:
    """Check the broker at REDIS_URL, or the built-in one: that it answers if it runs, or can be started."""
    if settings.redis_url is None and not running:
        try:
            return CheckResult("broker", "ok", f"built in: {Path(broker_binary()).name} on {settings.broker_socket}")
        except RoundhouseError as error:
            return CheckResult("broker", "problem", error.message, error.remedy)
    name = "REDIS_URL" if settings.redis_url else f"The built-in broker on {settings.broker_socket}"
    cure = (
        "Start that server, or unset REDIS_URL to use the built-in one."
        if settings.redis_url
        else "Look at logs/broker.log."
    )
    import redis

    try:
        redis.Redis.from_url(settings.broker_url, socket_timeout=3, socket_connect_timeout=2).ping()
    except (redis.RedisError, ValueError) as error:
        return CheckResult("broker", "problem", f"{name} does not answer: {error}.", cure)
    return CheckResult("broker", "ok", f"{name} answers")


def check_database(settings: Settings) -> CheckResult:
    """Check that the database can be opened, and that its file, if it is one, is not damaged."""
    from backend.bootstrap import refuse_a_home_without_its_database
    from backend.db.engine import find_damage, how_to_restore

    try:
        refuse_a_home_without_its_database(settings)
    except Conflict as error:
        return CheckResult("database", "problem", error.message, error.remedy)
    try:
        if (path := settings.sqlite_path) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if (fault := find_damage(path)) is not None:
                return CheckResult("database", "problem", f"{path} is damaged: {fault}.", how_to_restore(path))
        else:
            _open_server(settings.database_url)
    except Exception as error:  # from sqlite3, the file system, or the URL's driver
        detail = f"The database can't be opened: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        return CheckResult("database", "problem", detail, "Check DATABASE_URL, and that its server runs.")
    return CheckResult("database", "ok", settings.database_url.split("@")[-1])


def check_documents(settings: Settings) -> CheckResult:
    """Check that every JSON document of the database is of its column's shape."""
    from sqlalchemy import inspect
    from sqlalchemy.exc import SQLAlchemyError

    from backend.db.base import unreadable_documents
    from backend.db.engine import Database, how_to_restore, is_damage
    from backend.db.tables import Job

    engine = Database(settings.database_url).engine
    try:
        if not inspect(engine).has_table("alembic_version"):
            return CheckResult("documents", "ok", "none yet")
        unreadable = unreadable_documents(engine, Job.metadata.sorted_tables)
    except SQLAlchemyError as error:  # no such server, or a schema that `up` has yet to bring up to date
        if is_damage(error):  # of a page that the check of the file had no time for
            cure = how_to_restore(settings.sqlite_path)
            return CheckResult("documents", "problem", "The database is damaged.", cure)
        return CheckResult("documents", "warning", f"not checked: {str(error).splitlines()[0]}", "Run roundhouse up.")
    finally:
        engine.dispose()
    if unreadable:
        cure = "Restore a backup, or correct each value with a database client."
        return CheckResult("documents", "problem", f"Can't be read: {'; '.join(unreadable)}", cure)
    return CheckResult("documents", "ok", "every stored document can be read")


def _open_server(url: str) -> None:
    from sqlalchemy import create_engine, text

    if "postgres" not in url:
        create_engine(url).connect().close()
        return
    engine = create_engine(url, connect_args={"connect_timeout": 3, "client_encoding": "utf8"})
    with engine.connect() as connection:
        encoding = connection.execute(text("show server_encoding")).scalar_one()
    engine.dispose()
    if encoding != "UTF8":  # SQL_ASCII is that of servers that were made without a locale
        raise InvalidInput(f"its encoding is {encoding}, not UTF8. Make it again with `createdb -E UTF8 -T template0`.")


def check_exposure(settings: Settings) -> CheckResult:
    """Check that there is an account if sign-in is required."""
    if not settings.needs_sign_in:
        if settings.admin_password is not None:
            cure = "Set ROUNDHOUSE_SIGN_IN=always to ask for it, or unset it."
            return CheckResult(
                "sign-in",
                "warning",
                "ROUNDHOUSE_ADMIN_PASSWORD is set, but no one is asked to sign in on loopback.",
                cure,
            )
        return CheckResult("sign-in", "ok", "loopback only: no one is asked to sign in")
    from backend.bootstrap import build_context
    from backend.services.people.accounts import count_users

    if count_users(build_context(settings)) == 0 and settings.admin_password is None:
        return CheckResult(
            "sign-in",
            "problem",
            f"{_why_sign_in(settings)}, and there is no account.",
            "Create one first: roundhouse user add NAME --role admin",
        )
    return CheckResult("sign-in", "ok", "accounts exist")


def _why_sign_in(settings: Settings) -> str:
    if not settings.is_loopback:
        return f"ROUNDHOUSE_HOST={settings.host} is reachable from elsewhere"
    return (
        "ROUNDHOUSE_SIGN_IN=always"
        if settings.sign_in == "always"
        else f"ROUNDHOUSE_PUBLIC_URL={settings.public_url} is reachable from elsewhere"
    )


def check_alerts(settings: Settings) -> CheckResult:
    """Check the addresses that alerts are sent to."""
    from backend.bootstrap import make_notifier

    notifier = make_notifier(settings)
    if faults := notifier.faults:
        return CheckResult("alerts", "problem", f"{'; '.join(faults)}.", "Correct it, or unset it.")
    return CheckResult("alerts", "ok", f"sent by {' and '.join(notifier.channels) or 'nothing: no channel is set'}")


def check_stored(settings: Settings) -> list[CheckResult]:
    """Check what the database says: files of its objects, and deliveries of alerts; nothing where its tables are older
    than this version's. No secret is made, as by `build_context`: the home may be a copy, or another user's.
    """
    from sqlalchemy.exc import SQLAlchemyError

    from backend.bootstrap import make_notifier
    from backend.db.engine import Database
    from backend.infra.artifacts import Artifacts
    from backend.infra.queue import JobQueue
    from backend.services.context import Context

    ctx = Context(
        db=Database(settings.database_url),
        queue=JobQueue(settings.broker_url),
        artifacts=Artifacts(settings.artifacts),
        secret=b"",
        notifier=make_notifier(settings),
    )
    try:
        if settings.artifacts_url is not None:
            files = CheckResult("files", "ok", "held by the store of artifacts; not checked")
        else:
            files = check_files(ctx)
        return [files, *check_deliveries(ctx)]
    except SQLAlchemyError:
        return []
    finally:
        ctx.db.engine.dispose()


def check_files(ctx: Context) -> CheckResult:
    """Check that the files of datasets, tokenizers and checkpoints are under the artifacts' root."""
    from backend.services.missing_files import find_missing_files

    try:
        missing = find_missing_files(ctx)
    except OSError as error:
        cure = "Run doctor as the user of the installation, and check the disk."
        return CheckResult("files", "problem", f"{error.filename} can't be read: {error.strerror}.", cure)
    if not missing:
        return CheckResult("files", "ok", f"those of datasets, tokenizers and checkpoints are in {ctx.artifacts.root}")
    more = f" and {len(missing) - MAX_NAMED:,} more" if len(missing) > MAX_NAMED else ""
    cure = "Copy them from a backup (docs/operation.md), or delete what lacks them."
    detail = f"Files are missing in {ctx.artifacts.root}: {'; '.join(missing[:MAX_NAMED])}{more}."
    return CheckResult("files", "problem", detail, cure)


def check_deliveries(ctx: Context) -> list[CheckResult]:
    """Check that channels take alerts at present."""
    from backend.services.serving.monitoring.alerts import failing_channels

    cure = "Check that address and its server; roundhouse doctor --test-alerts tries it."
    return [CheckResult("alerts", "warning", f"{one.sentence}.", cure) for one in failing_channels(ctx)]


def send_tests(settings: Settings) -> list[CheckResult]:
    """Send a test message through each channel of alerts."""
    from backend.bootstrap import make_notifier
    from backend.services.serving.monitoring.alerts import send_test

    problems = send_test(make_notifier(settings), pages_url=settings.pages_url)
    if not problems:
        remedy = "Set ROUNDHOUSE_ALERT_WEBHOOK, or ROUNDHOUSE_ALERT_EMAIL_TO and ROUNDHOUSE_SMTP_URL."
        return [CheckResult("alerts", "problem", "There is no channel to test.", remedy)]
    return [
        CheckResult("alerts", "problem", f"The test was not taken by {problem}.", "Check that address and its server.")
        if problem
        else CheckResult("alerts", "ok", f"The {channel} took the test.")
        for channel, problem in problems.items()
    ]


def check_packages() -> CheckResult:
    """Check that the packages of the workers are installed."""
    missing = [name for name in REQUIRED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        return CheckResult("packages", "problem", f"Missing: {', '.join(missing)}.", "Run `make install`.")
    return CheckResult("packages", "ok", "all there")


def check_library() -> CheckResult:
    """Check that decoder layers are compiled for this processor, in a process of its own, which loads torch."""
    command = [sys.executable, "-m", "jobs.serving.native.library"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_S, check=True).stdout
        library = json.loads(printed.splitlines()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError) as error:
        return CheckResult("library", "warning", f"not checked: {error}", "Look at the log of a replica.")
    if library["processor"]:
        return CheckResult("library", "ok", f"compiled for {library['processor']}")
    detail = f"not compiled, so {library['losses']}: {library['problem']}"
    return CheckResult("library", "warning", detail, COMPILER_CURE)


def check_job_devices(settings: Settings) -> CheckResult:
    """List the devices that jobs will run on."""
    gpus = read_gpus()
    devices = visible_devices(settings.devices)
    if not devices:
        return CheckResult("devices", "ok", f"no GPU; {psutil.cpu_count()} CPU cores")
    names = ", ".join(gpu.name for gpu in gpus if gpu.index in devices)
    return CheckResult("devices", "ok", names or f"GPUs {', '.join(devices)} (as set)")


def start_checks(
    settings: Settings, parts: Collection[str] = ("pages", "gateway"), *, running: bool = False
) -> list[CheckResult]:
    """Return the checks that `up` makes before it starts these parts."""
    ports = {"pages": (settings.port, "ROUNDHOUSE_PORT"), "gateway": (settings.gateway_port, "ROUNDHOUSE_GATEWAY_PORT")}
    findings = [check_python(), check_packages(), check_variables(), check_disk(settings), check_alerts(settings)]
    findings += [check_port(name, *port, host=settings.host) for name, port in ports.items() if name in parts]
    findings += [check_broker(settings, running=running), check_job_devices(settings)]
    if all(finding.state != "problem" for finding in findings if finding.name == "disk"):
        findings.append(check_database(settings))
        if findings[-1].state == "ok":
            findings.append(check_exposure(settings))
    if settings.artifacts_url is not None:
        findings.append(try_store(settings, settings.artifacts_url))
    return findings


def try_store(settings: Settings, url: str) -> CheckResult:
    """Write, read, list and delete an object in the store of artifacts."""
    from backend.bootstrap import store_keys
    from backend.infra.store.folders import STATE
    from backend.infra.store.objects import open_objects

    folder = f"doctor-{uuid4().hex}"
    key = f"{folder}/object"
    try:
        objects = open_objects(url, store_keys(settings), memory=settings.artifacts / STATE)
        objects.write(key, folder.encode(), within_s=STORE_S)
        is_right = objects.read(key, within_s=STORE_S) == folder.encode()
        is_right = is_right and objects.sizes(folder, within_s=STORE_S) == {key: len(folder)}
        objects.delete([key], within_s=STORE_S)
    except RoundhouseError as error:
        return CheckResult("store", "problem", error.message, error.remedy or "Correct ROUNDHOUSE_ARTIFACTS.")
    if not is_right:
        return CheckResult("store", "problem", f"{url} returns other bytes than were written.", "Use another store.")
    return CheckResult("store", "ok", f"{url} is written, read, listed and deleted from")


def check_provider(provider: ComputeProvider) -> CheckResult:
    """Ask a compute provider for its partitions and for the workers ordered from it."""
    try:
        partitions, orders = provider.check(), provider.status()
    except RoundhouseError as error:
        cure = error.remedy or f"docs/{provider.name}.md says how it is set up."
        return CheckResult(provider.name, "warning", error.message, cure)
    num_orders = sum(SHARDS not in order.key for order in orders)
    names = ", ".join(partition.name + ("" if partition.is_up else " (down)") for partition in partitions)
    return CheckResult(
        provider.name, "ok", f"answers: {names or 'no partition'}; {plural(num_orders, 'worker')} ordered"
    )


@app.command()
def doctor(
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Check the GPU instead, by training and serving on it: up to 10 minutes.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="With --gpu: a check by its name; may be repeated.")
    ] = None,
    should_record: Annotated[
        bool, typer.Option("--record", help="With --gpu: store memory and speed, which corrects estimates of runs.")
    ] = False,
    test_alerts: Annotated[
        bool, typer.Option("--test-alerts", help="Send a test message to webhook and e-mail.")
    ] = False,
) -> None:
    """Check Python, packages, disk, ports, broker, database, files, alerts, devices, sign-in, compiled library."""
    from backend.bootstrap import make_providers

    settings = Settings()
    if gpu:
        return _check_gpu(settings, only or [], should_record=should_record)
    if only or should_record:
        option = "--only" if only else "--record"
        raise InvalidInput(f"{option} belongs to the checks of a GPU.", remedy="Add --gpu.")
    running = running_pid(settings)
    findings = [
        f
        for f in start_checks(settings, running=running is not None)
        if running is None or not f.name.startswith("port ")
    ]
    if running is not None:
        findings.insert(0, CheckResult("installation", "ok", f"running (process {running}) at {settings.pages_url}"))
    if all(finding.state != "problem" for finding in findings if finding.name == "database"):
        findings.append(check_documents(settings))
        if findings[-1].state == "ok":
            findings += check_stored(settings)
    if test_alerts:
        findings += send_tests(settings)
    findings += [check_provider(provider) for provider in make_providers(settings)]
    findings.append(check_library())
    bad = any(finding.state == "problem" for finding in findings)
    marks = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}
    text_ = "\n".join(
        f"{marks[f.state]}  {f.name:<12} {f.detail}{f'  -> {f.cure}' if f.cure else ''}" for f in findings
    )
    emit({"ok": not bad, "findings": [asdict(f) for f in findings]}, text=text_)
    if bad:
        raise typer.Exit(FAILED)
    return None


def _check_gpu(settings: Settings, only: list[str], *, should_record: bool) -> None:
    from backend.cli.gpu_doctor import check_gpu, record, to_table

    report = check_gpu(settings, only)
    recorded = record(settings, report) if should_record else None
    data = {**report.to_data(), "recorded": recorded or 0}
    emit(data, text=to_table(report, recorded=recorded))
    if not report.is_ok:
        raise typer.Exit(FAILED)
