from __future__ import annotations

from collections.abc import Iterator

import pytest

from .handlers import close_node


@pytest.fixture(scope="session", autouse=True)
def _no_node_is_left() -> Iterator[None]:
    yield
    close_node()
