"""The compose file, resolved as Docker Compose does, and its broker's command with a real server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml
from sqlalchemy import make_url

from backend.cli.processes import broker_binary
from backend.settings import PROJECT, Settings
from tests.support.installation import free_port, wait_until
from tests.support.workers.workers import process

COMPOSE = PROJECT / "deploy" / "compose.yaml"
PASSWORDS = {
    "POSTGRES_PASSWORD": "stone4",
    "BROKER_PASSWORD": "water7",
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


def test_the_environment_is_read_as_settings_with_the_services_own_passwords() -> None:
    services = resolve(PASSWORDS)["services"]
    environment = services["roundhouse"]["environment"]
    values = {name.removeprefix("ROUNDHOUSE_").lower(): value for name, value in environment.items()}
    settings = Settings(_env_file=None, **values)  # type: ignore[arg-type]
    database, broker = make_url(settings.database_url), urlsplit(settings.redis_url or "")
    assert (database.host, database.password) == ("database", services["database"]["environment"]["POSTGRES_PASSWORD"])
    assert (broker.hostname, broker.password) == ("broker", services["broker"]["environment"]["BROKER_PASSWORD"])
    assert settings.admin_password is not None
    assert settings.admin_password.get_secret_value() == PASSWORDS["ROUNDHOUSE_ADMIN_PASSWORD"]


def test_the_brokers_command_starts_a_server_that_asks_for_the_password(tmp_path: Path) -> None:
    broker = resolve(PASSWORDS)["services"]["broker"]
    (tmp_path / "valkey-server").symlink_to(broker_binary())
    port = free_port()
    shell, flag, script = broker["command"]
    command = [shell, flag, f"{script} --port {port} --bind 127.0.0.1 --dir {tmp_path}"]
    with process(command, env={"PATH": f"{tmp_path}:/usr/bin:/bin", **broker["environment"]}):
        with redis.Redis(port=port, password=broker["environment"]["BROKER_PASSWORD"]) as client:
            wait_until(lambda: answers(client), what="the broker")
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
