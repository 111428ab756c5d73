"""``airflow-ml trigger``: start or find a run, follow it, judge it, report it; nothing here needs Airflow."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from airflow_ml_provider.cli import junit, markdown, trigger_start
from airflow_ml_provider.cli.airflow_client import AirflowClient
from airflow_ml_provider.cli.conditions import Outputs, judge
from airflow_ml_provider.cli.trigger_follow import StillRunning, follow, read_outputs
from airflow_ml_provider.cli.trigger_options import client_of, conf_of, gates_of, waits
from airflow_ml_provider.cli.trigger_progress import Progress
from airflow_ml_provider.cli.trigger_story import FINAL_RUN, Story, lasting
from airflow_ml_provider.contract.errors import ConfigError, MLError

OK, RUN_FAILED, GATE_NOT_MET, TIMED_OUT, INTERRUPTED, TERMINATED = 0, 1, 3, 4, 130, 143
# An address that never answered is more likely wrong than restarting.
FIRST_PATIENCE = 60.0
# A build server kills what does not end soon after it was told to.
LAST_PATIENCE = 6.0


class _Terminated(KeyboardInterrupt):
    """SIGTERM, as a build server sends it to a job that was cancelled."""


def run(options: argparse.Namespace) -> int:
    """Do it; gives the exit code."""
    progress = Progress(sys.stdout)
    try:
        client = client_of(options, progress.say)
    except MLError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    run_id = options.attach or trigger_start.run_id_of(options.dag, options.key)
    story = Story(options.dag, run_id, client.link(options.dag, run_id))
    with _sigterm_interrupts():
        try:
            return _report(options, story, _run(client, options, story, progress))
        except StillRunning:
            story.trouble = f"still {story.state} after {lasting(options.timeout)}"
            progress.say(f"{story.trouble}; it goes on. {_again(options, client, story)}")
            return _report(options, story, TIMED_OUT)
        except MLError as error:
            story.trouble = error.what
            print(error, file=sys.stderr)
            if error.retryable:
                progress.say(_again(options, client, story))
            return _report(options, story, error.exit_code)
        except KeyboardInterrupt as interrupt:
            code = TERMINATED if isinstance(interrupt, _Terminated) else INTERRUPTED
            try:
                story.trouble = _interrupted(client, options, story, progress)
            except KeyboardInterrupt:
                story.trouble = "interrupted twice; look in Airflow whether the run goes on"
            return _report(options, story, code)
        finally:
            progress.close()


def _run(client: AirflowClient, options: argparse.Namespace, story: Story, progress: Progress) -> int:
    _start(client, options, story, progress)
    if not waits(options):
        return OK
    follow(client, story, progress, poll=options.poll or 0, timeout=options.timeout)
    conditions = gates_of(options)
    if conditions or options.report:
        story.outputs = read_outputs(client, story, progress)
        story.gates = [judge(condition, Outputs(story.outputs)) for condition in conditions]
    progress.say(f"the run: {story.state}  {lasting(story.seconds)}")
    for gate in story.gates:
        progress.say(f"gate {'met' if gate.passed else 'NOT MET'}: {gate.condition}  ({gate.reason})")
    if story.state != "success":
        return RUN_FAILED
    return GATE_NOT_MET if story.failed_gates else OK


def _start(client: AirflowClient, options: argparse.Namespace, story: Story, progress: Progress) -> None:
    patience, client.patience = client.patience, min(client.patience, FIRST_PATIENCE)
    client.call("GET", "/version")
    client.patience, story.state = patience, "unknown"
    if options.unpause:
        trigger_start.unpause(client, story.dag_id)
    if options.attach:
        found, story.found = trigger_start.attach(client, story.dag_id, story.run_id), True
    else:
        conf, partition = conf_of(options), options.partition or None
        found, story.found = trigger_start.start(
            client, story.dag_id, story.run_id, conf, partition, progress.say
        )
    story.state = found["state"]
    progress.say(f"{'found' if story.found else 'started'} run {story.run_id}: {story.url}")
    if story.found and story.state == "failed" and options.retry_failed:
        trigger_start.retry_failed(client, story.dag_id, story.run_id)
        progress.say("it had failed: its failed tasks are tried again")
    elif story.found and story.state in FINAL_RUN:
        progress.say(f"it has ended already: {story.state}")


def _interrupted(client: AirflowClient, options: argparse.Namespace, story: Story, progress: Progress) -> str:
    """Leave the run alone, or end it; gives what became of it."""
    if not options.cancel_on_interrupt:
        progress.say(f"interrupted; the run goes on. {_again(options, client, story)}")
        return "interrupted; the run goes on"
    client.patience = LAST_PATIENCE
    try:
        if client.run(story.dag_id, story.run_id) is None:
            return "interrupted before the run was started"
        trigger_start.cancel(client, story.dag_id, story.run_id)
    except MLError as error:
        print(error, file=sys.stderr)
        return "interrupted, and the run could not be cancelled"
    progress.say("interrupted; the run was marked failed")
    return "interrupted; the run was cancelled"


def _again(options: argparse.Namespace, client: AirflowClient, story: Story) -> str:
    if not story.state:
        return "No run was started."
    words = ["airflow-ml", "trigger", options.dag, "--url", client.url, "--attach", story.run_id, "--wait"]
    return f"To follow it: {shlex.join(words)}"


def _report(options: argparse.Namespace, story: Story, code: int) -> int:
    """Write the reports that were asked for; gives the exit code."""
    for name, content in ((options.junit, junit.document), (options.report, markdown.document)):
        if not name:
            continue
        try:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text(content(story), encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            print(f"{name} cannot be written: {error.strerror}", file=sys.stderr)
            code = code or ConfigError.exit_code
    return code


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not in the main thread, where nobody sends signals to
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
