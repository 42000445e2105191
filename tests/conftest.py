"""What tests keep from run to run: in pytest's own folder, neither read from the user's nor left
there."""

from __future__ import annotations

import os

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if config.cache is not None:
        os.environ["XDG_CACHE_HOME"] = str(config.cache.mkdir("home"))
