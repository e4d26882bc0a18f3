"""The methods: each says how it spends a budget of full steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tap_ext.calibrate import Calibration
from tap_ext.config import Config
from tap_ext.evaluate.blocks import BlockForecast
from tap_ext.evaluate.freqca import FreqCa, HighBand
from tap_ext.evaluate.line import Line
from tap_ext.evaluate.oracle import Oracle
from tap_ext.peers import SpeCa, TeaCache
from tap_ext.plan import Even, Listed, Schedule, Windowed
from tap_ext.predictors import Newton, Predictor, Taylor

__all__ = [
    "METHODS",
    "UNTOUCHED",
    "Control",
    "Method",
    "Way",
    "register",
    "register_calibrated",
    "ways",
]

UNTOUCHED = "untouched"
"""The name of the reference, the pipeline as it is."""


class Control(Protocol):
    """What else is done to a pipeline while it makes a picture; its ``repr`` says all of it."""

    def around(self, pipe: Any) -> AbstractContextManager[Any]:
        """Holds during the calls of ``pipe``."""


@dataclass(frozen=True)
class Way:
    """How one method makes its pictures at one budget.

    Attributes:
        method: its name.
        budget: how many steps run the whole model.
        steps: steps of the pipeline's run.
        config: how the pipeline is accelerated; None: not at all.
        second_order: whether the scheduler is replaced by a second-order multistep one.
        tuned: of a method whose full steps follow from the data: its configuration at a threshold
            that is still to be found. It keeps to its budget in the mean.
        control: what else is done to the pipeline.
    """

    method: str
    budget: int
    steps: int
    config: Config | None = None
    second_order: bool = False
    tuned: Callable[[float], Config] | None = None
    control: Control | None = None

    @property
    def alone(self) -> bool:
        """Whether pictures are made one at a time, since the rows of a batch share their steps."""
        return self.tuned is not None or (self.config is not None and self.config.follows)

    def settings(self) -> dict[str, Any]:
        """Everything that the pictures depend on, as plain values."""
        more = {} if self.control is None else {"control": repr(self.control)}
        return more | {
            "steps": self.steps,
            "config": None if self.config is None else repr(self.config),
            "second_order": self.second_order,
        }


Make = Callable[[int, int], "Config | Way"]
"""``(budget, steps)`` to a configuration that runs ``budget`` of ``steps`` steps in full, or to
another way. Raises ValueError where there is none; the message names the nearest budgets."""


@dataclass(frozen=True)
class Method:
    """A name, what it stands for, and how it spends a budget."""

    name: str
    purpose: str
    make: Make

    def way(self, budget: int, steps: int) -> Way:
        """Its way of running ``budget`` of ``steps`` steps in full.

        Raises:
            ValueError: there is none; the message says why, and what there is.
        """
        if not 1 <= budget <= steps:
            raise ValueError(f"full_steps must be 1 to {steps}, the steps of a run, got {budget}")
        made = self.make(budget, steps)
        return made if isinstance(made, Way) else Way(self.name, budget, steps, made)


METHODS: dict[str, Method] = {}
"""By name. ``register`` adds to it."""


def register(name: str, purpose: str, make: Make) -> None:
    """Adds a method, or replaces the one of this name.

    Raises:
        ValueError: the name is that of the reference, or cannot stand in a list on a command line.
    """
    if name == UNTOUCHED or not name or set(name) & set(" ,/"):
        raise ValueError(f"name must be a word without commas or slashes, got {name!r}")
    METHODS[name] = Method(name, purpose, make)


def ways(
    names: Sequence[str], budgets: Sequence[int], steps: int
) -> tuple[list[Way], dict[tuple[str, int], str]]:
    """Every method at every budget: those that can be, and why the others cannot.

    Raises:
        ValueError: a name is unknown.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(f"methods must be among {', '.join(METHODS)}, got {name!r}")
    found, refused = [], {}
    for budget in dict.fromkeys(budgets):
        for name in dict.fromkeys(names):
            try:
                found.append(METHODS[name].way(budget, steps))
            except ValueError as error:
                refused[name, budget] = str(error)
    return found, refused


def windowed(budget: int, steps: int, warmup: int) -> Windowed:
    """The schedule of the least window that has ``budget`` full steps of ``steps``.

    Raises:
        ValueError: no window has.
    """
    counts = {w: len(Windowed(w, warmup).full_steps(steps)) for w in range(1, steps + 1)}
    for window, count in counts.items():
        if count == budget:
            return Windowed(window, warmup)
    raise ValueError(_no_window(budget, steps, set(counts.values()), f"after {warmup} full steps"))


def fora_schedule(budget: int, steps: int) -> Schedule:
    """FORA's full steps: every N-th from the first on, or else counted from the last one.

    Its code for FLUX starts at the first step; that for DiT counts the timesteps down, so that the
    last step is always full, with every N-th before it and the first one. The second is taken
    where only it has the wanted number.
    """
    first = {n: tuple(range(0, steps, n)) for n in range(1, steps + 1)}
    last = {n: tuple(sorted({0, *range(steps - 1, -1, -n)})) for n in range(1, steps + 1)}
    for listed in (*first.values(), *last.values()):
        if len(listed) == budget:
            return Listed(listed)
    counts = {len(listed) for listed in (*first.values(), *last.values())}
    raise ValueError(_no_window(budget, steps, counts, "of FORA"))


def _no_window(budget: int, steps: int, counts: set[int], what: str) -> str:
    below = max((count for count in counts if count < budget), default=None)
    above = min((count for count in counts if count > budget), default=None)
    near = " and ".join(str(count) for count in (below, above) if count is not None)
    return f"no window {what} gives {budget} full steps of {steps}; the nearest are {near}"


def register_calibrated(path: Path) -> None:
    """Adds the methods whose full steps a file of ``Calibration.save`` places.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such file.
    """
    found = Calibration.load(path)

    def make(forecast: Any) -> Make:
        def placed(budget: int, steps: int) -> Config:
            if steps != found.num_steps:
                raise ValueError(f"{path} is for runs of {found.num_steps} steps, not of {steps}")
            schedule = found.schedule(budget)
            return Config(preset="paper", schedule=schedule, forecast=forecast)

        return placed

    register("calibrated", "TAP, full steps placed by a calibration", make("residual"))
    register("calibrated-hidden", "the same forecasting the hidden state", make("hidden"))


def _default(budget: int, steps: int) -> Config:
    return Config(full_steps=budget)


def _uncorrected(budget: int, steps: int) -> Config:
    return Config(full_steps=budget, corrector=False, blend=False)


def _unblended(budget: int, steps: int) -> Config:
    return Config(full_steps=budget, blend=False)


def _line(budget: int, steps: int) -> Way:
    return Way("line", budget, steps, Config(full_steps=budget), control=Line())


def _paper(budget: int, steps: int) -> Config:
    return Config(preset="paper", schedule=windowed(budget, steps, 3))


def _paper_corrected(budget: int, steps: int) -> Config:
    return _paper(budget, steps).replace(corrector=True, blend=True)


def _single(row: Predictor, *, even: bool) -> Make:
    """One row for all tokens: the paper's schedule and residual, or even and hidden state."""

    def make(budget: int, steps: int) -> Config:
        schedule = Even(budget) if even else windowed(budget, steps, 3)
        forecast: Any = "hidden" if even else "residual"
        return Config(
            preset="paper", schedule=schedule, forecast=forecast, predictors=(row,), probe="input"
        )

    return make


def _even(forecast: Any) -> Make:
    return lambda budget, _: Config(preset="paper", schedule=Even(budget), forecast=forecast)


def _named(schedule: Any, forecast: Any) -> Make:
    return lambda budget, _: Config(full_steps=budget, schedule=schedule, forecast=forecast)


def _paced(row: Predictor) -> Make:
    return lambda budget, _: Config(full_steps=budget, schedule="paced", predictors=(row,))


def _fora(budget: int, steps: int) -> Config:
    return Config(preset="paper", method="fora", schedule=fora_schedule(budget, steps))


def _taylorseer(order: int) -> Make:
    def make(budget: int, steps: int) -> Config:
        schedule = windowed(budget, steps, 3)
        return Config(preset="paper", method="taylorseer", order=order, schedule=schedule)

    return make


def _blocks(order: int) -> Make:
    def make(budget: int, steps: int) -> Way:
        full = tuple(windowed(budget, steps, 3).full_steps(steps))
        control = BlockForecast(full, order)
        return Way(_with_order("taylorseer-blocks", order), budget, steps, control=control)

    return make


def _with_order(name: str, order: int) -> str:
    return name if order == 2 else f"{name}{order}"


def _oracle(name: str, make: Make) -> Make:
    """The same full steps, target and candidates, every token's chosen by its true error."""

    def made(budget: int, steps: int) -> Way:
        config = make(budget, steps)
        assert isinstance(config, Config)
        known = config.replace(metric="l2", graphs="off")
        return Way(name, budget, steps, known, control=Oracle())

    return made


def _freqca(budget: int, steps: int) -> Way:
    config = Config(
        preset="paper",
        schedule=windowed(budget, steps, 3),
        forecast="hidden",
        predictors=(HighBand(),),
        probe="input",
        graphs="off",
    )
    return Way("freqca", budget, steps, config, control=FreqCa())


def _tuned(name: str, rule: Callable[[float], Schedule]) -> Make:
    def at(threshold: float) -> Config:
        method: Any = name
        return Config(preset="paper", method=method, schedule=rule(threshold))

    return lambda budget, steps: Way(name, budget, steps, tuned=at)


register("default", "what accelerate() does", _default)
register("unblended", "the same without the blend", _unblended)
register("uncorrected", "the same without blend and corrector", _uncorrected)
register("line", "the same, the line through the last outputs instead of any forecast", _line)
register("paper", "TAP as in arXiv 2603.03792", _paper)
register("paper-corrected", "the same with corrector and blend", _paper_corrected)
register("even", "TAP, full steps evenly spread, forecasting the hidden state", _even("hidden"))
register("even-corrected", "as 'paced', full steps evenly spread", _named("even", "hidden"))
register("even-residual", "TAP, full steps evenly spread", _even("residual"))
register(
    "paced",
    "TAP, full steps paced by the noise, forecasting the hidden state",
    _named("paced", "hidden"),
)
register("paced-residual", "TAP, full steps paced by the noise", _named("paced", "residual"))
register("paced-taylor2", "one Taylor row of order 2, as 'paced'", _paced(Taylor(2)))
register("paced-newton", "one Newton row of degree 2, as 'paced'", _paced(Newton(2)))
register(
    "adaptive",
    "TAP, full steps where its own proxy loss says, hidden state",
    _named("adaptive", "hidden"),
)
register(
    "adaptive-residual",
    "TAP, full steps where its own proxy loss says",
    _named("adaptive", "residual"),
)
register("taylorseer", "TaylorSeer of order 2, guarded start", _taylorseer(2))
register("taylorseer1", "TaylorSeer of order 1", _taylorseer(1))
register("taylorseer-blocks", "TaylorSeer of order 2 in every block, guarded start", _blocks(2))
register("taylorseer-blocks1", "TaylorSeer of order 1 in every block", _blocks(1))
register("newton", "one Newton row of degree 2, paper's schedule", _single(Newton(2), even=False))
register("even-taylor1", "one Taylor row of order 1, as 'even'", _single(Taylor(1), even=True))
register("even-taylor2", "one Taylor row of order 2, as 'even'", _single(Taylor(2), even=True))
register("even-newton", "one Newton row of degree 2, as 'even'", _single(Newton(2), even=True))
register("freqca", "FreqCa: low frequencies reused, high ones by Hermite order 2", _freqca)
register("fora", "FORA: reuse of the residual, every N-th step full", _fora)
register(
    "teacache",
    "TeaCache, the change of the probe as it is, threshold tuned to the budget",
    _tuned("teacache", TeaCache),
)
# The floor belongs to the scale of another model's errors.
register(
    "speca",
    "SpeCa verifying the probe, threshold tuned to the budget",
    _tuned("speca", lambda base: SpeCa(base, floor=0.0)),
)
register(
    "paper-oracle",
    "a bound: 'paper', every token's candidate chosen by its true error",
    _oracle("paper-oracle", _paper),
)
register(
    "paced-residual-oracle",
    "a bound: 'paced-residual', every token's candidate chosen by its true error",
    _oracle("paced-residual-oracle", _named("paced", "residual")),
)
register(
    "paced-oracle",
    "a bound: 'paced', every token's candidate chosen by its true error",
    _oracle("paced-oracle", _named("paced", "hidden")),
)
register("steps", "the pipeline's own solver, fewer steps", lambda n, _: Way("steps", n, n))
register(
    "steps2",
    "fewer steps of a second-order multistep solver",
    lambda n, _: Way("steps2", n, n, second_order=True),
)
