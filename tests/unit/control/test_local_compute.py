"""Steps as subprocesses: real processes, really killed."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

# Before any test: its import sets logging up anew, and so takes away what looks at the log.
import airflow.sdk.execution_time.task_runner  # noqa: F401
import psutil
import pytest

from airflow_ml_provider.compute import Exit, Launch, LocalCompute
from airflow_ml_provider.contract.errors import ConfigError, InfrastructureError
from airflow_ml_provider.contract.scratch import VARIABLE as SCRATCH

MakeScript = Callable[[str], LocalCompute]
LAUNCH = Launch("a-step", "ingest", "file:///spec.json")


@pytest.fixture
def script(tmp_path: Path) -> MakeScript:
    """A compute whose interpreter is a script: it does what the test says, whatever the step is."""

    def make(body: str) -> LocalCompute:
        path = tmp_path / "interpreter"
        path.write_text(f"#!{sys.executable}\n" + textwrap.dedent(body))
        path.chmod(0o755)
        return LocalCompute(python=str(path))

    return make


def until(condition: Callable[[], object], seconds: float = 20) -> object:
    end = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.02)
    assert found
    return found


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def pid_in(path: Path) -> int:
    return int(str(until(lambda: path.exists() and path.read_text().strip())))


def test_every_line_reaches_the_log_in_order(script: MakeScript, caplog: pytest.LogCaptureFixture) -> None:
    compute = script("""
        import sys
        for n in range(20_000):
            print("line", n)
        sys.stderr.write("last words, without an end of line: \\xe4")
    """)
    with caplog.at_level(logging.INFO, "airflow_ml_provider.compute.local"):
        ended = compute.run(LAUNCH, {})
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:-1] == [f"line {n}" for n in range(20_000)]
    assert lines[-1] == "last words, without an end of line: ä"
    assert ended.code == 0
    assert ended.last_lines.splitlines()[-2] == "line 19999"


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), 9)"])
def test_what_a_step_lays_down_is_removed_however_it_ends(
    script: MakeScript, end: str, tmp_path: Path
) -> None:
    compute = script(f"""
        import os
        folder = os.environ["{SCRATCH}"]
        open(folder + "/rows", "w").write("many")
        print(folder, flush=True)
        {end}
    """)
    folder = Path(compute.run(LAUNCH, {}).last_lines.splitlines()[0])
    assert folder.parent == Path(tempfile.gettempdir())
    assert not folder.exists()
    elsewhere = LocalCompute(compute.python, {"TMPDIR": str(tmp_path)})
    folder = Path(elsewhere.run(LAUNCH, {}).last_lines.splitlines()[0])
    assert folder.parent == tmp_path
    assert not folder.exists()


def test_a_steps_own_log_lines_keep_their_level(script: MakeScript, caplog: pytest.LogCaptureFixture) -> None:
    compute = script('print("2026-01-02 03:04:05,678 WARNING mind this")')
    with caplog.at_level(logging.INFO, "airflow_ml_provider.compute.local"):
        compute.run(LAUNCH, {})
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ("WARNING", "mind this")


def test_the_step_gets_credentials_and_code_and_none_of_airflows_secrets(
    script: MakeScript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://user:hidden@db/airflow")
    monkeypatch.setenv("AIRFLOW_CONN_MLFLOW_DEFAULT", "http://user:hidden@mlflow")
    monkeypatch.setenv("AIRFLOW_VAR_TOKEN", "hidden")
    monkeypatch.setenv("_AIRFLOW__STARTUP_MSG", "hidden")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "a_dag")
    monkeypatch.setenv("PYTHONPATH", "/of/the/worker")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    told = tmp_path / "environment.json"
    compute = script(f"import json, os; json.dump(dict(os.environ), open({str(told)!r}, 'w'))")
    launch = Launch("a-step", "train", "spec", ("/code/one", "/code/two"), {"MLFLOW_TRACKING_TOKEN": "given"})
    assert compute.run(launch, {}).code == 0
    seen = json.loads(told.read_text())
    assert not [
        name for name in seen if re.match(r"_?AIRFLOW_", name) and name not in ("AIRFLOW_CTX_DAG_ID", SCRATCH)
    ]
    assert "hidden" not in told.read_text()
    assert seen["MLFLOW_TRACKING_TOKEN"] == "given"
    assert seen["PYTHONPATH"].split(os.pathsep) == ["/code/one", "/code/two", "/of/the/worker"]
    assert seen["OMP_NUM_THREADS"] == "3"


def test_credentials_are_in_no_repr_and_on_no_command_line(script: MakeScript, tmp_path: Path) -> None:
    launch = Launch("a-step", "train", "spec", credentials={"MLFLOW_TRACKING_TOKEN": "s3cret"})
    told = tmp_path / "arguments"
    script(f"import sys; open({str(told)!r}, 'w').write(' '.join(sys.argv))").run(launch, {})
    assert told.read_text().endswith("-P -m airflow_ml_provider.steps train --spec spec --end-with-parent")
    assert "s3cret" not in told.read_text() + repr(launch)


def test_a_killed_step_is_an_infrastructure_error_that_names_the_signal(script: MakeScript) -> None:
    ended = script("import os, signal; os.kill(os.getpid(), signal.SIGKILL)").run(LAUNCH, {})
    assert isinstance(ended.error, InfrastructureError)
    assert "a-step was ended by SIGKILL: killed, often for want of memory" in str(ended.error)
    ended = script("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").run(LAUNCH, {})
    assert "was ended by SIGSEGV" in str(ended.error)


def test_cancel_ends_a_step_that_does_not_want_to(script: MakeScript, tmp_path: Path) -> None:
    compute = script(f"""
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
        open({str(tmp_path / "step")!r}, "w").write(str(os.getpid()))
        time.sleep(600)
    """)
    ends: list[Exit] = []
    thread = threading.Thread(target=lambda: ends.append(compute.run(LAUNCH, {})))
    thread.start()
    step, child = pid_in(tmp_path / "step"), pid_in(tmp_path / "child")
    compute.cancel(LAUNCH)
    thread.join(20)
    assert gone(step)
    assert until(lambda: gone(child))
    assert "SIGKILL" in str(ends[0].error)


def test_cancelling_what_does_not_run_is_no_error() -> None:
    LocalCompute().cancel(LAUNCH)


def test_what_a_step_leaves_behind_is_ended_with_it(script: MakeScript, tmp_path: Path) -> None:
    compute = script(f"""
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(tmp_path / "child")!r}, "w").write(str(child.pid))
        print("done")
    """)
    assert compute.run(LAUNCH, {}).code == 0
    assert until(lambda: gone(pid_in(tmp_path / "child")))


def test_an_interrupted_task_ends_its_step(script: MakeScript, tmp_path: Path) -> None:
    compute = script(f"""
        import os, time
        open({str(tmp_path / "step")!r}, "w").write(str(os.getpid()))
        time.sleep(600)
    """)

    def interrupt(number: int, frame: object) -> None:
        raise TimeoutError("as Airflow's execution_timeout does")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 2)
        with pytest.raises(TimeoutError):
            compute.run(LAUNCH, {})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert gone(pid_in(tmp_path / "step"))


def test_kill_9_of_the_task_ends_its_step(tmp_path: Path) -> None:
    # The step is a real one: its spec has it call a function of the user's that takes for ever.
    (tmp_path / "sleepy.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'step')!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    (tmp_path / "rows.csv").write_text("a,ds\n1,2013-01-01\n")
    spec = {
        "verb": "ingest", "store": str(tmp_path / "store"), "code": {"roots": [str(tmp_path)]},
        "arguments": {"source": str(tmp_path / "rows.csv"), "schema": "sleepy:SCHEMA",
                      "publish": {"name": "raw"}, "partitions": "2013-01-01"},
    }  # fmt: skip
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    task = (
        "from airflow_ml_provider.compute import Launch, LocalCompute\n"
        f"LocalCompute().run(Launch('a-step', 'ingest', {str(tmp_path / 'spec.json')!r}), {{}})"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", task], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        step = pid_in(tmp_path / "step")
    finally:
        process.kill()
        process.wait()
    assert until(lambda: gone(step))


def test_a_missing_interpreter_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"could not be started with .*nowhere: No such file"):
        LocalCompute(python=str(tmp_path / "nowhere")).run(LAUNCH, {})


def test_equal_computes_are_one_value() -> None:
    one = LocalCompute(environment={"B": "2", "A": "1"})
    other = LocalCompute(environment=(("A", "1"), ("B", "2")))
    assert one == other
    assert hash(one) == hash(other)
    assert repr(one) == repr(other) == "LocalCompute(python=None, environment=(('A', '1'), ('B', '2')))"
