"""Every field of every `/v1` route with values at, within and beyond its bounds, while a good client asks beside it.

Routes and fields are read from the app itself: whatever body class a route reads is drawn from that class's JSON
schema, so a new route or field is covered as soon as it is there. Each client sends `REQUESTS`, or goes on for
`ROUNDHOUSE_FUZZ_S` seconds; `ROUNDHOUSE_FUZZ_SEED` is where it begins.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx2
import psutil
import pytest
import torch
from pydantic import BaseModel
from starlette.routing import Route

from backend.gateway.app import create_gateway
from backend.gateway.directory import ReplicaAddress
from tests.support.gateway_fixtures import MemoryDirectory, eventually, served
from tests.support.networks.serving_networks import END_ID, make_llama, save_checkpoint
from tests.support.serving.good_client import good_client
from tests.support.serving_replica import TOKEN, RunningReplica

SECONDS = float(os.environ.get("ROUNDHOUSE_FUZZ_S", "0"))
REQUESTS = 350
DRAWN_AT_LEAST = 5
"""Times that each field of each route is sent."""
SEED = int(os.environ.get("ROUNDHOUSE_FUZZ_SEED", "7"))
CLIENTS = 3
UNANSWERED = {"/v1/feedback", "/v1/rerank", "/v1/score"}  # these need an earlier answer, or a network that scores
PATIENCE_S = 120.0
MAX_GROWTH_MB = 250
HOSTILE: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31 - 1,
    2**31,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
    10**30,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("nan"),
    float("inf"),
    "",
    " ",
    "x",
    "\x00",
    "\ud800",
    "\u2028",
    "x" * 3000,
    "{",
    "((",
    "(a|b)*" * 50,
    [],
    {},
    [[]],
    [None],
    [{}],
    [0],
    [2**40],
    [[0], [2**40]],
    ["a"] * 3000,
    [1] * 3000,
    {"a": {"b": [1]}},
    {"type": "object"},
    {"": None},
    {str(i): i for i in range(300)},
    json.loads("[" * 60 + "]" * 60),
    {"type": "json_schema", "json_schema": {"schema": {"$ref": "#"}}},
]


class Drawn:
    """Values that a JSON schema allows, or almost."""

    def __init__(self, rng: random.Random, definitions: dict[str, Any]) -> None:
        self._rng, self._definitions = rng, definitions

    def value(self, schema: dict[str, Any], depth: int = 0) -> Any:
        """Return a value for a schema, mostly one that it allows."""
        rng = self._rng
        if rng.random() < 0.04 * depth or depth > 6:
            return rng.choice(HOSTILE)
        if "$ref" in schema:
            return self.value(self._definitions[schema["$ref"].rsplit("/", 1)[1]], depth + 1)
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self.value(rng.choice(schema[key]), depth + 1)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return rng.choice(schema["enum"])
        return self._typed(schema, depth)

    def _typed(self, schema: dict[str, Any], depth: int) -> Any:
        rng, kind = self._rng, schema.get("type")
        if kind in ("integer", "number"):
            least = schema.get("minimum", schema.get("exclusiveMinimum", -(2**40)))
            most = schema.get("maximum", schema.get("exclusiveMaximum", 2**40))
            number = rng.choice([least, most, least - 1, most + 1, rng.uniform(least, most), 1, 2, 3])
            return int(number) if kind == "integer" else number
        if kind == "string":
            return rng.choice(["Hello", "a b\nc", "", "é\u2028", "user", "x" * schema.get("maxLength", 50), '{"a": 1}'])
        if kind == "array":
            most = schema.get("maxItems", 3)
            count = rng.choice([0, 1, 1, 2, min(most, 40), min(most + 1, 400)])
            return [self.value(schema.get("items", {}), depth + 1) for _ in range(count)]
        if kind == "object" and "properties" in schema:
            return self.object(schema, depth)
        if kind == "object":
            other = schema.get("additionalProperties")
            return {
                str(rng.choice([0, 5, 259, 260, "a"])): self.value(other if isinstance(other, dict) else {}, depth + 1)
            }
        return None if kind == "null" else rng.choice([True, False]) if kind == "boolean" else rng.choice(HOSTILE)

    def object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        """Return an object with its required fields and some others."""
        required = schema.get("required", [])
        fields = schema["properties"].items()
        return {
            name: self.value(part, depth + 1) for name, part in fields if name in required or self._rng.random() < 0.15
        }


class Fuzzer:
    """Clients that send drawn bodies to drawn routes, and what went wrong."""

    def __init__(self, url: str, routes: dict[str, type[BaseModel]]) -> None:
        self._url = url
        self._schemas = {path: kind.model_json_schema() for path, kind in routes.items()}
        self.problems: list[str] = []
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.fields: Counter[tuple[str, str]] = Counter()

    def run(self, seed: int, until: float) -> None:
        """Send `REQUESTS` bodies, and more until a time."""
        rng = random.Random(seed)
        weights = [len(schema["properties"]) for schema in self._schemas.values()]
        turns = {
            path: itertools.cycle(rng.sample(names := list(schema["properties"]), k=len(names)))
            for path, schema in self._schemas.items()
        }
        with httpx2.Client(timeout=PATIENCE_S, limits=httpx2.Limits(max_keepalive_connections=0)) as client:
            for number in itertools.count():
                if (number >= REQUESTS and time.monotonic() >= until) or self.problems:
                    return
                (path,) = rng.choices(list(turns), weights=weights)
                self._send(client, path, self._body(rng, self._schemas[path], turns[path]))

    def _body(self, rng: random.Random, schema: dict[str, Any], turns: Iterator[str]) -> dict[str, Any]:
        drawn, fields = Drawn(rng, schema.get("$defs", {})), schema["properties"]
        body = drawn.object(
            {
                **schema,
                "properties": {name: part for name, part in fields.items() if name in schema.get("required", [])},
            },
            0,
        )
        plain = {"model": "tiny", "prompt": "Hi", "input": "Hi", "messages": [{"role": "user", "content": "Hi"}]}
        body |= {name: value for name, value in plain.items() if name in fields and rng.random() < 0.9}
        body |= {name: 4 for name in fields if name in ("max_tokens", "max_output_tokens", "max_completion_tokens")}
        for name in itertools.islice(turns, rng.choice([0, 1, 1, 2, 3])):
            body[name] = rng.choice(HOSTILE) if rng.random() < 0.4 else drawn.value(fields[name])
        return body

    def _send(self, client: httpx2.Client, path: str, body: dict[str, Any]) -> None:
        text = json.dumps(body)
        self.fields.update((path, name) for name in body)
        try:
            answer = client.post(f"{self._url}{path}", content=text, headers={"Content-Type": "application/json"})
        except httpx2.ReadTimeout:  # a long answer; the client leaves
            self.statuses[path, 0] += 1
            return
        except httpx2.HTTPError as error:
            self.problems.append(f"{path}: {type(error).__name__}: {error}: {text[:1500]}")
            return
        self.statuses[path, answer.status_code] += 1
        if answer.status_code >= 500 or '"server_error"' in answer.text:
            self.problems.append(f"{path}: {answer.status_code} {answer.text[-600:]}: {text[:1500]}")


def bodies_of(url: str, app: Any) -> dict[str, type[BaseModel]]:
    """Return the body class that each POST route of the app reads, as seen when it reads an empty one."""
    read: list[type[BaseModel]] = []
    validate = BaseModel.model_validate_json.__func__  # type: ignore[attr-defined]

    def note(cls: type[BaseModel], raw: Any, **named: Any) -> Any:
        read.append(cls)
        return validate(cls, raw, **named)

    routes: dict[str, type[BaseModel]] = {}
    with patch.object(BaseModel, "model_validate_json", classmethod(note)):
        for route in app.routes:
            if isinstance(route, Route) and "POST" in (route.methods or ()) and "{" not in route.path:
                read.clear()
                httpx2.post(f"{url}{route.path}", json={})
                assert read, f"{route.path} reads no body by a pydantic class"
                routes[route.path] = read[0]
    return routes


def unbounded(schema: Any, path: str = "") -> Iterator[str]:
    """Yield the places of numbers without bounds and of lists without a length."""
    if isinstance(schema, list):
        for part in schema:
            yield from unbounded(part, path)
    elif isinstance(schema, dict):
        low, high = ({bound, f"exclusive{bound.capitalize()}"} & set(schema) for bound in ("minimum", "maximum"))
        if schema.get("type") in ("integer", "number") and not (low and high):
            yield path
        if schema.get("type") == "array" and "maxItems" not in schema:
            yield path
        for key, part in schema.items():
            if key != "default":
                yield from unbounded(part, f"{path}.{key}")


def test_every_number_of_every_route_has_bounds_and_every_list_a_length() -> None:
    app = create_gateway(MemoryDirectory({"tiny": []}, keys_required=False))
    with served(app) as url:
        routes = bodies_of(url, app)
    assert [f"{route}{place}" for route, kind in routes.items() for place in unbounded(kind.model_json_schema())] == []


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningReplica]:
    folder: Path = tmp_path_factory.mktemp("replica")
    network = make_llama(context=512)
    with torch.no_grad():
        network.lm_head.weight[END_ID] = 0
    save_checkpoint(folder / "checkpoint", network=network)
    running = RunningReplica(folder)
    yield running
    running.stop()


@pytest.mark.timeout(SECONDS + 900)
def test_no_field_of_any_route_makes_a_5xx_touches_another_stream_or_keeps_memory(replica: RunningReplica) -> None:
    directory = MemoryDirectory({"tiny": [ReplicaAddress(id="r1", url=replica.url, token=TOKEN)]}, keys_required=False)
    app = create_gateway(directory)
    with served(app) as url:
        routes = bodies_of(url, app)
        assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/tokenize", "/v1/feedback"} <= set(
            routes
        )
        fuzzer = Fuzzer(url, routes)
        began = time.monotonic()
        with good_client(url):
            threads = [
                threading.Thread(target=fuzzer.run, args=(SEED + number, began + SECONDS)) for number in range(CLIENTS)
            ]
            for thread in threads:
                thread.start()
            eventually(lambda: fuzzer.problems or fuzzer.statuses.total() > REQUESTS * CLIENTS / 3)
            warm = psutil.Process().memory_info().rss
            for thread in threads:
                thread.join()
            assert not fuzzer.problems, fuzzer.problems[0]
        growth_mb = (psutil.Process().memory_info().rss - warm) / 2**20
        print(
            f"{sum(fuzzer.statuses.values())} requests, {len(fuzzer.fields)} fields, +{growth_mb:.0f} MB:",
            dict(fuzzer.statuses),
        )
        assert growth_mb < MAX_GROWTH_MB
        assert min(
            fuzzer.fields[path, name]
            for path, kind in routes.items()
            for name in kind.model_json_schema()["properties"]
        ) >= (DRAWN_AT_LEAST)
        assert {path for path, status in fuzzer.statuses if status == 200} >= set(routes) - UNANSWERED, (
            "each route also answers"
        )
        assert directory.lost == []
