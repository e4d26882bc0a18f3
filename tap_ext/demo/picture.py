"""The demo's picture: every method beside every other, in one sheet."""

from __future__ import annotations

import math
import statistics

import numpy as np
from matplotlib import colormaps
from torch import Tensor

import tap_ext
from tap_ext.demo.run import Comparison, Method
from tap_ext.demo.sheet import INK, Pixels, Sheet, points

__all__ = ["draw"]

SHOWN = 4
PANEL, GAP, CAPTION, MARGIN = 192, 12, 40, 40
LABELS, BETWEEN, HEAD, NARROWEST = 270, 56, 300, 1400
GREY, OURS, FEWER = "#667085", "#0b7a75", "#c2571a"
UNTOUCHED, ACCELERATED, REDUCED, ERROR, REDUCED_ERROR, ORDER = range(6)
ORDERS = ("reuse", "linear", "quadratic", "cubic", "quartic", "quintic")


def draw(comparison: Comparison) -> Sheet:
    """To the left some pictures at one window, to the right one picture at every window."""
    return _Drawing(comparison).finish()


class _Layout:
    """Where everything stands, in pixels."""

    def __init__(self, comparison: Comparison) -> None:
        height, width = comparison.untouched.pictures.shape[-2:]
        scale = PANEL // width if width <= PANEL else PANEL / width
        self.panel = (round(scale * width), round(scale * height))
        pitch = self.panel[0] + GAP
        shown = min(SHOWN, len(comparison.titles))
        self.pictures = [MARGIN + LABELS + pitch * i for i in range(shown)]
        right = self.pictures[-1] + self.panel[0] + BETWEEN
        self.windows = [right + pitch * i for i in range(len(comparison.accelerated))]
        self.rows = [HEAD]
        for below in (GAP, CAPTION, CAPTION + GAP, GAP, GAP):
            self.rows.append(self.rows[-1] + self.panel[1] + below)
        self.width = max(self.windows[-1] + self.panel[0] + MARGIN, NARROWEST)
        self.height = self.rows[-1] + self.panel[1] + MARGIN


class _Drawing:
    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison
        self.layout = _Layout(comparison)
        self.sheet = Sheet(self.layout.width, self.layout.height)
        # Most pictures show the default window, or else the middle one.
        windows = [method.window for method in comparison.accelerated]
        usual = tap_ext.Config().window
        chosen = windows.index(usual) if usual in windows else len(windows) // 2
        self.ours, self.fewer = comparison.accelerated[chosen], comparison.fewer[chosen]
        self.gain = self._gain()

    def finish(self) -> Sheet:
        self._head()
        self._labels()
        for i, x in enumerate(self.layout.pictures):
            self.sheet.text(x, HEAD - 12, self.comparison.titles[i])
            self._panel(x, UNTOUCHED, _pixels(self.comparison.untouched.pictures[i]))
            self._column(x, i, self.ours, self.fewer)
        self._chart()
        pairs = zip(self.comparison.accelerated, self.comparison.fewer, strict=True)
        for x, (ours, fewer) in zip(self.layout.windows, pairs, strict=True):
            self._column(x, 0, ours, fewer)
        return self.sheet

    def _head(self) -> None:
        comparison, ours, fewer = self.comparison, self.ours, self.fewer
        row = next(row for row in comparison.rows() if row["window"] == ours.window)
        predicted, count = ours.steps - ours.full, len(comparison.titles)
        title = f"{ours.full} of {ours.steps} steps run, {predicted} predicted token by token"
        self.sheet.text(MARGIN, 74, title, 46, weight="bold")
        facts = (
            f"tap_ext on FluxPipeline: {row['flops_ratio']:.1f}x fewer FLOPs, "
            f"{row['wall_clock_ratio']:.1f}x faster ({comparison.setting})",
            f"PSNR to the untouched pictures, mean of {count}: accelerated "
            f"{_decibels(ours.psnr)}, plain run of {fewer.full} steps {_decibels(fewer.psnr)}",
        )
        for line, words in enumerate(facts):
            self.sheet.text(MARGIN, 124 + 40 * line, words, 28, color=GREY)
        left, right = self.layout.pictures[0], self.layout.windows[0]
        window = f"window {ours.window}: {ours.full} full steps"
        self.sheet.text(left, HEAD - 58, window, 30, weight="bold")
        every = f"{comparison.titles[0]} at every window"
        self.sheet.text(right, HEAD - 58, every, 30, weight="bold")
        self.sheet.text(right, HEAD - 12, f"mean PSNR of all {count}, dB", color=GREY)

    def _labels(self) -> None:
        ours, gain = self.ours, self.gain
        labels = (
            ("untouched", INK, f"{ours.steps} steps"),
            ("accelerated", OURS, f"{ours.full} full steps,\n{ours.steps - ours.full} predicted"),
            ("fewer steps", FEWER, f"{ours.full} steps"),
            ("error", OURS, f"accelerated,\namplified {gain}x"),
            ("error", FEWER, f"fewer steps,\namplified {gain}x"),
            ("order", INK, "each token's favourite\n(paler: less often)"),
        )
        for y, (name, colour, detail) in zip(self.layout.rows, labels, strict=True):
            self.sheet.text(MARGIN, y + 26, name, 30, color=colour, weight="bold")
            self.sheet.text(MARGIN, y + 40, detail, 23, color=GREY, va="top", linespacing=1.25)
        if ours.orders is None:
            return
        for order, colour in enumerate(_palette(ours.orders.shape[-1])):
            y = self.layout.rows[ORDER] + 112 + 29 * order
            self.sheet.square(MARGIN, y, 20, colour)
            self.sheet.text(MARGIN + 32, y + 17, f"{order} {ORDERS[order]}", 22, color=GREY)

    def _column(self, x: int, index: int, ours: Method, fewer: Method) -> None:
        """One picture by both methods, with errors and orders."""
        reference = self.comparison.untouched.pictures[index]
        for row, method, colour in ((ACCELERATED, ours, OURS), (REDUCED, fewer, FEWER)):
            picture = method.pictures[index]
            error = (self.gain * _error(picture, reference)).clamp(0, 1)
            self._panel(x, row, _pixels(picture))
            self._panel(x, row + ERROR - ACCELERATED, colormaps["magma"](error.numpy())[..., :3])
            centre, y = x + self.layout.panel[0] / 2, self.layout.rows[row] + self.layout.panel[1]
            caption = _decibels([method.psnr[index]])
            self.sheet.text(centre, y + 31, caption, color=colour, ha="center")
        if ours.orders is not None:
            self._panel(x, ORDER, _favourites(ours.orders[index].numpy()))

    def _chart(self) -> None:
        """Mean PSNR over the windows; every point stands above its column."""
        layout, comparison = self.layout, self.comparison
        left, below = layout.windows[0], layout.rows[UNTOUCHED] + layout.panel[1]
        width = layout.windows[-1] + layout.panel[0] - left
        axes = self.sheet.axes(left, HEAD, width, layout.panel[1] - 70)
        centres = [x - left + layout.panel[0] / 2 for x in layout.windows]
        for colour, methods in ((FEWER, comparison.fewer), (OURS, comparison.accelerated)):
            means = [statistics.fmean(method.psnr) for method in methods]
            axes.plot(centres, means, "o-", color=colour, linewidth=3.5, markersize=10)
        axes.set_xlim(0, width)
        axes.margins(y=0.2)
        axes.set_xticks([])
        axes.tick_params("y", labelsize=points(22), labelcolor=GREY, length=0, pad=-30)
        axes.grid(axis="y", color="#e4e7ec")
        axes.set_axisbelow(True)
        axes.set_frame_on(False)
        for centre, method in zip(centres, comparison.accelerated, strict=True):
            x = left + centre
            self.sheet.text(x, below - 36, f"window {method.window}", ha="center")
            self.sheet.text(x, below - 6, f"{method.full} full steps", 23, ha="center", color=GREY)

    def _panel(self, x: int, row: int, pixels: Pixels) -> None:
        self.sheet.image(x, self.layout.rows[row], self.layout.panel, pixels)

    def _gain(self) -> int:
        """The power of two by which errors are amplified; it clips one value in fifty."""
        reference = self.comparison.untouched.pictures
        errors = [_error(m.pictures, reference).numpy() for m in (self.ours, self.fewer)]
        high = max(float(np.quantile(errors, 0.98)), 2.0**-10)
        return max(1, int(2 ** math.floor(-math.log2(high))))


def _error(pictures: Tensor, reference: Tensor) -> Tensor:
    """The mean absolute error of the channels, (..., 3, H, W) to (..., H, W)."""
    return (pictures - reference).abs().mean(-3)


def _favourites(shares: Pixels) -> Pixels:
    """Shares (h, w, K) as the colour of the largest, the paler the more it is below two thirds."""
    colours = _palette(shares.shape[-1])[shares.argmax(-1)]
    strength = np.minimum(1.5 * shares.max(-1, keepdims=True), 1)
    return np.asarray(1 - strength * (1 - colours))


def _palette(orders: int) -> Pixels:
    """A colour per order, (orders, 3)."""
    return np.asarray(colormaps["viridis"](np.linspace(0.95, 0.2, orders)))[:, :3]


def _pixels(picture: Tensor) -> Pixels:
    """(3, H, W) as matplotlib wants it."""
    return np.asarray(picture.clamp(0, 1).permute(1, 2, 0).numpy())


def _decibels(values: list[float]) -> str:
    mean = statistics.fmean(values)
    return f"{mean:.1f} dB" if math.isfinite(mean) else "identical"
