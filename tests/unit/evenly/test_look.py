from typing import Any

import pytest

from evenly.cli.look import Look, job_text, lines, rate, since, size

MIB = 1024 * 1024


def node(name: str, **given: Any) -> dict[str, Any]:
    usual = {"connected": True, "draining": False, "slots": 2, "running": 1, "queued": 3, "done": 10}
    return {"name": name, **usual, "load": 0.5, "memory": 512 * MIB, "id": name} | given


def job(**given: Any) -> dict[str, Any]:
    usual = {"ticket": "T" * 16, "state": "queued", "node": None, "submitted_at": 940.0}
    return {**usual, "job": {"run": "make test"}} | given


def look(**given: Any) -> Look:
    usual = {
        "at": 1000.0,
        "node": "n1",
        "nodes": [node("n1"), node("n2", running=2, draining=True), node("n3", connected=False)],
        "stats": {"node": {"name": "n1"}, "balancer": {"queued": 40}},
        "jobs": [job(), job(state="running", node="n2", name="tests", job={"task": "t", "payload": {}})],
    }
    return Look(**(usual | given))


def test_a_look_in_lines() -> None:
    assert [line.text.rstrip() for line in lines(look())] == [
        "n1: 3 of 4 slots busy, 6 queued, 40 wait in the balancer",
        "",
        "NODE  SLOTS  RUN  QUEUED  DONE  LOAD     FREE",
        "n1        2    1       3    10  0.50  512 MiB  ########........",
        "n2        2    2       3    10  0.50  512 MiB  stops",
        "n3        2    1       3    10  0.50  512 MiB  away",
        "",
        "TICKET            STATE     NODE         AGE  JOB",
        "TTTTTTTTTTTTTTTT  queued    -            60s  make test",
        "TTTTTTTTTTTTTTTT  running   n2           60s  [tests] task t",
    ]


def test_it_fits_into_the_terminal() -> None:
    long = look(
        nodes=[node("n" * 64, done=10**9, queued=10**7, load=1000.0) for _ in range(30)],
        jobs=[job(job={"run": "x" * 1000}, node="m" * 64)] * 50,
    )
    for width, height in ((80, 24), (40, 10), (80, 3), (200, 60)):
        shown = lines(long, look(), width, height)
        assert len(shown) <= height
        assert max(len(line.text) for line in shown) <= width
    assert max(len(line.text) for line in lines(long)) <= 80


def test_what_is_not_there_is_said() -> None:
    assert lines(look(stats={"node": {}, "balancer": None}))[0].text.endswith("the balancer is away")
    assert lines(look(jobs=[]))[-1].text == "No jobs are open."
    assert "TICKET" not in "".join(line.text for line in lines(look(jobs=None)))


def test_the_rate_is_what_nodes_have_done_meanwhile() -> None:
    now = look(at=1002.0, nodes=[node("n1", done=15), node("new", done=100), node("n2", done=12)])
    assert rate(look(), now) == 3.5
    assert "3.5 done/s" in lines(now, look())[0].text
    assert rate(None, now) is None
    assert rate(now, now) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"job": {"run": "a\n\x1b[31mb"}}, "a  [31mb"),
        ({"job": {"sleep": 250}}, "sleep of 250 ms"),
        ({"job": {"run": "make", "array": 5}}, "5 times make"),
        ({"job": {"task": "checksum"}, "name": "x"}, "[x] task checksum"),
        ({"job": None}, "sleep of ? ms"),
    ],
)
def test_a_job_is_shown_in_printable_characters(given: dict[str, Any], said: str) -> None:
    assert job_text(job(**given)) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0s"), (59.9, "59s"), (120, "2m"), (5999, "99m"), (7200, "2h"), (360_000, "4d")],
)
def test_an_age_is_short(seconds: float, said: str) -> None:
    assert since(seconds) == said


def test_sizes_are_for_people() -> None:
    assert (size(512 * MIB), size(1536 * MIB)) == ("512 MiB", "1.5 GiB")
