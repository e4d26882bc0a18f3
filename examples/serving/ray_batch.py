"""Many pictures into one folder, by Ray Data: one actor per device, each with its own pipeline.

    python examples/serving/ray_batch.py requests.jsonl pictures --actors 8 --gpus 1

A line of the file is ``{"id": "a", "labels": ["sea"], "seed": 3, "steps": 50}``. Each picture is
written whole, under the id of its request, before the request counts as done; what is there already
is not made again. So a killed actor costs the requests it was at (Ray gives them to another), and a
killed job is started again with the same command.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.data
from painter import Request, load, paint, write

import tap_ext


class Painter:
    """One actor: a pipeline, and the requests it is given."""

    def __init__(self, out: str, device: str = "cpu", folder: str | None = None) -> None:
        self.out, self._folder = Path(out), folder
        self._pipe = load(device, folder)
        self._records: list[tap_ext.RunRecord] = []
        tap_ext.on_run(self._records.append)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """Paint each row; returned are the rows' figures, not their pictures."""
        rows = []
        for name, line in zip(batch["id"], batch["request"], strict=True):
            self._records.clear()
            pictures = paint(self._pipe, _parsed(json.loads(line)), self._folder)
            for number, picture in list(enumerate(pictures))[::-1]:  # the first one marks the end
                write(picture_of(self.out, name, number), picture)
            (record,) = self._records
            rows.append((name, record.full, record.skipped, record.seconds))
        names = ("id", "full", "skipped", "seconds")
        return {
            name: np.array(column)
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        }


def picture_of(out: Path, name: str, number: int = 0) -> Path:
    """Where a picture of a request lies; 0 is written last."""
    return out / (f"{name}.{number}.png" if number else f"{name}.png")


def _parsed(line: dict[str, Any]) -> Request:
    given = {key: value for key, value in line.items() if key != "id"}
    return Request(**given | {"labels": tuple(given["labels"])})


def wanted(lines: Iterable[dict[str, Any]], out: Path) -> list[dict[str, str]]:
    """The requests that are not done yet.

    Raises:
        ValueError: one of them cannot be served, or two have the same id. Known before any is made.
    """
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, 1):
        try:
            name = line["id"]
            if not re.fullmatch(r"[\w-]{1,100}", name) or name in rows:
                raise ValueError(f"id must be new, of letters, digits, _ and -, got {name!r}")
            _parsed(line)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"request {number}: {error}") from error
        rows[name] = {"id": name, "request": json.dumps(line)}
    return [row for name, row in rows.items() if not picture_of(out, name).exists()]


def run(
    lines: Iterable[dict[str, Any]],
    out: Path,
    actors: int = 1,
    gpus: float = 0,
    cpus: float = 1,
    folder: str | None = None,
    painter: type[Painter] = Painter,
) -> list[dict[str, Any]]:
    """Make what is missing in ``out``; one row of figures for each request that was made."""
    out.mkdir(parents=True, exist_ok=True)
    todo = wanted(lines, out)
    if not todo:
        return []
    # blocks of few requests: what an actor takes with it when it dies is one of them
    blocks = ray.data.from_items(todo, override_num_blocks=min(len(todo), 64 * actors))
    made = blocks.map_batches(
        painter,
        fn_constructor_args=(str(out.resolve()), "cuda" if gpus else "cpu", folder),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors, max_tasks_in_flight_per_actor=2),
        num_gpus=gpus,
        num_cpus=cpus,
    )  # which restarts an actor that died, and gives it its requests again
    return made.take_all()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("requests", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--actors", type=int, default=1)
    parser.add_argument("--gpus", type=float, default=0, help="of each actor")
    parser.add_argument("--model", help="a folder in the layout of the bundled model")
    arguments = parser.parse_args()
    lines = [json.loads(line) for line in arguments.requests.read_text().splitlines() if line]
    rows = run(lines, arguments.out, arguments.actors, arguments.gpus, folder=arguments.model)
    seconds = sum(row["seconds"] for row in rows)
    print(f"{len(rows)} of {len(lines)} requests made, {seconds:.1f} s of painting")


if __name__ == "__main__":
    main()
