"""What was measured, drawn: one PNG per question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tap_ext.evaluate.plots import choices, pareto, proxy, sweeps, trajectory
from tap_ext.evaluate.plots.style import save
from tap_ext.evaluate.run import Job

__all__ = ["draw"]


def draw(
    job: Job, rows: Sequence[dict[str, Any]], folder: Path, table: str | None = None
) -> list[Path]:
    """Draws a job and its table's rows; returns what was written, all of it in ``folder``.

    The Pareto plots need nothing else. What shows tokens generates the first samples anew, by the
    first method that has a choice of rows ("default", where it is among them), at its lowest
    budget; without such a method those plots are left out. A named table has its name in the names
    of the files; ``family`` and ``pool`` are drawn as sweeps.
    """
    name = job.model.name if table is None else f"{job.model.name}-{table}"
    if table in sweeps.KINDS:
        save(sweeps.KINDS[table](rows, job.metrics[:1]), path := folder / f"{name}.png")
        return [path]
    written = [folder / f"{name}-pareto.png"]
    save(pareto.figure(rows, job.metrics), written[0])
    if (way := trajectory.chooser(job)) is not None:
        seen = trajectory.watch(job, way)
        written += [folder / f"{name}-orders.png", folder / f"{name}-proxy.png"]
        save(choices.figure(seen), written[1])
        save(proxy.figure(seen), written[2])
    return written
