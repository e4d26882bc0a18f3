"""What stands where a transformer's forward stood: full step, skip step, or untouched."""

from __future__ import annotations

import functools
import inspect
import os
import types
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tap_ext import report
from tap_ext.backbones import BackboneSpec
from tap_ext.config import Config
from tap_ext.predictors import Rows
from tap_ext.runtime import Branch, Branches, Journal, Run, current_run, held, signature
from tap_ext.state import DTYPES, State, Step
from tap_ext.views import AdapterError, Call, Views, first_tensor, run_view, verify

__all__ = ["Engine"]

MAX_VERDICTS = 1024
"""Self-checks remembered; arguments that are new objects at every call must not fill memory."""


class Engine:
    """Replaces the forward of one transformer and decides, call by call, what runs.

    Every call ends in one of three ways: a full step (the full view, bit-identical to the model),
    a skip step (the skip view with a forecast), or the untouched forward, with the reason counted
    in ``fallbacks`` and warned of once.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: BackboneSpec,
        config: Config,
        other_cache: Callable[[Any], str | None],
        original: Callable[..., Any],
    ) -> None:
        """Build the views; nothing is installed yet.

        Args:
            model: the transformer; kept by weak reference.
            spec: how it is entered, probed and left.
            config: how it is accelerated.
            other_cache: names another cache that is enabled on the model; None: there is none.
            original: the forward this engine stands for.

        Raises:
            AdapterError: the model is not what the spec says.
        """
        functools.update_wrapper(self, original)
        self.original = original
        self.spec = spec
        self.config = config
        self._other_cache = other_cache
        self.enabled = True
        self._model = weakref.ref(model)
        self._names = tuple(inspect.signature(original).parameters)
        for name in (spec.hidden, spec.timestep):
            if name not in self._names:
                raise AdapterError(f"{type(model).__name__}.forward has no argument {name!r}")
        self._views = Views(model, spec)
        self._branches = Branches()
        self._verdicts: dict[Any, str | None] = {}
        self.fallbacks: Counter[str] = Counter()
        self._journal = Journal()
        self.full = 0
        self.skipped = 0
        self.runs = 0

    def reconfigure(self, config: Config) -> None:
        """Take another configuration; every history is dropped."""
        if config != self.config:
            self.config = config
            self._branches.clear()

    def stands_for(self, model: nn.Module) -> bool:
        """Whether this engine was built for ``model``."""
        return self._model() is model

    def retire(self) -> None:
        """Switch off for good and let go of all memory."""
        self.enabled = False
        self._branches.clear()
        self._journal = Journal()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward."""
        model = self._living
        arguments = dict(zip(self._names, args, strict=False)) | kwargs
        run = current_run()
        reason = self._refusal(model, run, arguments)
        if reason is not None:
            return self._untouched(reason, args, kwargs)
        key = signature({k: v for k, v in arguments.items() if k != self.spec.timestep})
        if (reason := self._verdicts.get(key)) is not None:
            return self._untouched(reason, args, kwargs)
        branch = self._enter(run, key, arguments)
        kwargs = {k: dict(v) if isinstance(v, dict) else v for k, v in kwargs.items()}
        try:
            if self._views.stale(model):
                self._views = Views(model, self.spec)
                self._verdicts.clear()
            if branch.state.begin(position=self._position(branch)) is Step.SKIP:
                output = self._skip_step(branch, args, kwargs)
                run.skips += 1
                self.skipped += 1
            else:
                output = self._full_step(branch, key, arguments, args, kwargs)
                self.full += 1
        except AdapterError as error:
            self._branches.drop(run)
            self._verdicts[key] = str(error)
            return self._untouched(str(error), args, kwargs)
        except BaseException:
            self._branches.drop(run)
            raise
        return output

    def _refusal(self, model: nn.Module, run: Run, arguments: dict[str, Any]) -> str | None:
        """Why this call must run untouched; None: it need not."""
        if not self.enabled or os.environ.get("TAP_EXT_DISABLE", "0") not in ("", "0"):
            return "switched off"
        if (other := self._other_cache(model)) is not None:
            return f"{other} is enabled on the same model"
        if run.clock is not None and (reason := run.clock.refusal()) is not None:
            return reason
        hidden = arguments.get(self.spec.hidden)
        if not isinstance(hidden, Tensor):
            return f"{self.spec.hidden} is no tensor"
        if not isinstance(arguments.get(self.spec.timestep), Tensor):
            return f"{self.spec.timestep} is no tensor"
        if hidden.dtype not in DTYPES:
            return f"{self.spec.hidden} is {hidden.dtype}; a history holds {DTYPES}"
        if torch.is_grad_enabled() and (
            hidden.requires_grad or any(p.requires_grad for p in model.parameters())
        ):
            return "gradients are enabled; run under torch.no_grad() or torch.inference_mode()"
        return None

    def _untouched(self, reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if reason not in self.fallbacks and reason != "switched off":
            warnings.warn(f"tap_ext: running {self._title} untouched: {reason}", stacklevel=4)
        self.fallbacks[reason] += 1
        return self.original(*args, **kwargs)

    def _enter(self, run: Run, key: Any, arguments: dict[str, Any]) -> Branch:
        """The branch of this call, a new one where none continues."""
        clock = run.clock
        moment = None if clock is None else clock.now()
        timestep = self._read_timestep(arguments[self.spec.timestep], needed=moment is None)
        conditioning = held([arguments.get(name) for name in self.spec.conditioning])
        branch = self._branches.find(run, conditioning, moment, timestep)
        journal = branch.journal if branch is not None else None
        if branch is not None and branch.signature != key:
            self._branches.retire(run, branch)
            branch = None
        if branch is None:
            branch = self._begin_branch(run, key, conditioning, journal)
        branch.moment, branch.timestep = moment, timestep
        run.steps.add((moment, timestep))
        self._branches.use(run, branch)
        return branch

    def _begin_branch(
        self, run: Run, key: Any, conditioning: Any, journal: Journal | None
    ) -> Branch:
        others = self._branches.of(run)
        if journal is None and others:
            journal = others[0].journal
        if journal is None:
            journal = self._journal = Journal()
            self.runs += 1
        state = self._branches.state(key, functools.partial(State, None, self.config))
        state.plan = self.config.plan(None if run.clock is None else run.clock.num_steps())
        branch = Branch(str(len(journal.logs)), key, conditioning, state, journal)
        journal.logs.append((branch.name, state.log))
        state.on_predict = functools.partial(_note, branch) if self.config.trace else None
        return branch

    def finish(self, run: Run) -> None:
        """A run is over: its histories go, their buffers stay for the next one."""
        self._branches.finish(run)

    def _read_timestep(self, timestep: Tensor, *, needed: bool) -> float | None:
        """The timestep's value where reading it is free or unavoidable."""
        free = timestep.device.type == "cpu"
        if free or needed or self.config.position == "sigma":
            return float(timestep.max()) if timestep.numel() else None
        return None

    def _position(self, branch: Branch) -> float | None:
        """The abscissa of this step; None: its index."""
        return branch.timestep if self.config.position == "sigma" else None

    def _full_step(
        self,
        branch: Branch,
        key: Any,
        arguments: dict[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        call = Call(want_probe=self.config.probe == "modulated", idle=branch.idle)
        output = run_view(self._views.full, call, args, kwargs)
        if call.hidden is None or call.probe is None or call.output is None:
            raise AdapterError(f"{self._title} called neither its first block nor its head")
        if key not in self._verdicts and self.config.self_check:
            self._check(key, call, output, arguments, args, kwargs)
        if self._verdicts.get(key) is None:
            branch.state.record(call.hidden, call.output, call.probe)
        return output

    def _skip_step(self, branch: Branch, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = Call(branch.state.predict, self.config.probe == "modulated", branch.idle)
        return run_view(self._views.skip, call, args, kwargs)

    def _check(
        self,
        key: Any,
        call: Call,
        output: Any,
        arguments: dict[str, Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        """Find out, once per signature, whether skip steps would be right."""
        result = first_tensor(output)
        if not torch.isfinite(result).all():
            return  # nothing can be compared; ask again at the next full step
        between = any(arguments.get(name) is not None for name in self.spec.between)
        wrong = verify(self._views, call, result, args, kwargs, between=between)
        if len(self._verdicts) >= MAX_VERDICTS:
            self._verdicts.clear()
        self._verdicts[key] = None if wrong is None else f"the self-check failed: {wrong}"

    @property
    def _living(self) -> nn.Module:
        model = self._model()
        if model is None:
            raise RuntimeError("the model of this forward is gone")
        return model

    @property
    def _title(self) -> str:
        return type(self._living).__name__

    def stats(self) -> report.ModelStats:
        """What was done, for this model."""
        branches = tuple(
            report.BranchStats(name, tuple(log.full_steps), tuple(log.skip_steps), log.chosen())
            for name, log in self._journal.logs
        )
        return report.ModelStats(
            model=self._title,
            runs=self.runs,
            full=self.full,
            skip=self.skipped,
            branches=branches,
            fallbacks=dict(self.fallbacks),
            nbytes=self._branches.nbytes,
            trace=tuple(self._journal.trace),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled model carries its own plain forward."""
        return getattr, (self._living, "forward")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copied model is a plain one."""
        model = self._living
        return types.MethodType(type(model).forward, memo.get(id(model), model))


def _note(branch: Branch, step: int, index: Tensor, table: Rows) -> None:
    branch.journal.trace.append(report.Choice(branch.name, step, index.clone(), table))
