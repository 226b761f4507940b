"""Shared tokens are counted, and go once no run needs them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from backend.db.tables import DatasetVersion
from backend.domain.data.token_folders import LOCK, MANIFEST, Manifest
from backend.domain.jobs.states import Status
from backend.infra.files.locks import try_lock
from backend.services.context import LOCAL, Context, OperatorPolicy
from backend.services.data.tokens import list_tokens, remove_unused_tokens
from backend.services.data.versions import delete_version
from tests.support.run_world import claim, end
from tests.support.scenario import Scenario


def later(ctx: Context, days: float, *, keep: float = 30.0) -> Context:
    now = ctx.now() + timedelta(days=days)
    return replace(ctx, now=lambda: now, policy=OperatorPolicy(keep_job_folders_days=keep))


def store(ctx: Context, name: str, *, dataset: str, complete: bool = True, size: int = 10) -> Path:
    folder = ctx.artifacts.folder("tokens", name)
    (folder / "ids").write_bytes(bytes(size))
    identity = {"dataset": dataset, "form": "text", "split": "train", "rows": 90}
    manifest = Manifest(
        identity=identity,
        dtype="uint16",
        is_complete=complete,
        counts={"rows": 90 if complete else 40},
        bytes={"ids": size},
    )
    (folder / MANIFEST).write_text(json.dumps(manifest.as_dict()))
    os.utime(folder / MANIFEST, (ctx.now().timestamp(),) * 2)
    return folder


def mark(ctx: Context, version_id: str, content: str) -> None:
    with ctx.db.write() as session:
        session.get_one(DatasetVersion, version_id).content_hash = content


def test_stored_tokens_are_listed_with_their_version_and_size(ctx: Context, scenario: Scenario) -> None:
    mark(ctx, scenario.dataset(), "a" * 64)
    store(ctx, "text-train-1", dataset="a" * 64, size=30)
    store(ctx, "text-train-2", dataset="b" * 64, complete=False, size=20)
    broken = ctx.artifacts.folder("tokens", "broken")
    (broken / MANIFEST).write_text("{")
    one, other = list_tokens(ctx)
    assert (one.version, one.num_bytes, one.is_complete, one.rows_made) == ("tales@1", 30, True, 90)
    assert (other.version, other.num_bytes, other.is_complete, other.rows_made, other.rows) == ("", 20, False, 40, 90)


def test_tokens_go_when_no_run_has_opened_them_for_long_and_none_waits_for_them(ctx: Context) -> None:
    run = Scenario(ctx).run()
    with ctx.db.write() as session:
        session.query(DatasetVersion).update({"content_hash": "a" * 64})
    needed, unused = store(ctx, "text-train-1", dataset="a" * 64), store(ctx, "text-train-2", dataset="b" * 64)
    opened = store(ctx, "text-train-3", dataset="c" * 64)
    os.utime(opened / MANIFEST, ((ctx.now() + timedelta(days=20)).timestamp(),) * 2)
    written = store(ctx, "text-train-4", dataset="d" * 64, complete=False)
    assert remove_unused_tokens(later(ctx, 29)) == 0
    assert remove_unused_tokens(later(ctx, 31, keep=0)) == 0
    with try_lock(written / LOCK):
        assert remove_unused_tokens(later(ctx, 31)) == 1
    assert [needed.exists(), unused.exists(), opened.exists(), written.exists()] == [True, False, True, True]
    end(ctx, claim(ctx, run), Status.FINISHED)
    assert remove_unused_tokens(later(ctx, 31)) == 2
    assert [needed.exists(), opened.exists(), written.exists()] == [False, True, False]


def test_a_deleted_versions_tokens_go_with_it_unless_another_has_the_same_rows(ctx: Context) -> None:
    versions = [Scenario(ctx).dataset(name) for name in ("tales", "copies")]
    for version_id in versions:
        mark(ctx, version_id, "a" * 64)
    folder = store(ctx, "text-train-1", dataset="a" * 64)
    delete_version(ctx, versions[0], person=LOCAL)
    assert folder.exists()
    delete_version(ctx, versions[1], person=LOCAL)
    assert not folder.exists()
