"""A server of one process: FastAPI, a bounded queue, health, metrics, an orderly end.

    uvicorn --factory --app-dir examples/serving fastapi_app:make --timeout-graceful-shutdown 60

    curl -X POST localhost:8000/generate -H "Content-Type: application/json" \
        -d '{"labels": ["sea"], "seed": 3}' -o sea.png

More threads than one share the weights and the processor: a picture takes longer and none is lost.
More than one process is for ``ray_serve.py``.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import os
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Response
from metrics import Metrics
from painter import Request, load, paint
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

import tap_ext


class Asked(BaseModel, extra="forbid"):
    """What a client sends."""

    labels: list[str]
    seed: int = 0
    steps: int = 50


def make() -> FastAPI:
    """The application that uvicorn runs; the environment may set ``DEVICE`` and ``THREADS``."""
    pipe = load(os.environ.get("DEVICE", "cpu"))
    return application(functools.partial(paint, pipe), int(os.environ.get("THREADS", "1")))


def application(
    painting: Callable[[Request], list[bytes]], threads: int = 1, waiting: int = 8
) -> FastAPI:
    """The application over a function that paints, which is called in ``threads`` threads.

    At most ``waiting`` requests wait for one; more are sent away at once with 503, since a client
    that would have to wait for minutes is better off with another server.
    """
    metrics = Metrics()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="painting")
    state = {"open": True, "pending": 0}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        end = tap_ext.on_run(metrics.observe)
        yield
        state["open"] = False
        await asyncio.to_thread(pool.shutdown)  # what was accepted is finished
        end()

    app = FastAPI(lifespan=lifespan)
    app.state.load = state

    @app.post("/generate")
    async def generate(asked: Asked) -> Response:
        try:
            request = Request(tuple(asked.labels), asked.seed, asked.steps)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        if not state["open"] or state["pending"] >= threads + waiting:
            metrics.refused.inc()
            raise HTTPException(503, "the queue is full", {"Retry-After": "1"})
        state["pending"] += 1  # only this thread counts, so no lock
        metrics.pending.set(state["pending"])
        try:
            loop = asyncio.get_running_loop()
            pictures = await loop.run_in_executor(pool, painting, request)
        finally:
            state["pending"] -= 1
            metrics.pending.set(state["pending"])
        if len(pictures) == 1:
            return Response(pictures[0], media_type="image/png")
        return _listed(pictures)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        if not state["open"]:
            raise HTTPException(503, "shutting down")
        return {"pending": state["pending"], "room": threads + waiting - state["pending"]}

    @app.get("/metrics")
    async def show() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _listed(pictures: list[bytes]) -> Any:
    from fastapi.responses import JSONResponse

    return JSONResponse({"png": [base64.b64encode(picture).decode() for picture in pictures]})
