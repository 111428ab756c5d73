"""The steps image without a container engine: installed the same way into an empty prefix, run as in a pod.

``docker/install.sh`` is what ``docker/steps.Dockerfile`` runs. Where the tests run as root, the step runs as
user 50000 in a mount namespace of its own, whose root file system is read-only but for one folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Installs a whole image's worth of packages, and compiles them.
pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parents[2]
USER = "50000"
# Measured: 1,060 MB, of which 130 MB are bytecode. The largest: polars 170, pyarrow 150, deltalake 130.
CEILING_MB = 1400

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind / && exec "$@"'
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp(prefix="airflow-ml-image-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def prefix(place: Path) -> Path:
    """What the image has in /opt/venv."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {
        "PATH": f"{REPOSITORY / '.venv-uv/bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "UV_LINK_MODE": "hardlink",
    }

    def run(*command: str) -> None:
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    run("hatchling", "build", "--target", "wheel", "--directory", str(place / "dist"))
    wheel = next((place / "dist").glob("*.whl"))
    run("sh", "docker/install.sh", str(place / "venv"), "docker/steps-requirements.lock", str(wheel))
    return place / "venv"


@pytest.fixture(scope="module")
def writable(place: Path) -> Path:
    """The one folder that can be written to, as the emptyDir of a pod."""
    folder = place / "tmp"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


@pytest.fixture(scope="module")
def in_a_pod(prefix: Path, writable: Path) -> Run:
    """Runs the image's Python as a pod of KubernetesCompute would."""
    wrapper: list[str] = []
    if os.geteuid() == 0:
        as_user = [
            "setpriv",
            f"--reuid={USER}",
            "--regid=0",
            "--clear-groups",
            "--no-new-privs",
            "--inh-caps=-all",
        ]
        if subprocess.run([*as_user, str(prefix / "bin/python"), "-V"], capture_output=True).returncode:
            # The interpreter is in a home directory: the user may read it, and write no more than before.
            as_user = [*as_user[:-1], "--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        read_only = ["unshare", "--mount", "sh", "-c", READ_ONLY, str(writable)]
        can = subprocess.run([*read_only, "true"], capture_output=True).returncode == 0
        wrapper = [*(read_only if can else []), *as_user]
    environment = {
        **image_environment(prefix),
        "HOME": "/",
        "TMPDIR": str(writable),
        "MPLCONFIGDIR": str(writable / "matplotlib"),
        "PYTHONPATH": str(writable / "code"),
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*wrapper, str(prefix / "bin/python"), "-P", *arguments]
        return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=120)

    return run


def image_environment(prefix: Path) -> dict[str, str]:
    """The ENV of the Dockerfile, with the prefix in place of /opt/venv."""
    text = (REPOSITORY / "docker/steps.Dockerfile").read_text().replace("\\\n", " ")
    pairs = dict(
        pair.split("=", 1) for line in re.findall(r"^ENV (.*)$", text, re.M) for pair in line.split()
    )
    path = pairs["PATH"].replace("$PATH", os.defpath)
    return {**pairs, "PATH": path.replace("/opt/venv", str(prefix))}


def test_the_data_plane_starts(in_a_pod: Run) -> None:
    done = in_a_pod("-m", "airflow_ml_provider.steps", "--help")
    assert done.returncode == 0, done.stderr
    assert "ingest" in done.stdout


def test_a_pod_can_write_nowhere_but_in_its_temporary_folder(in_a_pod: Run, writable: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can run it as another user")
    program = (
        "import os, tempfile\n"
        f"assert os.getuid() == {USER}\n"
        "open(os.path.join(tempfile.gettempdir(), 'a'), 'w').close()\n"
        "for folder in ('/', os.getcwd(), os.path.expanduser('~'), os.path.dirname(os.__file__)):\n"
        "    try:\n"
        "        open(os.path.join(folder, 'a'), 'w')\n"
        "    except OSError:\n"
        "        continue\n"
        "    raise SystemExit(folder)\n"
    )
    done = in_a_pod("-c", program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (writable / "a").exists()


def test_airflow_is_not_in_the_image(in_a_pod: Run, prefix: Path) -> None:
    done = in_a_pod("-c", "import airflow")
    assert done.returncode == 1
    assert "No module named 'airflow'" in done.stderr
    installed = {path.name.split("-")[0] for path in prefix.glob("lib/python*/site-packages/*.dist-info")}
    assert "airflow_ml_provider" in installed
    assert {"pip", "uv", "pytest", "mlflow", "kubernetes"} & installed == set()


def test_ingest_and_validate_run_in_the_image(in_a_pod: Run, writable: Path) -> None:
    code = writable / "code"
    code.mkdir()
    (code / "shop.py").write_text(
        textwrap.dedent("""
            from airflow_ml_provider import Column, Schema

            COLUMNS = (Column("item", "int64", nullable=False), Column("price", "float64"))
            SALES = Schema(columns=COLUMNS, key=("item",))

            def sales():
                import great_expectations.expectations as gxe

                return [gxe.ExpectColumnValuesToBeBetween(column="price", min_value=0)]
        """)
    )
    (writable / "sales.csv").write_text("item,price\n1,2.5\n2,3.5\n")
    steps = {
        "ingest": {
            "source": str(writable / "sales.csv"),
            "schema": "shop:SALES",
            "publish": {"name": "sales", "partition_by": None},
        },
        "validate": {"table": {"name": "sales"}, "suite": "shop:sales"},
    }
    store = writable / "store"
    for verb, arguments in steps.items():
        spec = writable / f"{verb}.json"
        spec.write_text(json.dumps({"verb": verb, "store": store.as_uri(), "arguments": arguments}))
        done = in_a_pod("-m", "airflow_ml_provider.steps", verb, "--spec", str(spec))
        assert done.returncode == 0, done.stdout + done.stderr
    assert list((store / "tables/sales/_delta_log").glob("*.json"))


def test_models_and_figures_load_in_the_image(in_a_pod: Run) -> None:
    program = (
        "import duckdb, matplotlib.pyplot, mlflow, obstore, scipy.stats, sklearn.ensemble, skops.io, lightgbm"
    )
    done = in_a_pod("-c", program)
    if "libgomp" in done.stderr:
        pytest.skip("LightGBM needs libgomp1, which the image installs and this machine does not have")
    assert done.returncode == 0, done.stderr
    assert "not writable" not in done.stderr


def test_bytecode_is_compiled_and_valid_whatever_the_dates_of_files(prefix: Path) -> None:
    module = next(prefix.glob("lib/python*/site-packages/airflow_ml_provider/steps/__main__.py"))
    compiled = next((module.parent / "__pycache__").glob("__main__.*.pyc"))
    # PEP 552: bit 0 says "by content", bit 1 "look at the source to be sure".
    assert int.from_bytes(compiled.read_bytes()[4:8], "little") == 1


def test_the_image_stays_small(prefix: Path) -> None:
    files = [path for path in prefix.rglob("*") if path.is_file() and not path.is_symlink()]
    size = sum(path.stat().st_size for path in files) / 1e6
    print(f"the steps image's environment: {size:.0f} MB in {len(files)} files")
    assert size < CEILING_MB
    assert not [path for path in files if "/pandas/tests/" in str(path)]
