"""Sends a folder to a store, in a process that a test kills: ROOT, URL, KEY, SECRET, ENDPOINT, FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from backend.infra.store.folders import FolderStore
from backend.infra.store.objects import StoreKeys, open_objects

root, url, key, secret, endpoint, folder = sys.argv[1:]
store = FolderStore(
    Path(root),
    open_objects(url, StoreKeys(key or None, secret or None, endpoint or None)),
    limit_bytes=10**12,
    piece_bytes=2**16,
)
print("ready", flush=True)
store.send(folder)
print("sent", flush=True)
