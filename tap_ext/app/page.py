"""The page, in gradio."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import gradio as gr

from tap_ext.app.compare import GAIN, Comparer, Frame, Outcome
from tap_ext.config import PRESETS
from tap_ext.plots.style import ORDERS, order_colours

__all__ = ["build", "refresh", "serve", "show"]

PRESET = "balanced"


def build(comparer: Comparer, steps: int = 50) -> Any:
    """The page of a model, as gradio's Blocks; nothing of it is fetched from elsewhere."""
    model, steps = comparer.model, max(2, steps)
    with gr.Blocks(title="tap_ext", analytics_enabled=False) as page:
        gr.Markdown(f"## tap_ext: {model.name}, untouched and accelerated")
        with gr.Row():
            prompt: Any
            if model.prompts is None:
                prompt = gr.Textbox(label="prompt", scale=3)
            else:
                first = "city" if "city" in model.prompts else model.prompts[0]
                prompt = gr.Dropdown(list(model.prompts), value=first, label="class", scale=2)
            seed = gr.Number(0, label="seed", precision=0, minimum=0, maximum=2**31 - 1)
            preset = gr.Dropdown(list(PRESETS), value=PRESET, label="preset")
            total = gr.Number(steps, label="steps", precision=0, minimum=2, maximum=1000)
            budget = gr.Number(0, label="full steps, 0: preset's", precision=0, minimum=0)
            run = gr.Button("generate", variant="primary", elem_id="generate")
        outcome = gr.State()
        with gr.Row():
            before = _picture("untouched")
            after = _picture("accelerated")
            apart = _picture(f"difference x {GAIN}")
            over = _picture("order of each token")
        with gr.Row():
            lines = [gr.Markdown(elem_id=name) for name in ("before", "after", "apart", "over")]
        step = gr.Slider(0, steps - 1, steps // 2, step=1, label="step", elem_id="step")
        gr.HTML(_legend())
        shown = [before, after, apart, *lines[:3], outcome]

        def start(*given: Any) -> Iterator[list[Any]]:
            try:
                yield from show(comparer, *given)
            except Exception as error:  # whatever a pipeline raises is told where it was asked for
                raise gr.Error(str(error) or type(error).__name__) from error

        given = [prompt, seed, total, preset, budget]
        made = run.click(start, given, shown, api_name="compare")
        made.then(refresh, [outcome, step], [over, lines[3], step], api_name=False)
        step.change(
            lambda *given: refresh(*given)[:2], [outcome, step], [over, lines[3]], api_name="order"
        )
    return page


def serve(page: Any, host: str = "127.0.0.1", port: int | None = None) -> str:
    """Serves it in threads of its own, until it is closed; returns the address.

    Raises:
        OSError: the port is taken, or this machine has no such address.
    """
    socket.create_server((host, port or 0)).close()  # gradio tells of both in several lines
    plain = gr.themes.Default(font="sans-serif", font_mono="monospace")  # no font is fetched
    page.launch(
        server_name=host, server_port=port, theme=plain, prevent_thread_lock=True, quiet=True
    )
    return f"http://{host}:{page.server_port}"


def show(
    comparer: Comparer, prompt: str, seed: float, steps: float, preset: str, budget: float
) -> Iterator[list[Any]]:
    """What stands in the page's places, over and over: three pictures, three lines, the outcome."""
    if seed is None or seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    if not 2 <= (steps or 0) <= 1000:
        raise ValueError(f"steps must be 2 to 1000, got {steps}")
    full_steps = int(budget or 0) or None
    before = None
    for frame in comparer.compare(prompt or "", int(seed), int(steps), preset, full_steps):
        same, before = frame.untouched is before, frame.untouched
        yield [
            gr.skip() if same else frame.untouched.picture,
            frame.accelerated.picture,
            frame.difference,
            f"**{frame.untouched}**",
            f"**{frame.accelerated}**{_faster(frame)}",
            "" if frame.psnr is None else f"**{frame.psnr:.1f} dB**",
            frame.outcome,
        ]


def refresh(outcome: Outcome | None, step: float) -> tuple[Any, str, Any]:
    """The overlay of a step, a line about it, and the slider with as many steps as were made."""
    if outcome is None:
        return None, "", gr.update()
    last = max([*outcome.full_steps, *outcome.choices])
    at = min(int(step), last)
    picture, line = outcome.overlay(at)
    return picture, f"**{line}**", gr.update(maximum=last, value=at)


def _picture(label: str) -> Any:
    return gr.Image(label=label, interactive=False, height=330, format="png", buttons=[])


def _faster(frame: Frame) -> str:
    if not frame.accelerated.done:
        return ""
    return f", {frame.untouched.seconds / frame.accelerated.seconds:.2f}x as fast"


def _legend(count: int = 3) -> str:
    """Which colour stands for which order, for the family of the paper."""
    boxes = [
        f'<span style="background: rgb({", ".join(str(round(255 * part)) for part in colour)}); '
        f'padding: 0 0.7em; margin: 0 0.4em 0 1em"></span>{name}'
        for colour, name in zip(order_colours(count), ORDERS, strict=False)
    ]
    return f"<p>order taken: {''.join(boxes)}</p>"
