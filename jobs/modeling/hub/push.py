"""Upload a folder to a Hub as one commit, with the Hub's client. The worker's key is stored nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants

from backend.domain.jobs.results import Pushed
from backend.domain.wording import plural
from backend.errors import JobFailed, Unavailable
from backend.infra.hub.errors import HubRequest, endpoint, hub_errors
from jobs.reporter import Reporter

PUBLIC = "https://huggingface.co"
TARGET = HubRequest("repository", "push", "upload the export by hand")


def push_folder(folder: Path, *, repo: str, private: bool, message: str, reporter: Reporter) -> Pushed:
    """Create the repository if it does not exist, upload every file, then commit them together.

    The commit keeps files that the folder lacks. Raises Unavailable without a key and if the Hub refuses it or does not
    answer; JobFailed on a stop request, with nothing committed.
    """
    key = os.environ.get("HF_TOKEN", "")
    if not key:
        raise Unavailable(
            f"Pushing to {repo} needs a key of the Hub, and this worker has none.",
            remedy="Set HF_TOKEN, for the worker, to a key that may write.",
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    total, done = sum(path.stat().st_size for path in files), 0
    if endpoint() != PUBLIC:  # mirrors and self-hosted servers support the plain transfer of Git LFS only
        constants.HF_HUB_DISABLE_XET = True
    api = HfApi(endpoint=endpoint(), token=key)
    with hub_errors(repo, TARGET):
        api.create_repo(repo, private=private, exist_ok=True)
        additions = []
        for path in files:
            reporter.progress(done, total, unit="byte", message=f"Pushing {path.name} to {repo}")
            if reporter.should_stop() is not None:
                raise JobFailed(
                    "The push was stopped on request.", remedy="Nothing was committed; push again to retry."
                )
            addition = CommitOperationAdd(path_in_repo=path.relative_to(folder).as_posix(), path_or_fileobj=str(path))
            api.preupload_lfs_files(repo, additions=[addition])
            additions.append(addition)
            done += path.stat().st_size
        commit = api.create_commit(repo, operations=additions, commit_message=message)
    reporter.progress(total, total, unit="byte", message=f"Pushed to {repo}")
    reporter.log(f"Pushed {plural(len(files), 'file')} to {repo}, commit {commit.oid[:12]}.")
    return Pushed(repo=repo, url=f"{endpoint()}/{repo}", commit=commit.oid)
