"""The examples' folder on the path, and a tiny model for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.demo_models import save_random_bundle

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "serving"


@pytest.fixture(scope="module")
def serving() -> pytest.MonkeyPatch:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield patch


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("bundle")
    save_random_bundle(folder)
    return str(folder)
