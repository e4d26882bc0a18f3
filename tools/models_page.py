"""Writes docs/models.md from the specs and from the pipelines that the tests run.

python tools/models_page.py [--check]
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tap_ext.backbones import SPECS, BackboneSpec, find_spec  # noqa: E402

PAGE = ROOT / "docs" / "models.md"

HEAD = """# Models

Made by `python tools/models_page.py` from the specs in `tap_ext/backbones/` and the pipelines that
the tests run, untouched and accelerated, with tiny random models of the real classes. Every class
is tested in float32 and bfloat16: full steps are bit-identical, a skip step with the true residual
put back gives the model's output, the probe is what reaches the first attention.

A class that is not listed is watched at its first call. Where that shows how to enter it, it is
accelerated, else it runs untouched and a warning says why: see [add a backbone](add_a_backbone.md).

- **skipped**: lists of blocks that a skip step leaves out.
- **probe**: *formula*, computed from the first norm alone, or *intercepted* on its way to the first
  attention.
- **graphs**: which steps a CUDA graph can hold: by reading, by recording and replaying them on
  the CPU, and by running them where no value can be read; none was captured on a GPU yet.
- **pipelines**: those tested, with the number of calls per step (x2: two branches).

diffusers 0.36 and 0.42 are tested. A class that a version lacks is left out there; besides, these
need more than 0.36:

| diffusers | for |
|---|---|
| 0.37 | Qwen-Image-Edit 2511 and Layered; Z-Image with ControlNet and Omni; Cosmos Transfer |
| 0.38 | FLUX.2 klein with cached references |
| 0.39 | PRX in pixel space; guidance embedded in FLUX.1 image-to-image, inpaint and ControlNet |
| 0.41 | group offloading on a machine without an accelerator |
"""


def main() -> int:
    """Writes the page, or with ``--check`` says whether it is up to date."""
    page = f"{HEAD}\n{_table(_pipelines())}"
    if "--check" in sys.argv:
        if PAGE.read_text() == page:
            return 0
        print(f"{PAGE.name} is out of date: python tools/models_page.py", file=sys.stderr)
        return 1
    PAGE.write_text(page)
    return 0


def _pipelines() -> dict[str, dict[str, int]]:
    """Pipelines by transformer class, each with its branches; 0 where they change."""
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    from tests.pipelines.builders import CASES as FLUX
    from tests.zoo import CASES

    found: dict[str, dict[str, int]] = defaultdict(dict)
    for flux in FLUX:
        before = found["FluxTransformer2DModel"].get(flux.name, 0)
        found["FluxTransformer2DModel"][flux.name] = max(before, flux.branches)
    for case in CASES.values():
        pipe = case.make()
        for name in case.models:
            spec = find_spec(getattr(pipe, name))
            assert spec is not None
            found[spec.name].setdefault(case.name.partition("+")[0], case.branches)
    return found


def _table(pipelines: dict[str, dict[str, int]]) -> str:
    rows = [
        "| class | skipped | probe | graphs | pipelines | to know |",
        "|---|---|---|---|---|---|",
    ]
    for spec in sorted(SPECS.values(), key=lambda spec: spec.name.lower()):
        rows.append("| " + " | ".join(_cells(spec, pipelines.get(spec.name, {}))) + " |")
    return "\n".join(rows) + "\n"


def _cells(spec: BackboneSpec, pipelines: dict[str, int]) -> tuple[str, ...]:
    lists = ", ".join(f"`{blocks.path}`" for blocks in (*spec.blocks, *spec.bypassed))
    probes = {"intercepted" if stream.probe is None else "formula" for stream in spec.streams}
    tested = (
        f"{name}{f' x{count}' if count > 1 else ''}"
        for name, count in sorted((n.removesuffix("Pipeline"), c) for n, c in pipelines.items())
    )
    return (
        f"`{spec.name}`",
        lists,
        ", ".join(sorted(probes)),
        spec.graphs,
        ", ".join(tested),
        spec.hazards,
    )


if __name__ == "__main__":
    sys.exit(main())
