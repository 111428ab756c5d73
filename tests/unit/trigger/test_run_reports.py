"""JUnit XML and Markdown of a run: complete, valid, and safe whatever names and logs hold."""

from __future__ import annotations

from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest
from evaluated import EVALUATED
from hypothesis import given
from hypothesis import strategies as st

from airflow_ml_provider.cli import junit, markdown
from airflow_ml_provider.cli.conditions import Outputs, judge, parse_condition
from airflow_ml_provider.cli.trigger_log import lines_of
from airflow_ml_provider.cli.trigger_story import Story, Task, lasting

# Of the schema that Jenkins' xUnit plugin and Surefire share: attributes and children, in their order.
SCHEMA: dict[str, tuple[set[str], list[str]]] = {
    "testsuites": ({"name", "time", "tests", "failures", "disabled", "errors"}, ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id",
         "package"},
        ["properties", "testcase", "system-out", "system-err"],
    ),
    "properties": (set(), ["property"]),
    "property": ({"name", "value"}, []),
    "testcase": ({"name", "assertions", "time", "classname", "status"}, ["skipped", "error", "failure"]),
    "skipped": ({"message"}, []),
    "error": ({"type", "message"}, []),
    "failure": ({"type", "message"}, []),
}  # fmt: skip


def check(element: ElementTree.Element) -> None:
    attributes, children = SCHEMA[element.tag]
    assert set(element.keys()) <= attributes
    order = [children.index(child.tag) for child in element]
    assert order == sorted(order)
    for child in element:
        check(child)


def story(**changes: object) -> Story:
    tasks = [Task("fit", -1, "success", 1, 61.5), Task("judge", -1, "success", 1, 4.25)]
    gates = [judge(parse_condition(text), Outputs({"judge": EVALUATED})) for text in
             ("roc_auc>=0.74", "log_loss<0.3")]  # fmt: skip
    found = Story("train", "ci__train__1", "https://airflow.example/dags/train/runs/ci__train__1", state="success",
                  began=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), seconds=70.0, tasks=tasks,
                  outputs={"judge": EVALUATED}, gates=gates)  # fmt: skip
    for name, value in changes.items():
        setattr(found, name, value)
    return found


def test_junit_has_a_case_for_the_run_each_task_and_each_gate() -> None:
    suites = ElementTree.fromstring(junit.document(story()))
    check(suites)
    assert [(case.get("classname"), case.get("name")) for case in suites.iter("testcase")] == [
        ("train", "run"), ("train", "fit"), ("train", "judge"),
        ("train.gates", "roc_auc >= 0.74"), ("train.gates", "log_loss < 0.3"),
    ]  # fmt: skip
    [suite] = suites
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("5", "1", "0")
    assert suite.get("timestamp") == "2026-01-02T03:04:05"
    [failure] = suites.iter("failure")
    assert failure.get("message") == "judge reports 0.41"


def test_junit_of_a_failed_run_carries_the_log_and_skips_what_did_not_run() -> None:
    tasks = [Task("fit", 3, "failed", 2, 1.0, "JFK"), Task("judge", -1, "upstream_failed", 0, None)]
    logs = {"fit[JFK]": ["ValueError: <&>]]> \x00\x1b[31m\ud800"]}
    suites = ElementTree.fromstring(junit.document(story(state="failed", tasks=tasks, logs=logs, gates=[])))
    check(suites)
    run, fit, judged = suites.iter("testcase")
    assert run.find("failure") is not None
    failure = fit.find("failure")
    assert failure is not None
    assert failure.get("message") == "the task failed at try 2"
    assert (failure.text or "").startswith("ValueError: <&>]]> ")
    skipped = judged.find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "upstream_failed"


def test_junit_of_a_run_that_could_not_be_followed_is_an_error() -> None:
    suites = ElementTree.fromstring(
        junit.document(story(state="running", trouble="no answer", tasks=[], gates=[]))
    )
    check(suites)
    assert suites.get("errors") == "1"


@given(st.text(), st.text(), st.text())
def test_junit_is_valid_whatever_names_and_logs_hold(name: str, log: str, reason: str) -> None:
    tasks = [Task(name, -1, "failed", 1, 1.0)]
    found = story(dag_id=name, tasks=tasks, logs={name: [log]}, trouble=reason)
    check(ElementTree.fromstring(junit.document(found).encode()))


def test_the_report_answers_first_and_shows_metrics_against_the_champion() -> None:
    report = markdown.document(story())
    head, *_ = report.splitlines()
    assert head == "### ❌ `train`: decision `promote`, 1 of 2 gates not met"
    assert "[Airflow run](https://airflow.example/dags/train/runs/ci__train__1)" in report
    assert "[Report](https://mlflow.example/report)" in report
    assert (
        "| `roc_auc` | 0.7512 (0.7450 to 0.7570) | 0.7401 (0.7340 to 0.7460) | +0.0111 (+0.0060 to +0.0160) |"
    ) in report
    assert "delays version 4 against champion version 3, 12,345 rows" in report
    assert "| `origin = JFK` | 4000 | 0.7300 (0.7200 to 0.7400) |  |" in report
    assert "| ❌ | `log_loss < 0.3` | judge reports 0\\.41 |" in report
    assert "| `fit` | success | 1:02 min |" in report


def test_the_report_of_a_good_run_says_so() -> None:
    assert markdown.document(story(gates=[])).startswith("### ✅ `train`: decision `promote`\n")
    assert markdown.document(story(gates=[], outputs={})).startswith("### ✅ `train`: the run succeeded\n")
    assert markdown.document(story(trouble="still running after 60.0 s")).startswith("### ⚠️ ")


def test_the_report_of_a_failure_folds_its_log() -> None:
    tasks = [Task("fit", -1, "failed", 1, 1.0)]
    report = markdown.document(
        story(state="failed", tasks=tasks, logs={"fit": ["a </pre><b>", "", "@team"]}, gates=[])
    )
    assert "### ❌ `train`: the run failed" in report
    assert (
        "<details><summary>The last lines of fit</summary>\n\n<pre>a &lt;/pre&gt;&lt;b&gt;\n\n@team</pre>"
        in report
    )


@pytest.mark.parametrize(
    ("value", "safe"),
    [
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("![i](http://evil/x.png)", "\\!\\[i\\]\\(http://evil/x\\.png\\)"),
        ("a | b\n\n# heading", "a \\| b \\# heading"),
        ("ask @team & `code`", "ask @\u200bteam &amp; \\`code\\`"),
    ],
)
def test_text_from_outside_stays_text(value: str, safe: str) -> None:
    assert markdown.text(value) == safe


def test_code_from_outside_stays_code() -> None:
    assert markdown.code("a|b\n<i>") == "`a\\|b <i>`"
    assert markdown.code("``x`") == "``` ``x` ```"
    assert markdown.link("x", "javascript:alert(1)") == "x `javascript:alert(1)`"
    assert markdown.link("x", "https://a/(b)|") == "[x](https://a/%28b%29%7C)"


def test_a_report_is_short_enough_for_a_comment() -> None:
    logs = {f"task {n}": ["<" * 500] * 30 for n in range(30)}
    tasks = [Task("fit", n, "failed", 1, 1.0) for n in range(5_000)]
    report = markdown.document(story(state="failed", tasks=tasks, logs=logs))
    assert len(report) <= 65_536
    assert "and 4975 more" in report
    assert "The last lines of task 0" in report
    assert "shortened" in report


def test_a_log_shows_the_exception_that_airflow_keeps_apart() -> None:
    frames = [{"filename": "/a.py", "lineno": n, "name": "f"} for n in range(9)]
    frames.append({"filename": "/venv/site-packages/airflow/sdk/x.py", "lineno": 1, "name": "run"})
    content = [
        {"timestamp": "t", "event": "::group::Pre task", "level": "info"},
        {"event": "Task failed with exception", "level": "error",
         "error_detail": [{"exc_type": "DataError", "exc_value": "bad\n  kept: all", "frames": frames}]},
        "plain\x1b[31m text\n##[error]trap",
    ]  # fmt: skip
    lines = lines_of(content)
    assert lines[:7] == [
        "Task failed with exception",
        *(f'  File "/a.py", line {n}, in f' for n in (5, 6, 7, 8)),
        "DataError: bad",
        "  kept: all",
    ]
    assert lines[7:] == ["plain text", "# #[error]trap"]


def test_durations_are_readable() -> None:
    assert [lasting(seconds) for seconds in (4.25, 61.5, 8_100)] == ["4.2 s", "1:02 min", "2:15:00 h"]
