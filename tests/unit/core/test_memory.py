"""How much memory a process may use: the least of the machine's, its control groups' and its own limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_ml_provider.steps import memory


def limit(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.fixture
def groups(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def available(groups: Path, own: str) -> int:
    path = groups.with_name("own")
    path.write_text(own)
    return memory.available(groups, path)


def test_in_a_container_the_group_at_the_top_counts(groups: Path) -> None:
    limit(groups / "memory.max", "1000\n")
    assert available(groups, "0::/\n") == 1000


def test_the_container_of_a_machine_with_version_1_counts_whatever_its_group_is_called_outside(
    groups: Path,
) -> None:
    limit(groups / "memory" / "memory.limit_in_bytes", "2000\n")
    assert available(groups, "9:memory:/kubepods/pod1\n") == 2000


def test_on_a_machine_the_least_of_the_processs_group_and_those_above_counts(groups: Path) -> None:
    limit(groups / "memory.max", "max\n")
    limit(groups / "system.slice" / "memory.max", "3000\n")
    limit(groups / "system.slice" / "worker.service" / "memory.max", "4000\n")
    limit(groups / "other.slice" / "memory.max", "5\n")
    assert available(groups, "0::/system.slice/worker.service\n") == 3000


def test_version_1_names_what_a_group_is_for(groups: Path) -> None:
    limit(groups / "memory" / "jobs" / "memory.limit_in_bytes", "6000\n")
    limit(groups / "memory" / "memory.limit_in_bytes", "9223372036854771712\n")
    limit(groups / "memory" / "users" / "memory.limit_in_bytes", "7\n")
    assert available(groups, "4:cpu,cpuacct:/users\n3:memory:/jobs\n") == 6000


def test_without_control_groups_it_is_what_the_machine_has(groups: Path) -> None:
    assert memory.available(groups, groups / "nothing") > 100_000_000
