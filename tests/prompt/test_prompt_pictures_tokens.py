"""What pictures count for before anybody has been asked: the budget and the limits of tokens stand on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from prompt_pictures import noise, pictures, saved

from pipeline.records import Row


@pytest.mark.parametrize(
    ("image", "cells", "tokens"),
    [
        ({}, ["a.jpg"], 36 * 18),
        ({}, ["a.jpg", "a.jpg"], 2 * 36 * 18),
        ({"max_side": 280}, ["a.jpg"], 10 * 5),
        ({"as_": "url"}, ["https://example.com/a.png"], 1568),
        ({"as_": "url"}, ["https://example.com/a.png", "https://example.com/b.pdf"], 2 * 1568),
        ({"as_": "file"}, ["file_1", "file_2", "file_3"], 3 * 1568),
    ],
)
def test_every_picture_counts_and_one_that_nobody_has_seen_counts_for_the_most(
    tmp_path: Path, image: dict[str, Any], cells: list[str], tokens: int
) -> None:
    (tmp_path / "a.jpg").write_bytes(saved(noise(1000, 500)))
    of_job = pictures(tmp_path, **image)
    blocks = of_job.blocks(Row("r", [{"photo": cells}]))
    said = orjson.dumps('{"type":"image","source":{"type":"url","url":"https://example.com"}}')
    prompt = b'"messages":[{"role":"user","content":[%b,{"type":"text","text":%b}]}]' % (blocks, said)
    assert of_job.tokens(prompt) == tokens
    of_job.close()


def test_a_prompt_without_pictures_counts_for_none(tmp_path: Path) -> None:
    of_job = pictures(tmp_path)
    assert of_job.tokens(b'"messages":[{"role":"user","content":"hello"}]') == 0
    of_job.close()
