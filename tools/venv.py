"""Makes the project's virtual environment: torch first, then what the build and a verb need.

    python3 tools/venv.py FOLDER EXTRA

On a machine without an NVIDIA GPU the CPU build of torch is installed, or nothing at all: the
default build for Linux on x86-64 brings several gigabytes of CUDA packages. TORCH names another
requirement, for instance ``TORCH=torch==2.11.0``.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

VERSION = "2.13.0"


def has_gpu() -> bool:
    """Whether the NVIDIA driver lists a GPU."""
    tool = shutil.which("nvidia-smi")
    return tool is not None and subprocess.run([tool, "-L"], capture_output=True).returncode == 0


def torch_requirement() -> str:
    """What to ask pip for."""
    if wanted := os.environ.get("TORCH"):
        return wanted
    cuda_by_default = platform.system() == "Linux" and platform.machine() == "x86_64"
    return f"torch=={VERSION}+cpu" if cuda_by_default and not has_gpu() else f"torch=={VERSION}"


def main() -> int:
    """Create or complete the environment."""
    folder, extra = Path(sys.argv[1]), sys.argv[2]
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    present = subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0
    if not present:
        torch = torch_requirement()
        print(f"tap_ext: installing {torch}", flush=True)
        if subprocess.run([*pip, torch]).returncode != 0:
            print(
                f"tap_ext: pip found no {torch}. Point pip at PyTorch's index of CPU builds "
                f"(PIP_EXTRA_INDEX_URL), or say TORCH=torch=={VERSION} for the default build.",
                file=sys.stderr,
            )
            return 1
    print("tap_ext: installing build requirements and building", flush=True)
    subprocess.run([*pip, "-r", "requirements-build.txt"], check=True)
    build = [*pip, "--no-build-isolation", "-e", f".[{extra}]"]
    return subprocess.run([*build, "--verbose"] if "-v" in sys.argv else build).returncode


if __name__ == "__main__":
    sys.exit(main())
