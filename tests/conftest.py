"""What all tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from desk import Desk
from hypothesis import settings

# No deadline: shared machines pause a process for longer than any honest limit. Failures print their replay.
settings.register_profile("here", deadline=None, print_blob=True)
settings.load_profile("here")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the torture cases."""
    parser.addoption("--long", action="store_true", help="the torture cases that take minutes, too")
    parser.addoption("--torture-seed", type=int, help="replay torture cases with this seed")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A folder with jobs in it, and the commands to run them."""
    made = Desk(tmp_path)
    try:
        yield made
    finally:
        made.close()
