from collections.abc import Callable
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from torch import Tensor

class BuildInfo(TypedDict):
    version: str
    compiler: str
    cuda_archs: str | None
    isas: list[str]
    isa: str

class LaunchPlan(TypedDict):
    blocks: int
    team_threads: int
    block_teams: int

def build_info() -> BuildInfo: ...
def score(
    stack: npt.NDArray[np.float32],
    target: npt.NDArray[np.float32],
    rows: npt.NDArray[np.float32],
    metric: str = "cosine",
) -> tuple[int, npt.NDArray[Any]]: ...

class Seen:
    def look(self, own: list[dict[str, Any]], address: Callable[[Tensor], int] | None) -> int: ...

class Arguments:
    def __init__(
        self,
        names: list[Any],
        plain: dict[Any, Any],
        fixed: dict[Any, Tensor],
        moving: dict[Any, Tensor],
    ) -> None: ...
    def fit(self, arguments: dict[Any, Any]) -> bool: ...

def environment(name: str) -> str | None: ...
def launch_plan(tokens: int, channels: int, dtype: str) -> LaunchPlan: ...
