"""examples/serving/ray_batch.py and ray_serve.py: an actor is killed, and nothing is lost.

Needs ``pip install tap_ext[serve]``; one small cluster on this machine, without the network.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

ray = pytest.importorskip("ray", reason="ray is not installed: pip install tap_ext[serve]")
pytest.importorskip("ray.serve", reason="ray is installed without serve")
pytest.importorskip("ray.data", reason="ray is installed without data")

pytestmark = pytest.mark.xdist_group("ray")  # one cluster, not one for each worker of pytest

STEPS = 6
LINES = [
    {
        "id": f"picture-{seed}",
        "labels": ["sea", "city"][: 1 + seed % 2],
        "seed": seed,
        "steps": STEPS,
    }
    for seed in range(5)
]


@pytest.fixture(scope="module")
def cluster(
    serving: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    from tests.serving.conftest import EXAMPLES

    root = Path(__file__).resolve().parents[2]
    serving.setenv("RAY_USAGE_STATS_ENABLED", "0")
    serving.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # where Ray leaves a token
    # what a worker has of the environment is what this process has now: a runtime environment
    # would be one more process, and workers started for nothing
    serving.setenv("PYTHONPATH", os.pathsep.join([str(root), str(EXAMPLES)]))
    serving.setenv("RAY_prestart_worker_first_driver", "0")
    serving.setenv("OMP_NUM_THREADS", "1")
    ray.init(
        address="local",  # never a cluster that happens to be there
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=80 * 2**20,
        _node_ip_address="127.0.0.1",  # else the machine's network is asked
    )
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()
    names = {child.name() for child in psutil.Process().children(recursive=True)}
    assert not names & {"raylet", "gcs_server"}


@pytest.fixture(scope="module")
def truth(serving: pytest.MonkeyPatch, bundle: str) -> dict[str, list[bytes]]:
    """What one process makes of each request."""
    painter = importlib.import_module("painter")
    pipe = painter.load(folder=bundle)
    return {
        str(line["id"]): painter.paint(
            pipe, painter.Request(tuple(line["labels"]), line["seed"], STEPS), bundle
        )
        for line in LINES
    }


def _first(marker: Path) -> bool:
    """Whether nobody else has asked this before."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _dying_painter() -> type:
    batch = importlib.import_module("ray_batch")

    class Dying(batch.Painter):
        """The first actor to reach this picture is killed at it."""

        def __call__(self, rows: Any) -> Any:
            if "picture-2" in rows["id"] and _first(self.out.parent / "died"):
                os._exit(1)
            return super().__call__(rows)

    return Dying


def _same(made: bytes, truth: bytes) -> bool:
    """But for what another process rounds otherwise: a level here and there."""
    levels = [
        np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"), int) for picture in (made, truth)
    ]
    return bool(np.abs(levels[0] - levels[1]).max() <= 2)


def _all_there(out: Path, expected: dict[str, bytes]) -> bool:
    made = {path.name: path.read_bytes() for path in out.iterdir()}
    return made.keys() == expected.keys() and all(_same(made[k], expected[k]) for k in made)


def test_a_killed_actor_loses_no_request_and_a_job_is_resumed(
    cluster: None, truth: dict[str, list[bytes]], bundle: str, tmp_path: Path
) -> None:
    batch = importlib.import_module("ray_batch")
    out = tmp_path / "out"
    expected = {
        batch.picture_of(out, name, number).name: picture
        for name, pictures in truth.items()
        for number, picture in enumerate(pictures)
    }
    rows = batch.run(LINES, out, actors=1, folder=bundle, painter=_dying_painter())
    assert (tmp_path / "died").exists()
    assert _all_there(out, expected)
    assert sorted(row["id"] for row in rows) == sorted(truth)
    assert {(row["full"], row["skipped"]) for row in rows} == {(3, 3)}
    (out / "picture-1.png").unlink()
    rows = batch.run(LINES, out, actors=1, folder=bundle)
    assert [row["id"] for row in rows] == ["picture-1"]
    assert _all_there(out, expected)
    assert batch.run(LINES, out, actors=1, folder=bundle) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"id": "picture-0", "labels": ["sea"]}, "request 6: id must be new"),
        ({"id": "../x", "labels": ["sea"]}, "request 6: id must be new, of letters"),
        ({"id": "a", "labels": ["unicorn"]}, "request 6: labels must be"),
        ({"id": "a"}, "request 6: 'labels'"),
        ({"id": "a", "labels": ["sea"], "sed": 1}, "request 6: .*sed"),
    ],
)
def test_a_wrong_request_is_known_before_any_is_made(
    serving: pytest.MonkeyPatch, line: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        importlib.import_module("ray_batch").wanted([*LINES, line], tmp_path)


def _until(path: Path) -> None:
    for _ in range(6000):
        if path.exists():
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"nobody made {path}")


def _watched_painter(folder: Path) -> type:
    server = importlib.import_module("ray_serve")

    class Watched(server.Painter):
        """Dies at the first request of seed 2; waits to be let go at seeds 3 and 4."""

        def paint(self, request: Any) -> Any:
            if request.seed == 2 and _first(folder / "died"):
                os._exit(1)
            if request.seed in (3, 4):
                (folder / f"entered-{request.seed}").touch()
                _until(folder / f"leave-{request.seed}")
            return super().paint(request)

    return Watched


class _Http:
    """What the door reads of a request over HTTP."""

    def __init__(self, given: Any) -> None:
        self._given = given

    async def json(self) -> Any:
        return dict(self._given)


def test_replicas_die_and_drain_and_lose_no_request(
    cluster: None, truth: dict[str, list[bytes]], bundle: str, tmp_path: Path
) -> None:
    from base64 import b64decode

    from ray import serve

    server = importlib.import_module("ray_serve")
    given = {"replicas": 1, "waiting": 1, "model": bundle, "cpus": 1}
    app = server.build(given, _watched_painter(tmp_path))
    serve.start(http_options={"location": "NoServer"})
    door = serve.run(app, name="pictures", route_prefix=None)

    def ask(line: dict[str, Any], **changes: Any) -> tuple[int, Any]:
        sent = {key: value for key, value in (line | changes).items() if key != "id"}
        answer = door.remote(_Http(sent)).result(timeout_s=300)
        return answer.status_code, json.loads(answer.body)

    def pictures(line: dict[str, Any]) -> list[bytes]:
        code, body = ask(line)
        assert code == 200, body
        return [b64decode(text) for text in body["png"]]

    def right(number: int, made: list[bytes]) -> bool:
        wanted = truth[f"picture-{number}"]
        return len(made) == len(wanted) and all(map(_same, made, wanted))

    assert right(1, pictures(LINES[1]))
    assert right(2, pictures(LINES[2]))  # whose replica was killed at it
    assert (tmp_path / "died").exists()
    assert ask(LINES[0], labels=["unicorn"])[0] == 422
    with ThreadPoolExecutor(3) as pool:
        painting = pool.submit(pictures, LINES[3])
        _until(tmp_path / "entered-3")
        # one is painted, one may wait: of two more one finds no room, and is told at once
        more = [pool.submit(ask, LINES[0]) for _ in range(2)]
        first = next(as_completed(more)).result()
        assert first == (503, {"error": "the queue is full"})
        (tmp_path / "leave-3").touch()
        assert right(3, painting.result())
        assert sorted(job.result()[0] for job in more) == [200, 503]
        painting = pool.submit(pictures, LINES[4])
        _until(tmp_path / "entered-4")
        going = pool.submit(serve.delete, "pictures")
        (tmp_path / "leave-4").touch()
        assert right(4, painting.result())  # finished, though its server is taken away
        going.result()
    serve.shutdown()


def test_a_replica_whose_device_failed_says_so(serving: pytest.MonkeyPatch, bundle: str) -> None:
    import tap_ext

    server = importlib.import_module("ray_serve")
    ended = []
    serving.setattr(tap_ext, "on_run", ended.append)
    painter = server.Painter(folder=bundle)
    painter.check_health()
    painter.observe(tap_ext.RunRecord("FluxPipeline", 6, 3, 3, {}, 1.0, "ValueError"))
    painter.check_health()
    painter.observe(tap_ext.RunRecord("FluxPipeline", 6, 3, 3, {}, 1.0, "AcceleratorError"))
    with pytest.raises(RuntimeError, match="AcceleratorError"):
        painter.check_health()
    assert ended == [painter.observe]
