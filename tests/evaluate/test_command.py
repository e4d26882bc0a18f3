"""The command: what it refuses, other models, plots."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from tap_ext.cli import main
from tap_ext.evaluate import metrics
from tap_ext.evaluate.methods import METHODS, ways
from tap_ext.evaluate.models import open_model
from tap_ext.evaluate.plots import proxy, trajectory
from tap_ext.evaluate.run import Job, deal
from tests.demo_models import save_random_checkpoint
from tests.evaluate.conftest import STEPS, Run, lines


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", *arguments])
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    return shown.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods=default,magic"], "got 'magic'"),
        (["--methods=,"], "--methods"),
        (["--full-steps=0"], "--full-steps"),
        (["--full-steps=51"], "1 to 50, the steps of a run, got 51"),
        (["--full-steps=16", "--methods=paper"], "the nearest are 14 and 18"),
        (["--full-steps=8,16", "--methods=paper,steps"], "the nearest are 14 and 18"),
        (["--metrics=psnr,niqe"], "got 'niqe'"),
        (["--model=no/such/folder"], "no/such/folder"),
        (["--prompts=no/such/file"], "No such file"),
        (["--seeds=0"], "--seeds"),
        (["--size=64"], "size must not be given for bundled"),
        (["--json", "--csv"], "not allowed"),
        (["--table=third"], "table must be among main, few-step"),
        (["--table=loss", "--steps=8"], "--steps: not allowed with argument --table"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], said: str
) -> None:
    out = tmp_path / "out"
    assert said in refused(capsys, f"--out={out}", *arguments)
    assert not out.exists()


def test_prompts_a_model_does_not_know(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("sea\na submarine\n")
    assert "got 'a submarine'" in refused(capsys, f"--prompts={file}")


def test_what_is_impossible_can_be_left_out(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # With windows after three full steps, 10 steps give 3, 4, 5, 6, 10.
    arguments = ("--methods=paper,steps", "--full-steps=8", "--seeds=1")
    rows = run(tmp_path, *arguments, "--possible")
    assert [row["method"] for row in rows] == ["untouched", "steps"]
    assert "the nearest are" in refused(capsys, f"--steps={STEPS}", *arguments)


def test_every_prompt_with_every_seed(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("sea\ncat\n")
    rows = run(tmp_path, "--methods=steps", "--full-steps=4", "--seeds=3", f"--prompts={file}")
    assert rows[1]["samples"] == 6
    pairs = {(line["prompt"], line["seed"]) for line in lines(tmp_path)}
    assert pairs == {(prompt, seed) for prompt in ("sea", "cat") for seed in range(3)}


def test_a_checkpoint_in_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "tiny flux"
    save_random_checkpoint(folder)
    file = tmp_path / "prompts.txt"
    file.write_text("a b\nb\n")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["evaluate", f"--model={folder}"])
    assert "tiny flux needs a file of prompts" in capsys.readouterr().err
    arguments = [f"--model={folder}", f"--prompts={file}", "--size=32", "--dtype=float32"]
    arguments += ["--methods=even,steps,steps2", "--full-steps=4", "--seeds=2", "--steps=8"]
    arguments += [f"--out={tmp_path / 'out'}", "--metrics=psnr", "--json", "--pictures"]
    assert main(["evaluate", *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["method"] for row in rows] == ["untouched", "even", "steps", "steps2"]
    assert {row["model"] for row in rows} == {"tiny flux"}
    assert {row["samples"] for row in rows} == {4}
    assert len({row["psnr"] for row in rows}) == 4
    assert len(list((tmp_path / "out" / "pictures" / "tiny flux").rglob("*.png"))) == 16


def test_the_list_has_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--list"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n{name} " in shown for name in METHODS)
    assert "bundled" in shown


def test_plots_are_written_and_not_blank(run: Run, tmp_path: Path) -> None:
    plots = tmp_path / "plots"
    run(
        tmp_path,
        "--methods=steps,even,default",
        "--full-steps=4,6",
        "--seeds=2",
        f"--plots={plots}",
    )
    names = [f"bundled-{kind}.png" for kind in ("orders", "pareto", "proxy")]
    assert sorted(path.name for path in plots.iterdir()) == names
    for name in names:
        shown = imread(plots / name)
        assert shown.shape[0] > 300
        assert (shown[..., :3].min(-1) < 0.9).mean() > 0.01


@pytest.fixture(scope="module")
def seen() -> trajectory.Seen:
    model = open_model("bundled", torch.device("cpu"))
    found, _ = ways(["paper"], [4], STEPS)
    assert model.prompts is not None
    job = Job(model, STEPS, found, deal(model.prompts, range(3)), metrics.choose(["psnr"]))
    way = trajectory.chooser(job)
    assert way is not None
    return trajectory.watch(job, way)


def test_what_is_seen_is_the_untouched_run(seen: trajectory.Seen) -> None:
    model = open_model("bundled", torch.device("cpu"))
    wanted = model.generate(model.pipe, seen.prompts, range(3), STEPS)
    assert torch.equal(seen.untouched, wanted)
    assert len(seen.full_steps) == 4
    assert [skip.step for skip in seen.skips] == [
        step for step in range(STEPS) if step not in seen.full_steps
    ]
    assert [choice.step for choice in seen.trace] == [skip.step for skip in seen.skips]
    assert len(seen.probe_change) == len(seen.output_change) == STEPS - 1
    assert seen.skips[0].proxy.shape == (3, seen.trace[0].index.shape[1])


def test_the_best_candidate_is_the_best(seen: trajectory.Seen) -> None:
    for skip in seen.skips:
        assert (skip.best <= skip.chosen).all()
        assert (skip.best <= skip.nominal).all()
        assert (skip.proxy <= skip.nominal_proxy).all()
    assert (proxy.regret(seen) >= 0).all()
    assert proxy.regret(seen).max() > 0


def test_correlations_are_numpy_s(seen: trajectory.Seen) -> None:
    per_step, overall = proxy.correlation(seen)
    changes = [np.stack(list_) for list_ in (seen.probe_change, seen.output_change)]
    for step, value in enumerate(per_step):
        wanted = np.corrcoef(changes[0][step].ravel(), changes[1][step].ravel())[0, 1]
        assert value == pytest.approx(wanted, abs=1e-6)
    wanted = np.corrcoef(changes[0].ravel(), changes[1].ravel())[0, 1]
    assert overall == pytest.approx(wanted, abs=1e-6)


def test_the_choices_on_the_first_skip_step_are_the_method_s(seen: trajectory.Seen) -> None:
    """Up to there both runs are the same, so the observer must choose as the engine did."""
    first, choice = seen.skips[0], seen.trace[0]
    assert first.step == choice.step
    proxies = first.proxy
    assert torch.isfinite(proxies).all()
    # A token that took the nominal row has its distance.
    nominal = choice.index == 0
    torch.testing.assert_close(proxies[nominal], first.nominal_proxy[nominal], rtol=0, atol=1e-9)
    assert (proxies[~nominal] <= first.nominal_proxy[~nominal]).all()
