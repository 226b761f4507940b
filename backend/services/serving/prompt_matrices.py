"""Matrices: a version of a prompt tried on rows of a dataset, or typed ones, over several endpoints. Answers belong to
the server, like those of conversations: a page that reloads, or another tab, reads the same matrix.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from sqlalchemy import JSON, func, select, type_coerce
from sqlalchemy.orm import Session, defer

from backend.db.tables import Prompt as PromptRow
from backend.db.tables import PromptMatrix, PromptVersion, User
from backend.domain.data.rows.records import columns_of
from backend.domain.evaluation.prompts import PromptText
from backend.domain.evaluation.tasks.definition import TaskDefinition
from backend.domain.evaluation.tasks.reading import task_yaml
from backend.domain.json_values import JsonObject, Row
from backend.domain.names import nearest_name, not_found
from backend.domain.serving.chat import AnswerSettings, ChatSettings
from backend.domain.serving.prompt_matrix import MAX_ANSWER, MAX_ROWS, MatrixAnswers, MatrixCell, check_size
from backend.domain.serving.protocol import ChatMessage, Role
from backend.errors import InvalidInput, NotAllowed, NotFound, RoundhouseError
from backend.infra.files.parquet import read_row_page
from backend.infra.openai_api.streams import StreamClient
from backend.services.context import Context, Person, require_builder
from backend.services.data.views import VersionView
from backend.services.evaluation.scoring_choice import choose_split
from backend.services.evaluation.tasks import TaskView, save_task
from backend.services.lookups import find_row
from backend.services.serving.chat.generation import ANSWERS, LOST_AFTER_S, AnswerProgress, LiveAnswer
from backend.services.serving.endpoints import deployed_endpoints, is_in_charge
from backend.services.serving.own_keys import playground_key
from backend.services.serving.prompts import PromptView, get_version

log = logging.getLogger(__name__)
AT_ONCE = 4
"""Answers of a matrix that are generated at a time."""
STORE_S = 1.0
RUNNING = ("running", "stopping")
INTERRUPTED = "The server stopped while this answer was being generated."
UNEXPECTED = "An unexpected error ended this answer. The server's log names it."


@dataclass(frozen=True)
class MatrixLine:
    """A matrix in a list. `status`: running, done, stopped, failed (its server ended, or an error)."""

    id: str
    number: int
    source: str
    settings: AnswerSettings
    num_rows: int
    num_endpoints: int
    status: str
    author: str
    created_at: datetime

    @property
    def is_running(self) -> bool:
        """Return whether answers are on their way."""
        return self.status in RUNNING


@dataclass(frozen=True)
class MatrixView(MatrixLine):
    """A matrix with its answers."""

    answers: MatrixAnswers


def dataset_rows(ctx: Context, version: VersionView, body: PromptText, *, limit: int) -> list[Row]:
    """Return the variables of a prompt in the first rows of a dataset, of the split that a task would score.

    Raises TemplateFault naming a variable that is no column, and the nearest one.
    """
    rows = _first_columns(ctx, version, limit=min(limit, MAX_ROWS))
    for row in rows:
        body.fill(row)
    chosen = [{name: row[name] for name in body.variables if name in row} for row in rows]
    stored: list[Row] = json.loads(json.dumps(chosen, default=str), parse_constant=lambda _: None)
    return stored  # NaN and infinite numbers are None: PostgreSQL takes none


def start_matrix(
    ctx: Context,
    prompt: PromptView,
    number: int,
    *,
    rows: Sequence[Mapping[str, Any]],
    endpoints: Sequence[str],
    settings: AnswerSettings,
    source: str = "",
    person: Person,
) -> str:
    """Begin a matrix and return its id. Raises InvalidInput for too much or nothing to do, NotFound for an endpoint
    that does not run.
    """
    require_builder(person)
    version = get_version(ctx, prompt, number)
    check_size(rows, endpoints)
    running = {name for name, _ in deployed_endpoints(ctx)}
    for name in endpoints:
        if name not in running:
            raise not_found("running endpoint", name, running, remedy="Start it, or choose another.")
    filled = [version.body.fill(row) for row in rows]
    answers = MatrixAnswers.model_validate(
        {"endpoints": endpoints, "rows": rows, "cells": [{}] * (len(rows) * len(endpoints))}
    )
    with ctx.db.write() as session:
        row = PromptMatrix(
            version_id=version.id,
            source=source[:200],
            settings=AnswerSettings.model_validate(settings.model_dump(include=set(AnswerSettings.model_fields))),
            answers=answers,
            created_by=person.id,
            created_at=ctx.now(),
            updated_at=ctx.now(),
        )
        session.add(row)
        session.flush()
        matrix_id = row.id
    ANSWERS.start(matrix_id, partial(_generate, ctx, answers, filled, settings, person.id or ""))
    return matrix_id


def list_prompt_matrices(ctx: Context, name: str) -> list[MatrixLine]:
    """Return the newest matrices of a prompt, whose answers stay in the database."""
    answers = type_coerce(PromptMatrix.answers, JSON)
    query = (
        _matrices()
        .add_columns(func.json_array_length(answers["rows"]), func.json_array_length(answers["endpoints"]))
        .options(defer(PromptMatrix.answers))
        .where(PromptRow.name == name)
        .order_by(PromptMatrix.created_at.desc())
        .limit(20)
    )
    with ctx.db.read() as session:
        return [
            MatrixLine(
                row.id,
                number,
                row.source,
                row.settings,
                num_rows,
                num_endpoints,
                "failed" if _is_lost(ctx, row) else row.status,
                author or "",
                row.created_at,
            )
            for row, number, author, num_rows, num_endpoints in session.execute(query)
        ]


def get_matrix(ctx: Context, matrix_id: str, *, prompt: str) -> MatrixView:
    """Return a matrix of a prompt. Raises NotFound."""
    with ctx.db.read() as session:
        row = session.execute(_matrices().where(PromptMatrix.id == matrix_id, PromptRow.name == prompt)).one_or_none()
        if row is None:
            raise NotFound(f"There is no matrix “{matrix_id}” of “{prompt}”.", remedy="It may have been deleted.")
        matrix, number, author = row
        answers, status = matrix.answers, matrix.status
        if _is_lost(ctx, matrix):
            answers, status = _ended(answers, "failed", INTERRUPTED), "failed"
        sizes = (len(answers.rows), len(answers.endpoints))
        return MatrixView(
            matrix.id,
            number,
            matrix.source,
            matrix.settings,
            *sizes,
            status,
            author or "",
            matrix.created_at,
            answers=answers,
        )


def stop_matrix(ctx: Context, matrix_id: str, *, person: Person) -> None:
    """Stop the answers of a matrix that are on their way, in whichever process. What arrived stays."""
    require_builder(person)
    with ctx.db.write() as session:
        row = _own(session, matrix_id, person)
        if row.status == "running":
            row.status = "stopping"  # seen within a second; a cancelled task might be cancelled again as it ends


def delete_matrix(ctx: Context, matrix_id: str, *, person: Person) -> None:
    """Stop and delete a matrix. Raises NotAllowed for one that another account began."""
    require_builder(person)
    with ctx.db.write() as session:
        session.delete(_own(session, matrix_id, person))


def save_as_task(
    ctx: Context,
    name: str,
    body: PromptText,
    *,
    expected: str,
    metric: str,
    version: VersionView | None,
    settings: AnswerSettings,
    person: Person,
) -> TaskView:
    """Save a prompt as a task of the team that compares answers with the column `expected`: a text, or a list of right
    ones. With a `version` the task finds that dataset by its name, and the first row is tried.

    It asks with the same system prompt and message, and greedily. Raises Conflict for a name that the team has,
    InvalidInput naming the field.
    """
    row: Row = {}
    if version is not None:
        row = _first_columns(ctx, version, limit=1)[0]
        body.fill(row)
        if expected not in row:
            near = nearest_name(expected, row)
            remedy = f"Did you mean “{near}”? " if near else ""
            raise InvalidInput(
                f"{version.label} has no column “{expected}”.",
                remedy=f"{remedy}It has: {', '.join(list(row)[:20])}.",
                field="expected",
            )
    if not expected.isidentifier():
        raise InvalidInput(
            f"{expected!r} is not the name of a column.",
            remedy="Name the column of the expected answers.",
            field="expected",
        )
    is_list = isinstance(row.get(expected), list)
    values = {
        "name": name.strip(),
        "kind": "generation",
        "data": {"names": [version.dataset] if version else [], "columns": [*body.variables, expected]},
        "instruction": body.system,
        "prompt": body.text,
        "target": f"{{{{{expected}[0]}}}}" if is_list else f"{{{{{expected}}}}}",
        "references": expected if is_list else "",
        "stop": list(settings.stop),
        "max_tokens": settings.max_tokens,
        "metrics": [metric],
    }
    return save_task(ctx, task_yaml(TaskDefinition.model_validate(values)), person=person, replace=False)


def _first_columns(ctx: Context, version: VersionView, *, limit: int) -> list[Row]:
    if version.folder is None:
        raise InvalidInput(f"{version.label} is not ready.", remedy="Wait for its import.", field="dataset")
    folder, split = ctx.artifacts.path(version.folder), choose_split(version, "auto")
    stored: list[Row] = []
    for part in ("train", "val") if split == "all" else (split,):
        stored += read_row_page(folder, split=part, limit=limit - len(stored))
    if not stored:
        raise InvalidInput(f"{version.label} has no rows.", remedy="Choose another dataset.", field="dataset")
    return [columns_of(row) for row in stored]


def _matrices() -> Any:
    return (
        select(PromptMatrix, PromptVersion.number, User.name)
        .join(PromptVersion, PromptVersion.id == PromptMatrix.version_id)
        .join(PromptRow, PromptRow.id == PromptVersion.prompt_id)
        .outerjoin(User, User.id == PromptMatrix.created_by)
    )


def _own(session: Session, matrix_id: str, person: Person) -> PromptMatrix:
    row = find_row(session, PromptMatrix, matrix_id, what="matrix", remedy="It may have been deleted.")
    if person.id != row.created_by and not is_in_charge(session, row.created_by, person=person):
        raise NotAllowed("Another account began this matrix.", remedy="It and admins stop and delete it.")
    return row


def _is_lost(ctx: Context, row: PromptMatrix) -> bool:
    """Return whether the server that generated a matrix ended without saying so."""
    is_silent = row.updated_at < ctx.now() - timedelta(seconds=LOST_AFTER_S)
    return row.status in RUNNING and is_silent and ANSWERS.get(row.id) is None


def _ended(answers: MatrixAnswers, status: str, error: str = "") -> MatrixAnswers:
    """Return the answers with those that had not come to their end marked."""
    cells = [
        cell.model_copy(update={"status": status, "error": error}) if cell.status in ("waiting", "running") else cell
        for cell in answers.cells
    ]
    return answers.model_copy(update={"cells": tuple(cells)})


async def _generate(
    ctx: Context,
    answers: MatrixAnswers,
    filled: Sequence[tuple[str, str]],
    settings: AnswerSettings,
    user: str,
    live: LiveAnswer,
    client: StreamClient,
) -> None:
    """Generate every cell, a few at a time, and store them each second."""
    cells, status, cause = list(answers.cells), "done", INTERRUPTED
    width = len(answers.endpoints)
    places = iter(range(len(cells)))

    def current() -> MatrixAnswers:
        return answers.model_copy(update={"cells": tuple(cells)})

    async def work(key: str) -> None:
        for place in places:
            system, text = filled[place // width]
            request = _body(answers.endpoints[place % width], system, text, settings, user)
            await _answer(ctx, client, key, request, cells, place)

    async def keep() -> None:
        while True:
            await asyncio.sleep(STORE_S)
            if await asyncio.to_thread(_store, ctx, live.message_id, current(), "running") == "stopping":
                live.is_stopped = True
                raise asyncio.CancelledError

    tasks: list[asyncio.Task[None]] = []
    try:
        key = await asyncio.to_thread(playground_key, ctx)
        keeper = asyncio.create_task(keep())
        workers = asyncio.gather(*(work(key) for _ in range(AT_ONCE)))
        tasks = [keeper, workers]  # type: ignore[list-item]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if keeper.done():
            keeper.result()
        await workers
    except asyncio.CancelledError:
        status = "stopped" if live.is_stopped else "failed"
    except RoundhouseError as error:
        status, cause = "failed", f"{error.message} {error.remedy}".strip()
    except Exception:  # an outer edge: the cells must not stay on their way
        log.exception("A matrix failed.")
        status, cause = "failed", UNEXPECTED
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    ended = _ended(current(), "stopped") if status == "stopped" else _ended(current(), "failed", cause)
    await asyncio.to_thread(_store, ctx, live.message_id, ended, status)
    live.status = status


def _body(endpoint: str, system: str, text: str, settings: AnswerSettings, user: str) -> JsonObject:
    values = settings.model_dump(include=set(AnswerSettings.model_fields)) | {"token_view": False, "tools": ""}
    chat = ChatSettings.model_validate(values | {"endpoints": (endpoint,)}, context={"stored": True})
    messages = [ChatMessage(role=Role.SYSTEM, content=system)] if system.strip() else []
    messages.append(ChatMessage(role=Role.USER, content=text))
    return chat.body(endpoint, tuple(messages)) | ({"user": user} if user else {})


async def _answer(
    ctx: Context, client: StreamClient, key: str, body: Mapping[str, object], cells: list[MatrixCell], place: int
) -> None:
    """Fill one cell as its answer comes; a refusal or a lost answer is its error, not the matrix's."""
    progress, text = AnswerProgress(), ""

    def put(status: str, error: str = "") -> None:
        usage = progress.summary(left_out=0)
        cells[place] = MatrixCell.model_validate(
            {
                "status": status,
                "text": text.replace("\x00", "")[:MAX_ANSWER],
                "error": error,
                "finish_reason": usage.finish_reason or "",
                "completion_tokens": usage.completion_tokens,
                "total_ms": usage.total_ms,
                "tok_per_sec": usage.tok_per_sec,
            }
        )

    put("running")
    stream, shown_at = client.chat(ctx.gateway_url, key=key, body=body), time.perf_counter()
    try:
        async for chunk in stream:
            text += progress.take(chunk)
            if time.perf_counter() - shown_at > STORE_S / 2:
                shown_at = time.perf_counter()
                put("running")
        put("done")
    except asyncio.CancelledError:
        put("running")
        raise
    except RoundhouseError as error:
        put("failed", f"{error.message} {error.remedy}".strip())
    except Exception:  # only this answer fails
        log.exception("An answer of a matrix failed.")
        cells[place] = cells[place].model_copy(update={"status": "failed", "error": UNEXPECTED})
    finally:
        await stream.aclose()


def _store(ctx: Context, matrix_id: str, answers: MatrixAnswers, status: str) -> str:
    """Store what has arrived; return the status that the row had."""
    with ctx.db.write() as session:
        row = session.get(PromptMatrix, matrix_id)
        if row is None:
            return "stopping"  # it was deleted
        if status == "running" and row.status not in RUNNING:
            return row.status  # its end was stored while this waited
        before, row.answers, row.updated_at = row.status, answers, ctx.now()
        if status != "running":
            row.status = status
        return before
