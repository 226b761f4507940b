"""The compose file and the manifests for Kubernetes: schemas, commands, settings, ports and protections; the broker's
command with a real server, and the query by which workers are scaled.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import kubernetes_validate
import pytest
import redis
import yaml
from sqlalchemy import make_url, text
from typer.testing import CliRunner

from backend.cli.main import app
from backend.cli.processes import broker_binary
from backend.domain.jobs.states import JobKind, Status
from backend.services.context import Context
from backend.settings import PROJECT, Settings, variable_of
from tests.support.installation import free_port, wait_until
from tests.support.jobs import add_stored_job
from tests.support.workers.workers import process

COMPOSE = PROJECT / "deploy" / "compose.yaml"
KUBERNETES = PROJECT / "deploy" / "kubernetes"
PASSWORDS = {
    "POSTGRES_PASSWORD": "stone4",
    "BROKER_PASSWORD": "water7",
    "STORE_PASSWORD": "wood9",
    "ROUNDHOUSE_ADMIN_PASSWORD": "a long password, with $ and @",
}
VARIABLE = re.compile(r"\$(?:(\$)|\{(\w+)(?::\?([^}]*))?\})")


def resolve(variables: dict[str, str]) -> Any:
    """Return the compose file with variables filled in: `${NAME:?message}`, and `$$` for a dollar. Raises KeyError with
    the message.
    """

    def fill(match: re.Match[str]) -> str:
        dollar, name, message = match.groups()
        if dollar:
            return "$"
        if not variables.get(name):
            raise KeyError(message)
        return variables[name]

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: walk(part) for key, part in value.items()}
        if isinstance(value, list):
            return [walk(part) for part in value]
        return VARIABLE.sub(fill, value) if isinstance(value, str) else value

    return walk(yaml.safe_load(COMPOSE.read_text()))


@pytest.mark.parametrize("name", PASSWORDS)
def test_a_password_that_is_not_set_is_named(name: str) -> None:
    with pytest.raises(KeyError, match=f"set {name}"):
        resolve({**PASSWORDS, name: ""})


def test_ports_are_published_on_loopback_alone_and_services_wait_for_what_is_there() -> None:
    compose = resolve(PASSWORDS)
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(compose["volumes"])


@pytest.mark.parametrize("name", ["pages", "gateway", "worker"])
def test_the_environment_is_read_as_settings_with_the_services_own_passwords(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = resolve(PASSWORDS)["services"]
    environment = services[name]["environment"]
    check_variables(environment)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    database, broker = make_url(settings.database_url), urlsplit(settings.redis_url or "")
    assert (database.host, database.password) == ("database", services["database"]["environment"]["POSTGRES_PASSWORD"])
    assert (broker.hostname, broker.password) == ("broker", services["broker"]["environment"]["BROKER_PASSWORD"])
    store = services["store"]["environment"]
    assert settings.artifacts_secret is not None
    assert (settings.artifacts_key.get_secret_value(), settings.artifacts_secret.get_secret_value()) == (
        store["AWS_ACCESS_KEY_ID"],
        store["AWS_SECRET_ACCESS_KEY"],
    )
    assert settings.gateway_url == f"http://gateway:{settings.gateway_port}"
    password = settings.admin_password.get_secret_value() if settings.admin_password else None
    assert password == (PASSWORDS["ROUNDHOUSE_ADMIN_PASSWORD"] if name == "pages" else None)


def test_the_brokers_command_starts_a_server_that_asks_for_the_password(tmp_path: Path) -> None:
    broker = resolve(PASSWORDS)["services"]["broker"]
    (tmp_path / "valkey-server").symlink_to(broker_binary())
    port = free_port()
    shell, flag, script = broker["command"]
    command = [shell, flag, script.replace(" <<", f" --port {port} --bind 127.0.0.1 --dir {tmp_path} <<")]
    with process(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin", **broker["environment"]}) as server:
        with redis.Redis(port=port, password=broker["environment"]["BROKER_PASSWORD"]) as client:
            wait_until(lambda: answers(client), what="the broker")
            assert client.info()["process_id"] == server.pid, "which gets the signal to end"
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def check_variables(names: Iterable[str]) -> None:
    """Fail for a variable that is not a setting."""
    known = {variable_of(name) for name in Settings.model_fields}
    assert set(names) <= {*known, "HOME"}


def check_command(command: list[str]) -> None:
    """Fail for a command line that the product does not read."""
    program, *words = command
    assert program == "roundhouse"
    result = CliRunner().invoke(app, [*words, "--help"])
    assert result.exit_code == 0, result.output


def test_the_compose_file_follows_its_schema_and_its_commands_exist() -> None:
    compose = resolve(PASSWORDS)
    schema = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(compose, json.loads(schema.read_text()))
    for name in ("pages", "gateway", "worker"):
        service = compose["services"][name]
        check_command(service["command"])
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


@pytest.fixture(scope="module", params=["base", "autoscaled"])
def manifests(request: pytest.FixtureRequest) -> list[Any]:
    """The manifests as kubectl builds them."""
    command = [Path(sys.executable).with_name("kubectl"), "kustomize", KUBERNETES / request.param]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def test_the_manifests_follow_the_schemas_of_kubernetes(manifests: list[Any]) -> None:
    for manifest in manifests:
        if not manifest["apiVersion"].startswith("keda.sh/"):  # has no published schema
            kubernetes_validate.validate(manifest, "1.37", strict=True)


def pods(manifests: list[Any]) -> dict[str, Any]:
    """Return the pods of the manifests by name, with that of a run."""
    (run_job,) = [m["data"]["run-job.yaml"] for m in manifests if m["metadata"]["name"] == "roundhouse-run-job"]
    templates = {m["metadata"]["name"]: m["spec"]["template"] for m in manifests if "template" in m.get("spec", {})}
    return {
        name: pod["spec"] for name, pod in {**templates, "run": yaml.safe_load(run_job)["spec"]["template"]}.items()
    }


def test_pods_run_without_rights_and_with_limits(manifests: list[Any]) -> None:
    assert set(pods(manifests)) == {"pages", "gateway", "worker", "run"}
    for name, pod in pods(manifests).items():
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"], name
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"], name
        assert {"/data", "/tmp"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
        assert pod.get("automountServiceAccountToken", True) == (name == "worker"), "that which orders Jobs"


def test_pods_start_commands_that_exist_with_settings_that_exist(manifests: list[Any]) -> None:
    maps = {m["metadata"]["name"]: m["data"] for m in manifests if m["kind"] == "ConfigMap"}
    ports = {"pages": 8501, "gateway": 8100}
    for name, pod in pods(manifests).items():
        (container,) = pod["containers"]
        check_command(container.get("command") or ["roundhouse", "worker", "--for", "JOB", "--until-idle", "600s"])
        variables = {variable["name"] for variable in container.get("env", [])}
        for source in container["envFrom"]:
            variables |= set(maps[source["configMapRef"]["name"]]) if "configMapRef" in source else set()
        check_variables(variables)
        listens_on = [port["containerPort"] for port in container.get("ports", [])]
        assert listens_on == ([ports[name]] if name in ports else [])
    settings = Settings.model_fields
    assert (settings["port"].default, settings["gateway_port"].default) == (ports["pages"], ports["gateway"])
    assert maps["roundhouse-orders"]["ROUNDHOUSE_KUBERNETES_JOB"] == "/etc/roundhouse/run-job.yaml"


def test_workers_are_scaled_by_the_jobs_that_they_can_take(any_ctx: Context) -> None:
    scaling = yaml.safe_load_all((KUBERNETES / "autoscaled" / "worker-scaling.yaml").read_text())
    (trigger,) = [item["spec"]["triggers"][0] for item in scaling if item["kind"] == "ScaledObject"]
    assert trigger["type"] == "postgresql"
    with any_ctx.db.write() as session:
        add_stored_job(session, any_ctx, JobKind.TRAIN)
        add_stored_job(session, any_ctx, JobKind.TRAIN).num_machines = 3
        add_stored_job(session, any_ctx, JobKind.IMPORT_DATASET).status = Status.RUNNING
        add_stored_job(session, any_ctx, JobKind.TRAIN, placement="kubernetes:h100")
        add_stored_job(session, any_ctx, JobKind.TRAIN).status = Status.FINISHED
        add_stored_job(session, any_ctx, JobKind.REPLICA)
    with any_ctx.db.read() as session:
        assert session.execute(text(trigger["metadata"]["query"])).scalar_one() == 1 + 2 * 3 + 1


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
