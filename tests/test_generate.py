"""``tap_ext generate`` and ``tap_ext plot``: what they write, and what they refuse."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")

import tap_ext
from tap_ext.cli import main
from tap_ext.cli.arguments import seeds
from tap_ext.demo import bundled
from tap_ext.evaluate import models
from tap_ext.plan import Even
from tests.demo_models import save_random_bundle, save_random_checkpoint

STEPS = "--steps=8"


@pytest.fixture(autouse=True)
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_random_bundle(tmp_path / "model")
    monkeypatch.setattr(bundled, "MODEL", tmp_path / "model")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command line is refused."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def pixels(path: Path) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(path))


def untouched(label: str, seed: int) -> np.ndarray[Any, Any]:
    picture = bundled.generate(bundled.load_pipeline(), [label], 8, seed)[0]
    return (picture.permute(1, 2, 0) * 255).round().byte().numpy()


def test_every_prompt_with_every_seed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("generate", "--prompt=sea", "--prompt=cat", "--seeds=0,7", STEPS, f"--out={out}")
    assert main([*arguments, "--full-steps=4"]) == 0
    names = ["1-sea-seed0", "2-sea-seed7", "3-cat-seed0", "4-cat-seed7"]
    wanted = sorted(f"{name}.{suffix}" for name in names for suffix in ("json", "png"))
    assert sorted(path.name for path in out.iterdir()) == wanted
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == [str(out / f"{name}.png") for name in names]
    assert all("4 full and 4 skip steps" in line for line in told)
    pictures = [pixels(out / f"{name}.png") for name in names]
    assert len({picture.tobytes() for picture in pictures}) == 4


def test_a_calibration_places_the_full_steps(out: Path, tmp_path: Path) -> None:
    speeds = np.cumsum([1.0, 9, 1, 1, 1, 1, 7, 1])
    found = tap_ext.Calibration(np.outer(speeds, speeds))
    found.save(tmp_path / "found.json")
    placed = [f"--calibration={tmp_path / 'found.json'}", "--full-steps=4"]
    assert main(["generate", "--prompt=sea", STEPS, f"--out={out}", *placed]) == 0
    pipe = tap_ext.accelerate(bundled.load_pipeline(), schedule=found.schedule(4))
    again = bundled.generate(pipe, ["sea"], 8, 0)[0]
    (made,) = out.glob("*.png")
    assert np.array_equal(pixels(made), (again.permute(1, 2, 0) * 255).round().byte().numpy())
    assert found.schedule(4).steps != Even(4).full_steps(8)


def test_a_calibration_of_other_runs_or_no_file_of_one(
    out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "found.json"
    file.write_text("{}")
    command = ("generate", "--prompt=sea", f"--calibration={file}", "--full-steps=4")
    assert "must be a file that Calibration.save wrote" in refused(capsys, *command)
    tap_ext.Calibration(np.eye(9)).save(file)
    assert main([*command, STEPS, f"--out={out}"]) == 1
    assert "calibrated for runs of 8 steps, got one for 9" in capsys.readouterr().err


def test_settings_lie_beside_and_within_each_picture(out: Path) -> None:
    target = out / "one.png"
    main(["generate", "--prompt=sea", "--seeds=3", STEPS, "--window=4", f"--out={target}"])
    settings = json.loads(target.with_suffix(".json").read_text())
    assert json.loads(Image.open(target).text["tap_ext"]) == settings
    assert (settings["prompt"], settings["seed"], settings["steps"]) == ("sea", 3, 8)
    assert settings["config"]["window"] == 4
    assert settings["config"]["preset"] == "balanced"
    assert settings["versions"]["torch"] == torch.__version__
    assert settings["full"] + settings["skipped"] == 8
    fields = {k: v for k, v in settings["config"].items() if k in ("preset", "window")}
    pipe = tap_ext.accelerate(bundled.load_pipeline(), **fields)
    again = bundled.generate(pipe, ["sea"], settings["steps"], settings["seed"])[0]
    assert np.array_equal(pixels(target), (again.permute(1, 2, 0) * 255).round().byte().numpy())


def test_untouched_is_the_pipeline_s_own(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = out / "one.png"
    arguments = ("generate", "--prompt=sea", "--seeds=5", STEPS, "--untouched", f"--out={target}")
    assert main([*arguments, "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["pictures"]
    assert told["config"] is None
    assert np.array_equal(pixels(target), untouched("sea", 5))


def test_a_checkpoint_of_one_s_own(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_random_checkpoint(tmp_path / "flux")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a b\n\nb\n")
    model = ("generate", f"--model={tmp_path / 'flux'}", f"--prompts={prompts}", f"--out={out}")
    size = ("--height=32", "--width=48", "--set=guidance_scale=2.0", "--dtype=float32")
    assert main([*model, *size, STEPS]) == 0
    assert sorted(path.name for path in out.glob("*.png")) == ["1-a-b-seed0.png", "2-b-seed0.png"]
    assert pixels(out / "2-b-seed0.png").shape == (32, 48, 3)
    settings = json.loads((out / "2-b-seed0.json").read_text())
    assert settings["extra"] == {"guidance_scale": "2.0", "height": "32", "width": "48"}
    # what a pipeline refuses comes as one line, and leaves nothing
    bad = [*model[:-1], f"--out={tmp_path / 'bad'}", STEPS, "--dtype=float32"]
    assert main([*bad, "--set=max_sequence_length=100000"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "max_sequence_length" in last
    assert last.endswith("nothing was written")
    assert not (tmp_path / "bad").exists()
    assert "model must take colour" in refused(capsys, *bad, "--set=colour=1")


class Film:
    """A pipeline that says that it makes videos, and brings its own transformer."""

    def __call__(self, prompt: str, num_inference_steps: int = 3, num_frames: int = 5) -> None:
        raise AssertionError


def film(pipe: Any, prompts: Any, seeds: Any, steps: int) -> torch.Tensor:
    """(1, 5, 3, 24, 32): red on the left, and brighter from frame to frame."""
    made = torch.zeros(1, 5, 3, 24, 32)
    made[0, :, 0, :, :16] = torch.linspace(0.2, 1, 5)[:, None, None]
    return made


def test_a_video_is_an_mp4(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr(models, "open_model", lambda *_, **__: models.Model("film", Film(), film))
    arguments = ("generate", "--prompt=a", "--untouched", "--fps=8")
    assert "end in .mp4" in refused(capsys, *arguments, f"--out={out / 'film.png'}")
    assert main([*arguments, f"--out={out / 'film.mp4'}"]) == 0
    assert {path.name for path in out.iterdir()} == {"film.mp4", "film.json"}
    about, *frames = reader.read_frames(str(out / "film.mp4"))
    assert (about["size"], about["fps"], len(frames)) == ((32, 24), 8, 5)
    shown = np.frombuffer(b"".join(frames), np.uint8).reshape(5, 24, 32, 3).astype(float)
    left, right = shown[:, :, :14, 0].mean((1, 2)), shown[:, :, 18:, 0].mean((1, 2))
    assert (np.diff(left) > 20).all()
    assert (right < 30).all()


def test_a_video_without_its_writer_is_refused_before_it_is_made(
    out: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: Any) -> torch.Tensor:
        raise AssertionError("it was made")

    monkeypatch.setattr(models, "open_model", lambda *_, **__: models.Model("film", Film(), never))
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert main(["generate", "--prompt=a", "--untouched", f"--out={out}"]) == 1
    error = capsys.readouterr().err
    assert "needs imageio_ffmpeg" in error
    assert "pip install" in error
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give --prompt or --prompts"),
        (["--prompt="], "argument --prompt: must not be empty"),
        (["--prompt=sea", "--prompts=x"], "not allowed"),
        (["--prompts=no/such/file"], "argument --prompts: No such file"),
        (["--prompt=a submarine"], "got 'a submarine'"),
        (["--prompt=sea", "--model=no/such/folder"], "argument --model: model must be"),
        (["--prompt=sea", "--seeds=3-1"], "--seeds"),
        (["--prompt=sea", "--seeds=x"], "--seeds"),
        (["--prompt=sea", "--seeds=-1"], "--seeds"),
        (["--prompt=sea", "--height=64"], "height must not be given for bundled"),
        (["--prompt=sea", "--set=size"], "NAME=VALUE"),
        (["--prompt=sea", "--set=generator=1"], "argument of its own"),
        (["--prompt=sea", "--preset=best"], "--preset"),
        (["--prompt=sea", "--full-steps=4", "--window=4"], "full_steps must not be given beside"),
        (["--prompt=sea", "--untouched", "--preset=fast"], "--untouched"),
        (["--prompt=sea", "--untouched", "--calibration=x"], "--untouched"),
        (["--prompt=sea", "--calibration=x"], "argument --calibration: needs --full-steps"),
        (
            ["--prompt=sea", "--full-steps=4", "--calibration=no/such"],
            "--calibration: No such file",
        ),
        (["--prompt=sea", "--out=x.mp4"], "must be a folder or end in .png"),
        (["--prompt=sea", "--out="], "argument --out: must be a path, got ''"),
        (["--prompt=sea", "--out=a\0b"], "argument --out: must be a path"),
        (["--prompts="], "argument --prompts: must be a path"),
        (["--prompt=sea", "--seeds=0,1", "--out=x.png"], "must be a folder for 2 results"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert said in refused(capsys, "generate", *arguments)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "holds no prompt"), (b" \n\n", "holds no prompt"), (b"sea\n\xff\xfe", "must be UTF-8")],
)
def test_prompt_files_that_cannot_be_read(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes(content)
    assert said in refused(capsys, "generate", f"--prompts={file}")


def test_a_pipeline_class_that_is_unknown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "ZebraPipeline"}')
    message = refused(capsys, "generate", "--prompt=a", f"--model={tmp_path}")
    assert "argument --model: model must be of a pipeline class that diffusers" in message
    assert "got ZebraPipeline" in message


def test_weights_that_are_torn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    save_random_checkpoint(tmp_path / "flux")
    weights = next((tmp_path / "flux" / "transformer").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["generate", "--prompt=a", f"--model={tmp_path / 'flux'}"])
    last = capsys.readouterr().err.splitlines()[-1]
    assert "argument --model: model cannot be loaded from" in last


@pytest.mark.parametrize("there", ["one.png", "one.json"])
def test_what_exists_stays_unless_told_otherwise(
    out: Path, capsys: pytest.CaptureFixture[str], there: str
) -> None:
    out.mkdir()
    (out / there).write_text("mine")
    arguments = ("generate", "--prompt=sea", STEPS, f"--out={out / 'one.png'}")
    assert f"{there} exists; --overwrite replaces it" in refused(capsys, *arguments)
    assert [path.read_text() for path in out.iterdir()] == ["mine"]
    assert main([*arguments, "--overwrite"]) == 0
    assert pixels(out / "one.png").shape == (48, 48, 3)
    assert "prompt" in json.loads((out / "one.json").read_text())


@pytest.mark.parametrize("call", ["mkdir", "tempfile"])
def test_a_folder_that_cannot_be_written(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(out if call == "mkdir" else out / "tmp"))

    where = (Path, "mkdir") if call == "mkdir" else ("tempfile.TemporaryFile",)
    monkeypatch.setattr(*where, refuse)
    message = refused(capsys, "generate", "--prompt=sea", STEPS, f"--out={out}")
    assert f"argument --out: Permission denied: {out}" in message
    assert not out.exists()


def test_a_disk_that_fills_leaves_what_is_whole(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Image.Image.save
    calls: list[Path] = []

    def fill(self: Image.Image, path: Path, **how: Any) -> None:
        calls.append(path)
        save(self, path, **how)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fill)
    assert main(["generate", "--prompt=sea", "--seeds=0-2", STEPS, f"--out={out}"]) == 1
    error = capsys.readouterr().err
    assert error == "tap_ext generate: No space left on device; 1 of 3 are written\n"
    assert sorted(path.name for path in out.iterdir()) == ["1-sea-seed0.json", "1-sea-seed0.png"]


def test_interrupted_it_keeps_what_is_whole(out: Path, tmp_path: Path) -> None:
    """A real signal in a real process, in the midst of a picture."""
    script = (
        "import sys, pathlib\n"
        "from tap_ext.demo import bundled\n"
        f"bundled.MODEL = pathlib.Path({str(tmp_path / 'model')!r})\n"
        "from tap_ext.cli import main\n"
        "arguments = ['generate', '--prompt=sea', '--seeds=0-99', '--steps=40']\n"
        f"sys.exit(main([*arguments, {f'--out={out}'!r}]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        # in the background of a script it is ignored, and children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    told = process.stdout.readline()  # the first picture is there
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    last = errors.decode().splitlines()[-1]
    assert process.returncode == 130
    assert b"001-sea-seed0.png" in told
    assert last.startswith("tap_ext generate: interrupted; ")
    assert "Traceback" not in errors.decode()
    kept = sorted(path.name for path in out.iterdir())
    assert f"{len(kept) // 2} of 100 are written" in last
    assert kept[:2] == ["001-sea-seed0.json", "001-sea-seed0.png"]
    assert all(path.suffix in (".json", ".png") for path in out.iterdir())
    assert all(pixels(path).shape == (48, 48, 3) for path in out.glob("*.png"))


def test_interrupted_before_the_first_it_leaves_nothing(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundled, "generate", interrupt)
    assert main(["generate", "--prompt=sea", f"--out={out / 'deep' / 'down'}"]) == 130
    error = capsys.readouterr().err
    assert error == "tap_ext generate: interrupted; nothing was written\n"
    assert not out.exists()


def test_what_nobody_foresaw_is_one_line_too(
    out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise KeyError("surprise\nand more")

    monkeypatch.setattr(bundled, "generate", fail)
    arguments = ("generate", "--prompt=sea", f"--out={out}")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "KeyError" in error
    assert "TAP_EXT_TRACEBACK=1" in error
    monkeypatch.setenv("TAP_EXT_TRACEBACK", "1")
    with pytest.raises(KeyError):
        main(arguments)
    assert not out.exists()


def test_seeds_are_numbers_and_ranges() -> None:
    assert seeds("3") == [3]
    assert seeds("0,7-9,8,2") == [0, 7, 8, 9, 2]


class TestPlot:
    """``tap_ext plot``."""

    def test_it_draws_and_tells_what_it_drew(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "plot.png"
        arguments = ("plot", "--prompt=sea", STEPS, "--full-steps=3", f"--out={target}")
        assert main([*arguments, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)["steps"]
        shown = pixels(target)
        assert shown.shape[0] > 500
        assert (shown[..., :3].min(-1) < 230).mean() > 0.05
        assert len(told) == 5
        assert all(abs(sum(step["share"].values()) - 1) < 1e-6 for step in told)
        assert all(0 <= s["distance"]["median"] <= s["distance"]["largest"] for s in told)
        assert "exists; --overwrite" in refused(capsys, *arguments)
        assert main([*arguments, "--overwrite"]) == 0
        assert capsys.readouterr().out == f"{target}\n"

    def test_an_empty_prompt_is_none(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "plot.png"
        message = refused(capsys, "plot", "--prompt=", f"--out={target}")
        assert "argument --prompt: must be given for bundled" in message
        assert not target.exists()

    def test_a_size_is_chosen_as_everywhere(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save_random_checkpoint(tmp_path / "flux")
        model = ("plot", "--prompt=a", f"--model={tmp_path / 'flux'}", "--dtype=float32", STEPS)
        size = ("--height=16", "--width=32")
        assert main([*model, *size, f"--out={tmp_path / 'plot.png'}"]) == 0
        assert pixels(tmp_path / "plot.png").size

    def test_what_has_no_skip_step_cannot_be_drawn(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target = tmp_path / "plot.png"
        assert main(["plot", "--steps=2", "--full-steps=2", f"--out={target}"]) == 1
        assert "must have skipped a step" in capsys.readouterr().err
        assert not target.exists()
