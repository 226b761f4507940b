"""Settings -> Context: build the adapters, migrate the database, create the signing key."""

from __future__ import annotations

import fcntl
import os
import secrets
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import func, inspect, select, text
from sqlalchemy.exc import IntegrityError

from backend.db.engine import Database
from backend.db.tables import DatasetVersion, InstallationSecret, Job
from backend.domain.attributes import view_of
from backend.domain.estimates.prices import DevicePrices
from backend.domain.jobs.states import Status
from backend.domain.openai_servers import JUDGE_KEY
from backend.errors import Conflict
from backend.infra.artifacts import TOKENS_OF, Artifacts
from backend.infra.compute.base import ComputeProvider
from backend.infra.compute.kubernetes import Kubernetes
from backend.infra.compute.slurm import Slurm
from backend.infra.engines import VARIABLES
from backend.infra.files.private import set_private_umask, tighten_database, tighten_home
from backend.infra.hosts import HostRules, make_host_rules
from backend.infra.notifier import Notifier
from backend.infra.queue import JobQueue
from backend.infra.store.objects import StoreKeys
from backend.services.context import Context, EffectiveSetting, OperatorPolicy
from backend.settings import ENV_FILE, PROJECT, Settings

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS = Path(__file__).parent / "db" / "migrations"
LAST_UPGRADER = "Roundhouse at commit b1df1697"
"""The last version that brings databases of earlier revisions to the oldest one of today."""
MIGRATION_LOCK = 7_263_114
"""Advisory lock of PostgreSQL: any number that nothing else locks."""


def build_context(settings: Settings, *, migrate: bool = True) -> Context:
    """Build everything a service needs, after migrating the database unless `migrate` is false."""
    set_private_umask()
    refuse_a_home_without_its_database(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    tighten_home(settings.home)
    if migrate:
        migrate_database(settings)
    if settings.sqlite_path is not None:
        tighten_database(settings.sqlite_path)
    _export_keys(settings)
    db = Database(settings.database_url)
    return Context(
        db=db,
        now=db.now,
        queue=JobQueue(settings.broker_url),
        artifacts=Artifacts(
            settings.artifacts,
            url=settings.artifacts_url,
            keys=store_keys(settings),
            cache_gb=settings.artifacts_cache_gb,
            stream_gb=settings.artifacts_stream_gb,
            keep_free_bytes=settings.keep_free_mb * 2**20,
            is_used=partial(_is_used, db),
        ),
        secret=read_secret(settings, db),
        policy=view_of(
            OperatorPolicy,
            settings,
            keep_free_bytes=settings.keep_free_mb * 2**20,
            max_upload_bytes=settings.max_upload_mb * 2**20,
            prices=DevicePrices(default=settings.device_hour_price, named=settings.device_prices),
            disk_gb_month_usd=settings.disk_gb_month_price,
            judge_key=settings.judge_key is not None,
        ),
        notifier=make_notifier(settings),
        gateway_url=settings.gateway_url,
        own_gateway_url=settings.own_gateway_url,
        pages_url=settings.pages_url,
        sign_in=settings.needs_sign_in,
        data_path=settings.data_path,
        model_path=settings.model_path,
        providers=make_providers(settings),
        settings=tuple(EffectiveSetting(*line) for line in settings.describe()),
        settings_file=str(ENV_FILE),
    )


def make_notifier(settings: Settings) -> Notifier:
    """Return the channels of alerts that the settings name."""
    return Notifier(
        webhook_url=settings.alert_webhook.get_secret_value() if settings.alert_webhook else "",
        email_to=settings.alert_email_to,
        email_from=settings.alert_email_from,
        smtp_url=settings.smtp_url.get_secret_value() if settings.smtp_url else "",
    )


def refuse_a_home_without_its_database(settings: Settings) -> None:
    """Raise Conflict where an empty database would be made for a home whose rows are probably beside the code."""
    if (older := settings.older_database) is not None:
        raise Conflict(
            f"{settings.home} has artifacts but no database. Its rows may be in {older}, where the database of every"
            " home of this clone was.",
            remedy=(
                f"If they are, set DATABASE_URL=sqlite:///{older}, or move them while nothing runs: mv {older}*"
                f" {settings.home}/ (not if the clone's own .roundhouse uses them too). If they are not, choose an"
                " empty ROUNDHOUSE_HOME. Nothing was changed."
            ),
        )


def _is_used(db: Database, path: str) -> bool:
    """Return whether a version of a dataset has its rows in a folder, or the rows of which tokens are to be deleted.
    Such paths are named by their content, so that one that was deleted may come again; the names of all others are new.

    Raises Conflict while a version is being made: its job may have sent the same rows and not yet said so.
    """
    head, _, content_hash = path.partition("/")
    if head not in (TOKENS_OF, "datasets"):
        return False
    is_its = DatasetVersion.content_hash == content_hash if head == TOKENS_OF else DatasetVersion.folder == path
    being_made = (
        select(DatasetVersion.id)
        .join(Job, Job.id == DatasetVersion.job_id)
        .where(DatasetVersion.folder.is_(None), Job.status.in_([Status.RUNNING, Status.CANCELLING]))
    )
    with db.read() as session:
        if session.scalar(select(DatasetVersion.id).where(is_its).limit(1)) is not None:
            return True
        if session.scalar(being_made.limit(1)) is not None:
            raise Conflict(f"{path} is deleted from the store when no dataset is being imported.")
    return False


def make_providers(settings: Settings) -> tuple[ComputeProvider, ...]:
    """Return the compute providers that the settings name."""
    own = (sys.executable, "-m", "backend.cli.main", "worker")
    slurm = Slurm(
        partitions=settings.slurm_partitions,
        account=settings.slurm_account,
        options=tuple(shlex.split(settings.slurm_options)),
        worker=tuple(shlex.split(settings.slurm_worker)) or own,
        directory=PROJECT,
        folder=settings.home / "run",
        environment=tuple(sorted(settings.worker_environment.items())),
    )
    kubernetes = Kubernetes(
        queues=settings.kubernetes_queues,
        manifest=settings.kubernetes_job,
        namespace=settings.kubernetes_namespace,
        context=settings.kubernetes_context,
        save_s=settings.save_grace_s,
    )
    return (*((slurm,) if slurm.partitions else ()), *((kubernetes,) if kubernetes.queues else ()))


def store_keys(settings: Settings) -> StoreKeys:
    """Return keys and endpoint of the store of artifacts."""
    key, secret = settings.artifacts_key, settings.artifacts_secret
    return StoreKeys(
        key=key.get_secret_value() if key else None,
        secret=secret.get_secret_value() if secret else None,
        endpoint=settings.artifacts_endpoint,
    )


@lru_cache(maxsize=1)
def get_context() -> Context:
    """Return this process's context, built from the environment at the first call."""
    return build_context(Settings())


def _export_keys(settings: Settings) -> None:
    """Export the Hub settings, the judges' key and the engines of `.env` as variables, here and in child processes."""
    if settings.hf_endpoint:
        os.environ.setdefault("HF_ENDPOINT", settings.hf_endpoint)
    if settings.hf_token:
        os.environ.setdefault("HF_TOKEN", settings.hf_token.get_secret_value())
    if settings.judge_key:
        os.environ.setdefault(JUDGE_KEY, settings.judge_key.get_secret_value())
    for variable in VARIABLES:
        if command := getattr(settings, variable.removeprefix("ROUNDHOUSE_").lower()):
            os.environ.setdefault(variable, command)


def migrate_database(settings: Settings) -> None:
    """Bring the database to the newest revision, one process at a time."""
    refuse_a_home_without_its_database(settings)
    settings.home.mkdir(parents=True, exist_ok=True)
    revision = _database_revision(settings.database_url)
    if revision == newest_revision():
        return
    if revision is not None:
        _refuse_unknown(revision)
    # slow to import: only where there is something to migrate
    from alembic import command

    with _migrates_alone(settings):
        command.upgrade(alembic_config(settings.database_url), "head")


@contextmanager
def _migrates_alone(settings: Settings) -> Iterator[None]:
    """Wait till no other process migrates: by the server's lock, which all machines share, or of the home on SQLite."""
    db = Database(settings.database_url)
    if not db.is_sqlite:
        with db.engine.begin() as connection:
            connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))  # however long it takes
            connection.execute(select(func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            yield
        db.engine.dispose()
        return
    with (settings.home / "migrate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_unknown(revision: str) -> None:
    """Raise Conflict for a database at a revision that no migration begins at."""
    if revision > newest_revision():
        raise Conflict(
            f"The database is at revision {revision}, made by a newer version.", remedy="Start it with that version."
        )
    if revision not in _revisions():
        raise Conflict(
            f"The database is at revision {revision}; the oldest that this version opens is {min(_revisions())}.",
            remedy=f"Start it once with {LAST_UPGRADER}, which upgrades it, then with this one. Nothing was changed.",
        )


def _revisions() -> set[str]:
    """Return the revisions by the names of the migration files, each of which begins with its revision."""
    return {path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py")}


def newest_revision() -> str:
    """Return the newest revision."""
    return max(_revisions())


def explain_newer_database(db: Database) -> str:
    """Return why no worker of this version may write to a database: a newer version has upgraded it, where the same
    values may mean something else. Empty if none has.
    """
    with db.read() as session:
        revision = session.scalar(text("select version_num from alembic_version"))
    if revision is None or revision <= newest_revision():
        return ""
    return f"A newer version has upgraded the database to revision {revision}; this worker knows {newest_revision()}."


def _database_revision(url: str) -> str | None:
    engine = Database(url).engine
    try:
        with engine.connect() as connection:
            if inspect(connection).has_table("alembic_version"):
                return connection.execute(text("select version_num from alembic_version")).scalar()
            return None
    finally:
        engine.dispose()


def alembic_config(url: str) -> Config:
    """Return Alembic's configuration for a database URL."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    return config


def read_secret(settings: Settings, db: Database) -> bytes:
    """Return the installation's signing key: of the environment; or of the database, which all machines share; or,
    on SQLite, of the home. The first call makes it. A database that has none takes over that of the home.
    """
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value().encode()
    if db.is_sqlite:
        return _read_secret_file(settings.home)
    stored = select(InstallationSecret.value)
    with db.read() as session:
        secret = session.scalar(stored)
    if secret is None:
        secret = _read_secret_file(settings.home).decode()
        with suppress(IntegrityError), db.write() as session:  # another process was first
            session.add(InstallationSecret(id=1, value=secret))
        with db.read() as session:
            secret = session.scalars(stored).one()
    return secret.encode()


def _read_secret_file(home: Path) -> bytes:
    """Return the key of a home, created (mode 0600) at the first call. A lock keeps others from reading half of it."""
    path = home / "secret.key"
    with (home / "secret.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists() or path.stat().st_size == 0:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
                file.write(secrets.token_hex(32).encode())
        return path.read_bytes()


def host_rules(settings: Settings) -> HostRules:
    """Return the hosts that pages and gateway answer to."""
    return make_host_rules(
        listens_on=settings.host, names=settings.allowed_hosts, urls=(settings.public_url, settings.public_gateway_url)
    )
