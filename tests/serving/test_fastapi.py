"""examples/serving/fastapi_app.py"""

from __future__ import annotations

import base64
import importlib
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install tap_ext[serve]")
pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")
uvicorn = pytest.importorskip("uvicorn", reason="uvicorn is not installed")

from fastapi.testclient import TestClient  # noqa: E402

from tap_ext import Plan  # noqa: E402

STEPS = 8
FULL = len(Plan.full_steps(STEPS, window=6))
ASKED = {"labels": ["sea"], "seed": 3, "steps": STEPS}


@pytest.fixture(scope="module")
def app(serving: pytest.MonkeyPatch) -> ModuleType:
    return importlib.import_module("fastapi_app")


@pytest.fixture(scope="module")
def painting(app: ModuleType, bundle: str) -> Any:
    painter = importlib.import_module("painter")
    pipe = painter.load(folder=bundle)
    return lambda request: painter.paint(pipe, request, bundle)


class Gate:
    """Paints nothing, and only when it is told to."""

    def __init__(self) -> None:
        self.open, self.entered = threading.Event(), threading.Semaphore(0)

    def __call__(self, request: Any) -> list[bytes]:
        self.entered.release()
        assert self.open.wait(60)
        return [b"png"] * len(request.labels)


def test_a_request_gets_the_picture_of_its_seed(app: ModuleType, painting: Any) -> None:
    with TestClient(app.application(painting)) as client:
        first, again = (client.post("/generate", json=ASKED) for _ in range(2))
        other = client.post("/generate", json=ASKED | {"seed": 4})
        assert first.headers["content-type"] == "image/png"
        assert first.content == again.content != other.content
        assert Image.open(io.BytesIO(first.content)).size == (48, 48)
        three = client.post("/generate", json=ASKED | {"labels": ["sea", "city", "sea"]})
        pictures = [base64.b64decode(text) for text in three.json()["png"]]
        assert len(pictures) == 3  # of a batch of four
        said = client.get("/metrics").text
    for kind, calls in (("full", 4 * FULL), ("skipped", 4 * (STEPS - FULL)), ("untouched", 0)):
        assert f'tap_ext_calls_total{{kind="{kind}",pipeline="FluxPipeline"}} {calls}.0' in said
    assert 'tap_ext_runs_total{error="",pipeline="FluxPipeline"} 4.0' in said


def test_requests_at_the_same_time_do_not_mix(app: ModuleType, painting: Any) -> None:
    seeds = range(6)
    with TestClient(app.application(painting, threads=3)) as client, ThreadPoolExecutor(6) as pool:
        alone = [client.post("/generate", json=ASKED | {"seed": seed}).content for seed in seeds]
        ask = lambda seed: client.post("/generate", json=ASKED | {"seed": seed}).content  # noqa: E731
        assert list(pool.map(ask, seeds)) == alone


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": []}, "labels must be 1 to 4"),
        ({"labels": ["sea"] * 5}, "labels must be 1 to 4"),
        ({"labels": ["unicorn"]}, "unicorn"),
        ({"steps": 0}, "steps must be in 1..1000"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": "x"}, "seed"),
        ({"sed": 1}, "sed"),
    ],
)
def test_a_wrong_request_is_told_why(app: ModuleType, change: Any, said: str) -> None:
    with TestClient(app.application(Gate())) as client:
        answer = client.post("/generate", json=ASKED | change)
    assert answer.status_code == 422 and said in answer.text


def test_who_finds_the_queue_full_is_sent_away(app: ModuleType) -> None:
    gate = Gate()
    made = app.application(gate, threads=1, waiting=2)
    with TestClient(made) as client, ThreadPoolExecutor(3) as pool:
        accepted = [pool.submit(client.post, "/generate", json=ASKED) for _ in range(3)]
        assert gate.entered.acquire(timeout=60)
        while made.state.load["pending"] < 3:
            client.get("/health")
        refused = client.post("/generate", json=ASKED)
        assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
        assert client.get("/health").json() == {"pending": 3, "room": 0}
        gate.open.set()
        assert [answer.result().status_code for answer in accepted] == [200] * 3
        assert "refused_requests_total 1.0" in client.get("/metrics").text


def test_a_run_that_fails_leaves_the_server_in_order(app: ModuleType) -> None:
    def fails(request: Any) -> list[bytes]:
        if request.seed:
            raise RuntimeError("no")
        return [b"png"]

    with TestClient(app.application(fails, waiting=0), raise_server_exceptions=False) as client:
        for _ in range(3):  # more than it has room for, were failed ones still counted
            assert client.post("/generate", json=ASKED).status_code == 500
        assert client.post("/generate", json=ASKED | {"seed": 0}).status_code == 200


@pytest.fixture
def server(app: ModuleType) -> Iterator[tuple[Any, Gate, str]]:
    gate = Gate()
    config = uvicorn.Config(app.application(gate), port=0, log_level="error")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    while not running.started:
        assert thread.is_alive()
        thread.join(0.02)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield running, gate, f"http://127.0.0.1:{port}"
    gate.open.set()
    running.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def test_what_was_accepted_is_finished_at_the_end(server: tuple[Any, Gate, str]) -> None:
    """What SIGTERM does to uvicorn: no new connection, and the open ones are served."""
    import urllib.error
    import urllib.request

    running, gate, url = server
    body = urllib.request.Request(
        f"{url}/generate", b'{"labels": ["sea"]}', {"Content-Type": "application/json"}
    )
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: urllib.request.urlopen(body, timeout=60).read())
        assert gate.entered.acquire(timeout=60)
        running.should_exit = True
        while running.servers and running.servers[0].sockets:
            threading.Event().wait(0.02)
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(body, timeout=10)
        gate.open.set()
        assert answer.result() == b"png"
