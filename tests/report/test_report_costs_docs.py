"""The examples of docs/costs.md are read by the program."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from desk import job_text

from pipeline.cost import read_book
from pipeline.errors import JobError
from pipeline.job import Overrides, load
from pipeline.report.costs import read_bill

PAGE = (Path(__file__).parents[2] / "docs/costs.md").read_text()
PRICES, MAPPING = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_price_file_of_the_documents_is_one(tmp_path: Path) -> None:
    (tmp_path / "prices.yaml").write_text(PRICES)
    book = read_book(tmp_path / "prices.yaml")
    assert {model: len(entries) for model, entries in book.items()} == {"our-model": 1, "claude-sonnet-5": 2}


def test_the_same_is_what_a_job_states(tmp_path: Path) -> None:
    prices = "".join(f"  {line}\n" for line in PRICES.splitlines())
    (tmp_path / "job.yaml").write_text(job_text(None, more=f"prices:\n{prices}"))
    stated = load(tmp_path / "job.yaml", Overrides(), environ={}).prices
    assert {model: isinstance(price, tuple) for model, price in stated.items()} == {
        "our-model": False,
        "claude-sonnet-5": True,
    }


def test_the_bill_mapping_of_the_documents_is_one(tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text(MAPPING)
    (tmp_path / "bill.csv").write_text("Day,Model,Amount\n2026-10-05,claude-sonnet-5,150\n")
    assert list(read_bill(tmp_path / "bill.csv", str(tmp_path / "mapping.yaml")).amounts.values()) == [1_500_000_000]
    (tmp_path / "bill.csv").write_text("Tag,Model,Amount\n")
    with pytest.raises(JobError, match="needs columns Day, Model, Amount"):
        read_bill(tmp_path / "bill.csv", str(tmp_path / "mapping.yaml"))
