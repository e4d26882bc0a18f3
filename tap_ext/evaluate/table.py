"""Stored lines as a table: means over the samples, paired with the method compared against."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tap_ext.evaluate import pictures
from tap_ext.evaluate.methods import UNTOUCHED, Way
from tap_ext.evaluate.metrics import METRICS, Metric
from tap_ext.evaluate.run import Job
from tap_ext.evaluate.store import Line, Store

__all__ = ["AGAINST", "as_csv", "as_json", "as_markdown", "rows"]

AGAINST = "default"
"""The method that the others are compared with."""

Row = dict[str, Any]


def rows(job: Job, store: Store, against: str = AGAINST) -> list[Row]:
    """One row per method and budget, over the samples that are stored; the reference first.

    For every metric m: ``m`` is the mean, ``m_se`` its standard error, ``m_worst`` the mean of the
    worst tenth of the samples (one at least), ``m_diff`` the mean difference to ``against`` at the
    same budget, sample by sample, and ``m_diff_se`` its standard error. Standard errors take the
    samples as independent. None where there is nothing to tell, as the PSNR of identical pictures.
    """
    lines = {
        (way.method, way.budget): [job.line(store, way, sample) for sample in job.samples]
        for way in job.all_ways
    }
    reference = _known(lines[UNTOUCHED, job.steps])
    table = []
    for way in job.all_ways:
        own = lines[way.method, way.budget]
        known = _known(own)
        if not known:
            continue
        row: Row = {
            "model": job.model.name,
            "method": way.method,
            "full_steps": way.budget,
            "full_steps_made": _full_steps(way, known),
            "steps": way.steps,
            "samples": len(known),
            "seconds": _mean(known, "seconds"),
            "speedup": _ratio(_mean(reference, "seconds"), _mean(known, "seconds")),
            "flops": _mean(known, "flops"),
            "flops_ratio": _ratio(_mean(reference, "flops"), _mean(known, "flops")),
            "peak_bytes": _mean(known, "peak_bytes"),
            "held_bytes": _mean(known, "held_bytes"),
            "branches": _branches(known),
        }
        compared = (
            lines.get((against, way.budget)) if way.method not in (UNTOUCHED, against) else ()
        )
        for metric in job.metrics:
            row |= _columns(metric, own, compared or ())
            if metric.of_sets and way.method != UNTOUCHED:
                row[metric.name] = metric.of(_kept(store, known), _kept(store, reference))
        table.append(row)
    return table


def _kept(store: Store, lines: Sequence[Line]) -> Iterator[Tensor]:
    """The kept pictures of these lines, (3, H, W) bytes each."""
    from PIL import Image

    for line in lines:
        with Image.open(pictures.path(store.folder, line)) as image:
            yield torch.from_numpy(np.array(image.convert("RGB"))).movedim(-1, 0)


def _columns(metric: Metric, own: Sequence[Line | None], other: Sequence[Line | None]) -> Row:
    name = metric.name
    values = [line.get(name) for line in _known(own)]
    pairs = [(a.get(name), b.get(name)) for a, b in zip(own, other, strict=False) if a and b]
    whole = [v for v in values if v is not None]
    if not whole or len(whole) < len(values):
        whole = []
    differences = [a - b for a, b in pairs if a is not None and b is not None]
    if len(differences) < len(pairs):
        differences = []
    worst = sorted(whole, reverse=not metric.higher)[: math.ceil(len(whole) / 10)]
    return {
        name: _average(whole),
        f"{name}_se": _standard_error(whole),
        f"{name}_worst": _average(worst),
        f"{name}_diff": _average(differences),
        f"{name}_diff_se": _standard_error(differences),
    }


def as_json(table: Sequence[Row]) -> str:
    """An object with the list ``rows``."""
    return json.dumps({"rows": list(table)}, indent=2)


def as_csv(table: Sequence[Row]) -> str:
    """One line of names, then one per row; an empty field where there is nothing to tell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]) if table else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows([row | {"branches": json.dumps(row["branches"])} for row in table])
    return text.getvalue()


def as_markdown(table: Sequence[Row], against: str = AGAINST) -> str:
    """A table per model, and a line on what its columns mean."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in table):
        own = [row for row in table if row["model"] == model]
        metrics = [metric for metric in METRICS.values() if metric.name in own[0]]
        steps, samples = own[0]["steps"], own[0]["samples"]
        parts.append(f"{model}, {samples} samples, {steps} steps\n\n{_grid(own, metrics, against)}")
    parts.append(
        f"Each metric is to the untouched pictures: mean ± standard error; difference to {against} "
        "at\nthe same number of full steps, paired, ± standard error; mean of the worst tenth. "
        "Held: kept\nfrom step to step, per picture. FLOPs and speed: how many times less than "
        "untouched."
    )
    return "\n\n".join(parts)


def _grid(table: Sequence[Row], metrics: Sequence[Metric], against: str) -> str:
    head = ["method", "full steps"]
    for metric in metrics:
        head += [metric.title, f"to {against}", "worst tenth"]
    body = [[*head, "held KiB", "FLOPs", "speed", "s/picture"]]
    for row in table:
        cells = [row["method"], f"{row['full_steps_made']:g}"]
        for metric in metrics:
            name, digits = metric.name, metric.digits
            cells.append(_with_error(row[name], row[f"{name}_se"], digits))
            cells.append(_with_error(row[f"{name}_diff"], row[f"{name}_diff_se"], digits, "+"))
            cells.append(_number(row[f"{name}_worst"], digits))
        held = row["held_bytes"]
        cells.append(_number(None if held is None else held / 1024, 0))
        cells += [_times(row["flops_ratio"]), _times(row["speedup"]), _number(row["seconds"], 2)]
        body.append(cells)
    widths = [max(map(len, column)) for column in zip(*body, strict=True)]
    lines = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        + " |"
        for cells in body
    ]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines)


def _known(lines: Sequence[Line | None]) -> list[Line]:
    return [line for line in lines if line is not None]


def _mean(lines: Sequence[Line], name: str) -> float | None:
    values = [line[name] for line in lines if line.get(name) is not None]
    return statistics.fmean(values) if values and len(values) == len(lines) else None


def _average(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _standard_error(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None


def _ratio(base: float | None, value: float | None) -> float | None:
    return base / value if base and value else None


def _full_steps(way: Way, lines: Sequence[Line]) -> float:
    """The mean number of full steps of the first branch: the budget, or near it where tuned."""
    counts = [len(line["branches"]["0"]) for line in lines if line["branches"]]
    return statistics.fmean(counts) if counts else float(way.steps)


def _branches(lines: Sequence[Line]) -> dict[str, float] | None:
    """The mean number of full steps of each branch."""
    counted: dict[str, list[int]] = {}
    for line in lines:
        for name, steps in (line["branches"] or {}).items():
            counted.setdefault(name, []).append(len(steps))
    return {name: statistics.fmean(counts) for name, counts in counted.items()} or None


def _number(value: float | None, digits: int, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _with_error(value: float | None, error: float | None, digits: int, sign: str = "") -> str:
    text = _number(value, digits, sign)
    return text if value is None or error is None else f"{text} ± {error:.{digits}f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"
