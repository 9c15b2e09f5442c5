"""The server: log-probabilities of given tokens over HTTP, in the format of vLLM (extra `serve`).

    GET  /health             is it there
    GET  /v1/models          its name, how long a row may be, how much of the budget is left
    POST /v1/completions     {"prompt": [[ids], ...], "prompt_logprobs": K, "max_tokens": 1}: K log-probabilities at
                             each place of each prompt; nothing is written
    POST /tokenize           {"prompt": text}: its ids

What was sent is never logged, and no error repeats it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from swingkd.serving.answers import Answer, ServedTeacher
from swingkd.serving.batches import Batches, BusyError
from swingkd.serving.clients import Client, Clients, OverBudgetError

log = logging.getLogger(__name__)
#: Bytes of a request: what is larger is not read.
LARGEST = 8 * 1024 * 1024
# Tokens of which a rate is made up: answers a minute.
_SECONDS = 60
_Ids = Annotated[list[Annotated[int, Field(strict=True, ge=0)]], Field(min_length=2)]


class Completion(BaseModel):
    """What is asked of `/v1/completions`."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    model: str | None = None
    prompt: _Ids | Annotated[list[_Ids], Field(min_length=1, max_length=1024)]
    prompt_logprobs: Annotated[int, Field(strict=True, ge=1)]
    max_tokens: Annotated[int, Field(ge=0, le=1)] = 1
    stream: bool = False

    @property
    def rows(self) -> list[list[int]]:
        """The prompts."""
        return self.prompt if isinstance(self.prompt[0], list) else [self.prompt]  # type: ignore[list-item,return-value]


class _Text(BaseModel):
    """What is asked of `/tokenize`."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    prompt: Annotated[str, Field(max_length=100_000)]
    add_special_tokens: bool = False


class _RefusedError(Exception):
    """A request that is answered with a reason."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers


def create_app(
    served: ServedTeacher,
    clients: Clients,
    *,
    top_k: int = 64,
    rate: int | None = None,
    max_length: int | None = None,
    batch_tokens: int = 2048,
) -> Any:
    """Return the server as an ASGI application, for uvicorn or any other.

    Args:
        served: the teacher.
        clients: who may ask.
        top_k: most tokens at a place.
        rate: answers a minute that each client may have; default: as many as there are.
        max_length: longest row in tokens; default: what the teacher reads.
        batch_tokens: tokens that the model reads at once.

    Raises:
        ImportError: a package of the extra is missing; names it.
        ValueError: a number is out of range.
    """
    try:
        from limits import RateLimitItemPerMinute
        from limits.storage import MemoryStorage
        from limits.strategies import MovingWindowRateLimiter
        from starlette.applications import Starlette
        from starlette.requests import Request
        from starlette.responses import JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise ImportError("To serve a teacher, install swingkd[serve].") from error
    longest = min(filter(None, (max_length, served.longest)), default=None)
    for name, value in (("top_k", top_k), ("rate", rate), ("max_length", longest), ("batch_tokens", batch_tokens)):
        if value is not None and value < (2 if name == "max_length" else 1):
            raise ValueError(f"{name}={value} lets nobody ask. Give a larger number.")
    top_k = min(top_k, served.vocabulary)
    batches = Batches(served.answer, batch_tokens)
    limiter = MovingWindowRateLimiter(MemoryStorage())
    limit = RateLimitItemPerMinute(rate) if rate else None

    async def client_of(request: Request) -> Client:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        client = await asyncio.to_thread(clients.known, token.strip()) if kind.lower() == "bearer" and token else None
        if client is None:
            raise _RefusedError(401, "No client that may ask has this token.", {"WWW-Authenticate": "Bearer"})
        return client

    async def content_of(request: Request, kind: Any) -> Any:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LARGEST:
                raise _RefusedError(413, f"A request has {LARGEST:,} bytes at most. Send fewer rows at once.")
        try:
            return await asyncio.to_thread(kind.model_validate_json, bytes(body))
        except ValidationError as error:
            raise _RefusedError(400, _told(error)) from None

    def check(asked: Completion) -> None:
        if asked.model not in (None, served.name):
            raise _RefusedError(404, f"The model here is {served.name}.")
        if asked.stream:
            raise _RefusedError(400, "stream: answers come whole. Leave it out.")
        if asked.prompt_logprobs > top_k:
            raise _RefusedError(400, f"prompt_logprobs: {top_k} at most.")
        if longest and max(map(len, asked.rows)) > longest:
            raise _RefusedError(400, f"prompt: a row has {longest} tokens at most.")
        if max(map(max, asked.rows)) >= served.vocabulary:
            raise _RefusedError(400, f"prompt: an id is beyond the {served.vocabulary} tokens.")

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def models(request: Request) -> Response:
        client = await client_of(request)
        card = {"id": served.name, "object": "model", "owned_by": "swingkd", "max_prompt_logprobs": top_k}
        # As vLLM counts: with the one token that it would write.
        card |= {"max_model_len": longest + 1} if longest else {}
        return JSONResponse({"object": "list", "data": [card | {"budget": client.budget, "budget_left": client.left}]})

    async def tokenize(request: Request) -> Response:
        await client_of(request)
        asked = await content_of(request, _Text)
        ids = served.tokenizer(asked.prompt, add_special_tokens=asked.add_special_tokens)["input_ids"]
        return JSONResponse({"tokens": ids, "count": len(ids)})

    async def complete(request: Request) -> Response:
        client = await client_of(request)
        asked = await content_of(request, Completion)
        check(asked)
        answers = sum(len(row) - 1 for row in asked.rows)
        if limit is not None and not limiter.hit(limit, client.name, cost=answers):
            if answers > rate:  # type: ignore[operator]
                raise _RefusedError(400, f"{answers:,} answers at once, and {rate:,} a minute are allowed.")
            raise _RefusedError(429, f"{rate:,} answers a minute are allowed.", {"Retry-After": str(_SECONDS)})
        try:
            await asyncio.to_thread(clients.spend, client, answers)
        except OverBudgetError as error:
            raise _RefusedError(403, str(error)) from None
        try:
            found = await batches.ask(asked.rows, asked.prompt_logprobs)
        except (BusyError, RuntimeError) as error:
            # Nothing was said.
            await asyncio.to_thread(clients.spend, client, -answers)
            if isinstance(error, BusyError):
                raise _RefusedError(503, "Too many rows wait. Ask again later.", {"Retry-After": "1"}) from None
            log.warning("The teacher failed on a batch: %s.", error)
            raise _RefusedError(500, "The teacher failed on these rows.") from None
        body = await asyncio.to_thread(_body, served.name, asked, found)
        return Response(body, media_type="application/json")

    def route(path: str, answer: Callable[[Request], Awaitable[Response]], method: str) -> Route:
        async def guarded(request: Request) -> Response:
            try:
                return await answer(request)
            except _RefusedError as error:
                content = {"error": {"message": str(error), "type": "invalid_request_error", "code": error.status}}
                return JSONResponse(content, error.status, error.headers)

        return Route(path, guarded, methods=[method])

    @contextlib.asynccontextmanager
    async def lifespan(_: Any):
        async with batches.running():
            yield

    routes = [
        route("/health", health, "GET"),
        route("/v1/models", models, "GET"),
        route("/v1/completions", complete, "POST"),
        route("/tokenize", tokenize, "POST"),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


def _told(error: ValidationError) -> str:
    """Say what is wrong with a request, and nothing of what was in it."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # Of a place only the field's name: the rest are the client's own keys.
    field = first["loc"][0] if first["loc"] and first["loc"][0] in Completion.model_fields else "request"
    return f"{field}: {first['msg']}."


def _body(name: str, asked: Completion, answers: list[Answer]) -> bytes:
    """Write what vLLM would: for each place the likeliest tokens, and the one that was sent."""
    choices = [
        {"index": index, "text": "", "finish_reason": "length", "prompt_logprobs": _places(row, answer, asked)}
        for index, (row, answer) in enumerate(zip(asked.rows, answers, strict=True))
    ]
    read = sum(map(len, asked.rows))
    usage = {"prompt_tokens": read, "completion_tokens": 0, "total_tokens": read}
    content = {"object": "text_completion", "model": name, "choices": choices, "usage": usage}
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def _places(row: list[int], answer: Answer, asked: Completion) -> list[dict[int, dict[str, float]] | None]:
    places: list[dict[int, dict[str, float]] | None] = [None]
    columns = (answer.ids.tolist(), answer.log_probs.tolist(), answer.sent.tolist(), answer.ranks.tolist())
    for token, ids, values, own, rank in zip(row[1:], *columns, strict=True):
        of = {token: {"logprob": _finite(own), "rank": rank}}
        for place, (likely, value) in enumerate(zip(ids[: asked.prompt_logprobs], values, strict=False), 1):
            of[likely] = {"logprob": _finite(value), "rank": place}
        places.append(of)
    return places


def _finite(value: float) -> float:
    """JSON has no infinity; vLLM writes this in its place."""
    return value if math.isfinite(value) else -9999.0
