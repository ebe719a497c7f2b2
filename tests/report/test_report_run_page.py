"""The page of a run, by journal and rows: its figures are the journal's, text is inert, size bounded."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from test_report_costs_page import HOSTILE, Seen

from pipeline.errors import StorageError
from pipeline.journal import JobStamp, Journal
from pipeline.records import Attempt, Key, Outcome, Price, Response, Status, Usage
from pipeline.report.run import Asked, Limit, Line, Read, Stretch, Told, run_page
from pipeline.report.run.ledger import Ledger, ledger

NOW = datetime(2026, 11, 22, 3, 0, tzinfo=UTC)
END = NOW + timedelta(hours=1)


def key(number: int) -> Key:
    return number.to_bytes(16, "big")


def answered(
    secs: float = 0.0, *, nanos: int | None = 1_000, ms: int = 250, model: str = "claude-haiku-4-5"
) -> tuple[Attempt, Price]:
    response = Response(b"{}", "fine", "end_turn", model, Usage(10, 5, 1, 2, 3), "req_1")
    return (
        Attempt(NOW + timedelta(seconds=secs), ms, response, http_status=200),
        Price(nanos, "table" if nanos is not None else None),
    )


def failed(
    error_type: str = "overloaded", message: str = "busy", *, status: int | None = 529, lost: bool = False
) -> tuple[Attempt, Price]:
    return Attempt(NOW, 5, None, error_type, message, status, maybe_billed=lost), Price(0, None)


class Night:
    """A run's journal being written, and its plan's rows."""

    def __init__(self, folder: Path, name: str = "nightly") -> None:
        self.path = folder / "nightly.sqlite"
        self.journal = Journal.open(self.path)
        self.stamp = JobStamp(name, "nightly", None, "public", {"region": "eu"}, {"team": "quality"})
        self.run, self.start = self.journal.begin(self.stamp, NOW)
        self.lines: list[Line] = []
        self.inputs: list[dict[str, Any]] = []

    def again(self, at: datetime) -> None:
        _, self.start = self.journal.begin(self.stamp, at)

    def keep(
        self,
        number: int,
        *calls: tuple[Attempt, Price],
        status: Status | None = "ok",
        error: tuple[str, str] | None = None,
        worst: int = 0,
    ) -> int | None:
        with self.journal.transaction():
            (claim,) = self.journal.add_claims(self.run.id, self.start, [key(number)], "api.example", NOW, 60)
        assert claim is not None
        kind, message = error or (None, None)
        outcome = Outcome(claim.id, key(number), status, calls, kind, message, worst_nanos=worst)
        with self.journal.transaction():
            self.journal.keep(
                [outcome], run=self.run.id, start=self.start, model="asked", max_tokens=99, endpoint="api.example"
            )
        return None if status is None else self.journal.find([key(number)])[key(number)][-1].attempt

    def row(self, number: int, *calls: tuple[Attempt, Price], name: str = "", **more: Any) -> None:
        """A row of the plan with its calls."""
        attempt = self.keep(number, *calls, **more)
        self.lines.append(Line(name or f"row-{number}", more.get("status", "ok"), key(number), attempt))
        self.inputs.append({"size": number})

    def line(self, line: Line) -> None:
        self.lines.append(line)
        self.inputs.append({"size": len(self.lines)})

    def stretches(self) -> list[Stretch]:
        if not self.lines:
            return []
        return [Stretch(self.lines, pa.RecordBatch.from_pylist(self.inputs))]

    def page(self, texts: Mapping[str, Any] | None = None, text: str = "fine", **more: Any) -> str:
        about: dict[str, Any] = {"file": "job.yaml", "job_text": "name: nightly", "model": "asked", **more}
        asked = Asked(self.run.id, self.run.run_id, "nightly", "public", endpoint="api.example", **about)
        told = Told(
            asked,
            self.stretches(),
            lambda used: {each: Read(text, texts or {}) for each in used},
            inputs=lambda places: {place: self.inputs[place] for place in places},
        )
        return run_page(self.path, told, now=END)

    def sums(self, check: Any) -> Any:
        with ledger(self.path, self.run.id) as found:
            found.take(self.stretches(), {})
            return check(found)


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


def cells(page: str) -> list[str]:
    return Seen(page).cells


def after(found: Sequence[str], *words: str) -> list[str]:
    """The cells that follow these."""
    at = next(nth for nth in range(len(found)) if tuple(found[nth : nth + len(words)]) == words)
    return list(found[at + len(words) :])


def test_every_billed_call_is_told_once_and_by_what_became_of_it(night: Night) -> None:
    night.row(1, answered(nanos=1_000_000))
    night.row(2, failed(), answered(nanos=2_000_000))
    # An answer that was repaired, then the one that decided.
    night.keep(3, answered(nanos=4_000_000), status=None)
    night.row(3, answered(nanos=8_000_000))
    # Paid for a prompt that the plan has no more.
    night.keep(9, answered(nanos=16_000_000))
    night.row(4, failed("timeout", lost=True), status="failed", error=("timeout", "no answer"), worst=5_000_000)
    seen = cells(night.page())
    assert after(seen, "answers in the rows")[:2] == ["0.0110", "3"]
    assert after(seen, "earlier answers of these rows")[:2] == ["0.0040", "1"]
    assert after(seen, "superseded: rows that are wanted no more")[:2] == ["0.0160", "1"]
    assert after(seen, "billed in all")[:6] == ["0.0310", "5", "50", "25", "15", "15"]
    assert after(seen, "spent")[:2] == ["$0.0150", "4 answered calls"]
    assert after(seen, "superseded")[0] == "$0.0160"
    assert after(seen, "maybe billed")[:2] == ["$0.0050", "at most, 1 lost call"]
    assert after(seen, "rows")[:2] == ["4", "75.0 % ok"]


def test_of_a_trial_nothing_is_superseded(night: Night) -> None:
    night.row(1, answered(nanos=1_000_000))
    night.keep(9, answered(nanos=16_000_000))
    seen = cells(night.page(trial=1))
    assert "superseded" not in seen
    assert after(seen, "billed in all")[0] == "0.0170"


def test_a_cost_without_all_its_prices_is_a_lower_bound(night: Night) -> None:
    night.row(1, answered(nanos=None))
    night.row(2, answered(nanos=1_000_000))
    seen = cells(night.page())
    assert after(seen, "spent")[0] == "≥\u00a0$0.0010"
    assert "amounts marked ≥ are lower bounds: of 1 call no price is known." in seen


def test_errors_are_told_by_kind_with_examples(night: Night) -> None:
    night.row(1, failed(message="busy a"), failed(message="busy b"), failed(message="busy b"), answered())
    night.row(2, failed("rate_limit", "slow down", status=429), answered())
    night.row(3, failed("bad_request", "no", status=400), status="failed", error=("bad_request", "no such field"))
    seen = cells(night.page())
    assert after(seen, "overloaded", "529")[:5] == [
        "3",
        "1",
        "3",
        "0",
        "2 times, such as row row-1: busy b; once, row row-1: busy a",
    ]
    assert after(seen, "rate_limit", "429")[:5] == ["1", "1", "1", "0", "once, row row-2: slow down"]
    assert after(seen, "bad_request", "400")[:5] == ["1", "1", "0", "1", "once, row row-3: no such field"]
    assert "7 calls for 3 rows: 4 after a row's first. 5 calls ended with an error." in seen
    assert after(seen, "Which rows", "row", "name", "input", "status", "reason", "message", "calls")[:7] == [
        "3",
        "row-3",
        "size 3",
        "failed",
        "bad_request",
        "no such field",
        "1",
    ]


def test_rows_that_were_never_sent_are_told_with_their_reasons(night: Night) -> None:
    night.line(Line("row-1", "failed", error=("template", "<<size>> is null")))
    night.line(Line("row-2", "pending", key(2)))
    seen = cells(night.page())
    assert after(seen, "Which rows", "row", "name", "input", "status", "reason", "message", "calls")[:7] == [
        "1",
        "row-1",
        "size 1",
        "failed",
        "template",
        "<<size>> is null",
        "0",
    ]
    assert "1 row failed before sending, for nothing." in " ".join(seen)
    assert any(note.startswith("no outcome yet: 1 row") for note in seen)


def test_a_picture_that_was_never_sent_is_no_call(night: Night) -> None:
    night.row(1, answered())
    for number, kind in enumerate(("image_missing", "image_corrupt", "over_limit"), 2):
        night.row(number, failed(kind, "no picture", status=None), status="failed", error=(kind, "no picture"))
    night.row(5, failed("image_too_large", "too large", status=413), status="failed", error=("image_too_large", "no"))
    night.row(6, failed("connection", "refused", status=None), status="failed", error=("connection", "refused"))
    seen = cells(night.page())
    assert "3 calls for 3 rows: 0 after a row's first. 2 calls ended with an error." in seen
    assert "3 rows failed before sending, for nothing." in " ".join(seen)
    assert after(seen, "row-2", "size 2", "failed", "image_missing")[1] == "0"
    assert after(seen, "row-5", "size 5", "failed", "image_too_large")[1] == "1"
    assert night.sums(lambda found: found.calls()) == (3, 1)


def test_each_reason_has_its_rows_shown_however_rare_it_is(night: Night) -> None:
    for number in range(1, 81):
        night.row(number, failed("bad_request", "no"), status="failed", error=("bad_request", f"no {number}"))
    night.row(100, answered(), status="invalid", error=("schema_mismatch", "the rare one"))
    seen = cells(night.page())
    assert "the rare one" in seen
    assert "no 39" in seen
    assert "no 40" not in seen
    assert "41 more are not shown; `pipeline export --status failed,invalid` writes them all." in seen


def test_latencies_are_of_answers_alone(night: Night) -> None:
    for number in range(1, 101):
        night.row(number, failed(), answered(number, ms=number * 10))
    seen = cells(night.page())
    assert after(seen, "slowest", "mean", "claude-haiku-4-5")[:7] == [
        "100",
        "500 ms",
        "900 ms",
        "950 ms",
        "990 ms",
        "1.00 s",
        "505 ms",
    ]


def test_models_are_split_where_there_are_several(night: Night) -> None:
    night.row(1, answered(nanos=1_000_000, model="claude-a", ms=100))
    night.row(2, answered(nanos=3_000_000, model="claude-b", ms=300))
    night.row(3, answered(nanos=3_000_000, model="claude-b", ms=300), status="truncated")
    seen = cells(night.page())
    assert after(seen, "claude-b", "2")[:3] == ["1", "1", "50.0 %"]
    assert after(seen, "By model", "model", "USD")[5:7] == ["claude-b", "0.0060"]
    assert after(seen, "slowest", "mean", "claude-a")[:2] == ["1", "100 ms"]
    assert after(seen, "slowest", "mean")[8:11] == ["claude-b", "2", "300 ms"]


def test_a_call_cut_off_by_a_crash_does_not_stretch_the_time_of_work(night: Night) -> None:
    night.row(1, answered(0, ms=1_000))
    night.row(2, answered(9, ms=1_000))
    with night.journal.transaction():
        night.journal.add_claims(night.run.id, night.start, [key(3)], "api.example", NOW + timedelta(seconds=5), 60)
    night.again(NOW + timedelta(hours=8))
    night.journal.recover(NOW + timedelta(hours=8), 99)
    night.row(3, answered(8 * 3600, ms=2_000))

    def look(found: Ledger) -> None:
        clock = found.clock(60)
        assert clock.secs == 12.0
        assert clock.breaks == [10.0]
        ended = found.ended(clock)
        assert sum(number for _, kind, number in ended if kind == "answered") == 3
        assert sum(number for _, kind, number in ended if kind == "connection") == 1
        assert max(step for step, _, _ in ended) == clock.steps - 1

    night.sums(look)
    seen = cells(night.page())
    assert after(seen, "work")[0] == "12.0 s"
    assert "no end recorded: running, or killed" in seen


def test_every_answer_is_in_one_step_of_the_latencies(night: Night) -> None:
    for number in range(1, 200):
        night.row(number, answered(number / 7, ms=17 * number))

    def look(found: Ledger) -> None:
        clock = found.clock(60)
        steps = list(found.latencies_by_step(clock))
        assert sum(number for _, each in steps for _, number in each) == 199
        assert [step for step, _ in steps] == sorted({step for step, _ in steps})
        assert all(each == sorted(each) for _, each in steps)

    night.sums(look)


def test_answers_of_other_runs_and_equal_rows_cost_nothing(night: Night) -> None:
    night.row(1, answered(nanos=1_000_000))
    night.run, night.start = night.journal.begin(JobStamp("other", "nightly", None, "public", {}, {}), NOW)
    attempt = night.lines[0].attempt
    night.line(Line("row-2", "ok", key(1), attempt, repeats=True))
    seen = cells(night.page())
    assert after(seen, "spent")[:2] == ["$0", "0 answered calls"]
    assert "1 answer came from other runs, for nothing." in " ".join(seen)
    assert "1 row with the answer of an equal row." in " ".join(seen)


def test_limits_stand_beside_what_was_reached(night: Night) -> None:
    for number in range(1, 121):
        night.row(number, answered(number, ms=1_000))
    limits = [Limit("requests_per_minute", 120.0), Limit("concurrency", 4)]
    seen = cells(night.page(limits=limits, summary={"bound_by": "requests_per_minute"}))
    assert after(seen, "requests a minute")[:4] == ["60", "60", "120", "50.0 %"]
    assert after(seen, "calls in flight")[:4] == ["1", "-", "4", "25.0 %"]
    assert any("Bound by limits.requests_per_minute" in each for each in seen)


def test_text_of_others_is_shown_and_never_obeyed(tmp_path: Path) -> None:
    extra = ["=cmd|' /C calc'!A0", "\x1b]0;title\x07\x1b[2J", "</pre></dd><script>1</script>", "</title><b>"]
    for nth, text in enumerate([*HOSTILE, *extra]):
        folder = tmp_path / str(nth)
        folder.mkdir()
        night = Night(folder, name=text)
        night.row(1, failed(message=text), answered(model=text), name=text)
        night.row(2, failed("bad_request", text), name=text, status="failed", error=("bad_request", text))
        night.inputs = [{text: text}, {text: text}]
        prompt = f'"system":{json.dumps(text)},"messages":[{{"role":"user","content":{json.dumps(text)}}}]'
        page = night.page(
            {text: text},
            text,
            file=text,
            job_text=text,
            model=text,
            description=text,
            output=text,
            request={text: text},
            prompt=prompt.encode(),
            prompt_row=text,
            summary={"bound_by": text},
        )
        seen = Seen(page)
        assert not {"script", "img", "b", "link", "iframe"} & set(seen.tags)
        assert seen.tags.count("style") == seen.tags.count("title") == 1
        assert not [name for name, _ in seen.attributes if name.startswith("on")]
        assert not any(c in page for c in "\x1b\x07")
        shown = text.replace("\x1b", "\\x1b").replace("\x07", "\\x07")
        assert [cell for cell in seen.cells if cell == shown]


def test_values_of_the_environment_are_masked(night: Night) -> None:
    night.row(1, failed("bad_request", "s3cret said no"), status="failed", error=("bad_request", "s3cret said no"))
    page = night.page(
        job_text="url: s3cret", output="/s3cret/out", mask=lambda text: text.replace("s3cret", "${env:HOST}")
    )
    assert "s3cret" not in page
    assert "${env:HOST} said no" in page


def test_the_page_fetches_nothing_and_has_no_script(night: Night) -> None:
    night.row(1, failed(), answered())
    seen = Seen(page := night.page())
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(seen.tags)
    assert not [name for name, _ in seen.attributes if name in {"src", "href", "action", "data"}]
    assert "default-src 'none'" in page
    assert "url(" not in page.replace("url(#", "")


def test_the_page_does_not_grow_with_the_run(night: Night) -> None:
    number, long = 3_000, "word " * 2_000
    night.keep(1, answered())
    with sqlite3.connect(night.path) as db:
        columns = "run, start, status, error_type, error_message, answered, model, max_tokens, maybe_billed, endpoint"
        db.executemany(
            f"INSERT INTO attempt (id, request_key, latency_ms, started_at, {columns}) VALUES (?, ?, ?, ?, 1, 1,"
            " 'failed', 'bad_request', ?, 1, ?, 99, 0, 'h')",
            [
                (n * 1024, key(n), n * 7, 10**15 + n * 10**6, f"{n} {long}", f"model-{n % 40}")
                for n in range(10, 10 + number)
            ],
        )
    db.close()
    for n in range(10, 10 + number):
        night.line(Line(f"row-{n} {long}", "failed" if n % 2 else "ok", key(n), n * 1024))
    night.inputs = [{f"column-{c}": long for c in range(30)}] * len(night.lines)
    page = night.page({"verdict": long}, long * 10, job_text=long * 100, prompt=f'"system":"{long * 100}"'.encode())
    assert len(page) < 1_000_000


def test_a_run_without_rows_or_calls_is_a_page(night: Night) -> None:
    seen = Seen(night.page())
    assert "The plan has no rows." in seen.cells
    assert "svg" not in seen.tags


def test_a_journal_that_cannot_be_read_is_said(night: Night) -> None:
    night.row(1, answered())
    night.journal.close()
    night.path.write_bytes(b"no database at all, but long enough to be looked at" * 50)
    with pytest.raises(StorageError, match="the journal could not be read"):
        night.page()
