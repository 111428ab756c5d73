"""A run as JUnit XML, which build servers show: a case for each task and for each gate."""

from __future__ import annotations

import re
from datetime import UTC
from xml.etree import ElementTree as Xml  # writes only

from airflow_ml_provider.cli.trigger_story import FINAL_TASK, Story, Task

# What XML 1.0 cannot hold, even escaped.
_IMPOSSIBLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(story: Story) -> str:
    """The XML, by the schema that Surefire and Jenkins share.

    A failed task is a failure; a task that did not come to its end for another's sake, or was left out, is skipped.
    What ended the following (no answer, a refusal, the time) is an error of the case "run".
    """
    suite = Xml.Element("testsuite", name=_text(story.dag_id))
    properties = Xml.SubElement(suite, "properties")
    for name, value in (("run_id", story.run_id), ("url", story.url), ("state", story.state)):
        Xml.SubElement(properties, "property", name=name, value=_text(value))
    run = _case(suite, story.dag_id, "run", story.seconds)
    if story.trouble:
        _outcome(run, "error", story.trouble, "")
    elif story.state == "failed":
        _outcome(run, "failure", "the run failed", "\n".join(task.name for task in story.failed_tasks))
    for task in story.tasks:
        _task(suite, story, task)
    for gate in story.gates:
        case = _case(suite, f"{story.dag_id}.gates", str(gate.condition), 0)
        if not gate.passed:
            _outcome(case, "failure", gate.reason, "")
    suites = Xml.Element("testsuites")
    suites.append(suite)
    counts = {
        "tests": len(suite.findall("testcase")),
        "failures": len(suite.findall("testcase/failure")),
        "errors": len(suite.findall("testcase/error")),
    }
    for element in (suite, suites):
        for name, count in counts.items():
            element.set(name, str(count))
        element.set("time", f"{story.seconds:.3f}")
    suite.set("skipped", str(len(suite.findall("testcase/skipped"))))
    if story.began:
        suite.set("timestamp", story.began.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S"))
    Xml.indent(suites)
    return Xml.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _task(suite: Xml.Element, story: Story, task: Task) -> None:
    case = _case(suite, story.dag_id, task.name, task.seconds or 0)
    if task.state == "failed":
        tried = f" at try {task.try_number}" if task.try_number > 1 else ""
        _outcome(case, "failure", f"the task failed{tried}", "\n".join(story.logs.get(task.name, ())))
    elif task.state != "success":
        said = task.state if task.state in FINAL_TASK else f"not ended: {task.state}"
        Xml.SubElement(case, "skipped", message=_text(said))


def _case(suite: Xml.Element, classname: str, name: str, seconds: float) -> Xml.Element:
    return Xml.SubElement(
        suite, "testcase", name=_text(name), classname=_text(classname), time=f"{seconds:.3f}"
    )


def _outcome(case: Xml.Element, kind: str, message: str, text: str) -> None:
    Xml.SubElement(case, kind, message=_text(message), type=kind).text = _text(text)


def _text(value: str) -> str:
    return _IMPOSSIBLE.sub("�", value)
