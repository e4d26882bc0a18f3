"""What a run chose, drawn; matplotlib is imported when something is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tap_ext.accelerate import stats
from tap_ext.integrations.diffusers import engines_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot"]


def plot(
    target: Any,
    *,
    picture: Any = None,
    height: int | None = None,
    width: int | None = None,
    frames: int = 1,
    model: int = 0,
    branch: str | None = None,
    row: int = -1,
) -> Figure:
    """Draw the last run: each token's order over the picture, choices and distances over the steps.

    Args:
        target: an accelerated pipeline or transformer that ran with ``trace=True``.
        picture: what it made, to draw upon: a PIL image, an array (H, W, 3) or (H, W) of bytes or
            of [0, 1], or a tensor (3, H, W) in [0, 1].
        height: of the picture, in any unit; with ``width`` it says how the tokens lie. Default:
            the picture's, else that of a square. Tokens in no such grid are not mapped.
        width: see ``height``.
        frames: latent frames of a video, each with as many tokens; the middle one is mapped.
        model: which of the accelerated transformers.
        branch: which of its branches, by name; default: the first that skipped.
        row: which row of the batch is mapped; with guidance in one batch the last is conditional.

    Returns:
        A figure, which belongs to no window: ``figure.savefig("choices.png")``.

    Raises:
        TypeError: ``target`` is neither a pipeline nor a module.
        ValueError: it is not accelerated, nothing was traced, or an argument does not fit what was.
        ImportError: matplotlib is not installed.
    """
    known = stats(target)
    if not 0 <= model < len(known.models):
        raise ValueError(f"model must be 0 to {len(known.models) - 1}, got {model}")
    config = engines_of(target)[model].config
    trace = known.models[model].trace
    if not trace:
        reason = "run the pipeline first, past its warm-up" if config.trace else "got trace=False"
        raise ValueError(f"target must have skipped a step under accelerate(trace=True): {reason}")
    names = list(dict.fromkeys(choice.branch for choice in trace))
    if branch is not None and branch not in names:
        raise ValueError(f"branch must be one of {', '.join(names)}, got {branch!r}")
    chosen = names[0] if branch is None else branch
    choices = [choice for choice in trace if choice.branch == chosen]
    batch, tokens = choices[0].index.shape
    if not -batch <= row < batch:
        raise ValueError(f"row must be {-batch} to {batch - 1}, got {row}")
    if frames < 1 or tokens % frames:
        raise ValueError(f"frames must divide the {tokens} tokens, got {frames}")
    if (height is None) != (width is None):
        raise ValueError(f"height and width must be given together, got {height} and {width}")
    try:
        from tap_ext.plots import drawing
    except ImportError as error:
        raise ImportError(
            f"tap_ext.plot needs {error.name}, which pip install matplotlib pillow installs",
            name=error.name,
        ) from error
    full = next(log.full_steps for log in known.models[model].branches if log.name == chosen)
    return drawing.draw(
        choices,
        full,
        [str(predictor) for predictor in config.family()],
        drawing.Layout(picture, height, width, frames, row),
        f"{known.models[model].model}, branch {chosen}: {len(full)} of "
        f"{len(full) + len(choices)} steps full",
    )
