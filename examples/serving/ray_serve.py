"""Many replicas behind one address, by Ray Serve: one per device, one picture at a time each.

    serve run --app-dir examples/serving ray_serve:build replicas=8 gpus=1

    curl -X POST localhost:8000 -H "Content-Type: application/json" -d '{"labels": ["sea"]}'

A *bucket* is a shape of calls. Requests of a bucket go to a replica that has served it before,
where one is free (Serve's model multiplexing), so its CUDA graphs and histories are warm. The door
takes what the replicas have room for and sends the rest away with 503; a request whose replica dies
goes to another one.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from painter import Request, load, paint
from ray import serve
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve.exceptions import BackPressureError
from ray.util.metrics import Counter, Histogram
from starlette.requests import Request as Http
from starlette.responses import JSONResponse

import tap_ext

TRIES = 3
"""Replicas that may die under one request, which may be what kills them."""


class Painter:
    """One replica."""

    def __init__(self, device: str = "cpu", folder: str | None = None) -> None:
        self._pipe, self._folder = load(device, folder), folder
        self._broken: str | None = None
        self._calls = Counter("tap_ext_calls_total", "Transformer calls.", ("kind",))
        self._seconds = Histogram(
            "tap_ext_run_seconds", "Length of a run.", [0.1, 0.3, 1, 3, 10, 30, 100], ("error",)
        )
        tap_ext.on_run(self.observe)

    @serve.multiplexed(max_num_models_per_replica=8)
    async def warm(self, bucket: str) -> str:
        """What Serve remembers this replica for; the graphs are captured by the request itself."""
        return bucket

    async def __call__(self, labels: list[str], seed: int, steps: int) -> list[bytes]:
        """Paint; nothing else runs in this replica meanwhile."""
        await self.warm(serve.get_multiplexed_model_id())
        request = Request(tuple(labels), seed, steps)
        return await asyncio.to_thread(self.paint, request)  # health is asked for meanwhile

    def paint(self, request: Request) -> list[bytes]:
        """The pictures of a request."""
        return paint(self._pipe, request, self._folder)

    def observe(self, record: tap_ext.RunRecord) -> None:
        """Counts a run, and notes when the device has failed."""
        for kind in ("full", "skipped", "untouched"):
            if count := getattr(record, kind):
                self._calls.inc(count, {"kind": kind})
        self._seconds.observe(record.seconds, {"error": record.error or ""})
        if record.error == "AcceleratorError":  # CUDA's errors stay until the process ends
            self._broken = record.error

    def check_health(self) -> None:
        """Asked by Serve, which replaces a replica where this raises."""
        if self._broken is not None:
            raise RuntimeError(f"this replica's device failed: {self._broken}")


@serve.deployment(max_ongoing_requests=1000)
class Door:
    """Reads requests, finds their bucket, and asks another replica when one dies."""

    def __init__(self, painters: Any) -> None:
        self._painters = painters

    async def __call__(self, http: Http) -> JSONResponse:
        """Answer one request over HTTP."""
        try:
            given = await http.json()
            request = Request(tuple(given.pop("labels")), **given)
        except (KeyError, TypeError, ValueError) as error:
            return JSONResponse({"error": str(error)}, 422)
        try:
            pictures = await self.ask(request)
        except BackPressureError:
            return JSONResponse({"error": "the queue is full"}, 503, {"Retry-After": "1"})
        return JSONResponse({"png": [base64.b64encode(p).decode() for p in pictures]})

    async def ask(self, request: Request) -> list[bytes]:
        """The pictures of a request, from whichever replica lives."""
        painters = self._painters.options(multiplexed_model_id=str(request.bucket))
        for left in reversed(range(TRIES)):
            try:
                return await painters.remote(list(request.labels), request.seed, request.steps)
            except (ActorDiedError, ActorUnavailableError):
                if not left:
                    raise
        raise AssertionError


def build(arguments: dict[str, Any], painter: type[Painter] = Painter) -> Any:
    """The application; ``replicas``, ``gpus`` of each, ``waiting`` requests, ``model`` folder."""
    gpus = float(arguments.get("gpus", 0))
    painters = serve.deployment(
        num_replicas=int(arguments.get("replicas", 1)),
        max_ongoing_requests=1,  # of each replica; a device paints no faster by turns
        max_queued_requests=int(arguments.get("waiting", 16)),
        graceful_shutdown_timeout_s=300,  # a replica that is taken away finishes its picture
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=5,
        ray_actor_options={"num_gpus": gpus, "num_cpus": float(arguments.get("cpus", 1))},
    )(painter)
    device = "cuda" if gpus else "cpu"
    door = Door.options(ray_actor_options={"num_cpus": 0})
    return door.bind(painters.bind(device, arguments.get("model")))
