"""The command line: what it prints, writes and refuses."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tap_ext
from tap_ext.backbones import SPECS
from tap_ext.cli import bench, doctor, main
from tap_ext.ops import LibraryStatus, library_status


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line with which a command line is refused."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("tap_ext")
    return printed.err


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--windows", "0"),
        ("--windows", "4,,6"),
        ("--windows", "4,x"),
        ("--windows", "-2"),
        ("--steps", "0"),
        ("--steps", "2.5"),
        ("--pictures", "0"),
        ("--seed", "-1"),
        ("--device", "tpu"),
        ("--device", "meta"),
        ("--device", f"cuda:{torch.cuda.device_count()}"),
        ("--dtype", "int8"),
        ("--out", "no/such/folder/demo.png"),
        ("--out", "."),
        ("--prompt", "a cat"),
        ("--size", "512"),
        ("--model", "no/such/folder"),
        ("--nonsense", "1"),
    ],
)
def test_a_wrong_argument_is_named(
    capsys: pytest.CaptureFixture[str], argument: str, value: str
) -> None:
    assert argument in refusal(capsys, "demo", f"{argument}={value}")


def test_it_tells_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"tap_ext {tap_ext.__version__}\n"


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "'sing'" in refusal(capsys, "sing")
    assert "COMMAND" in refusal(capsys)


def test_a_folder_that_cannot_be_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    message = refusal(capsys, "demo", "--out", str(tmp_path / "demo.png"))
    assert f"argument --out: cannot write in {tmp_path}: Permission denied" in message


def test_a_missing_extra_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [name for name in sys.modules if name.startswith("tap_ext.demo.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("tap_ext.demo.picture", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", "--out", str(tmp_path / "demo.png")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "needs matplotlib" in error
    assert "pip install" in error
    assert list(tmp_path.iterdir()) == []


class TestDoctor:
    """``tap_ext doctor``."""

    def test_it_tells_what_is_here(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["doctor", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        here = told["matrix"]["here"]
        assert here["python"] == sys.version.split()[0]
        assert here["torch"] == torch.__version__
        assert told["library"]["loaded"] == library_status().compiled
        assert told["classes"] == len(SPECS)
        assert len(told["gpus"]) == torch.cuda.device_count()
        assert main(["doctor"]) == 0
        shown = capsys.readouterr().out
        (row,) = [line for line in shown.splitlines() if line.startswith("here")]
        assert row.split()[1:3] == [here["python"], here["torch"]]
        assert str(library_status().path) in shown

    def test_the_matrix_is_that_of_the_package(self) -> None:
        project = (Path(tap_ext.__file__).parents[1] / "pyproject.toml").read_text()
        assert f'requires-python = ">={doctor.OLDEST["python"]}"' in project
        assert f'"torch>={doctor.OLDEST["torch"]}"' in project
        assert f'"diffusers>={doctor.OLDEST["diffusers"]}"' in project
        cmake = (Path(tap_ext.__file__).parents[1] / "CMakeLists.txt").read_text()
        assert f'TAP_CUDA_ARCHS "{doctor.CAPABILITY.replace(".", "")}-real;' in cmake

    def test_what_is_too_old_is_told_and_fails(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        versions = {"diffusers": "0.9.1"}
        monkeypatch.setattr(doctor, "_version", versions.get)
        assert main(["doctor"]) == 1
        shown = capsys.readouterr().out
        assert "not supported: diffusers 0.9.1 is older than 0.36" in shown
        versions.clear()  # not installed is not too old
        assert main(["doctor"]) == 0
        assert "advice: diffusers is not installed" in capsys.readouterr().out

    def test_a_library_that_is_not_there_is_told_with_the_reason(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        missing = LibraryStatus(False, Path("/no/library.so"), False, "it was not built")
        monkeypatch.setattr(doctor, "library_status", lambda: missing)
        assert main(["doctor"]) == 0
        shown = capsys.readouterr().out
        assert "/no/library.so, not loaded: it was not built" in shown
        assert "advice: the ops run in plain torch" in shown


class TestBench:
    """``tap_ext bench``."""

    def test_it_measures_the_cases_of_the_source_tree(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("pytest_benchmark")
        shapes = pytest.importorskip("bench.shapes")
        small = shapes.Shape("small", "1x1", B=2, N=16, D=32)
        monkeypatch.setattr(shapes, "SHAPES", (small,))
        arguments = ("bench", "--shape=small-1x1", "--rounds=2", "--dtype=float32")
        assert main([*arguments, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["setting"]["shape"] == "small-1x1"
        names = [row["op"] for row in told["rows"]]
        assert {"stack_update", "predict", "select", "skip_step"} <= set(names)
        plane = 2 * 16 * 32 * 4
        by_name = {row["op"]: row for row in told["rows"]}
        assert by_name["select"]["bytes"] == 4 * plane
        assert all(row["seconds"] > 0 and row["time / copy"] > 0 for row in told["rows"])
        assert main([*arguments, "--case=select"]) == 0
        assert capsys.readouterr().out.splitlines()[1].startswith("select ")
        assert "must be among" in refusal(capsys, *arguments, "--case=sing")
        assert "must be among small-1x1" in refusal(capsys, "bench", "--shape=large")

    def test_without_the_source_tree_it_says_so(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(bench, "SOURCE", tmp_path)
        assert main(["bench"]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "bench/ of the source tree" in error


def test_the_script_is_the_command() -> None:
    project = (Path(tap_ext.__file__).parents[1] / "pyproject.toml").read_text()
    (target,) = re.findall(r'(?m)^tap_ext = "(.*)"$', project)
    module, _, function = target.partition(":")
    assert getattr(importlib.import_module(module), function) is main


def test_a_reader_that_leaves_is_no_failure() -> None:
    script = "import sys\nfrom tap_ext.cli import main\nsys.exit(main(['spec', '--list']))"
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_as_a_module_it_refuses_without_importing_the_demo() -> None:
    run = (
        "import runpy, sys\n"
        "sys.argv = ['tap_ext', 'demo', '--windows', '0']\n"
        "try:\n"
        "    runpy.run_module('tap_ext', run_name='__main__')\n"
        "finally:\n"
        "    print({'diffusers', 'matplotlib', 'skimage', 'transformers'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert done.returncode == 2
    assert "argument --windows" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "set()\n"


class TestDemo:
    """The whole command, on a random model."""

    @pytest.fixture(autouse=True)
    def bundle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A bundle in place of the shipped one."""
        for extra in ("diffusers", "matplotlib", "skimage"):
            pytest.importorskip(extra)
        from tap_ext.demo import bundled
        from tests.demo_models import save_random_bundle

        save_random_bundle(tmp_path / "model")
        monkeypatch.setattr(bundled, "MODEL", tmp_path / "model")
        (tmp_path / "out").mkdir()

    options = ("demo", "--steps=5", "--windows=3", "--pictures=1")

    def test_json_is_all_it_prints(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out" / "demo.png"
        assert main([*self.options, "--json", "--out", str(out)]) == 0
        (rows,) = json.loads(capsys.readouterr().out).values()
        counts = [(row["full_steps"], row["steps"]) for row in rows]
        assert counts == [(5, 5), (3, 5), (3, 5), (3, 3)]
        assert out.read_bytes().startswith(b"\x89PNG")
        assert list(out.parent.iterdir()) == [out]

    def test_the_table_is_followed_by_where_the_picture_is(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out" / "demo.png"
        assert main([*self.options, "--out", str(out)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("method")
        assert lines[-1].endswith(f"see {out}")

    def test_interrupted_it_leaves_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("tap_ext.demo.run.step_flops", interrupt)
        assert main([*self.options, "--out", str(tmp_path / "out" / "demo.png")]) == 130
        assert list((tmp_path / "out").iterdir()) == []

    def test_another_model_must_be_flux(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        index = tmp_path / "model_index.json"
        index.write_text('{"_class_name": "StableDiffusionPipeline"}')
        model = ("demo", "--prompt=a cat", f"--model={tmp_path}", f"--out={tmp_path / 'demo.png'}")
        assert "argument --model" in (message := refusal(capsys, *model))
        assert "StableDiffusionPipeline" in message
        index.write_text('{"_class_name": "FluxPipeline", "transformer": ["diffusers", "Flux"]}')
        with pytest.raises(SystemExit):
            main(model)
        # diffusers' own progress bar comes before it.
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("tap_ext demo: error: argument --model: model cannot be loaded")

    def test_a_checkpoint_of_one_s_own(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from tests.demo_models import save_random_checkpoint

        save_random_checkpoint(tmp_path / "flux")
        out = tmp_path / "out" / "demo.png"
        model = (f"--model={tmp_path / 'flux'}", "--prompt=a cat", "--prompt=b", "--size=32")
        assert main([*self.options[:-1], *model, "--json", "--out", str(out)]) == 0
        printed = capsys.readouterr()
        rows = json.loads(printed.out)["rows"]
        assert [row["full_steps"] for row in rows] == [5, 3, 3, 3]
        assert all(row["psnr"] > 10 for row in rows[1:])
        assert "2 pictures, bfloat16 on cpu" in printed.err
        assert out.exists()


def test_specs_are_printed_as_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spec", "--list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == list(SPECS)
    assert main(["spec", "FluxTransformer2DModel", "--json"]) == 0
    (flux,) = json.loads(capsys.readouterr().out)
    assert flux["blocks"][0] == {
        "path": "transformer_blocks",
        "returns": ["encoder_hidden_states", "hidden_states"],
    }
    assert (flux["streams"][0]["head"], flux["streams"][0]["probe"]) == (
        "norm_out",
        "ada_norm_zero",
    )
    assert main(["spec", "WanTransformer3DModel"]) == 0
    assert "blocks" in capsys.readouterr().out


def test_a_class_without_a_spec_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["spec", "FluxTransformer"]) == 1
    assert "did you mean FluxTransformer2DModel?" in capsys.readouterr().err
    assert main(["spec", "UNet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("tap_ext spec: UNet has no spec; its first call will be watched")
    assert "docs/add_a_backbone.md" in error and error.count("\n") == 1
    assert "class names or --list" in refusal(capsys, "spec")


def test_what_can_be_evaluated_is_listed_as_data_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"models", "methods"} <= told.keys() and "bundled" in told["models"]
    assert "default" in told["methods"]


def test_where_nothing_was_kept_nothing_is_promised(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    out = f"--out={tmp_path / 'file'}"
    assert main(["evaluate", "--steps=4", "--full-steps=2", "--seeds=1", out]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "evaluate" in line]
    assert "file" in line and line.endswith("no picture was finished")
    assert (tmp_path / "file").read_text() == "mine"
