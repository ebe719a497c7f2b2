"""What is reserved for a call before it is sent: no less than it can cost on the terms that it asks for."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.cost import Pricer
from pipeline.errors import JobError
from pipeline.job import load
from pipeline.records import Terms, Usage
from pipeline.run.asking import worst_case
from pipeline.run.money import check_price
from pipeline.run.ready import make_ready

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
OUTPUT_TOKENS = 1000


def reserved(folder: Path, **fields: str) -> int:
    """Nano-dollars that are reserved for a call of a job whose request has these fields."""
    asked = "".join(f", {name}: {value}" for name, value in fields.items())
    (folder / "rows.csv").write_text("name\nann\n")
    (folder / "job.yaml").write_text(
        "name: small\nsource: {path: rows.csv}\nprompt: {user: Describe <<name>>.}\noutput: {path: out.parquet}\n"
        f"request: {{max_tokens: {OUTPUT_TOKENS}{asked}}}\n"
    )
    job = load(folder / "job.yaml", environ={})
    ready = make_ready(job)
    return worst_case(job, ready, Pricer({}), lambda: NOW).nanos(b'"messages":[]')


@pytest.mark.parametrize(
    ("fields", "terms"),
    [
        ({"model": "claude-opus-5"}, Terms()),
        ({"model": "claude-opus-5", "speed": "fast"}, Terms(fast=True)),
        ({"model": "claude-opus-5", "inference_geo": "us"}, Terms(us=True)),
        ({"model": "claude-opus-5", "inference_geo": "US", "speed": "fast"}, Terms(us=True, fast=True)),
    ],
)
def test_what_is_reserved_covers_the_longest_answer_on_the_terms_asked_for(
    tmp_path: Path, fields: dict[str, str], terms: Terms
) -> None:
    model = fields["model"]
    cost = Pricer({}).price(
        Usage(10, OUTPUT_TOKENS), answered=model, asked=model, at=NOW, reported_nanos=None, terms=terms
    )
    assert cost.nanos is not None
    assert cost.nanos < reserved(tmp_path, **fields) < 1.1 * cost.nanos


def test_where_the_price_of_the_terms_is_not_known_the_usual_one_is_reserved(tmp_path: Path) -> None:
    usual = reserved(tmp_path, model="claude-sonnet-5")
    assert reserved(tmp_path, model="claude-sonnet-5", speed="fast") >= usual > 0


@pytest.mark.parametrize(("model", "held"), [("claude-opus-5", True), ("claude-sonnet-5", False)])
def test_a_budget_is_refused_where_nobody_knows_what_fast_calls_cost(tmp_path: Path, model: str, held: bool) -> None:
    (tmp_path / "rows.csv").write_text("name\nann\n")
    (tmp_path / "job.yaml").write_text(
        "name: small\nsource: {path: rows.csv}\nprompt: {user: Describe <<name>>.}\noutput: {path: out.parquet}\n"
        f"request: {{max_tokens: 100, model: {model}, speed: fast}}\nbudget: {{run_usd: 1}}\n"
    )
    job = load(tmp_path / "job.yaml", environ={})
    if held:
        check_price(job, Pricer({}), NOW)
    else:
        with pytest.raises(JobError, match=r"budget\.run_usd: cannot be held: no price is known .* in fast mode"):
            check_price(job, Pricer({}), NOW)
