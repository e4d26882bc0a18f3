"""Releases: one version and one floor for torch, a wheel for every Python, and what is in it."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import tap_ext
from tap_ext.cli.doctor import OLDEST
from tools import wheel_contents
from tools.wheel_contents import problems, sizes, source_files

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(tap_ext.__file__).parent
TOOL = ROOT / "tools" / "wheel.py"

BUILD = ("pyproject.toml", "CMakeLists.txt", "setup.py", "tap_ext/_version.py")


def test_the_version_is_written_once() -> None:
    literal = f'"{tap_ext.__version__}"'
    files = [ROOT / name for name in BUILD] + sorted(PACKAGE.rglob("*.py"))
    places = {path for path in files if literal in path.read_text()}
    assert places == {ROOT / "tap_ext" / "_version.py"}


def test_cmake_reads_the_version_that_python_has(tmp_path: Path) -> None:
    script = (ROOT / "CMakeLists.txt").read_text()
    lines = re.findall(r"^(?:file\(STRINGS|string\(REGEX REPLACE).*TAP_VERSION.*\)$", script, re.M)
    assert len(lines) == 2
    (tmp_path / "version.cmake").write_text("\n".join([*lines, 'message("<${TAP_VERSION}>")']))
    cmake = Path(sys.executable).with_name("cmake")
    if not cmake.exists():
        pytest.skip("cmake is not installed beside Python")
    done = subprocess.run(
        [cmake, "-P", tmp_path / "version.cmake"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr.strip() == f"<{tap_ext.__version__}>"


def test_the_oldest_torch_is_the_same_everywhere() -> None:
    (required,) = re.findall(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    (built,) = re.findall(r"TORCH_VERSION VERSION_LESS ([\d.]+)", (ROOT / BUILD[1]).read_text())
    assert required == built == OLDEST["torch"]


def test_nothing_needs_core_which_a_wheel_has_for_some_pythons_only() -> None:
    """One place uses it, and goes without where there is none."""
    imports = re.compile(r"\btap_ext\._core\b|\bimport\b.*\b_core\b")
    assert imports.search("from tap_ext import _core")
    users = [path for path in PACKAGE.rglob("*.py") if imports.search(path.read_text())]
    assert users == [PACKAGE / "native.py"]
    without = (
        "import sys; sys.modules['tap_ext._core'] = None\n"
        "import os\n"
        "from tap_ext import native\n"
        "print(native.Seen is native.SeenPlainly, native.Arguments is native.ArgumentsPlainly)\n"
        "print(native.environment == os.environ.get)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", without], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "True", "True"]


FILES = {"tap_ext/__init__.py", "tap_ext/py.typed", "tap_ext/demo/model/m.safetensors"}
NAME = "tap_ext-1.2.0-py3-none-manylinux_2_28_x86_64.whl"
METADATA = "tap_ext-1.2.0.dist-info/METADATA"


def good() -> dict[str, str]:
    """The entries of a wheel with nothing wrong."""
    return {
        **dict.fromkeys(FILES, ""),
        "tap_ext/libtap_ext_ops.so": "",
        "tap_ext/_core.cpython-310-x86_64-linux-gnu.so": "",
        "tap_ext/_core.cpython-312-x86_64-linux-gnu.so": "",
        "tap_ext-1.2.0.dist-info/RECORD": "",
        METADATA: "Version: 1.2.0\nLicense-File: LICENSE\nRequires-Dist: torch>=2.11\n",
    }


def found(folder: Path, entries: dict[str, str], name: str = NAME) -> list[str]:
    with zipfile.ZipFile(folder / name, "w") as archive:
        for entry, text in entries.items():
            archive.writestr(entry, text)
    return list(problems(folder / name, "1.2.0", FILES, "torch>=2.11"))


def test_nothing_is_wrong_with_a_good_wheel(tmp_path: Path) -> None:
    assert found(tmp_path, good()) == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda w: w.pop("tap_ext/py.typed"), "it lacks tap_ext/py.typed"),
        (lambda w: w.pop("tap_ext/libtap_ext_ops.so"), "it lacks tap_ext/libtap_ext_ops.so"),
        (lambda w: w.update({"tests/test_ops.py": ""}), "it holds tests/test_ops.py, which is"),
        (lambda w: w.update({"tap_ext/__pycache__/a.pyc": ""}), "it holds tap_ext/__pycache__"),
        (lambda w: w.update({"tap_ext.libs/libc10.so": ""}), "it holds tap_ext.libs/libc10.so"),
        (lambda w: w.update({METADATA: "Version: 1.2.0\n"}), "line 'Requires-Dist: torch>=2.11'"),
        (lambda w: w.update({METADATA: "Version: 1.1.0\n"}), "line 'Version: 1.2.0'"),
        (lambda w: w.pop(METADATA), "line 'License-File: LICENSE'"),
    ],
)
def test_what_is_wrong_with_a_wheel_is_named(
    tmp_path: Path, change: Callable[[dict[str, str]], object], complaint: str
) -> None:
    entries = good()
    change(entries)
    assert any(complaint in problem for problem in found(tmp_path, entries))


def test_a_wheel_has_core_for_some_python(tmp_path: Path) -> None:
    entries = {name: text for name, text in good().items() if "_core" not in name}
    assert found(tmp_path, entries) == ["it lacks tap_ext/_core for any Python"]


@pytest.mark.parametrize(
    "name",
    [
        NAME.replace("manylinux_2_28", "linux"),
        NAME.replace("py3-none", "cp311-cp311"),
        NAME.replace("1.2.0", "1.1.0"),
    ],
)
def test_a_wheel_of_another_tag_or_version_is_named(tmp_path: Path, name: str) -> None:
    (problem,) = found(tmp_path, good(), name)
    assert problem.startswith("the name must") and problem.endswith(name)


def test_models_do_not_count_against_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wheel_contents, "LIMIT", 5_000)
    large = good() | {"tap_ext/demo/model/m.safetensors": "m" * 90_000}
    assert found(tmp_path, large) == []
    total, without_models = sizes(tmp_path / NAME)
    assert total - without_models == 90_000
    large["tap_ext/libtap_ext_ops.so"] = "c" * 5_000
    (problem,) = found(tmp_path, large)
    assert problem.startswith("without models it must have at most 5,000 bytes, got ")


def test_the_source_tree_is_seen_without_libraries_and_caches() -> None:
    files = source_files(ROOT)
    assert {"tap_ext/py.typed", "tap_ext/_core.pyi", "tap_ext/ops.py"} <= files
    assert not [name for name in files if name.endswith((".so", ".pyc"))]


def test_without_a_verb_the_tool_says_which_there_are() -> None:
    done = subprocess.run([sys.executable, TOOL], capture_output=True, text=True)
    assert done.returncode == 1
    expected = "tap_ext: say python tools/wheel.py build, or python tools/wheel.py test [FOLDER...]"
    assert done.stderr == f"{expected}\n"
