"""What the torture cases share: seeds, points, kept journals, and which cases wait for `--long`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from torture_rig import Commands, Points, interposer


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the cases of minutes out unless they are asked for."""
    if config.getoption("--long", default=False):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]


@pytest.fixture
def torture_seed(request: pytest.FixtureRequest) -> int:
    """A new seed each time, printed by the case; `--torture-seed` replays one."""
    given = request.config.getoption("--torture-seed", default=None)
    return random.SystemRandom().randrange(10_000) if given is None else int(given)


@pytest.fixture(scope="session")
def points(tmp_path_factory: pytest.TempPathFactory) -> Points:
    """Named points to arm."""
    return Points(interposer(tmp_path_factory.mktemp("interpose")))


@pytest.fixture
def journals() -> Path:
    """A journal of each released format."""
    return Path(__file__).with_name("journals")


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    """Many short commands in one process."""
    made = Commands()
    yield made
    made.close()
