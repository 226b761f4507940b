"""Sends folders to a store, each in a process that a test kills: ROOT, URL, KEY, SECRET, ENDPOINT; folders on stdin."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from backend.infra.store.folders import FolderStore
from backend.infra.store.objects import LIBRARIES, StoreKeys, open_objects

root, url, key, secret, endpoint = sys.argv[1:]
if library := LIBRARIES.get(url.split(":")[0]):
    import_module(library)
for line in sys.stdin:
    if sender := os.fork():
        os.waitpid(sender, 0)
        print("over", flush=True)
        continue
    store = FolderStore(
        Path(root),
        open_objects(url, StoreKeys(key or None, secret or None, endpoint or None)),
        limit_bytes=10**12,
        piece_bytes=2**16,
    )
    print("ready", os.getpid(), flush=True)
    store.send(line.strip())
    print("sent", flush=True)
    os._exit(0)
