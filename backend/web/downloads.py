"""Routes of the pages' server for large downloads."""

from __future__ import annotations

from collections.abc import Callable

from starlette.concurrency import iterate_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from backend.errors import NotAllowed, RoundhouseError
from backend.services.context import Context


def download_routes(get_context: Callable[[], Context]) -> list[Route]:
    """Return the routes; the context is created at the first request."""

    def dataset(request: Request) -> Response:
        # pyarrow: not before a download
        from backend.services.data.exports import download_name, stream_zip, version_of_link

        ctx = get_context()
        try:
            version = version_of_link(ctx, request.query_params.get("token", ""))
        except RoundhouseError as error:
            return PlainTextResponse(str(error), status_code=403 if isinstance(error, NotAllowed) else 404)
        headers = {
            "content-disposition": f'attachment; filename="{download_name(version)}"',
            "cache-control": "no-store",
        }
        return StreamingResponse(
            iterate_in_threadpool(stream_zip(ctx, version)), media_type="application/zip", headers=headers
        )

    return [Route("/download/dataset", dataset)]
