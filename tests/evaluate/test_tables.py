"""The paper's tables by name: what they run, what comes out, and the sweeps drawn from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from tap_ext.cli import main
from tap_ext.config import Config
from tap_ext.demo import bundled
from tap_ext.demo.scenes import SIZE
from tap_ext.evaluate.methods import METHODS, ways
from tap_ext.evaluate.metrics import choose
from tap_ext.evaluate.plots import sweeps
from tap_ext.evaluate.tables import TABLES, chosen
from tap_ext.predictors import Taylor, candidates
from tests.evaluate.conftest import lines


@pytest.mark.parametrize("name", TABLES)
def test_every_table_can_be_run(name: str) -> None:
    (table,) = chosen([name])
    assert table.against in table.methods
    found, refused = ways(table.methods, table.full_steps, table.steps)
    assert len(found) + len(refused) == len(table.methods) * len(table.full_steps)
    assert set(refused) <= {("fora", 12)}, "0, N, 2N, ... has no 12 of 50"


def test_all_is_every_table_once() -> None:
    assert chosen(["loss", "all"]) == list(TABLES.values())
    assert [table.name for table in chosen(["probe", "loss", "probe"])] == ["probe", "loss"]
    with pytest.raises(ValueError, match=r"table must be among main, .* or all, got 'two'"):
        chosen(["two"])


def _config(name: str, budget: int) -> Config:
    chosen(["all"])
    config = METHODS[name].way(budget, 50).config
    assert config is not None
    return config


def test_what_the_methods_change_of_the_paper_s_setting() -> None:
    paper = _config("paper", 8)
    assert paper.plan(50).full_steps() == [0, 1, 2, 10, 18, 26, 34, 42]
    for name, fields in {
        "order-3": {"order": 3},
        "lookback-2": {"lookback": 2.0},
        "spacing-0.5": {"lookback_step": 0.5},
        "probe-input": {"probe": "input"},
        "loss-l2": {"metric": "l2"},
    }.items():
        assert _config(name, 8) == paper.replace(**fields)
    assert _config("nominal", 8).family() == (Taylor(2),)
    assert _config("hermite", 12).family()[: len(candidates())] == candidates()


def test_the_pool_of_thirty() -> None:
    """30 = orders 0 to 4 by distances k - 5 .. k; order 0 is the same at all of them."""
    singles = [name for name in TABLES["pool"].methods if name.startswith("row-")]
    assert len(singles) == 30 - 5
    rows = {_config(name, 8).family() for name in singles}
    assert len(rows) == 25 and all(len(row) == 1 for row in rows)
    assert {row for (row,) in rows} == set(_config("pool-30", 8).family())


def test_tables_are_printed_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plots = tmp_path / "out", tmp_path / "plots"
    arguments = ["evaluate", "--table=probe,loss", "--seeds=1", "--metrics=psnr", f"--out={out}"]
    assert main([*arguments, f"--plots={plots}"]) == 0
    text = capsys.readouterr().out
    assert "## probe: What the probe is (Table 6)" in text
    assert text.index("## probe") < text.index("| probe-input") < text.index("## loss")
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    shown = [(row["table"], row["method"]) for row in rows]
    assert shown == [
        (table, method)
        for table, last in (("probe", "probe-input"), ("loss", "loss-l2"))
        for method in ("untouched", "paper", "nominal", last)
    ]
    assert len(lines(out)) == 5, "what two tables share is made once"
    held = {row["method"]: row["held_bytes"] for row in rows}
    # Two stacks of three planes of N x D float32.
    model = bundled.load_pipeline().transformer
    tokens, width = (SIZE // 4) ** 2, model.inner_dim
    assert held["paper"] == 2 * 3 * tokens * width * 4
    names = {path.name for path in plots.iterdir()}
    assert {"bundled-probe-pareto.png", "bundled-loss-pareto.png"} <= names


def _drawn(figure: Figure) -> list[Any]:
    return [container for axes in figure.axes for container in axes.containers]


def test_sweeps_draw_every_row() -> None:
    psnr = choose(["psnr"])
    common = {"model": "m", "samples": 2, "full_steps": 8, "steps": 50, "psnr_se": 0.1}

    def rows(name: str) -> list[dict[str, Any]]:
        methods = ["untouched", *chosen([name])[0].methods]
        return [common | {"method": m, "psnr": 10.0 + i} for i, m in enumerate(methods)]

    family = rows("family")
    points = [container[0].get_data() for container in _drawn(sweeps.family(family, psnr))]
    x, y = (np.concatenate([point[i] for point in points]) for i in (0, 1))
    values = {row["method"]: row["psnr"] for row in family}
    # Five orders, six distances, five spacings; the paper's setting is in each panel.
    assert len(x) == 5 + 6 + 5
    assert set(y) == set(values.values()) - {values["untouched"]}
    pool = sweeps.pool(rows("pool"), psnr)
    assert sum(len(container[0].get_xdata()) for container in _drawn(pool)) == 25
    assert {line.get_label() for line in pool.axes[0].lines} >= {"paper", "pool-30"}
