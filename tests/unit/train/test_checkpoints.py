"""Checkpoints by themselves: on local disk and S3, killed at any moment, damaged, full."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
import resource
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import servers
from fatal_proxy import FatalProxy, Moment
from servers import free_port

from airflow_ml_provider.contract.checkpoints import Checkpoint
from airflow_ml_provider.contract.errors import ConfigError, TransientError, UserCodeError
from airflow_ml_provider.contract.store import Store

MEGABYTE = 1024 * 1024


def content(step: int, size: int) -> bytes:
    return np.random.default_rng(step).bytes(size)


def save(checkpoint: Checkpoint, step: int, size: int = 100) -> None:
    """A checkpoint of two files, one in a folder, whose content follows from the step."""
    with checkpoint.save(step) as folder:
        (folder / "weights #1").write_bytes(content(step, size))
        (folder / "optimizer").mkdir()
        (folder / "optimizer" / "state").write_text(str(step))


def step_of(checkpoint: Checkpoint, size: int = 100) -> int | None:
    """The step of the newest checkpoint, all of whose files must be as they were saved."""
    saved = checkpoint.latest()
    if saved is None:
        return None
    assert (saved.folder / "weights #1").read_bytes() == content(saved.step, size)
    assert (saved.folder / "optimizer" / "state").read_text() == str(saved.step)
    assert len([*saved.folder.rglob("*")]) == 3
    return saved.step


def kept(store: str) -> list[str]:
    return sorted({path.split("/")[1] for path in Store(store).paths("checkpoints")})


def file_of(folder: Path, step: int, number: int = 0) -> Path:
    manifest = json.loads((folder / f"checkpoints/{step:08d}/complete.json").read_text())
    return folder / f"checkpoints/{step:08d}/{manifest['save']}/{number:04d}"


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.s3_server(tmp_path_factory.mktemp("s3") / "server.log") as address:
        yield address


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store in an empty bucket, reachable through the environment."""
    environment = {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ALLOW_HTTP": "true", "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1",
    }  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    for method, path in (("POST", "moto-api/reset"), ("PUT", "bucket")):
        urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{path}", method=method)).close()
    return "s3://bucket/store"


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.getfixturevalue("s3")) if request.param == "s3" else tmp_path.as_uri()


def test_the_newest_checkpoint_is_found_by_another_process_and_the_last_two_are_kept(place: str) -> None:
    checkpoint = Checkpoint(Store(place))
    assert checkpoint.latest() is None
    for step in (1, 20, 300, 1_000_000_000):
        save(checkpoint, step)
        assert step_of(Checkpoint(Store(place))) == step
    assert kept(place) == ["00000300", "1000000000"]


def test_files_of_any_size_are_saved_and_fetched_whole(place: str) -> None:
    checkpoint = Checkpoint(Store(place))
    sizes = [0, 1, 8 * MEGABYTE, 8 * MEGABYTE + 1, 20 * MEGABYTE]
    with checkpoint.save(step=np.int64(3)) as folder:
        for size in sizes:
            (folder / str(size)).write_bytes(content(size, size))
    saved = checkpoint.latest()
    assert saved is not None
    for size in sizes:
        assert (saved.folder / str(size)).read_bytes() == content(size, size)


def test_the_same_step_may_be_saved_again_and_replaces_the_first(place: str) -> None:
    checkpoint = Checkpoint(Store(place))
    for number in (1, 2):
        with checkpoint.save(step=5) as folder:
            (folder / f"file{number}").write_text("x")
    saved = checkpoint.latest()
    assert saved is not None
    assert [path.name for path in saved.folder.iterdir()] == ["file2"]
    assert len([*Store(place).paths("checkpoints")]) == 2


def test_a_training_that_was_not_resumed_removes_what_lies_ahead_of_it(place: str) -> None:
    for step in (40, 60):
        save(Checkpoint(Store(place)), step)
    checkpoint = Checkpoint(Store(place))
    save(checkpoint, 20)
    assert kept(place) == ["00000020"]
    assert step_of(checkpoint) == 20


def test_nothing_is_saved_when_the_body_raises(place: str) -> None:
    checkpoint = Checkpoint(Store(place))
    save(checkpoint, 1)
    folders: list[Path] = []

    def interrupted() -> None:
        with checkpoint.save(step=2) as folder:
            folders.append(folder)
            (folder / "half").write_text("x")
            raise KeyError("weights")

    with pytest.raises(KeyError):
        interrupted()
    assert not folders[0].exists()
    assert step_of(checkpoint) == 1


def test_local_folders_of_saving_do_not_pile_up(tmp_path: Path) -> None:
    checkpoint = Checkpoint(Store(str(tmp_path / "store")), scratch=tmp_path / "scratch")
    for step in range(5):
        save(checkpoint, step)
    assert [*(tmp_path / "scratch").iterdir()] == []


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte differs": (
        lambda folder: file_of(folder, 60, 1).write_bytes(content(61, 100)),
        "damaged (weights #1 is not as it was saved)",
    ),
    "cut short": (
        lambda folder: file_of(folder, 60, 1).write_bytes(content(60, 100)[:50]),
        "damaged (weights #1 is not as it was saved)",
    ),
    "missing": (
        lambda folder: file_of(folder, 60).unlink(), "damaged (optimizer/state is missing)",
    ),
    "manifest cut short": (
        lambda folder: (folder / "checkpoints/00000060/complete.json").write_text('{"step": 6'),
        "damaged (complete.json is unreadable)",
    ),
    "manifest of nothing": (
        lambda folder: (folder / "checkpoints/00000060/complete.json").write_text(""),
        "damaged (complete.json is unreadable)",
    ),
    "manifest of elsewhere": (
        lambda folder: (folder / "checkpoints/00000060/complete.json").write_text(
            '{"step": 60, "save": "x", "saved_at": 1, "files": [{"name": "../x", "size": 1, "sha256": ""}]}'
        ),
        "damaged ('../x' is not a file's name)",
    ),
    "no manifest": (
        lambda folder: (folder / "checkpoints/00000060/complete.json").unlink(), "was not saved completely",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint = Checkpoint.in_folder(tmp_path)
    for step in (20, 40, 60):
        save(checkpoint, step)
    DAMAGES[damage][0](tmp_path)
    assert step_of(Checkpoint.in_folder(tmp_path)) == 40
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(f"checkpoint 60 at {tmp_path.as_uri()}/checkpoints/00000060 ")
    assert DAMAGES[damage][1] in warning
    save(checkpoint, 50)
    assert kept(str(tmp_path)) == ["00000040", "00000050"]


def test_damaged_ones_only_are_no_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    checkpoint = Checkpoint.in_folder(tmp_path)
    for step in (1, 2):
        save(checkpoint, step)
        file_of(tmp_path, step).write_bytes(b"")
    assert checkpoint.latest() is None
    assert caplog.messages[-1] == "no checkpoint: training starts at the beginning"


def test_it_says_where_it_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    checkpoint = Checkpoint.in_folder(tmp_path)
    save(checkpoint, 40)
    assert "checkpoint 40 saved: 0.0 MB in 0." in caplog.messages[-1]
    assert step_of(checkpoint) == 40
    assert caplog.messages[-1] == "resuming from checkpoint 40, saved 0 s ago"


def test_it_is_due_when_its_time_has_passed_since_the_last_save(tmp_path: Path) -> None:
    checkpoint = Checkpoint.in_folder(tmp_path)
    assert checkpoint.due(every=0)
    assert not checkpoint.due()
    time.sleep(0.11)
    assert checkpoint.due(every=0.1)
    save(checkpoint, 1)
    assert not checkpoint.due(every=0.1)


@pytest.mark.parametrize("step", [-1, 1.5, "one", None])
def test_a_step_is_a_whole_number_from_0(tmp_path: Path, step: object) -> None:
    with (
        pytest.raises(UserCodeError, match="a whole number from 0, not"),
        Checkpoint.in_folder(tmp_path).save(step),  # type: ignore[arg-type]
    ):
        pass


def test_a_checkpoint_without_a_file_is_refused(tmp_path: Path) -> None:
    checkpoint = Checkpoint.in_folder(tmp_path)
    with pytest.raises(UserCodeError, match="saved without a file"), checkpoint.save(step=1):
        pass
    assert checkpoint.latest() is None


def test_a_store_that_does_not_answer_costs_a_warning_and_not_the_training(
    s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from obstore.store import S3Store

    def impatient(uri: str) -> S3Store:
        return S3Store.from_url(uri, retry_config={"max_retries": 0})

    monkeypatch.setattr("obstore.store.from_url", impatient)
    save(Checkpoint(Store(s3)), 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    warnings: list[str] = []
    checkpoint = Checkpoint(Store(s3), warn=warnings.append)
    save(checkpoint, 2)
    assert len(warnings) == 1
    assert warnings[0].startswith("checkpoint 2 is not saved, training goes on: could not write s3://bucket/")
    # Unknown is not absent: training from the beginning would be the wrong answer.
    with pytest.raises(TransientError):
        checkpoint.latest()


def test_a_store_that_refuses_is_a_matter_for_a_person(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        save(Checkpoint.in_folder(tmp_path / "file" / "store"), 1)


def in_process(target: Callable[..., None], *arguments: object) -> BaseProcess:
    process = multiprocessing.get_context("forkserver").Process(target=target, args=arguments)
    process.start()
    return process


def save_for_ever(uri: str, size: int) -> None:
    checkpoint = Checkpoint(Store(uri))
    saved = checkpoint.latest()
    for step in range(saved.step + 1 if saved else 0, 10**6):
        save(checkpoint, step, size)


def save_once(uri: str, environment: dict[str, str], step: int, size: int) -> None:
    os.environ.update(environment)
    save(Checkpoint(Store(uri)), step, size)


def test_killed_at_any_moment_the_newest_complete_one_is_found_undamaged(tmp_path: Path) -> None:
    size, reached = 12 * MEGABYTE, 0
    random = np.random.default_rng()
    for _ in range(5):
        process = in_process(save_for_ever, str(tmp_path), size)
        end = time.monotonic() + 60
        while not [*tmp_path.glob("checkpoints/*/complete.json")]:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(0.2 + random.random())
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        step = step_of(Checkpoint.in_folder(tmp_path), size)
        assert step is not None
        assert step >= reached
        reached = step
    save(Checkpoint.in_folder(tmp_path), reached + 1, size)
    # What kills left behind is gone with the next save: two checkpoints of two files and a manifest.
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 6


MOMENTS: tuple[tuple[str, str, Moment, int], ...] = (
    ("PUT", "/0000", "before", 1),
    ("PUT", "/0000", "after", 1),
    ("POST", "/0001?uploads", "after", 1),
    ("PUT", "partNumber=2", "before", 1),
    ("PUT", "partNumber=2", "after", 1),
    ("POST", "uploadId", "before", 1),
    ("POST", "uploadId", "after", 1),
    ("PUT", "complete.json", "before", 1),
    ("PUT", "complete.json", "after", 2),
    ("POST", "?delete", "after", 2),
)


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: " ".join(map(str, moment[:3])))
def test_killed_at_each_request_of_a_save_to_s3_a_reader_sees_all_of_it_or_nothing(
    s3: str, s3_server: str, moment: tuple[str, str, Moment, int]
) -> None:
    size = 20 * MEGABYTE
    for step in (0, 1):
        save(Checkpoint(Store(s3)), step, size)
    proxy = FatalProxy(s3_server)
    victim = proxy.expect(*moment[:3])
    process = in_process(save_once, s3, {**os.environ, "AWS_ENDPOINT_URL": proxy.url}, 2, size)
    victim.set_result(process.pid or 0)
    process.join()
    proxy.shutdown()
    assert process.exitcode == -signal.SIGKILL
    warnings: list[str] = []
    assert step_of(Checkpoint(Store(s3), warn=warnings.append), size) == moment[3]
    assert all("checkpoint 2 at s3://bucket/store/checkpoints/00000002 was not saved" in w for w in warnings)
    save(Checkpoint(Store(s3)), 2, size)
    assert step_of(Checkpoint(Store(s3)), size) == 2
    assert kept(s3) == ["00000001", "00000002"]
    assert len([*Store(s3).paths("checkpoints")]) == 6


def save_large(uri: str, environment: dict[str, str], megabytes: int, report: Path) -> None:
    os.environ.update(environment)
    checkpoint = Checkpoint(Store(uri), scratch=report.parent)
    with checkpoint.save(step=0) as folder:
        (folder / "small").write_bytes(b"x")
    checkpoint.latest()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    block, sha = content(0, MEGABYTE), hashlib.sha256()
    with checkpoint.save(step=1) as folder, (folder / "large").open("wb") as stream:
        for _ in range(megabytes):
            stream.write(block)
            sha.update(block)
    saved = checkpoint.latest()
    assert saved is not None
    with (saved.folder / "large").open("rb") as stream:
        assert hashlib.file_digest(stream, "sha256").hexdigest() == sha.hexdigest()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    report.write_text(str(grown / 1024))


def test_memory_is_bounded_whatever_the_size_of_a_file(place: str, tmp_path: Path) -> None:
    report = tmp_path / "report"
    process = in_process(save_large, place, dict(os.environ), 250, report)
    process.join()
    assert process.exitcode == 0
    assert float(report.read_text()) < 150
