"""Makes ``torch.ops.tap_ext`` exist: from the compiled library, or from ``tap_ext.reference``.

The library brings schemas and kernels; without it the same schemas are defined here. Either way
the reference is registered below every device, so that a device the library has no kernels for
still gets the right result, and fakes are registered for ``torch.compile`` and meta tensors.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tap_ext import _checks as checks
from tap_ext import reference

LIBRARY = Path(__file__).with_name("libtap_ext_ops.so")


@dataclass(frozen=True)
class LibraryStatus:
    """Which implementation of the ops this process runs.

    Attributes:
        compiled: the compiled library is loaded; else every op is plain torch.
        path: where the library is looked for.
        cuda: the library has CUDA kernels; else CUDA tensors go to plain torch.
        reason: why it is not loaded; empty when it is.
    """

    compiled: bool
    path: Path
    cuda: bool
    reason: str


@dataclass(frozen=True)
class _Op:
    """One op; all its functions take the arguments of the schema."""

    schema: str
    check: Callable[..., None]
    outputs: Callable[..., Any]
    """Uninitialised outputs, from shapes alone."""
    reference: Callable[..., Any]

    @property
    def name(self) -> str:
        """Name and overload, without the namespace."""
        return self.schema.partition("(")[0]


def _no_outputs(*_: object, **__: object) -> None:
    return None


def _candidates(stack: Tensor, rows: Tensor) -> Tensor:
    return stack.new_empty((rows.shape[0], *stack.shape[1:]))


def _prediction(stack: Tensor, *_: object) -> Tensor:
    return stack.new_empty(stack.shape[1:])


def _choice(stack: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    tokens = stack.shape[1:3]
    return (
        stack.new_empty(tokens, dtype=torch.int32),
        stack.new_empty(tokens, dtype=torch.float32),
    )


OPS = (
    _Op(
        "stack_update_(Tensor(a!) stack, Tensor feature, Tensor gaps, Tensor? minus=None) -> ()",
        checks.stack_update_,
        _no_outputs,
        reference.stack_update_,
    ),
    _Op(
        "predict(Tensor stack, Tensor rows) -> Tensor",
        checks.predict,
        _candidates,
        reference.predict,
    ),
    _Op(
        'cosine_argmin(Tensor candidates, Tensor target, str metric="cosine")'
        " -> (Tensor index, Tensor distance)",
        checks.cosine_argmin,
        _choice,
        reference.cosine_argmin,
    ),
    _Op(
        "gather_rows(Tensor stack, Tensor rows, Tensor index, Tensor? base) -> Tensor",
        checks.gather_rows,
        _prediction,
        reference.gather_rows,
    ),
    _Op(
        'select(Tensor stack, Tensor target, Tensor rows, str metric="cosine")'
        " -> (Tensor index, Tensor distance)",
        checks.select,
        _choice,
        reference.select,
    ),
    _Op(
        'select.out(Tensor stack, Tensor target, Tensor rows, str metric="cosine",'
        " *, Tensor(a!) index, Tensor(b!) distance) -> ()",
        checks.select_out,
        _no_outputs,
        reference.select_out,
    ),
    _Op(
        "skip_step_(Tensor(a!) out, Tensor(b!) index, Tensor probe_stack, Tensor probe,"
        " Tensor residual_stack, Tensor? hidden, Tensor rows,"
        ' str metric="cosine") -> ()',
        checks.skip_step_,
        _no_outputs,
        reference.skip_step_,
    ),
    _Op(
        "modulated_skip_step_(Tensor(a!) out, Tensor(b!) index, Tensor probe_stack, Tensor hidden,"
        " Tensor shift, Tensor scale, Tensor residual_stack, Tensor rows, float eps=1e-6,"
        ' str metric="cosine", bool add=True) -> ()',
        checks.modulated_skip_step_,
        _no_outputs,
        reference.modulated_skip_step_,
    ),
)


def _fake(op: _Op) -> Callable[..., Any]:
    def fake(*args: Any, **kwargs: Any) -> Any:
        op.check(*args, **kwargs)
        return op.outputs(*args, **kwargs)

    return fake


def _fallback(op: _Op, compiled: bool) -> Callable[..., Any]:
    def fallback(*args: Any, **kwargs: Any) -> Any:
        if compiled:
            _warn_no_kernels(args[0].device.type)
        op.check(*args, **kwargs)  # stricter than the reference: float64 is no storage dtype
        # As in a compiled kernel, nothing in here is recorded for autograd.
        with torch._C._AutoDispatchBelowADInplaceOrView():
            return op.reference(*args, **kwargs)

    return fallback


@cache
def _warn_no_kernels(device: str) -> None:
    warnings.warn(
        f"tap_ext: the compiled library has no {device} kernels; {device} tensors go to the "
        "plain-torch reference, which is right but many times slower",
        stacklevel=2,
    )


def _load(path: Path) -> LibraryStatus:
    reason = ""
    if path.exists():
        try:
            torch.ops.load_library(path)  # type: ignore[no-untyped-call]
        except OSError as error:
            reason = f"{path.name} does not load ({error.__cause__ or error})"
    else:
        reason = f"{path.name} was not built"
    if reason:
        return LibraryStatus(compiled=False, path=path, cuda=False, reason=reason)
    cuda = torch._C._dispatch_has_kernel_for_dispatch_key("tap_ext::skip_step_", "CUDA")
    return LibraryStatus(compiled=True, path=path, cuda=cuda, reason="")


def _register(compiled: bool) -> Any:
    library: Any = torch.library.Library("tap_ext", "FRAGMENT")  # type: ignore[no-untyped-call]
    for op in OPS:
        if not compiled:
            library.define(op.schema)
        library.impl(op.name, _fallback(op, compiled), "CompositeExplicitAutograd")
        torch.library.register_fake(f"tap_ext::{op.name}", _fake(op), lib=library)
    return library


STATUS = _load(LIBRARY)
_REGISTERED = _register(STATUS.compiled)  # registrations last as long as this object
if not STATUS.compiled:
    warnings.warn(
        f"tap_ext: {STATUS.reason}; its ops run in plain torch, which is right but many times "
        "slower. Build the library with: pip install --no-build-isolation -e .",
        stacklevel=2,
    )
