"""Python's cycle collector, kept from walking the heap while millions of rows go by."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG_OBJECTS = 20_000
"""More than the rows of a batch make; a collection that frees nothing costs a tenth of planning."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect cycles rarely, and only among what is made from here on; also a decorator.

    For work on rows, which are in no cycles: reference counts free them, and the pictures of failed calls with them.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
