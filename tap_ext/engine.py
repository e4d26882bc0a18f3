"""What stands where a transformer's forward stood: full step, skip step, or untouched."""

from __future__ import annotations

import functools
import inspect
import logging
import types
import warnings
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from tap_ext import report
from tap_ext.backbones import BackboneSpec
from tap_ext.blend import Blend
from tap_ext.compilation import Compilation
from tap_ext.config import Config
from tap_ext.correction import Sampling
from tap_ext.given import Given, Pattern
from tap_ext.hindsight import Hindsight
from tap_ext.native import environment
from tap_ext.plan import Listed, Plan
from tap_ext.predictors import Rows
from tap_ext.runtime import Branch, Branches, Journal, Run, current_run
from tap_ext.state import DTYPES, FullStepWanted, State, Step
from tap_ext.steps import OtherTokens, Steps
from tap_ext.uploads import stream_of
from tap_ext.views import (
    AdapterError,
    Call,
    Views,
    discover,
    prefetch_refusal,
    run_view,
    tables_of,
    tensors,
    verify,
)

__all__ = ["Engine"]

_logger = logging.getLogger("tap_ext")

MAX_VERDICTS = 1024
"""Self-checks remembered; arguments that are new objects at every call must not fill memory."""


_IN_PIECES = (
    "an accelerated transformer cannot be one graph: tap_ext decides at every call what runs. "
    "tap_ext.accelerate(model, compile=True) or compile_repeated_blocks() compile its blocks"
)

_ASKED = Plan(schedule=Listed((0,)))
"""Of every stream but the first, which decides for all: full when asked to be."""


class Engine:
    """Replaces the forward of one transformer and decides, call by call, what runs.

    Every call ends in one of three ways: a full step (the full view, bit-identical to the model),
    a skip step (the skip view with a forecast), or the untouched forward, with the reason counted
    in ``fallbacks`` and warned of once.
    """

    def __init__(
        self,
        model: nn.Module,
        spec: BackboneSpec | None,
        config: Config,
        other_cache: Callable[[Any], str | None],
        original: Callable[..., Any],
    ) -> None:
        """Build the views; nothing is installed yet.

        Args:
            model: the transformer; kept by weak reference.
            spec: how it is entered, probed and left; None: to be found out at the first call.
            config: how it is accelerated.
            other_cache: names another cache that is enabled on the model; None: there is none.
            original: the forward this engine stands for.

        Raises:
            AdapterError: the model is not what the spec says.
        """
        functools.update_wrapper(self, original)
        self.__code__ = getattr(original, "__code__", None)  # torch.export reads it
        self.original = original
        self.config = config
        self._other_cache = other_cache
        self.enabled = True
        self._model = weakref.ref(model)
        self._names = tuple(inspect.signature(original).parameters)
        self._views = None if spec is None else self._open(model, spec)
        self._unknown: str | None = None
        self._branches = Branches()
        self._steps = Steps(config)
        self._compilation = Compilation()
        self._compile()
        self._right: set[Any] = set()
        self._wrong: dict[Any, str] = {}
        self.fallbacks: Counter[str] = Counter()
        self._journal = Journal()
        self.full = 0
        self.skipped = 0
        self.corrected = 0
        self.runs = 0

    def _open(self, model: nn.Module, spec: BackboneSpec) -> Views:
        for name in (spec.latents, spec.timestep):
            if name not in self._names:
                raise AdapterError(f"{type(model).__name__}.forward has no argument {name!r}")
        return Views(model, spec)

    @property
    def spec(self) -> BackboneSpec | None:
        """How the model is entered; None: not known yet."""
        return None if self._views is None else self._views.spec

    @property
    def _known(self) -> BackboneSpec:
        return self._entered.spec

    @property
    def _entered(self) -> Views:
        assert self._views is not None
        return self._views

    def reconfigure(self, config: Config) -> None:
        """Take another configuration; every history is dropped."""
        if config != self.config:
            self.config = config
            self._branches.clear()
            self._steps = Steps(config)
            self._compile()

    def _compile(self) -> None:
        """Compile the main blocks, as far as they are known and it is wanted, or undo that."""
        blocks = [] if self._views is None else list(self._views.blocks())
        self._compilation.apply(blocks, asked=self.config.compile)

    def compile_instead(self, module: nn.Module) -> None:
        """Compile the blocks where ``module``, the model or a wrapper of it, is compiled whole."""
        if self._compilation.set_aside(module):
            _logger.info("%s was compiled whole; its blocks are instead", self._title)
            self._compile()

    def stands_for(self, model: nn.Module) -> bool:
        """Whether this engine was built for ``model``."""
        return self._model() is model

    def retire(self) -> None:
        """Switch off for good and let go of all memory."""
        self.enabled = False
        self._compilation.release()
        self._branches.clear()
        self._journal = Journal()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's forward."""
        if torch.compiler.is_dynamo_compiling():
            torch._dynamo.graph_break(msg=_IN_PIECES)
        model = self._living
        run = current_run()
        reason = self._refusal(model, run)
        if reason is None and self._views is None:
            reason = self._ignorance(model, args, kwargs)
        if reason is not None:
            return self._untouched(reason, args, kwargs)
        arguments = dict(zip(self._names, args, strict=False)) | kwargs if args else kwargs
        pattern = self._known_pattern(run, args, arguments)
        known = self._known
        reason = _misfit(known, arguments) if pattern is None else None
        reason = reason or _unreadable(model, arguments[known.latents])
        if reason is not None:
            return self._untouched(reason, args, kwargs)
        if pattern is None:
            pattern = Pattern(args, arguments, known.latents, known.timestep, known.conditioning)
        given = Given(args, kwargs, arguments, pattern)
        if self._wrong and (reason := self._wrong.get(given.signature)) is not None:
            return self._untouched(reason, args, kwargs)
        try:
            if "_diffusers_hook" not in model.__dict__:
                return self._step(model, run, given)
            with tables_of(model):
                return self._step(model, run, given)
        except AdapterError as error:
            self._branches.drop(run)
            self._note_check(given.signature, str(error))
            return self._untouched(str(error), args, kwargs)
        except BaseException:
            self._branches.drop(run)
            raise

    def _known_pattern(
        self, run: Run, args: tuple[Any, ...], arguments: dict[str, Any]
    ) -> Pattern | None:
        """The pattern of a call that is like an earlier one of this run; None: it is new."""
        for branch in self._branches.of(run):
            if branch.pattern.fits(args, arguments):
                return branch.pattern
        return None

    def _step(self, model: nn.Module, run: Run, given: Given) -> Any:
        """One step of one branch.

        Raises:
            AdapterError: the model is not what the spec says.
        """
        branch = self._enter(run, given)
        if self._entered.stale(model):
            self._views = Views(model, self._known)
            self._compile()
            self._forget_checks()
        due = self._begin_step(branch)
        try:
            if due is Step.SKIP:
                return self._skip_step(run, branch, given)
        except OtherTokens:
            branch = self._begin_again(run, branch)
        except FullStepWanted:
            for state in branch.states.values():
                state.begin(state.step, state.position, full=True)
        hindsight = self._look_back(branch, given)
        output = self._full_step(run, branch, given)
        if branch.blend is not None:
            plain = None if hindsight is None else hindsight.plain
            branch.blend.learn(output, branch.states[0].position, plain)
        if hindsight is None or not hindsight.gain:
            return output
        self.corrected += 1
        return hindsight.correct(output)

    def _refusal(self, model: nn.Module, run: Run) -> str | None:
        """Why no call can be accelerated now; None: it can."""
        if not self.enabled or environment("TAP_EXT_DISABLE") not in (None, "", "0"):
            return "switched off"
        if (other := self._other_cache(model)) is not None:
            return f"{other} is enabled on the same model"
        if run.clock is not None and (reason := run.clock.refusal()) is not None:
            return reason
        if "_diffusers_hook" in model.__dict__ and (reason := prefetch_refusal(model)) is not None:
            return reason
        shared = getattr(model, "_parallel_config", None) if self.config.follows else None
        if getattr(shared, "context_parallel_config", None) is not None:
            # one rank that skips while another waits for it in attention: both hang
            return "its schedule looks at tokens, and ranks that share them would disagree"
        return None

    def _ignorance(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str | None:
        """Why it is not known how the model is entered; None: it has just been found out."""
        if self._unknown is not None:
            return self._unknown
        for _ in range(2):  # what raises once only says nothing of the model
            try:
                self._views = self._open(model, discover(model, args, kwargs))
                self._compile()
                self._unknown = None
                break
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # the model's own errors come again when it runs untouched
                self._unknown = str(error) or type(error).__name__
        return self._unknown

    def _untouched(self, reason: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._tell(reason)
        try:
            return self.original(*args, **kwargs)
        except BaseException:
            self._unknown = None  # a call that fails says nothing of the model
            raise

    def _tell(self, reason: str, *, warn: bool = True) -> None:
        """Count a call that was not accelerated; warn at the first of a kind."""
        new = reason not in self.fallbacks
        self.fallbacks[reason] += 1  # first: where warnings are errors, it still counts
        current_run().fallbacks[reason] += 1
        if warn and new and reason != "switched off":
            _logger.warning("running %s untouched: %s", self._title, reason)
            warnings.warn(f"tap_ext: running {self._title} untouched: {reason}", stacklevel=5)

    def _enter(self, run: Run, given: Given) -> Branch:
        """The branch of this call, a new one where none continues."""
        clock = run.clock
        moment = None if clock is None else clock.now()
        needed = moment is None or moment.step is None
        timestep = self._read_timestep(given.arguments[self._known.timestep], needed=needed)
        branch = self._branches.find(run, given.pattern.conditioning, moment, timestep)
        journal = branch.journal if branch is not None else None
        if branch is not None and branch.pattern.signature != given.pattern.signature:
            self._branches.retire(run, branch)
            branch = None
        if branch is None:
            stream = stream_of(tensors(given.arguments[self._known.latents])[0].device)
            branch = self._begin_branch(
                run, given.pattern, given.pattern.conditioning, journal, stream
            )
        branch.pattern = given.pattern
        branch.advance(moment, timestep)
        if run.exact:  # one without an end must not grow
            run.steps.add((moment, timestep))
        self._branches.use(run, branch)
        return branch

    def _begin_branch(
        self,
        run: Run,
        pattern: Pattern,
        conditioning: Any,
        journal: Journal | None,
        stream: int,
    ) -> Branch:
        others = self._branches.of(run)
        if journal is None and others:
            journal = others[0].journal
        if journal is None:
            journal = self._journal = Journal()
            self.runs += 1
        clock = run.clock
        steps = None if clock is None else clock.num_steps()
        angles = clock.angles() if clock is not None and self.config.wants_angles else None
        moment = None if clock is None else clock.now()
        done = 0 if moment is None else moment.done
        plan = self.config.plan(steps, angles, done)
        trend = None if self._known.rising is None else 1 if self._known.rising else -1
        name = str(sum("." not in known for known, _ in journal.logs))
        slot = self._branches.slot(pattern.signature, stream)
        branch = Branch(name, pattern, conditioning, slot, journal, trend=trend)
        prediction = clock.prediction() if clock is not None and self.config.corrector else None
        if angles is not None and prediction is not None:
            branch.sampling = Sampling(angles[done:], prediction)
        if run.exact:
            run.watchers.add(self)
        if self.config.blend and slot.blend is None:
            slot.blend = Blend(len(self._known.streams))
        self._add_stream(branch, 0, plan)
        return branch

    def _begin_again(self, run: Run, branch: Branch) -> Branch:
        """A new branch in place of one whose history does not fit any more; its step is full."""
        self._branches.retire(run, branch)
        again = self._begin_branch(
            run, branch.pattern, branch.conditioning, branch.journal, branch.slot.stream
        )
        again.advance(branch.moment, branch.timestep)
        self._branches.use(run, again)
        self._begin_step(again)
        return again

    def _add_stream(self, branch: Branch, stream: int, plan: Plan) -> State:
        """A history for one stream of a branch."""
        kept = branch.slot.states
        if stream not in kept:
            kept[stream] = State(None, self.config)
        state = branch.states[stream] = kept[stream]
        state.plan = plan if stream == 0 else _ASKED
        state.sampling = branch.sampling
        hidden = self._known.streams[stream].hidden
        name = f"{branch.name}.{hidden}" if stream else branch.name
        branch.journal.logs.append((name, state.log))
        state.on_predict = functools.partial(_note, branch, name) if self.config.trace else None
        return state

    def idle(self, run: Run) -> bool:
        """Whether a finished run had steps to skip and skipped none."""
        seen = len(run.steps)
        try:
            return not run.skips and len(self.config.plan(seen).full_steps(seen)) < seen
        except ValueError:  # a schedule made for a longer run, of which this was a part
            return False

    def tell_if_idle(self, run: Run) -> None:
        """Warn of a run of this model alone in which no step was skipped."""
        if self.idle(run):
            message = (
                f"{self._title} made {len(run.steps)} steps in a run() and skipped none; "
                "see tap_ext.explain(model)"
            )
            _logger.warning("%s", message)
            warnings.warn(f"tap_ext: {message}", stacklevel=5)

    def finish(self, run: Run) -> None:
        """A run is over: its histories go, their buffers stay for the next one."""
        self._branches.finish(run)

    def _read_timestep(self, timestep: Tensor | float, *, needed: bool) -> float | None:
        """The timestep's value where it is needed; elsewhere the device, if any, is left alone."""
        if not isinstance(timestep, Tensor):
            return float(timestep)
        if needed or self.config.position == "sigma":
            if timestep.numel() <= 1:
                return float(timestep) if timestep.numel() else None
            # Tokens that are given stand still at the time of clean data while others move, in
            # video perhaps one after the other; where they are the latest of all, look at others.
            return float(timestep.min() if self._known.rising else timestep.float().mean())
        return None

    def _begin_step(self, branch: Branch) -> Step:
        """Begin a step of every stream; the first one decides what it is."""
        position = branch.timestep if self.config.position == "sigma" else None
        first, *others = branch.states.values()
        due = first.begin(position=position)
        for state in others:
            state.begin(first.step, position, full=due is Step.FULL)
        return due

    def _is_settled(self, branch: Branch, given: Given) -> bool:
        """Whether a full step of this branch can find out nothing new."""
        checked = given.signature in self._right or not self.config.self_check
        return checked and bool(branch.takes)

    def _look_back(self, branch: Branch, given: Given) -> Hindsight | None:
        if not self.config.looks_back or not self._is_settled(branch, given):
            return None
        try:
            return self._steps.look_back(self._entered, branch, given)
        except OtherTokens:
            return None  # the full step finds out by itself

    def _full_step(self, run: Run, branch: Branch, given: Given) -> Any:
        if self._steps.asked(Step.FULL, branch) and self._is_settled(branch, given):
            try:
                output = self._steps.full(self._entered, branch, given)
            except OtherTokens:
                branch = self._begin_again(run, branch)
            else:
                run.full += 1
                self.full += 1
                return output
        return self._eager_full_step(run, branch, given)

    def _eager_full_step(self, run: Run, branch: Branch, given: Given) -> Any:
        call = Call.full(self._known, branch.takes, want_probe=self.config.probe == "modulated")
        output = run_view(self._entered.full, call, given.args, given.kwargs)
        if not call.passages[0].used:  # a call that only fills a cache of keys and values, say
            self._tell("the first block or the head was not called", warn=not self.full)
            return output
        known = given.signature in self._right
        if (not known and self.config.self_check) or not call.located:
            self._check(given, call, output)
        if given.signature not in self._wrong and call.located:
            self._record(branch, call)
        self.full += 1
        run.full += 1
        return output

    def _record(self, branch: Branch, call: Call) -> None:
        """Add a full step to the history of every stream."""
        first = branch.states[0]
        branch.takes, branch.idle = call.takes, call.idle
        for stream, passage in enumerate(call.passages):
            if not passage.used:
                continue
            assert passage.output is not None
            if stream not in branch.states:
                self._add_stream(branch, stream, first.plan).begin(first.step, first.position)
            hidden, probe = passage.taken(passage.hidden), passage.taken(passage.probe)
            branch.states[stream].record(hidden, passage.output, probe)

    def _skip_step(self, run: Run, branch: Branch, given: Given) -> Any:
        output = self._steps.skip(self._entered, branch, given)
        run.skips += 1
        self.skipped += 1
        return output

    def _check(self, given: Given, call: Call, output: Any) -> None:
        """Find out, once per signature, whether skip steps would be right."""
        if not all(torch.isfinite(tensor).all() for tensor in tensors(output)):
            return  # nothing can be compared; ask again at the next full step
        inside = any(given.arguments.get(name) is not None for name in self._known.between)
        between = inside or self._known.adds
        wrong = verify(self._entered, call, output, given.args, given.kwargs, between=between)
        self._note_check(given.signature, wrong and f"the self-check failed: {wrong}")

    def _note_check(self, signature: Any, wrong: str | None) -> None:
        if len(self._right) + len(self._wrong) >= MAX_VERDICTS:
            self._forget_checks()
        if wrong is None:
            self._right.add(signature)
        else:
            self._wrong[signature] = wrong

    def _forget_checks(self) -> None:
        self._right.clear()
        self._wrong.clear()

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
            spec=self.spec,
            runs=self.runs,
            full=self.full,
            skip=self.skipped,
            branches=branches,
            fallbacks=dict(self.fallbacks),
            nbytes=self._branches.nbytes,
            captured=self._steps.captured,
            replayed=self._steps.replayed,
            uncaptured=dict(self._steps.uncaptured),
            corrected=self.corrected if self.config.corrector else None,
            blended=self._steps.blended if self.config.blend else None,
            compiled_instead=self._compilation.instead,
            trace=tuple(self._journal.trace),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickled model carries its own plain forward."""
        return getattr, (self._living, "forward")

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copied model is a plain one."""
        model = self._living
        return types.MethodType(type(model).forward, memo.get(id(model), model))


def _note(
    branch: Branch, name: str, step: int, index: Tensor, table: Rows, distance: Tensor
) -> None:
    branch.journal.trace.append(report.Choice(name, step, index, table, distance))


def _misfit(spec: BackboneSpec, arguments: dict[str, Any]) -> str | None:
    """Why calls with arguments like these cannot be accelerated; None: they can."""
    latents = tensors(arguments.get(spec.latents))
    if not latents:
        return f"{spec.latents} is no tensor"
    if not isinstance(arguments.get(spec.timestep), (Tensor, float, int)):
        return f"{spec.timestep} is no tensor"
    if latents[0].dtype not in DTYPES:
        return f"{spec.latents} is {latents[0].dtype}; a history holds {DTYPES}"
    return None


def _unreadable(model: nn.Module, given: Any) -> str | None:
    """Why a call whose arguments fit cannot be accelerated with these latents; None: it can."""
    latents = given if isinstance(given, Tensor) else tensors(given)[0]
    if _holds_nothing(latents):
        return "values cannot be read in a call that is traced, exported, transformed or on meta"
    if torch.is_grad_enabled() and (
        latents.requires_grad or any(p.requires_grad for p in model.parameters())
    ):
        return "gradients are enabled; run under torch.no_grad() or torch.inference_mode()"
    return None


def _holds_nothing(latents: Tensor) -> bool:
    """Whether a call only shows what would be computed, so that there is nothing to choose by."""
    if torch.compiler.is_dynamo_compiling():
        return False
    return (
        latents.is_meta
        or (type(latents) is not Tensor and isinstance(latents, FakeTensor))
        or torch._C._is_tracing()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or get_proxy_mode() is not None
    )
