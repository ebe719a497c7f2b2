"""The plan: every request in order, spooled so that it is whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.answer import contract
from pipeline.errors import GuardFailed, JobError, StorageError
from pipeline.job import Job, load
from pipeline.run.plan import Facts, Plan, find_repeats, identity, make_plan
from pipeline.run.ready import make_ready

JOB = """\
name: small
source: {{path: rows.csv}}
prompt: {{user: "{prompt}"}}
request: {{model: claude-haiku-4-5}}
endpoint: simulator
output: {{path: out.parquet, keep: {keep}}}
{more}
"""


def job_in(folder: Path, rows: str, *, prompt: str = "Say <<name>>", keep: str = "all", more: str = "") -> Job:
    (folder / "rows.csv").write_text(rows)
    path = folder / "job.yaml"
    path.write_text(JOB.format(prompt=prompt, keep=keep, more=more))
    return load(path, environ={})


def plan_of(job: Job, *, limit: int | None = None) -> Plan:
    return make_plan(job.directory / "plans" / "p", job, make_ready(job), run_id="small", limit=limit)


def identity_of(job: Job, limit: int | None = None) -> str:
    return identity(job, contract(job), limit)


def test_a_plan_reads_back_in_order_with_what_it_was_made_of(tmp_path: Path) -> None:
    plan = plan_of(job_in(tmp_path, "name,size\nb,1\na,2\nb,3\n"))
    (batch,) = plan.read()
    assert [bytes(p or b"") for p in batch.prompts] == [
        b'"messages":[{"role":"user","content":"Say b"}]',
        b'"messages":[{"role":"user","content":"Say a"}]',
        b'"messages":[{"role":"user","content":"Say b"}]',
    ]
    assert batch.kept.to_pydict() == {"name": ["b", "a", "b"], "size": [1, 2, 3]}
    assert batch.keys[0] == batch.keys[2] != batch.keys[1]
    assert batch.repeats == {2}
    facts = plan.facts
    assert (facts.requests, facts.rows, facts.distinct, facts.unsendable) == (3, 3, 2, 0)
    assert Plan.load(plan.folder) is not None


def test_a_row_that_cannot_be_rendered_is_planned_as_failed(tmp_path: Path) -> None:
    plan = plan_of(job_in(tmp_path, "name,size\na,0\nb,1\n", prompt="<< 1 / size >>"))
    (batch,) = plan.read()
    assert batch.keys[0] is None
    assert batch.errors[0] is not None
    assert batch.errors[0][0] == "template"
    assert batch.request(0) is None
    assert (plan.facts.unsendable, plan.facts.distinct) == (1, 1)


def test_a_plan_without_kept_columns_still_counts_its_rows(tmp_path: Path) -> None:
    plan = plan_of(job_in(tmp_path, "name\na\nb\n", keep="none"))
    (batch,) = plan.read(prompts=False)
    assert (batch.kept.num_rows, batch.kept.num_columns, len(batch)) == (2, 0, 2)


def test_a_limit_takes_the_beginning(tmp_path: Path) -> None:
    plan = plan_of(job_in(tmp_path, "name\n" + "".join(f"n{n}\n" for n in range(50))), limit=7)
    (batch,) = plan.read()
    assert batch.kept.to_pydict()["name"] == [f"n{n}" for n in range(7)]


def test_without_reuse_equal_rows_have_keys_of_their_own_and_the_same_ones_next_time(tmp_path: Path) -> None:
    job = job_in(tmp_path, "name\na\na\nb\na\n", more="reuse: false")
    (first,) = plan_of(job).read()
    (second,) = plan_of(job).read()
    assert len(set(first.keys)) == 4
    assert first.keys == second.keys
    assert first.repeats == frozenset()


def test_a_source_that_breaks_on_the_way_leaves_no_plan_and_no_pieces(tmp_path: Path) -> None:
    job = job_in(tmp_path, "name,size\na,1\n")
    ready = make_ready(job)
    (tmp_path / "rows.csv").write_text("name,size\na,1\nb,2,3\n")
    with pytest.raises(JobError):
        make_plan(tmp_path / "plans" / "p", job, ready, run_id="small", limit=None)
    assert not list((tmp_path / "plans").rglob("*.arrow"))
    assert Plan.load(tmp_path / "plans" / "p") is None


def test_a_plan_that_lost_a_part_is_no_plan(tmp_path: Path) -> None:
    plan = plan_of(job_in(tmp_path, "name\na\n"))
    path = plan.folder / "plan.arrow"
    path.write_bytes(path.read_bytes()[:-200])
    assert Plan.load(plan.folder) is None
    with pytest.raises(StorageError, match="remove this folder"):
        list(plan.read())


def test_a_plan_cut_between_two_batches_is_not_taken_for_a_short_one(tmp_path: Path) -> None:
    plan = plan_of(job_in(tmp_path, "name\n" + "".join(f"n{n}\n" for n in range(4_500))))
    path = plan.folder / "plan.arrow"
    whole = path.read_bytes()
    # An Arrow stream without its end mark reads as a whole one up to the last complete message.
    marks = [at for at in range(0, len(whole) - 8, 8) if whole[at : at + 4] == b"\xff\xff\xff\xff"]
    messages = [at for at in marks if 0 < int.from_bytes(whole[at + 4 : at + 8], "little") < 5_000]
    path.write_bytes(whole[: messages[-1]])
    with pytest.raises(StorageError, match=r"of 4,500 requests"):
        list(plan.read())


def test_pieces_of_a_batch_are_the_batch(tmp_path: Path) -> None:
    (batch,) = plan_of(job_in(tmp_path, "name\na\nb\na\na\nc\n")).read()
    pieces = list(batch.pieces(2))
    assert [key for piece in pieces for key in piece.keys] == batch.keys
    assert [piece.at + nth for piece in pieces for nth in sorted(piece.repeats)] == sorted(batch.repeats)
    assert [value for piece in pieces for value in piece.kept.to_pydict()["name"]] == ["a", "b", "a", "a", "c"]


def test_a_guard_that_refuses_leaves_the_old_plan(tmp_path: Path) -> None:
    old = plan_of(job_in(tmp_path, "name\na\n"))
    job = job_in(tmp_path, "name\nb\n")
    ready = make_ready(job)

    def refuse(facts: Facts) -> None:
        raise GuardFailed(f"{facts.rows} rows")

    with pytest.raises(GuardFailed, match="1 rows"):
        make_plan(old.folder, job, ready, run_id="small", limit=None, guard=refuse)
    (batch,) = old.read()
    assert batch.kept.to_pydict() == {"name": ["a"]}
    assert [path.name for path in old.folder.parent.iterdir()] == [old.folder.name]


@pytest.mark.parametrize(
    ("prompt", "more"),
    [("Tell <<name>>", ""), ("Say <<name>>", "reuse: false"), ("Say <<name>>", "params: {x: 1}")],
)
def test_what_shapes_the_plan_is_in_its_identity(tmp_path: Path, prompt: str, more: str) -> None:
    plain = identity_of(job_in(tmp_path, "name\na\n"))
    assert identity_of(job_in(tmp_path, "name\na\n", prompt=prompt, more=more)) != plain
    assert identity_of(job_in(tmp_path, "name\na\n"), 3) != plain
    assert identity_of(job_in(tmp_path, "name\nb\n")) == plain


@given(st.lists(st.integers(0, 12), max_size=40), st.integers(1, 9))
def test_repeats_are_found_whatever_the_number_of_passes(
    tmp_path_factory: pytest.TempPathFactory, values: list[int], at_once: int
) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.bin"
    path.write_bytes(b"".join(value.to_bytes(16, "little") for value in values))
    expected = [n for n, value in enumerate(values) if value in values[:n]]
    assert find_repeats(path, len(values), at_once) == expected
