"""The tables and figures of arXiv 2603.03792, each as methods at budgets, and those beyond it.

A table is run on whatever model is given: the numbers of the paper are its own models', the
questions are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tap_ext.config import Config
from tap_ext.evaluate.methods import METHODS, register, windowed
from tap_ext.predictors import Hermite, Predictor, Reuse, Taylor, candidates

__all__ = ["TABLES", "Table", "chosen"]

BUDGETS = (14, 12, 10, 8, 7)
POOL_ORDERS, POOL_SHIFTS = range(5), range(6)
"""The paper says 30 single predictors; orders 0 to 4 at six distances is one reading of it."""


@dataclass(frozen=True)
class Table:
    """One question.

    Attributes:
        name: as on the command line.
        title: what is asked.
        methods: who answers.
        full_steps: the budgets.
        steps: of an untouched run.
        against: the method that the others are compared with.
    """

    name: str
    title: str
    methods: tuple[str, ...]
    full_steps: tuple[int, ...] = (8,)
    steps: int = 50
    against: str = "paper"


def _changed(**fields: Any) -> Callable[[int, int], Config]:
    """The paper's setting with other fields."""

    def make(budget: int, steps: int) -> Config:
        return Config(preset="paper", schedule=windowed(budget, steps, 3), **fields)

    return make


def _row(order: int, shift: int) -> str:
    return f"row-{order}-{shift}" if order else "row-0"


def _rows() -> dict[str, Predictor]:
    """The single predictors, each once: order 0 does not depend on the distance."""
    grid = {(o, s if o else 0) for o in POOL_ORDERS for s in POOL_SHIFTS}
    return {_row(o, s): Taylor(o, float(s)) if o else Reuse() for o, s in sorted(grid)}


_ORDERS = {f"order-{order}": {"order": order} for order in (0, 1, 3, 4)}
_LOOKBACKS = {f"lookback-{value}": {"lookback": float(value)} for value in (0, 1, 2, 3, 6)}
_SPACINGS = {f"spacing-{value}": {"lookback_step": float(value)} for value in (0.25, 0.5, 2, 4)}
_OTHERS: Mapping[str, Mapping[str, Any]] = {
    "nominal": {"predictors": (Taylor(2),)},
    "probe-input": {"probe": "input"},
    "loss-l2": {"metric": "l2"},
    "hermite": {"predictors": (*candidates(), Hermite(2, 3), Hermite(2, 4))},
    "pool-30": {"order": 4, "lookback": 5.0},
}

_SINGLE = _rows()

_CACHES = ("fora", "teacache", "taylorseer", "taylorseer-blocks", "freqca", "speca")
_PEERS = (*_CACHES, "steps", "steps2")
_BOUNDED = ("paced-residual", "paced", "paper")

_TABLES = (
    Table(
        "main",
        "Methods at equal numbers of full steps (the paper's Tables 1 to 3)",
        ("default", "paper", *_PEERS),
        BUDGETS,
        against="default",
    ),
    Table(
        "few-step",
        "4 full steps of 8 (the paper's distilled models)",
        ("default", "paper", "even", *_PEERS),
        (4,),
        8,
        against="default",
    ),
    Table(
        "family",
        "Orders, distances and their spacing (Figure 2); 'paper' is order 2, lookback 4, spacing 1",
        ("paper", *_ORDERS, *_LOOKBACKS, *_SPACINGS),
    ),
    Table(
        "pool",
        "One predictor for all tokens, each of a pool of 30 (Figure 6), and a choice among all",
        ("paper", "pool-30", *_SINGLE),
    ),
    Table("probe", "What the probe is (Table 6)", ("paper", "nominal", "probe-input")),
    Table("loss", "How candidates are compared (Table 7)", ("paper", "nominal", "loss-l2")),
    Table(
        "hermite",
        "Other families among the candidates (Table 4)",
        ("paper", "nominal", "hermite"),
        (12,),
    ),
    Table(
        "memory",
        "What is held from step to step, per picture (Table 5)",
        ("paper", "taylorseer", "taylorseer-blocks", "default"),
    ),
    Table(
        "bound",
        "The same candidates, every token's chosen by its true error",
        tuple(name for own in _BOUNDED for name in (own, f"{own}-oracle")),
        BUDGETS,
        against="paced-residual",
    ),
)

TABLES: Mapping[str, Table] = {table.name: table for table in _TABLES}
"""By name, in the order in which ``all`` runs them."""


def chosen(names: Sequence[str]) -> list[Table]:
    """The tables of these names, ``all`` for every one; makes known the methods that they need.

    Raises:
        ValueError: a name is unknown.
    """
    for name in names:
        if name != "all" and name not in TABLES:
            raise ValueError(f"table must be among {', '.join(TABLES)} or all, got {name!r}")
    _make_known()
    listed = TABLES if "all" in names else dict.fromkeys(names)
    return [TABLES[name] for name in listed]


def _make_known() -> None:
    changes: dict[str, Mapping[str, Any]] = {**_ORDERS, **_LOOKBACKS, **_SPACINGS, **_OTHERS}
    for name, fields in changes.items():
        if name not in METHODS:
            what = ", ".join(f"{key} {value}" for key, value in fields.items())
            register(name, f"'paper' with {what}", _changed(**fields))
    for name, row in _SINGLE.items():
        if name not in METHODS:
            register(name, f"one row for all tokens: {row}", _changed(predictors=(row,)))
