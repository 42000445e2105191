"""What holds for all tests: what they keep from run to run is in pytest's own folder, neither read
from the user's nor left there, and hypothesis draws the same examples in each run, but with
`--hypothesis-profile=default`."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True)
settings.load_profile("same")


def pytest_configure(config: pytest.Config) -> None:
    if config.cache is not None:
        os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("home"))
