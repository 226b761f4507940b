"""Files by which a run and its supervisor, which alone has the store's keys, tell each other what is needed: the run
asks for folders (`0-1.ask`, answered by `0-1.answer`), and says which blocks of tokens its next steps read
(`0-NAME.needed`).
"""

from __future__ import annotations

from typing import Literal

from backend.domain.jobs.records import FrozenRecord

ASK, ANSWER, NEEDED = ".ask", ".answer", ".needed"
PROBLEM, FAILURE = "problem", "failure"
"""Files that say why blocks have to be waited for, and why they will not come."""


def stream_folder(attempt: int, machine: int) -> str:
    """Return the name, in the job's folder, of the folder of an attempt on one machine of a run."""
    return f"streams-{attempt}-{machine}"


class FolderAsk(FrozenRecord):
    """Bring a folder, or send it. Tokens that are large are left in the store if the run `streams` them."""

    folder: str
    sends: bool = False
    streams: bool = False


class FolderAnswer(FrozenRecord):
    """`here`: the folder is whole on this machine; `streamed`: all but the ids, of which needed blocks come to the
    folder `blocks`, `num_ahead` of them before they are read; `absent`: the store has no such folder.
    """

    state: Literal["here", "streamed", "absent", "failed"]
    blocks: str = ""
    num_ahead: int = 0
    cause: str = ""
    remedy: str | None = None


class NeededBlocks(FrozenRecord):
    """Numbers of blocks of a folder's ids, in the order in which they are read."""

    folder: str
    blocks: tuple[int, ...]
