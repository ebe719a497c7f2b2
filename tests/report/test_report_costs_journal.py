"""The cost report over journals: every billed attempt, what is superseded apart, and nothing that was not billed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from desk import Desk, job_text, rows_text

from pipeline.cost import Pricer
from pipeline.errors import JobError
from pipeline.journal import JobStamp, Journal, RunRecord
from pipeline.records import Attempt, Outcome, Price, Response, Status, Terms, Usage
from pipeline.report.costs import Query, Report, compare, make_report, read_bill, read_journals, read_outputs
from pipeline.run.plan import Plan

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
KEYS = [bytes([n]) * 16 for n in range(8)]
USAGE = Usage(10, 5, 1, 2, 3)


def report(folder: Path, by: str = "", wanted: Mapping[str, Iterable[bytes]] | None = None, **more: bool) -> Report:
    query = Query(tuple(by.split(",")) if by else ())
    lines = read_journals(
        folder,
        query.tags,
        rehearsals=more.get("rehearsals", False),
        wanted=lambda _, plan: None if wanted is None else wanted.get(plan),
    )
    return make_report(lines, query, Pricer({}), reprice=more.get("reprice", False))


def call(nanos: int | None = 1_000, *, at: datetime = NOW, model: str = "claude-haiku-4-5") -> tuple[Attempt, Price]:
    response = Response(b"{}", "fine", "end_turn", model, USAGE, "req_1")
    return Attempt(at, 250, response, http_status=200), Price(nanos, "table" if nanos is not None else None)


def lost(error_type: str = "timeout", *, maybe_billed: bool) -> tuple[Attempt, Price]:
    return Attempt(NOW, 5, None, error_type, "no answer", maybe_billed=maybe_billed), Price(0, None)


class Book:
    """A journal being written."""

    def __init__(self, folder: Path, job: str = "nightly") -> None:
        self.journal = Journal.open(folder / ".pipeline" / f"{job}.sqlite")
        self.job = job

    def run(self, name: str, scope: str = "public", tags: Mapping[str, str] | None = None) -> RunRecord:
        stamp = JobStamp(name, self.job, date(2026, 11, 22), scope, {}, tags or {})
        return self.journal.begin(stamp, NOW)[0]

    def keep(
        self,
        run: RunRecord,
        key: bytes,
        *calls: tuple[Attempt, Price],
        status: Status | None = "ok",
        asked: str = "asked",
    ) -> None:
        with self.journal.transaction():
            (claim,) = self.journal.add_claims(run.id, 1, [key], "api.example", NOW, 60)
        assert claim is not None
        with self.journal.transaction():
            outcome = Outcome(claim.id, key, status, calls)
            self.journal.keep([outcome], run=run.id, start=1, model=asked, max_tokens=100, endpoint="api.example")


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path)


def test_every_billed_attempt_counts_and_calls_without_an_answer_stand_apart(book: Book, tmp_path: Path) -> None:
    run = book.run("n@1")
    book.keep(run, KEYS[0], call(5), call(7))
    book.keep(run, KEYS[1], lost(maybe_billed=True), lost("rate_limit", maybe_billed=False), call(11), status="invalid")
    book.keep(run, KEYS[2], lost("bad_request", maybe_billed=False), status="failed")
    found = report(tmp_path, "status")
    assert found.total.cost_nanos == 23
    assert (found.total.rows, found.total.ok_rows, found.total.requests) == (3, 1, 6)
    assert found.maybe_requests == 1
    assert {keys[0]: sums.cost_nanos for keys, sums in found.groups} == {"ok": 12, "invalid": 11, "failed": 0}


def test_tokens_count_both_kinds_of_cache_writes(book: Book, tmp_path: Path) -> None:
    book.keep(book.run("n@1"), KEYS[0], call(), call())
    total = report(tmp_path).total
    assert (total.input_tokens, total.output_tokens, total.cache_write_tokens, total.cache_read_tokens) == (
        20,
        10,
        6,
        6,
    )


def test_a_call_without_a_price_is_unpriced_and_not_free(book: Book, tmp_path: Path) -> None:
    book.keep(book.run("n@1"), KEYS[0], call(None), call(7))
    total = report(tmp_path).total
    assert (total.cost_nanos, total.unpriced_requests) == (7, 1)


def test_lost_calls_are_those_of_the_asked_days(book: Book, tmp_path: Path) -> None:
    book.keep(book.run("n@1"), KEYS[0], lost(maybe_billed=True), call(5))
    lines = read_journals(tmp_path, [], rehearsals=False, wanted=lambda _, __: None)
    assert make_report(lines, Query(until=NOW.date()), Pricer({})).maybe_requests == 1
    assert make_report(lines, Query(since=NOW.date() + timedelta(days=1)), Pricer({})).maybe_requests == 0


def test_a_row_that_was_given_up_is_pending_and_what_it_cost_counts(book: Book, tmp_path: Path) -> None:
    book.keep(book.run("n@1"), KEYS[0], call(7), status=None)
    found = report(tmp_path, "status")
    assert [(keys, sums.rows, sums.cost_nanos) for keys, sums in found.groups] == [(("pending",), 1, 7)]


def test_an_answer_asked_again_is_one_row_and_two_bills(book: Book, tmp_path: Path) -> None:
    run = book.run("n@1")
    book.keep(run, KEYS[0], call(5), status="truncated")
    book.keep(run, KEYS[0], call(9))
    found = report(tmp_path, "status")
    assert [(keys, sums.rows, sums.cost_nanos) for keys, sums in found.groups] == [(("ok",), 1, 14)]


def test_what_the_plan_no_longer_names_is_superseded_and_not_cost(book: Book, tmp_path: Path) -> None:
    run = book.run("n@1")
    book.journal.set_plan(run.id, "plan")
    book.keep(run, KEYS[0], call(5))
    book.keep(run, KEYS[1], call(9))
    total = report(tmp_path, wanted={"plan": [KEYS[1]]}).total
    assert (total.cost_nanos, total.superseded_nanos, total.rows, total.requests) == (9, 5, 1, 2)


def test_reused_answers_are_rows_and_say_what_they_saved(book: Book, tmp_path: Path) -> None:
    first, second = book.run("n@1"), book.run("n@2")
    book.keep(first, KEYS[0], call(5), call(6))
    (known,) = book.journal.find([KEYS[0]])[KEYS[0]]
    with book.journal.transaction():
        book.journal.set_reused(second.id, [(KEYS[0], known.attempt)])
    found = {keys[0]: sums for keys, sums in report(tmp_path, "run").groups}
    assert (found["n@2"].rows, found["n@2"].requests, found["n@2"].cost_nanos) == (1, 0, 0)
    assert (found["n@2"].reuse_saved_nanos, found["n@1"].reuse_saved_nanos) == (11, 0)


def test_a_call_that_was_cut_off_with_its_run_counts_for_the_model_that_the_run_asked(
    book: Book, tmp_path: Path
) -> None:
    run = book.run("n@1")
    book.keep(run, KEYS[0], call(5))
    with book.journal.transaction():
        book.journal.add_claims(run.id, 1, [KEYS[1]], "api.example", NOW, 60)
    book.journal.recover(NOW, 100)
    assert [keys for keys, _ in report(tmp_path, "model").groups] == [("claude-haiku-4-5",)]
    assert report(tmp_path).maybe_requests == 1


def test_days_are_those_of_each_attempt(book: Book, tmp_path: Path) -> None:
    before = datetime(2026, 11, 21, 23, 59, 59, 800_000, tzinfo=UTC)
    book.keep(book.run("n@1"), KEYS[0], call(5, at=before - timedelta(seconds=1)), call(7, at=before))
    assert [(keys, sums.cost_nanos) for keys, sums in report(tmp_path, "day").groups] == [
        ((date(2026, 11, 21),), 5),
        ((date(2026, 11, 22),), 7),
    ]


def test_every_journal_under_the_folder_is_read_and_rehearsals_left_out(book: Book, tmp_path: Path) -> None:
    book.keep(book.run("n@1", tags={"team": "q"}), KEYS[0], call(5))
    book.keep(book.run("n@1~sim", "simulator"), KEYS[0], call(100))
    other = Book(tmp_path / "deep" / "down", "other")
    other.keep(other.run("o"), KEYS[0], call(7))
    found = report(tmp_path, "job,tag.team")
    assert [(keys, sums.cost_nanos) for keys, sums in found.groups] == [(("nightly", "q"), 5), (("other", None), 7)]
    assert any("1 rehearsal left out" in note for note in found.notes)
    assert report(tmp_path, rehearsals=True).total.cost_nanos == 112


def test_repricing_a_journal_prices_each_attempt(book: Book, tmp_path: Path) -> None:
    # Two prompts of 60,000 tokens are short ones, though the row's 120,000 would not be.
    usage = Usage(60_000, 0)
    response = Response(b"{}", "fine", "end_turn", "claude-haiku-5-5", usage, "req_1")
    each = (Attempt(NOW, 250, response, http_status=200), Price(1, "server"))
    book.keep(book.run("n@1"), KEYS[0], each, each)
    assert report(tmp_path, reprice=True).total.cost_nanos == 2 * 60_000 * 100
    total = report(tmp_path).total
    assert total.cost_nanos == 2


OPUS = "claude-opus-5-5"
LISTED = 1_000 * 4_000 + 100 * 20_000  # 1,000 tokens in, 100 out


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        (Terms(), LISTED),
        (Terms(batch=True), LISTED // 2),
        (Terms(us=True), LISTED * 11 // 10),
        (Terms(fast=True), LISTED * 2),
        (Terms(batch=True, us=True), LISTED * 11 // 20),
        (Terms(web_searches=3), LISTED + 30_000_000),
        (Terms(batch=True, web_searches=1), LISTED // 2 + 10_000_000),
    ],
)
def test_repricing_goes_by_the_terms_of_each_attempt(book: Book, tmp_path: Path, terms: Terms, expected: int) -> None:
    response = Response(b"{}", "fine", "end_turn", OPUS, Usage(1_000, 100), "req_1", terms=terms)
    book.keep(book.run("n@1"), KEYS[0], (Attempt(NOW, 250, response, http_status=200), Price(7, "server")))
    assert report(tmp_path, reprice=True).total.cost_nanos == expected


def test_repricing_looks_the_asked_model_up_where_the_one_that_answered_has_no_price(tmp_path: Path) -> None:
    book = Book(tmp_path)
    response = Response(b"{}", "fine", "end_turn", "somebody-s-opus", Usage(1_000, 100), "req_1")
    book.keep(book.run("n@1"), KEYS[0], (Attempt(NOW, 250, response, http_status=200), Price(7, "server")), asked=OPUS)
    assert report(tmp_path, reprice=True).total.cost_nanos == LISTED


def test_repricing_leaves_at_0_what_is_not_billed_and_unknown_what_was_not_counted(book: Book, tmp_path: Path) -> None:
    run = book.run("n@1")
    refused = Response(b"{}", "", "refusal", OPUS, Usage(1_000, 0), "req_1")
    uncounted = Response(b"{}", "fine", "end_turn", OPUS, None, "req_1", reported_nanos=7)
    book.keep(run, KEYS[0], (Attempt(NOW, 250, refused, http_status=200), Price(0, "table")), status="refused")
    book.keep(run, KEYS[1], (Attempt(NOW, 250, uncounted, http_status=200), Price(7, "server")))
    total = report(tmp_path, reprice=True).total
    assert (total.cost_nanos, total.unpriced_requests) == (0, 1)


@pytest.mark.parametrize("migrated", [False, True])
def test_repricing_at_the_same_prices_changes_nothing_also_in_an_older_journal(tmp_path: Path, migrated: bool) -> None:
    path = tmp_path / ".pipeline" / "terms.sqlite"
    path.parent.mkdir()
    shutil.copy(Path(__file__).parents[1] / "journal/data/terms-v2.sqlite", path)
    if migrated:
        Journal.open(path).close()
    before, after = report(tmp_path).total, report(tmp_path, reprice=True).total
    # It did not know the asked model yet, which is what one answer was priced by.
    assert (before.cost_nanos, after.cost_nanos, after.unpriced_requests) == (72_900_000, 72_900_000 - LISTED, 1)


def test_web_searches_are_compared_with_the_lines_of_a_bill_that_name_no_model(book: Book, tmp_path: Path) -> None:
    response = Response(b"{}", "fine", "end_turn", OPUS, Usage(1_000, 100), "req_1", terms=Terms(web_searches=3))
    answer = (Attempt(NOW, 250, response, http_status=200), Price(LISTED + 30_000_000, "table"))
    book.keep(book.run("n@1"), KEYS[0], answer)
    bill = tmp_path / "bill.csv"
    bill.write_text(f"usage_date_utc,model,cost_usd\n2026-11-22,{OPUS},0.006\n2026-11-22,,0.03\n")
    found = compare(report(tmp_path).lines, read_bill(bill, "anthropic"), Decimal(0))
    assert [(gap.model, gap.ours, gap.gap) for gap in found.gaps] == [("", 30_000_000, 0), (OPUS, LISTED, 0)]
    bill.write_text(f"usage_date_utc,model,cost_usd\n2026-11-22,{OPUS},0.036\n")
    assert compare(report(tmp_path).lines, read_bill(bill, "anthropic"), Decimal(0)).within


def test_a_journal_says_what_a_month_of_its_job_may_cost_as_of_its_last_start(book: Book, tmp_path: Path) -> None:
    for name, nanos in (("n@1", 40 * 10**9), ("n@2", 60 * 10**9), ("n@1", 50 * 10**9)):
        book.journal.begin(JobStamp(name, "nightly", date(2026, 11, 22), "public", {}, {}, nanos), NOW)
    assert report(tmp_path).budgets == {"nightly": 50.0}
    book.journal.begin(JobStamp("n@2", "nightly", date(2026, 11, 22), "public", {}, {}), NOW)
    assert report(tmp_path).budgets == {}


def test_a_folder_without_journals_and_a_foreign_database_get_words(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="no journal"):
        report(tmp_path)
    (tmp_path / ".pipeline").mkdir()
    with closing(sqlite3.connect(tmp_path / ".pipeline" / "x.sqlite")) as connection:
        connection.execute("CREATE TABLE t (x)")
    with pytest.raises(JobError, match="not a journal of this program"):
        report(tmp_path)


def test_what_is_remembered_of_pictures_lies_beside_a_journal_and_is_none(book: Book, tmp_path: Path) -> None:
    book.keep(book.run("n@1"), KEYS[0], call(5))
    with closing(sqlite3.connect(tmp_path / ".pipeline" / "nightly.pictures.sqlite")) as connection:
        connection.execute("CREATE TABLE t (x)")
    assert report(tmp_path).total.cost_nanos > 0


def test_a_report_changes_no_journal(book: Book, tmp_path: Path) -> None:
    book.keep(book.run("n@1"), KEYS[0], call(5))
    book.journal.close()
    path = tmp_path / ".pipeline" / "nightly.sqlite"
    before = path.read_bytes()
    report(tmp_path)
    assert path.read_bytes() == before


def plan_keys(journal: Path, plan: str) -> list[bytes]:
    found = Plan.load(journal.parent / plan)
    assert found is not None
    return [key for batch in found.read(prompts=False) for key in batch.keys if key is not None]


def test_output_journal_and_the_servers_ledger_say_the_same_to_the_nano_dollar(desk: Desk) -> None:
    server = desk.simulator("--fault", "529=0.1", "--seed", "3")
    desk.write("rows.csv", rows_text(20))
    job = desk.write("job.yaml", job_text(server.url))
    assert desk.pipeline("run", job, "--quiet").code == 0
    desk.write("job.yaml", job_text(server.url, prompt="Say what <<name>> is."))
    assert desk.pipeline("run", job, "--quiet").code == 0

    pricer, ledger = Pricer({}), 0
    answered = [entry for entry in server.requests if entry["status"] == 200]
    for entry in answered:
        usage = entry["usage"]
        price = pricer.price(
            Usage(usage["input_tokens"], usage["output_tokens"]),
            answered=entry["model"],
            asked="claude-haiku-4-5",
            at=NOW,
            reported_nanos=None,
        )
        ledger += price.nanos or 0
    outputs = read_outputs([str(desk.folder / "out")], [], [], rehearsals=True)
    journals = read_journals(desk.folder, [], rehearsals=True, wanted=plan_keys)
    by_output = make_report(outputs, Query(), Pricer({})).total
    by_journal = make_report(journals, Query(), Pricer({})).total
    assert ledger > 0
    assert by_output.superseded_nanos > 0
    assert by_output.cost_nanos + by_output.superseded_nanos == ledger
    assert (by_journal.cost_nanos, by_journal.superseded_nanos) == (by_output.cost_nanos, by_output.superseded_nanos)
    assert (by_journal.rows, by_journal.ok_rows) == (by_output.rows, by_output.ok_rows) == (20, 20)


def test_an_archive_where_nothing_may_be_written_is_read_too(tmp_path: Path) -> None:
    asleep = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if asleep and shutil.which("setpriv") is None:
        pytest.skip("root, and nothing to give up its rights with")
    state = tmp_path / ".pipeline"
    state.mkdir()
    sample = Path(__file__).parents[1] / "torture" / "journals" / "format-3.sqlite"
    journal = Path(shutil.copy(sample, state / "old.sqlite"))
    with closing(sqlite3.connect(journal)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    command = [*asleep, sys.executable, "-m", "pipeline", "costs", "--rehearsals", "--format", "json"]

    def told() -> str:
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    whole = journal.read_bytes()
    writable = told()
    for each in state.iterdir():
        each.unlink()
    journal.write_bytes(whole)
    journal.chmod(0o400)
    state.chmod(0o500)
    try:
        assert told() == writable
    finally:
        state.chmod(0o700)
    assert '"requests"' in writable
