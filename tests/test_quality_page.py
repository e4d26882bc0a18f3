"""The goal's cells, recomputed by hand, from made-up rows and from the committed results."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tools import quality_page


def _row(
    method: str, mean: float, worst: float, psnr: float = 0, ssim: float = 0, flip: float = 0
) -> dict[str, Any]:
    """Its means, and its differences to the default."""
    row: dict[str, Any] = {"method": method, "full_steps": 8, "samples": 64}
    row |= {"psnr": mean, "psnr_worst": worst}
    for metric, difference in (("psnr", psnr), ("ssim", ssim), ("flip", flip)):
        row |= {f"{metric}_diff": difference, f"{metric}_diff_se": 0.01}
    return row


def _verdict(*rows: dict[str, Any]) -> list[str]:
    line = quality_page._goal_line({(row["method"], 8): row for row in rows}, 8)
    return [cell.strip() for cell in line.strip("|").split("|")]


DEFAULT = _row(quality_page.DEFAULT, 40.0, 36.0)
PAPER = _row("paper", 33.0, 31.0, psnr=-7.0)


def test_a_goal_that_is_met() -> None:
    control = _row("speca", 38.5, 30.0, psnr=-1.5, ssim=-0.1, flip=0.1)
    cells = _verdict(DEFAULT, PAPER, control, _row("steps", 30.0, 20.0, psnr=-10.0))
    assert cells == [
        "8", "40.0", "`speca` 38.5 (64)", "+1.5 ± 0.0", "+7.0 ± 0.0 (of 6)", "not worse",
        "36.0, 31.0", "yes",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "failed"),
    [
        ([PAPER, _row("speca", 39.5, 30.0, psnr=-0.5)], "control"),
        ([_row("paper", 35.0, 31.0, psnr=-5.0), _row("speca", 38.0, 30.0, psnr=-2.0)], "paper"),
        ([PAPER, _row("speca", 38.0, 30.0, psnr=-2.0, flip=-0.03)], "SSIM or FLIP"),
        ([PAPER, _row("speca", 38.0, 30.0, psnr=-2.0, ssim=0.03)], "SSIM or FLIP"),
        (
            [_row("paper", 33.0, 37.0, psnr=-7.0), _row("steps", 1.0, 1.0, psnr=-39.0)],
            "worst tenth",
        ),
    ],
)
def test_a_goal_that_is_not_met(rows: list[dict[str, Any]], failed: str) -> None:
    assert _verdict(DEFAULT, *rows)[-1] == f"no: {failed}"


def test_the_best_control_is_best_on_the_pictures_that_both_have() -> None:
    """One measured on fewer, easier pictures may have the higher mean."""
    easy = _row("teacache", 41.0, 39.0, psnr=-3.0)
    assert (
        _verdict(DEFAULT, PAPER, easy, _row("speca", 38.0, 30.0, psnr=-2.0))[2]
        == "`speca` 38.0 (64)"
    )


def test_every_cell_of_the_page_is_a_committed_number() -> None:
    text = quality_page.page()
    goal = text.partition("quality_page.py: goal -->")[2].partition("<!-- end -->")[0]
    seen = 0
    for model in quality_page.MODELS:
        rows = quality_page._rows("quality", model)
        part = goal.partition(f"### {model},")[2].partition("###")[0]
        for line in re.findall(r"^\| (\d+) \|(.*)\|$", part, re.MULTILINE):
            own = [row for row in rows if row["full_steps"] == int(line[0])]
            by_name = {row["method"]: row for row in own}
            default, control, ahead, *_ = (cell.strip() for cell in line[1].split("|"))
            assert default == f"{by_name[quality_page.DEFAULT]['psnr']:.1f}"
            best = by_name[control.split("`")[1]]
            assert ahead.split()[0] == f"{-best['psnr_diff']:+.1f}"
            others = [by_name[name] for name in quality_page.CONTROLS if name in by_name]
            assert all(row["psnr_diff"] <= best["psnr_diff"] for row in others)
            seen += 1
    assert seen == 10
