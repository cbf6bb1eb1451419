from evenly.workload.state import End
from evenly.workload.stations import HINT, end_of_line, end_of_result

RESULT = {
    "ticket": "T",
    "outcome": "failed",
    "exit_code": 2,
    "reason": None,
    "stderr": "first\n\tthe  last \n\n",
    "node": "n1",
    "submitted_at": 1.0,
    "started_at": 2.0,
    "finished_at": 3.0,
}


def test_a_line_says_all_but_why() -> None:
    line = (
        b'{"done":{"ticket":"T","state":"done","outcome":"failed","attempt":1,"node":"n1",'
        b'"submitted_at":1.0,"started_at":2.0,"finished_at":3.0}}'
    )
    assert end_of_line(line) == End("T", "failed", None, None, "n1", 1.0, 2.0, 3.0)


def test_a_result_says_why() -> None:
    assert end_of_result(RESULT) == End("T", "failed", "exit code 2", "the last", "n1", 1.0, 2.0, 3.0)
    said = {"reason": "killed\nby SIGKILL", "exit_code": 137, "stderr": None}
    assert end_of_result(RESULT | said)[2:4] == ("exit code 137, killed by SIGKILL", "")
    assert end_of_result(RESULT | {"exit_code": None, "stderr": "x" * 1000})[2:4] == ("", "x" * HINT)
    assert end_of_result(RESULT | {"outcome": "succeeded", "exit_code": 0})[2:4] == ("", "")


def test_what_a_terminal_would_obey_stays_out() -> None:
    """Also C1 controls, line ends that are none of ASCII's, and what turns the direction of text."""
    said = {"stderr": "x\n\x1b]0;title\x07\x1b[31mred\x9b2J \u202eend\r\n", "reason": "by\x1b[2J it\u2028too"}
    end = end_of_result(RESULT | said)
    assert end.hint == "]0;title [31mred 2J end"
    assert end.reason == "exit code 2, by [2J it too"
