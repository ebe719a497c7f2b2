"""The heap while millions of rows go by: cycles are collected rarely, and each phase leaves no memory to the next."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

YOUNG_OBJECTS = 20_000
"""More than the rows of a batch make; a collection that frees nothing costs a tenth of planning."""


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect cycles rarely, and only among what is made from here on; also a decorator.

    For work on rows, which are in no cycles: reference counts free them, and the pictures of failed calls with them.
    What is free at the end goes back to the system, so that what comes next does not add to it.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
        pa.default_memory_pool().release_unused()
