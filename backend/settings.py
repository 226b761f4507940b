"""The environment of an installation, read here and nowhere else. Every field is a row of docs/settings.md."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, NoDecode, SettingsConfigDict

from backend.domain.estimates.prices import parse_prices
from backend.infra.hosts import WILDCARDS, reachable_host

PROJECT = Path(__file__).resolve().parent.parent
"""The folder of the packages: a clone, or the `site-packages` of an installed wheel."""
IS_CLONE = (PROJECT / "pyproject.toml").is_file()
APP = PROJECT / "app.py" if IS_CLONE else PROJECT / "pages" / "server" / "app.py"
"""The script of the pages' server; `.streamlit` lies beside it."""
DOCS = PROJECT / "docs" if IS_CLONE else APP.parent / "docs"
SITE = PROJECT / "build" / "docs" if IS_CLONE else APP.parent / "site"
"""The documentation as Markdown, and as the site that `make docs` built; the latter may be absent."""
BASE = PROJECT if IS_CLONE else Path.home() / ".roundhouse"
"""Where `.env` is read and data lies by default: the clone, or a folder of this user, since a package holds no data."""
ENV_FILE = BASE / ".env"
USUAL_HOME = PROJECT / ".roundhouse" if IS_CLONE else BASE
"""The home where ROUNDHOUSE_HOME names no other. Of a clone, it alone has its database beside the code."""
DATABASE = "models.db"
CREDENTIALS, QUERY = re.compile("//.*@", re.DOTALL), re.compile(r"\?.*", re.DOTALL)
"""Parts of an address that may hold a password."""
SOCKET = "valkey.sock"
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
YES, NO = frozenset({"1", "true", "yes", "on"}), frozenset({"", "0", "false", "no", "off"})
MAX_SOCKET_PATH_BYTES = 100
WORKER_VARIABLES = (
    "REDIS_URL",
    "DATA_PATH",
    "MODEL_PATH",
    "HF_ENDPOINT",
    "HF_TOKEN",
    *(
        f"ROUNDHOUSE_{name}"
        for name in (
            "SECRET_KEY",
            "ARTIFACTS",
            "ARTIFACTS_ENDPOINT",
            "ARTIFACTS_KEY",
            "ARTIFACTS_SECRET",
            "ARTIFACTS_CACHE_GB",
            "LEASE_S",
            "CANCEL_GRACE_S",
            "MAX_ATTEMPTS",
            "TRAIN_NICE",
            "JOB_MEMORY_MB",
            "KEEP_FREE_MB",
            "RUN_CODE",
            "SAVE_GRACE_S",
        )
    ),
)
"""Variables that reach the workers which a compute provider starts."""


def variable_of(name: str) -> str:
    """Return the variable of a setting."""
    return str(Settings.model_fields[name].validation_alias or f"ROUNDHOUSE_{name.upper()}")


def database_folder(home: Path) -> Path:
    """Return where the database of a home lies by default: in it, but for a clone's usual home beside the code."""
    return PROJECT if IS_CLONE and home.resolve() == USUAL_HOME.resolve() else home


def _has_bytes(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _shown(value: object) -> str:
    """Return a value as anyone with the right to see settings may read it."""
    if value is None or value == "" or value == () or value == {}:
        return "not set"
    if isinstance(value, SecretStr):
        return "set, hidden"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | dict):
        parts = (f"{name}={price:g}" for name, price in value.items()) if isinstance(value, dict) else value
        return ", ".join(parts)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return CREDENTIALS.sub("//…@", QUERY.sub("?…", text)) if "://" in text else text


class Settings(BaseSettings):
    """Read from the environment and from `.env`: in a clone next to `pyproject.toml`, else in `~/.roundhouse`."""

    model_config = SettingsConfigDict(
        env_file=ENV_FILE, env_prefix="ROUNDHOUSE_", extra="ignore", populate_by_name=True
    )

    home: Path = Field(
        default=USUAL_HOME,
        description=(
            "Folder of an installation: artifacts, logs, keys, broker files, and the database unless DATABASE_URL names"
            " another. Of a clone's own `.roundhouse` it lies beside the code."
        ),
    )
    database_url: str = Field(
        default_factory=lambda values: f"sqlite:///{database_folder(values['home']) / DATABASE}",
        validation_alias="DATABASE_URL",
        description=(
            "SQLAlchemy URL, PostgreSQL as postgresql+psycopg://...; when unset, `models.db` in ROUNDHOUSE_HOME, or"
            " beside the code in a clone where that is unset too."
        ),
    )
    redis_url: str | None = Field(
        default=None,
        validation_alias="REDIS_URL",
        description="Broker; when unset, `roundhouse up` starts a Valkey server that listens on a socket file alone.",
    )
    artifacts_url: str | None = Field(
        default=None,
        validation_alias="ROUNDHOUSE_ARTIFACTS",
        description=(
            "Store that machines without a shared folder exchange artifacts through: s3://bucket/prefix,"
            " gs://bucket/prefix or file:///shared/folder. When unset, artifacts lie in the home alone."
        ),
    )
    artifacts_endpoint: str | None = Field(
        default=None, description="Address of that store where it is not Amazon's or Google's; http:// or https://."
    )
    artifacts_key: SecretStr | None = Field(
        default=None,
        description="Access key of that store; when unset, what the vendor's library finds. No job gets it.",
    )
    artifacts_secret: SecretStr | None = Field(default=None, description="Secret of that access key.")
    artifacts_cache_gb: float = Field(
        default=200.0,
        gt=0,
        description=(
            "Disk that this machine's copies of the store may take, in GB; those used longest ago are removed first,"
            " those of running jobs never."
        ),
    )
    artifacts_stream_gb: float = Field(
        default=20.0,
        ge=0,
        description=(
            "A run does not copy a split of more than this many GB to its machine if the store has its tokens: it reads"
            " them there while it trains, and keeps that many GB of them here. 0: all is copied."
        ),
    )
    data_path: Path | None = Field(
        default=None,
        validation_alias="DATA_PATH",
        description="A folder of data files offered for import; read in place, so every worker must see it.",
    )
    model_path: Path | None = Field(
        default=None, validation_alias="MODEL_PATH", description="A folder of checkpoints offered as bases."
    )
    hf_endpoint: str | None = Field(
        default=None,
        validation_alias="HF_ENDPOINT",
        description="Address of the Hub or of a mirror; when unset, the public Hub.",
    )
    hf_token: SecretStr | None = Field(
        default=None,
        validation_alias="HF_TOKEN",
        description="A key for private and gated repositories of the Hub; never logged.",
    )
    secret_key: SecretStr | None = Field(
        default=None,
        min_length=32,
        description=(
            "The key that signs sessions, links and ballots, of 32 characters or more. Without it the first process"
            " makes one and keeps it in a PostgreSQL database, or with SQLite in the home."
        ),
    )

    host: str = Field(
        default="127.0.0.1", description="Where pages and gateway listen. Beyond loopback an account must exist first."
    )
    port: int = Field(default=8501, ge=1, le=65535, description="Port of the pages.")
    gateway_port: int = Field(default=8100, ge=1, le=65535, description="Port of the OpenAI-compatible gateway.")
    public_gateway_url: str | None = Field(
        default=None, description="The gateway's address as clients see it, when a proxy stands before it."
    )
    sign_in: Literal["auto", "always"] = Field(
        default="auto",
        description=(
            "auto: accounts are needed beyond loopback and behind a public URL; always: on loopback too, "
            "as behind a TLS proxy on the same machine."
        ),
    )
    public_url: str | None = Field(
        default=None,
        description=(
            "Address of the pages as browsers see it, such as https://lab.example.org; ballot links lead there."
        ),
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description=(
            "More names that pages and gateway answer to, separated by commas; *.example.org for all below a domain."
            " Loopback, the listening address and the public URLs' hosts always count."
        ),
    )
    trust_proxy: str = Field(
        default="false",
        description=(
            "Proxies whose X-Forwarded-For and X-Forwarded-Proto are believed: addresses and networks with commas, or "
            "true for every peer on loopback or a private network."
        ),
    )

    lease_s: float = Field(
        default=15.0, gt=0, description="How long a worker's claim on a job holds without a heartbeat."
    )
    gang_wait_s: float = Field(
        default=300.0,
        ge=0,
        description=(
            "Seconds that a run over several machines waits for enough free ones, before it keeps those that become"
            " free."
        ),
    )
    sweep_s: float = Field(default=4.0, gt=0, description="Seconds between sweeps for lost jobs.")
    cancel_grace_s: float = Field(default=20.0, gt=0, description="Time between asking a job to stop and forcing it.")
    max_attempts: int = Field(
        default=3,
        ge=1,
        description="How often a job is tried when its worker is lost; a run since its last checkpoint.",
    )
    devices: str = Field(
        default="auto", description="auto: every visible GPU; a list such as 0,1 names them; none: CPU only."
    )
    cpu_jobs: int = Field(default=1, ge=1, description="Training jobs at once on a machine without a GPU.")
    replica_slots: int = Field(default=8, ge=1, description="Replicas that one worker machine may hold.")
    llama_server: str | None = Field(
        default=None,
        description="Path of a `llama-server` that workers start in place of the package's, such as one for a GPU.",
    )
    vllm: str | None = Field(
        default=None, description="Path of the command `vllm` that workers start, in an environment of its own."
    )
    sglang: str | None = Field(
        default=None, description="Path of the command `sglang` that workers start, in an environment of its own."
    )
    replica_host: str = Field(
        default="127.0.0.1",
        description=(
            "Address at which gateways reach the replicas of this machine. Loopback serves gateways on the same machine"
            " alone; on another machine of a cluster, its address or name on the cluster's network."
        ),
    )
    save_grace_s: float = Field(
        default=25.0,
        ge=0,
        description=(
            "Seconds in which a worker saves its runs when it is asked to end, as by `roundhouse down` or before a"
            " preemption; on a cluster at most the partition's GraceTime."
        ),
    )
    slurm_partitions: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description=(
            "Partitions of Slurm that runs can be sent to, with commas, or * for all (docs/slurm.md); set for a worker"
            " on a machine with sbatch and squeue."
        ),
    )
    slurm_account: str = Field(default="", description="Account that jobs in Slurm are charged to.")
    slurm_options: str = Field(
        default="", description="More options of sbatch, such as `--qos=long --time=1-0 --mem=64G`."
    )
    slurm_worker: str = Field(
        default="",
        description=(
            "Command that starts a worker on a node, such as `/opt/roundhouse/bin/roundhouse worker`; when empty, this"
            " installation's own Python, which nodes must see at the same path."
        ),
    )
    kubernetes_queues: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description=(
            "Local queues of Kueue that runs can be sent to, with commas, each with the GPUs of one of its nodes:"
            " `h100:8,cpu` (docs/kubernetes.md); set for a worker that reaches the cluster."
        ),
    )
    kubernetes_job: Path | None = Field(
        default=None,
        description="Manifest of a Job whose container `worker` has image, resources and secrets of those runs.",
    )
    kubernetes_namespace: str = Field(default="roundhouse", description="Namespace of those queues and of the Jobs.")
    kubernetes_context: str = Field(
        default="",
        description="Context of the kubeconfig; when empty, the cluster that the worker runs in, else the current one.",
    )
    train_nice: int = Field(
        default=5, ge=0, le=19, description="Niceness of training and evaluation, so that pages stay fast beside them."
    )
    max_upload_mb: int = Field(default=1024, ge=1, description="Largest upload through the browser.")
    job_memory_mb: int | None = Field(
        default=None,
        ge=256,
        description=(
            "Memory that the processes of one job may hold, in MB; when unset, a tenth of the machine's "
            "(1 GB at least) is left to it."
        ),
    )
    run_code: bool = Field(
        default=False,
        description=(
            "Let benchmarks such as HumanEval run programs that a model wrote, in confined processes"
            " (docs/security.md); needs Linux with Landlock and seccomp."
        ),
    )
    gpu_hours_per_week: float | None = Field(
        default=None,
        ge=0,
        description=(
            "GPU-hours that each person's jobs, but for replicas, may take in a week from Monday 00:00 UTC on; an"
            " account may have a limit of its own. Empty: no limit."
        ),
    )
    key_requests_at_once: int = Field(
        default=64,
        ge=0,
        description="Open requests of one key, where the key itself sets no number; more get 429. 0 sets no limit.",
    )
    require_safety_gate: bool = Field(
        default=False,
        description="Refuse every deployment of a checkpoint that does not pass the safety gate (docs/safety.md).",
    )
    judge_url: str | None = Field(
        default=None,
        description=(
            "Address of an OpenAI-compatible API whose models may judge answers, such as https://judge.example.org/v1."
        ),
    )
    judge_key: SecretStr | None = Field(
        default=None, description="Key for that API; never logged. Own endpoints are asked by keys of the jobs."
    )
    keep_free_mb: int = Field(default=512, ge=0, description="Disk space that no job may eat into.")
    keep_job_folders_days: float = Field(
        default=30.0,
        ge=0,
        description=(
            "Days after which working folders of ended jobs (event files, output) are deleted, and prepared weights and"
            " tokens that no replica and no run has opened; 0 keeps them."
        ),
    )
    keep_responses_days: float = Field(
        default=30.0,
        ge=0,
        description=(
            "Days for which responses of /v1/responses are stored, so that `previous_response_id` can continue them;"
            " not where a request says `store: false`. 0 stores none."
        ),
    )
    device_hour_price: float | None = Field(
        default=None,
        gt=0,
        description="US dollars for an hour of one device, for plans and costs; when unset, none are shown.",
    )
    device_prices: Annotated[dict[str, float], NoDecode] = Field(
        default={},
        description=(
            "Prices by device, before the price above: parts of device names, `gpu` or `cpu`, such as"
            " H100=2.5,cpu=0.04. On the CPU a job counts as one device."
        ),
    )
    disk_gb_month_price: float = Field(default=0.0, ge=0, description="US dollars for a gigabyte of disk for a month.")
    alert_webhook: SecretStr | None = Field(
        default=None, description="Address that alerts are posted to as JSON (docs/operation.md); never logged."
    )
    alert_email_to: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Addresses that alerts are sent to, with commas; needs ROUNDHOUSE_SMTP_URL."
    )
    alert_email_from: str = Field(default="", description="Sender of alerts; when empty, the first of the addresses.")
    smtp_url: SecretStr | None = Field(
        default=None,
        description=(
            "Mail server for alerts: smtp://USER:PASSWORD@HOST:587 (with STARTTLS) or smtps://...; never logged."
        ),
    )
    alert_ttft_p95_ms: float | None = Field(
        default=None,
        gt=0,
        description="Alert when the 95th percentile of an endpoint's first token over 15 minutes is above this.",
    )
    admin_password: SecretStr | None = Field(
        default=None,
        description=(
            "For containers: creates the account `admin` at the first start. ROUNDHOUSE_SIGN_IN decides "
            "whether visitors are asked to sign in."
        ),
    )

    @field_validator("home", mode="after")
    @classmethod
    def _make_absolute(cls, value: Path) -> Path:
        return value.absolute()  # the programs of an installation start in another folder than `roundhouse up`

    @field_validator("allowed_hosts", "alert_email_to", "slurm_partitions", "kubernetes_queues", mode="before")
    @classmethod
    def _split_hosts(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("device_prices", mode="before")
    @classmethod
    def _split_prices(cls, value: object) -> object:
        return parse_prices(value) if isinstance(value, str) else value

    @field_validator("public_url", "public_gateway_url", mode="after")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise ValueError(f"{value!r} is not an address such as https://lab.example.org")
        return value.rstrip("/")

    @field_validator("public_url", mode="after")
    @classmethod
    def _check_root(cls, value: str | None) -> str | None:
        if value and urlsplit(value).path:
            raise ValueError(
                f"{value!r} has a path; the pages need a host name of their own, such as https://lab.example.org"
            )
        return value

    @field_validator("trust_proxy", mode="after")
    @classmethod
    def _check_proxies(cls, value: str) -> str:
        if value.strip().lower() not in {*YES, *NO}:
            for part in value.split(","):
                ip_network(part.strip(), strict=False)
        return value

    @model_validator(mode="after")
    def _check_hosts(self) -> Settings:
        if "*" in self.allowed_hosts and not self.needs_sign_in:
            raise ValueError(
                "ROUNDHOUSE_ALLOWED_HOSTS=* opens an installation without accounts to every web page: set"
                " ROUNDHOUSE_SIGN_IN=always"
            )
        return self

    @property
    def is_loopback(self) -> bool:
        """Return whether only this machine can reach the servers."""
        return self.host in LOOPBACK

    @property
    def needs_sign_in(self) -> bool:
        """Return whether visitors need an account and programs a key."""
        public = urlsplit(self.public_url).hostname if self.public_url else None
        return self.sign_in == "always" or not self.is_loopback or (public is not None and public not in LOOPBACK)

    @property
    def broker_url(self) -> str:
        """The Redis URL in force: the one given, or the built-in server's socket file."""
        return self.redis_url or f"unix://{quote(str(self.broker_socket))}?db=0"

    @property
    def broker_socket(self) -> Path:
        """The built-in broker's socket file, in a folder of this user alone.

        A socket's path has at most 107 bytes on Linux and 103 on macOS, so a long home folder gets one below the
        temporary folder.
        """
        path = self.home.absolute() / "broker" / SOCKET
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH_BYTES:
            return path
        digest = hashlib.sha256(os.fsencode(self.home.absolute())).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"roundhouse-{os.getuid()}-{digest}" / SOCKET

    @property
    def pages_url(self) -> str:
        """The pages' address as browsers elsewhere see it."""
        return self.public_url or f"http://{reachable_host(self.host)}:{self.port}"

    @property
    def gateway_url(self) -> str:
        """The gateway's address as programs elsewhere see it, without `/v1`."""
        return self.public_gateway_url or f"http://{reachable_host(self.host)}:{self.gateway_port}"

    @property
    def own_gateway_url(self) -> str:
        """Return the address of the gateway on its own machine, which may not reach the public one."""
        host = "127.0.0.1" if self.host in WILDCARDS else reachable_host(self.host)
        return f"http://{host}:{self.gateway_port}"

    @property
    def sqlite_path(self) -> Path | None:
        """The database's file, or None for another server or a database in memory."""
        path = self.database_url.partition("sqlite:///")[2].partition("?")[0]
        return Path(path) if path and path != ":memory:" else None

    @property
    def has_database_file(self) -> bool:
        """Return whether the database is a file that has content."""
        return self.sqlite_path is not None and _has_bytes(self.sqlite_path)

    @property
    def older_database(self) -> Path | None:
        """The database beside a clone's code that may be this home's: until December 2026 it was that of every home.

        None if the home has a database, if DATABASE_URL names one, or if the home is new.
        """
        beside_code = PROJECT / DATABASE
        if "database_url" in self.model_fields_set or self.has_database_file or database_folder(self.home) == PROJECT:
            return None
        is_used = self.artifacts.is_dir() and any(self.artifacts.iterdir())
        return beside_code if is_used and IS_CLONE and _has_bytes(beside_code) else None

    def queue_slots(self, num_gpus: int) -> dict[str, int]:
        """Return how many jobs of each queue a machine with this many GPUs runs at once: one of them a GPU."""
        return {"train": max(num_gpus, self.cpu_jobs), "eval": max(num_gpus, 1), "serve": self.replica_slots, "cpu": 2}

    @property
    def worker_environment(self) -> dict[str, str]:
        """The variables that a worker on a node of a cluster needs: the installation's place and what is set here."""
        given = {}
        for name in self.model_fields_set:
            variable = variable_of(name)
            value = getattr(self, name)
            if variable in WORKER_VARIABLES and value is not None:
                given[variable] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return {**given, "ROUNDHOUSE_HOME": str(self.home), "DATABASE_URL": self.database_url}

    def describe(self) -> list[tuple[str, str, str, str]]:
        """Return variable, value, source and meaning of every setting, without what is secret."""
        in_file = DotEnvSettingsSource(type(self), env_file=ENV_FILE).env_vars  # keys are lowercase
        lines = []
        for name, field in type(self).model_fields.items():
            variable = variable_of(name)
            given, written = os.environ.get(variable), in_file.get(variable.lower())
            if name not in self.model_fields_set:
                source = "default"
            elif written is not None and given in (None, written):  # in the environment of child processes, too
                source = str(ENV_FILE)
            else:
                source = "environment" if given is not None else "command"
            lines.append((variable, _shown(getattr(self, name)), source, field.description or ""))
        return lines

    @property
    def artifacts(self) -> Path:
        """Root of datasets, tokenizers, checkpoints and job folders; shared between machines."""
        return self.home / "artifacts"
