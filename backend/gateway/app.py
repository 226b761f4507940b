"""The gateway: the OpenAI-compatible API of every endpoint. Holds no weights, and no state to lose."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from backend.domain.serving.protocol import GenerateRequest
from backend.domain.serving.request_log import SYNTHETIC
from backend.errors import Unavailable
from backend.gateway.answers import AnswerForm, Kind, collect_answer, collect_embeddings, collect_tokens, stream_answer
from backend.gateway.connection import Holding, StreamedAnswer, WholeAnswer, read_json
from backend.gateway.dialects.anthropic import (
    MESSAGES_ERRORS,
    CountBody,
    MessagesBody,
    check_version,
    collect_message,
    stream_message,
)
from backend.gateway.dialects.completions import (
    LARGE_BYTES,
    ChatBody,
    CompletionBody,
    EmbeddingsBody,
    TokenizeBody,
    named_model,
    parse_body,
)
from backend.gateway.dialects.responses import (
    ResponseAnswer,
    ResponsesBody,
    erase_response,
    items_before,
    keeper,
    read_turns,
)
from backend.gateway.dialects.scores import RerankBody, ScoreBody, collect_scores
from backend.gateway.directory import Directory, ModelEntry, Principal
from backend.gateway.errors import INPUT_ERRORS, PROMPT_ERRORS, ApiError, ErrorStyle, invalid_key, unavailable
from backend.gateway.feedback import FeedbackBody, post_feedback
from backend.gateway.keys import KeyCheck, KeyGate, OpenAnswers, check_scope
from backend.gateway.limits import LimitStore, MemoryLimits
from backend.gateway.metrics import GatewayMetrics, render_live
from backend.gateway.relay import Relay
from backend.gateway.request import (
    REQUEST_ID,
    AnswerHeaders,
    ApiExchange,
    Events,
    Identity,
    body_to_log,
    headers_of,
    job_of,
    make_request_id,
)
from backend.gateway.usage import UsageWriter
from backend.infra.hosts import HostGuard, HostRules
from backend.infra.openai_api.upstream import UpstreamClient
from backend.infra.replicas import ReplicaClient

logger = logging.getLogger(__name__)
MAX_BODY_BYTES = 4 * 2**20
HEALTH_S = 5.0
FLUSH_S, KEYS_EVERY_S, COMPARE_EVERY_S, PROBE_EVERY_S = 0.5, 0.5, 1.0, 1.0
# keys that clients send to servers without keys, because they require one or fill it in themselves
NO_KEY = frozenset(
    {"", "local", "none", "not-needed", "EMPTY", "ollama", "sk-no-key-required", "lm-studio", "DUMMY_KEY"}
)

AnyBody = (
    ChatBody
    | CompletionBody
    | ResponsesBody
    | MessagesBody
    | CountBody
    | EmbeddingsBody
    | ScoreBody
    | RerankBody
    | TokenizeBody
)
B = TypeVar("B", bound=AnyBody, covariant=True)
R = TypeVar("R")


def create_gateway(
    directory: Directory,
    *,
    client: ReplicaClient | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    hosts: HostRules | None = None,
    limits: LimitStore | None = None,
) -> FastAPI:
    """Return the gateway's app over a directory. It answers only to loopback names unless `hosts` adds others."""
    gateway = Gateway(
        directory, client=client or ReplicaClient(), limits=limits or MemoryLimits(), max_body_bytes=max_body_bytes
    )
    return GatewayApp(
        openapi_url=None,
        routes=[
            Route("/v1/chat/completions", gateway.chat, methods=["POST"]),
            Route("/v1/completions", gateway.complete, methods=["POST"]),
            Route("/v1/responses", gateway.respond, methods=["POST"]),
            Route("/v1/responses/{id}", gateway.stored_response, methods=["GET", "DELETE"]),
            Route("/v1/responses/{id}/input_items", gateway.stored_response),
            Route("/v1/messages", gateway.message, methods=["POST"]),
            Route("/v1/messages/count_tokens", gateway.count_message, methods=["POST"]),
            Route("/v1/embeddings", gateway.embed, methods=["POST"]),
            Route("/v1/score", gateway.score, methods=["POST"]),
            Route("/v1/rerank", gateway.rerank, methods=["POST"]),
            Route("/v1/tokenize", gateway.tokenize, methods=["POST"]),
            Route("/tokenize", gateway.tokenize, methods=["POST"]),  # vLLM's address
            Route("/v1/feedback", gateway.feedback, methods=["POST"]),
            Route("/v1/models", gateway.list_models),
            Route("/v1/models/{name:path}", gateway.show_model),
            Route("/health", gateway.health),
            Route("/metrics", gateway.show_metrics),
        ],
        lifespan=gateway.lifespan,
        middleware=[Middleware(HostGuard, rules=hosts or HostRules(), check_origin=False, refuse=_refuse_host)],
        exception_handlers=_HANDLERS,
    )


class GatewayApp(FastAPI):
    """The app with the headers of every answer around it."""

    def build_middleware_stack(self) -> ASGIApp:
        """Return the stack."""
        return AnswerHeaders(super().build_middleware_stack())


class Gateway:
    """The routes and what they share."""

    def __init__(self, directory: Directory, *, client: ReplicaClient, limits: LimitStore, max_body_bytes: int) -> None:
        self._directory, self._client, self._max_body_bytes = directory, client, max_body_bytes
        self._keys = KeyCheck(directory)
        self._open = OpenAnswers(directory, self._keys)
        self._metrics = GatewayMetrics()
        self._usage = UsageWriter(directory)
        self._upstreams = UpstreamClient()
        self._relay = Relay(
            directory, client=client, upstreams=self._upstreams, metrics=self._metrics, usage=self._usage
        )
        self._gate = KeyGate(directory, limits, on_refusal=self._relay.refuse)

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """Write usage while the app runs, and the rest at shutdown."""
        # read once now, or known to be away: no request waits for it in the event loop
        with contextlib.suppress(Unavailable):
            await asyncio.to_thread(self._directory.list_models)
        shadows = self._relay.shadows
        async with running(
            every(FLUSH_S, self._usage.flush),
            every(PROBE_EVERY_S, self._relay.health.probe_all),
            every(KEYS_EVERY_S, self._open.end_revoked),
            every(COMPARE_EVERY_S, shadows.store),
            shadows.work(),
        ):
            yield
        await self._gate.close()
        await self._usage.close()
        await self._client.close()
        await self._upstreams.close()

    async def list_models(self, request: Request) -> Response:
        """Answer GET /v1/models."""
        principal = await self._authenticate(request)
        models = await asyncio.to_thread(self._directory.list_models)
        return JSONResponse(
            {"object": "list", "data": [_describe(model) for model in models if _may_use(principal, model.name)]}
        )

    async def show_model(self, request: Request) -> Response:
        """Answer GET /v1/models/NAME."""
        principal = await self._authenticate(request)
        name = request.path_params["name"]
        for model in await asyncio.to_thread(self._directory.list_models):
            if model.name == name and _may_use(principal, name):
                return JSONResponse(_describe(model))
        raise ApiError(404, f"The model {name!r} does not exist here.", code="model_not_found", param="model")

    async def chat(self, request: Request) -> Response:
        """Answer POST /v1/chat/completions."""
        async with self._call(request, ChatBody, scope="chat", prefix="chatcmpl") as call:
            form = AnswerForm(kind="chat", logprobs=bool(call.body.logprobs), include_usage=call.body.include_usage)
            return await self._answer(request, call, form=form)

    async def complete(self, request: Request) -> Response:
        """Answer POST /v1/completions."""
        async with self._call(request, CompletionBody, scope="completions", prefix="cmpl") as call:
            body = call.body
            form = AnswerForm(
                kind="text",
                prompts=body.prompts,
                n=body.n or 1,
                echo=bool(body.echo),
                logprobs=body.logprobs is not None,
                include_usage=body.include_usage,
            )
            return await self._answer(request, call, form=form)

    async def respond(self, request: Request) -> Response:
        """Answer POST /v1/responses."""
        async with self._call(request, ResponsesBody, scope="chat", prefix="resp_") as call:
            body, exchange, principal = call.body, call.exchange, call.exchange.identity.principal
            generation = await call.generation(await items_before(self._directory, body, principal=principal))
            keep = keeper(self._directory, body, principal=principal, exchange=exchange)
            answer = ResponseAnswer(body, exchange, keep)
            events = self._logged_events(request, generation, exchange)
        if body.stream:
            return StreamedAnswer(answer.stream(events), self._holding(request, exchange), errors=INPUT_ERRORS)
        return self._whole(request, exchange, partial(answer.collect, events), errors=INPUT_ERRORS)

    async def stored_response(self, request: Request) -> Response:
        """Answer GET and DELETE /v1/responses/ID, and GET /v1/responses/ID/input_items."""
        principal = await self._authenticate(request)
        check_scope(principal, endpoint="chat")
        response_id = request.path_params["id"]
        if request.method == "DELETE":
            return JSONResponse(await erase_response(self._directory, response_id, principal=principal))
        turns = await read_turns(self._directory, response_id, principal=principal, param=None)
        if not request.url.path.endswith("/input_items"):
            return JSONResponse(turns[-1].document)
        items = [item for turn in turns[:-1] for item in (*turn.items, *turn.document["output"])]
        items += turns[-1].items
        first, last = (items[0].get("id"), items[-1].get("id")) if items else (None, None)
        ids = {"first_id": first, "last_id": last}
        return JSONResponse({"object": "list", "data": items[::-1], "has_more": False, **ids})

    async def message(self, request: Request) -> Response:
        """Answer POST /v1/messages."""
        headers = headers_of(request)
        headers["request-id"] = headers[REQUEST_ID]
        async with self._call(request, MessagesBody, scope="chat", prefix="msg_") as call:
            check_version(request.headers.get("anthropic-version"))
            exchange = call.exchange
            events = self._logged_events(request, await call.generation(), exchange)
        if call.body.stream:
            chunks = stream_message(events, exchange=exchange)
            return StreamedAnswer(chunks, self._holding(request, exchange), errors=MESSAGES_ERRORS)
        collect = partial(collect_message, events, exchange=exchange)
        return self._whole(request, exchange, collect, errors=MESSAGES_ERRORS)

    async def count_message(self, request: Request) -> Response:
        """Answer POST /v1/messages/count_tokens."""
        async with self._call(request, CountBody, scope="tokenize", prefix="tok") as call:
            check_version(request.headers.get("anthropic-version"))
            events = self._events(await call.generation(), call.exchange)

        async def count() -> dict[str, Any]:
            return {"input_tokens": (await collect_tokens(events))["count"]}

        return self._whole(request, call.exchange, count, errors=MESSAGES_ERRORS)

    async def embed(self, request: Request) -> Response:
        """Answer POST /v1/embeddings."""
        async with self._call(request, EmbeddingsBody, scope="embeddings", prefix="embd") as call:
            events = self._events(await call.generation(), call.exchange)
            as_base64 = call.body.encoding_format == "base64"
            collect = partial(collect_embeddings, events, exchange=call.exchange, as_base64=as_base64)
            return self._whole(request, call.exchange, collect, errors=INPUT_ERRORS)

    async def score(self, request: Request) -> Response:
        """Answer POST /v1/score."""
        return await self._score(request, ScoreBody)

    async def rerank(self, request: Request) -> Response:
        """Answer POST /v1/rerank."""
        return await self._score(request, RerankBody)

    async def _score(self, request: Request, kind: type[ScoreBody | RerankBody]) -> Response:
        async with self._call(request, kind, scope="score", prefix="score") as call:
            events = self._events(await call.generation(), call.exchange)
            collect = partial(collect_scores, events, body=call.body, exchange=call.exchange)
            return self._whole(request, call.exchange, collect)

    async def tokenize(self, request: Request) -> Response:
        """Answer POST /v1/tokenize."""
        async with self._call(request, TokenizeBody, scope="tokenize", prefix="tok") as call:
            events = self._events(await call.generation(), call.exchange)
            return self._whole(request, call.exchange, partial(collect_tokens, events))

    async def feedback(self, request: Request) -> Response:
        """Answer POST /v1/feedback."""
        principal = await self._authenticate(request)
        check_scope(principal, endpoint="feedback")
        body = parse_body(await read_json(request, max_bytes=self._max_body_bytes), FeedbackBody)
        return JSONResponse(await post_feedback(self._directory, body, principal=principal))

    async def health(self, request: Request) -> Response:
        """Answer 200 if the directory answers. Returns nothing else, because it requires no key."""
        try:
            await asyncio.wait_for(asyncio.to_thread(self._directory.list_models), HEALTH_S)
        except Exception:  # the gateway's edge: any error means "not healthy"
            logger.exception("The directory does not answer.")
            return JSONResponse({"status": "unavailable"}, status_code=503)
        return JSONResponse({"status": "ok"})

    async def show_metrics(self, request: Request) -> Response:
        """Answer GET /metrics, for holders of a key with the admin scope: the counts are those of every key."""
        principal = await self._authenticate(request)
        if principal is not None and not principal.scopes.admin:
            raise ApiError(
                403,
                "/metrics counts the requests of every key and needs a key with the scope `admin`.",
                code="not_allowed",
            )
        live = await asyncio.to_thread(self._directory.live_gauges)
        text = self._metrics.render() + (b"" if live is None else render_live(live))
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @asynccontextmanager
    async def _call(self, http: Request, kind: type[B], *, scope: str, prefix: str) -> AsyncIterator[Call[B]]:
        """Authenticate a request and read its body. What the block refuses counts as refused, with its code."""
        principal = await self._authenticate(http)
        raw, exchange = b"", None
        try:
            raw = await read_json(http, max_bytes=self._max_body_bytes)
            body = await off_loop(len(raw), parse_body, raw, kind)
            exchange = self._exchange(http, body.model, principal, body=body, prefix=prefix)
            check_scope(principal, endpoint=scope, model=body.model)
            yield Call(body, exchange, len(raw))
        except ApiError as error:
            if exchange is None:
                model = await off_loop(len(raw), named_model, raw)
                exchange = self._exchange(http, model, principal, body=None, prefix=prefix)
            self._relay.refuse(error, exchange)
            raise

    async def _answer(self, http: Request, call: Call[ChatBody | CompletionBody], *, form: AnswerForm) -> Response:
        exchange = call.exchange
        events = self._logged_events(http, await call.generation(), exchange, kind=form.kind)
        errors = PROMPT_ERRORS if form.kind == "text" else None
        if call.body.stream:
            chunks = stream_answer(events, form=form, exchange=exchange)
            return StreamedAnswer(chunks, self._holding(http, exchange), errors=errors)
        collect = partial(collect_answer, events, form=form, exchange=exchange)
        return self._whole(http, exchange, collect, errors=errors)

    def _whole(
        self,
        http: Request,
        exchange: ApiExchange,
        collect: Callable[[], Awaitable[dict[str, object]]],
        *,
        errors: ErrorStyle | None = None,
    ) -> Response:
        """Return a response that sends a whole answer once it is collected."""

        async def build() -> Response:
            return JSONResponse(await collect())

        return WholeAnswer(build, self._holding(http, exchange), errors=errors)

    def _exchange(
        self, http: Request, model: str, principal: Principal | None, *, body: AnyBody | None, prefix: str
    ) -> ApiExchange:
        user = getattr(body, "user", None)
        identity = Identity(
            id=make_request_id(prefix),
            endpoint=model,
            principal=principal,
            address=http.client.host if http.client is not None else "",
            user=user if isinstance(user, str) else "",
            is_streamed=bool(getattr(body, "stream", False)),
            is_synthetic=SYNTHETIC in http.headers,
            job_id=job_of(http),
        )
        headers = headers_of(http)
        if "request-id" in headers:  # Anthropic's name
            headers["request-id"] = identity.id
        return ApiExchange(identity, headers=headers)

    def _logged_events(
        self, http: Request, request: GenerateRequest, exchange: ApiExchange, *, kind: Kind = "chat"
    ) -> Events:
        """Return the events of a generation that the request log may take."""
        mode = self._directory.log_mode(exchange.endpoint)
        exchange.logged = None if exchange.identity.is_synthetic else body_to_log(mode, http, request, kind=kind)
        return self._events(request, exchange)

    def _events(self, request: GenerateRequest, exchange: ApiExchange) -> Events:
        request = request.model_copy(update={"tenant": exchange.identity.tenant})
        return self._gate.admitted(self._relay.generate(request, exchange), request=request, exchange=exchange)

    async def _authenticate(self, request: Request) -> Principal | None:
        key, is_bearer = _key_of(request)
        principal = await self._keys.check(key) if is_bearer and key not in NO_KEY else None
        if not self._directory.keys_required and key in NO_KEY:
            return None
        if principal is None and (key or self._directory.keys_required):
            # a wrong key is refused even if none is required, so that the client notices
            error = invalid_key(required=self._directory.keys_required)
            self._relay.refuse(error, self._exchange(request, "", None, body=None, prefix="req"))
            raise error
        return principal

    def _holding(self, request: Request, exchange: ApiExchange) -> Holding | None:
        """Return what keeps an answer among those that end when their key is revoked."""
        principal = exchange.identity.principal
        if principal is None:
            return None
        return lambda answer: self._open.holding(answer, key=_key_of(request)[0], principal=principal)


@dataclass(frozen=True)
class Call(Generic[B]):
    """A request whose body could be read, and the body's size."""

    body: B
    exchange: ApiExchange
    num_bytes: int

    async def generation(self, *arguments: Any) -> GenerateRequest:
        """Return the request for a replica. Raises ApiError."""
        return await off_loop(self.num_bytes, self.body.to_request, *arguments)


async def off_loop(num_bytes: int, work: Callable[..., R], *arguments: Any) -> R:
    """Return what `work` makes of a body of this size; a large one is read in a thread, not in the event loop."""
    return await asyncio.to_thread(work, *arguments) if num_bytes > LARGE_BYTES else work(*arguments)


def _key_of(request: Request) -> tuple[str, bool]:
    """Return the key of a request and whether it was sent as one. Anthropic's clients have a header of their own."""
    if "authorization" not in request.headers and (own := request.headers.get("x-api-key")) is not None:
        return own.strip(), True
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    return key.strip(), scheme.lower() == "bearer"


def _describe(model: ModelEntry) -> dict[str, object]:
    return {"id": model.name, "object": "model", "created": int(model.created.timestamp()), "owned_by": model.owned_by}


def _may_use(principal: Principal | None, model: str) -> bool:
    return principal is None or principal.scopes.allows_model(model)


def _refuse_host(status: int, reason: str) -> ASGIApp:
    return ApiError(status, reason, code="host_not_allowed").response()


@asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines for as long as the block runs."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def every(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    """Take a step again and again, with a pause before each. One that fails is logged, and ends none after it."""
    while True:
        await asyncio.sleep(seconds)
        try:
            await step()
        except Exception:  # an edge: no request waits for this work, and the next step may succeed
            logger.exception("Work in the background failed; it is tried again.")


def _errors_of(request: Request) -> ErrorStyle:
    path = request.url.path
    if path.startswith("/v1/messages"):
        return MESSAGES_ERRORS
    return INPUT_ERRORS if path.startswith(("/v1/responses", "/v1/embeddings")) else ErrorStyle()


async def _answer_api_error(request: Request, error: Exception) -> Response:
    return _errors_of(request).response(error) if isinstance(error, ApiError) else await _answer_crash(request, error)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    if status == 404:
        unknown = ApiError(404, f"There is no {request.method} {request.url.path} here.", code="unknown_url")
        return _errors_of(request).response(unknown)
    if status == 405 and isinstance(error, HTTPException):
        allowed = (error.headers or {}).get("Allow", "")
        message = f"There is no {request.method} at {request.url.path}; it takes {allowed}."
        response = _errors_of(request).response(ApiError(405, message, code="method_not_allowed"))
        response.headers["Allow"] = allowed
        return response
    return _errors_of(request).response(ApiError(status, str(getattr(error, "detail", error)), code=None))


async def _answer_unavailable(request: Request, error: Exception) -> Response:
    return (
        _errors_of(request).response(unavailable(error))
        if isinstance(error, Unavailable)
        else await _answer_crash(request, error)
    )


async def _answer_crash(request: Request, error: Exception) -> Response:
    del error  # the server logs the traceback, which a client must not see
    crash = ApiError(500, "The gateway failed on this request; its log has the cause.", code="internal_error")
    return _errors_of(request).response(crash)


_HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = {
    ApiError: _answer_api_error,
    Unavailable: _answer_unavailable,
    HTTPException: _answer_http_error,
    Exception: _answer_crash,
}
