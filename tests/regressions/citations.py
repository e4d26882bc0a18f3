"""Which test stands for which thread, read from the docstrings; writes README.md from them.

python -m tests.regressions.citations [--check]
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent
PAGE = FOLDER / "README.md"

THREADS: Mapping[str, tuple[int, ...]] = {
    "ali-vilab/TeaCache": (10, 80),
    "chengzeyi/Comfy-WaveSpeed": (57, 83),
    "chengzeyi/ParaAttention": (34,),
    "Comfy-Org/ComfyUI": (7891,),
    "deepbeepmeep/Wan2GP": (368,),
    "huggingface/diffusers": (11180, 12012, 12013, 12652, 14025, 14037, 14093, 14829, 14831),
    "kijai/ComfyUI-HunyuanVideoWrapper": (226,),
    "kijai/ComfyUI-KJNodes": (344,),
    "lldacing/ComfyUI_Patches_ll": (7, 8),
    "nunchux-ai/nunchaku": (307, 437, 596, 597, 601),
    "NVIDIA/TensorRT-LLM": (13170,),
    "openvinotoolkit/openvino.genai": (3462, 3494, 3761, 4230),
    "philipy1219/ComfyUI-TaylorSeer": (20,),
    "Roblox/SmoothCache": (2,),
    "sgl-project/sglang": (18498, 19955, 19957, 33720, 33827, 36767),
    "Shenyi-Z/ToCa": (14,),
    "utensils/mold": (939,),
    "vipshop/cache-dit": (133, 360, 540, 542, 1094, 1113),
    "vllm-project/vllm-omni": (
        *(833, 848, 940, 1287, 1710, 1779, 2194, 2682, 3775),
        *(4621, 4659, 5561, 5840, 5853, 5882, 7335),
    ),
    "welltop-cn/ComfyUI-TeaCache": (4, 7, 8, 15, 17, 21, 62, 182),
    "Zehong-Ma/ComfyUI-MagCache": (17, 26),
    "Zehong-Ma/MagCache": (13,),
}
"""Issues and pull requests in which users of caches for diffusion models said what broke."""

FIRST_LINE = re.compile(r"((?:[\w.-]+/[\w.-]+#\d+(?:, )?)+): (\S.*)")

HEAD = """# What users of other caches reported

Made by `python -m tests.regressions.citations` from the docstrings. Each of these tests fails where
what the thread reports happens here; what is meant is in its docstring, in our words. Issues and
pull requests share one count of numbers, and GitHub leads from either address to the other.

| thread | what it says | test |
|---|---|---|
"""


@dataclass(frozen=True)
class Citation:
    """One test and the threads that it stands for.

    Attributes:
        file: its file, without ending.
        test: its name.
        threads: as ``owner/project#number``; none where its docstring cites none.
        words: what broke, in a few words.
    """

    file: str
    test: str
    threads: tuple[str, ...]
    words: str


def citations() -> list[Citation]:
    """Every test of this folder, in the order of the files."""
    found = []
    for path in sorted(FOLDER.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
                line = (ast.get_docstring(node) or "").partition("\n")[0]
                match = FIRST_LINE.fullmatch(line)
                threads = tuple(match[1].split(", ")) if match else ()
                found.append(Citation(path.stem, node.name, threads, match[2] if match else ""))
    return found


def page() -> str:
    """README.md."""
    rows = []
    for citation in citations():
        for thread in citation.threads:
            project, _, number = thread.partition("#")
            order = (project.lower(), int(number))
            link = f"[{thread}](https://github.com/{project}/issues/{number})"
            place = f"`{citation.file}.py` `{citation.test}`"
            rows.append((order, f"| {link} | {citation.words} | {place} |"))
    return HEAD + "\n".join(row for _, row in sorted(rows)) + "\n"


def main() -> int:
    """Writes the page, or with ``--check`` says whether it is up to date."""
    if "--check" not in sys.argv:
        PAGE.write_text(page())
        return 0
    if PAGE.read_text() == page():
        return 0
    print(f"{PAGE} is out of date: python -m tests.regressions.citations", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
