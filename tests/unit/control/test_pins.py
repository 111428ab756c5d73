"""The commit and the folders of the user's code."""

from __future__ import annotations

from pathlib import Path

from airflow_ml_provider.operators.pins import code_roots, commit_of

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def repository(folder: Path, head: str) -> Path:
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text(f"{head}\n")
    (folder / "dags" / "flights").mkdir(parents=True)
    return folder / "dags"


def test_the_commit_is_read_without_git_from_a_branch_a_packed_branch_and_a_bare_commit(
    tmp_path: Path,
) -> None:
    dags = repository(tmp_path / "loose", "ref: refs/heads/main")
    (tmp_path / "loose/.git/refs/heads").mkdir(parents=True)
    (tmp_path / "loose/.git/refs/heads/main").write_text(f"{COMMIT}\n")
    assert commit_of([str(dags / "flights")]) == COMMIT
    packed = repository(tmp_path / "packed", "ref: refs/heads/main")
    (tmp_path / "packed/.git/packed-refs").write_text(
        f"# pack-refs\n{'f' * 40} refs/heads/domain\n{COMMIT} refs/heads/main\n"
    )
    assert commit_of([str(packed)]) == COMMIT
    assert commit_of([str(repository(tmp_path / "detached", COMMIT))]) == COMMIT


def test_code_of_no_repository_has_no_commit(tmp_path: Path) -> None:
    assert commit_of([str(repository(tmp_path, "ref: refs/heads/unborn"))]) == ""
    assert commit_of([]) == ""


def test_code_lies_beside_the_dag_file_and_in_its_bundle_unless_named(tmp_path: Path) -> None:
    dag_file, bundle = tmp_path / "dags" / "team" / "dag.py", tmp_path / "dags"
    for folder in ("dags/team/code", "lib"):
        (tmp_path / folder).mkdir(parents=True)
    beside = str(dag_file.parent)
    assert code_roots(None, str(dag_file), str(bundle)) == (beside, str(bundle))
    assert code_roots(None, str(dag_file), beside) == (beside,)
    assert code_roots(None, str(dag_file), None) == (beside,)
    assert code_roots("code", str(dag_file), str(bundle)) == (f"{beside}/code",)
    assert code_roots(["code", tmp_path / "lib"], str(dag_file), None) == (
        f"{beside}/code",
        str(tmp_path / "lib"),
    )
