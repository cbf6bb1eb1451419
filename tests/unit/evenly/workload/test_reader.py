import gzip
import tracemalloc
from pathlib import Path

import pytest

from evenly.workload.errors import WorkloadError
from evenly.workload.reader import FAULTS_SHOWN, Entry, Fault, Skipped, Survey, Workload, recognise
from protocol.limits import LINE_LIMIT

TRACE = Path(__file__).resolve().parents[5] / "shared/workloads/NASA-iPSC-1993-3.1-cln.swf.gz"
SWF = "1 {} -1 {} 4 -1 -1 4 -1 -1 1 1 1 1 1 1 -1 -1"


def workload(directory: Path, text: str | bytes, name: str = "file", **how: object) -> Workload:
    path = directory / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return Workload(path, **how)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lines", "format"),
    [
        ([], "shell"),
        (["sleep 1000", "5", "SLEEP 3"], "sleeps"),
        (["sleep -1"], "sleeps"),
        (["sleep 1", "make"], "shell"),
        (["make"], "shell"),
        (["sleep 0.5"], "shell"),
        (['{"run": "x"}'], "jsonl"),
        (['{ "run" : 1'], "jsonl"),
        (["{'run': 1}"], "jsonl"),
        (["{}"], "jsonl"),
        (["{"], "jsonl"),
        (["{ true; }"], "shell"),
        (["{a,b}"], "jsonl"),
        (["; Version: 2.2"], "swf"),
        ([SWF.format(0, 1)], "swf"),
        ([SWF.format(0, 1) + " 5"], "shell"),
    ],
)
def test_a_format_is_recognised_by_its_first_lines(lines: list[str], format: str) -> None:
    assert recognise(lines) == format


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.swf", "swf"),
        ("a.SWF.gz", "swf"),
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("a.sh", "shell"),
        ("a.workload", "sleeps"),
        ("a.txt", "sleeps"),
        ("a.gz", "sleeps"),
    ],
)
def test_a_format_is_recognised_by_the_name(tmp_path: Path, name: str, format: str) -> None:
    text = b"sleep 5\n"
    assert workload(tmp_path, gzip.compress(text) if name.endswith(".gz") else text, name).format == format


def test_what_the_user_says_counts_more(tmp_path: Path) -> None:
    found = workload(tmp_path, "sleep 5\n", format="shell")
    assert list(found.read()) == [Entry(0, 1, '{"run": "sleep 5"}')]


def test_jobs_have_their_line_and_their_number(tmp_path: Path) -> None:
    text = "\ufeff# first\n\nsleep 5\r\nnonsense\n 7 "
    found = workload(tmp_path, text, "x.workload")
    first, fault, last = found.read()
    assert (first, last) == (Entry(0, 3, '{"sleep":5}'), Entry(1, 5, '{"sleep":7}'))
    assert isinstance(fault, Fault)
    assert fault.line == 4
    assert found.survey() == Survey(jobs=2, fault_count=1, faults=(fault,))
    assert found.told(found.survey()).startswith(f"{tmp_path}/x.workload:4: 'nonsense' is no task")


def test_a_gzipped_file_is_the_same(tmp_path: Path) -> None:
    text = b"true\nfalse\n"
    plain, packed = workload(tmp_path, text, "a"), workload(tmp_path, gzip.compress(text), "b")
    assert list(plain.read()) == list(packed.read())
    assert len(list(plain.read())) == 2


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data[:30] + b"xxxx" + data[34:]])
def test_damaged_gzip_is_said_with_its_line(tmp_path: Path, damage: object) -> None:
    data = damage(gzip.compress(b"true\n" * 1000 + bytes(range(33, 90)) * 20))  # type: ignore[operator]
    with pytest.raises(WorkloadError, match=r"file:\d+: the gzip data ends or is damaged here"):
        list(workload(tmp_path, data, format="shell").read())


def test_a_line_that_is_too_long_is_one_fault(tmp_path: Path) -> None:
    text = b"true\n" + b"x" * (3 * LINE_LIMIT) + b"\ntrue\n" + b"y" * (LINE_LIMIT + 5)
    first, fault, second, last = workload(tmp_path, text).read()
    assert isinstance(first, Entry)
    assert isinstance(second, Entry)
    assert second.line == 3
    assert fault == Fault(2, f"the line has more than {LINE_LIMIT} bytes, the most that one may have")
    assert last == Fault(4, fault.what)


def test_only_so_many_faults_are_kept_and_all_are_counted(tmp_path: Path) -> None:
    found = workload(tmp_path, "sleep x\n" * 500, format="sleeps")
    survey = found.survey()
    assert (survey.fault_count, len(survey.faults)) == (500, FAULTS_SHOWN)
    assert found.told(survey).splitlines()[-1].endswith(": and 480 more lines that are wrong")


def test_a_replay_has_times_and_leaves_out_what_is_unknown(tmp_path: Path) -> None:
    text = f"; a note\n{SWF.format(10, 2)}\n{SWF.format(15, -1)}\n{SWF.format(20, 4)}\n"
    found = workload(tmp_path, text, speed=10)
    assert list(found.read()) == [
        Entry(0, 2, '{"sleep":200}', 0.0),
        Skipped(3, "its run time is unknown"),
        Entry(1, 4, '{"sleep":400}', 1.0),
    ]
    survey = found.survey()
    assert (survey.jobs, survey.skipped, survey.span) == (2, 1, 1.0)


def test_the_real_trace() -> None:
    if not TRACE.exists():
        pytest.skip("the trace is not beside the repository, in ../shared/workloads")
    found = Workload(TRACE, speed=1000)
    survey = found.survey()
    assert (found.format, survey.jobs, survey.fault_count, survey.skipped) == ("swf", 18239, 0, 0)
    assert survey.span == pytest.approx(7948.9, abs=0.1)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match="nowhere: no such file"):
        Workload(tmp_path / "nowhere")
    with pytest.raises(WorkloadError, match="is no regular file"):
        Workload(tmp_path)
    with pytest.raises(WorkloadError, match=r"--speed is for the Standard Workload Format; .* read as shell"):
        workload(tmp_path, "true\n", speed=5)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    found = workload(tmp_path, '{"sleep": 0}\n' * 30_000)
    tracemalloc.start()
    try:
        assert found.survey().jobs == 30_000
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    assert workload(tmp_path, "a\n", "a").digest() == workload(tmp_path, "a\n", "b").digest()
    assert workload(tmp_path, "a\n", "a").digest() != workload(tmp_path, "b\n", "b").digest()
