"""What holds for all tests: what they keep from run to run is in pytest's own folder, neither read
from the user's nor left there, and hypothesis draws the same examples in each run, but with
`--hypothesis-profile=default`. Native code writes nowhere but where it may."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.margins import around_sessions

settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    if config.cache is not None:
        os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("home"))


@pytest.fixture(autouse=True, scope="session")
def _margins() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        around_sessions(patch)
        yield
