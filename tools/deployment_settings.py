"""The settings of a local deployment: `airflow.cfg`, the environment of every process, the secrets.

`airflow.cfg` holds what describes the deployment (so that `AIRFLOW_HOME=.airflow/airflow airflow dags list`
works by hand); the environment holds what the provider's users configure, as they would on a real one.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from deployment_processes import write_atomically

PORTS = ("airflow", "mlflow", "worker_logs", "trigger_logs")

# Why each differs from Airflow's default. {name} is filled in by `airflow_configuration`.
AIRFLOW_CONFIGURATION = """\
# Written by tools/deployment.py at every start: changes made here are lost.
[core]
executor = LocalExecutor
# Each is a forked process that holds a PostgreSQL connection while it works; 2 cores gain nothing from 32.
parallelism = {parallelism}
load_examples = False
dags_folder = {dags_folder}
plugins_folder = {airflow_home}/plugins
auth_manager = airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager
# Nobody logs in: everything listens on the loopback only.
simple_auth_manager_all_admins = True
simple_auth_manager_passwords_file = {airflow_home}/passwords.json
execution_api_server_url = http://127.0.0.1:{airflow_port}/execution/
fernet_key = {fernet_key}
# The default asks the resolver for the full name of the machine: seconds where there is none.
hostname_callable = socket.gethostname
# A changed DAG is written as soon as it is parsed, not up to 30 s later.
min_serialized_dag_update_interval = 1

[database]
sql_alchemy_conn = {database}
sql_alchemy_conn_async = {database_async}

[api]
host = 127.0.0.1
port = {airflow_port}
base_url = http://127.0.0.1:{airflow_port}
workers = 1
secret_key = {api_secret}
# Only on this machine: a failed request may show its traceback.
expose_stacktrace = True
expose_config = True

[api_auth]
jwt_secret = {jwt_secret}

[scheduler]
# The loop sleeps this long when it found nothing to do: the wait between two tasks of a chain.
scheduler_idle_sleep_time = 0.3
# A task whose worker was killed is noticed after this many seconds (default 300).
task_instance_heartbeat_timeout = 30
task_instance_heartbeat_timeout_detection_interval = 5
parsing_cleanup_interval = 60

[triggerer]
capacity = 100

[dag_processor]
dag_bundle_storage_path = {home}/bundles
# New and changed files are seen after so many seconds (default 300).
refresh_interval = 5
min_file_process_interval = 60
parsing_processes = 1
print_stats_interval = 0
# The folder of DAGs is not versioned; nothing to clean.
stale_bundle_cleanup_interval = 0

[logging]
base_log_folder = {home}/logs/tasks
dag_processor_child_process_log_directory = {home}/logs/dag_processor
# Without ports of their own a second Airflow on the machine could not serve its logs.
worker_log_server_port = {worker_logs_port}
trigger_log_server_port = {trigger_logs_port}
colored_console_log = False
uvicorn_logging_level = WARNING
# Tasks talk to the API server all the time; a line for each call hides the others.
namespace_levels = http.access=WARNING
"""


def load_secrets(path: Path) -> dict[str, str]:
    """The deployment's own secrets, made once and readable by its owner only."""
    if not path.exists():
        made = {
            "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "jwt_secret": secrets.token_urlsafe(48),
            "api_secret": secrets.token_urlsafe(48),
        }
        write_atomically(path, json.dumps(made, indent=2) + "\n", mode=0o600)
    loaded: dict[str, str] = json.loads(path.read_text())
    return loaded


def airflow_configuration(
    home: Path,
    dags_folder: Path,
    database: str,
    database_async: str,
    ports: Mapping[str, int],
    parallelism: int = 8,
) -> str:
    """The text of `airflow.cfg`; it holds secrets, so write it with mode 0600."""
    values = {
        "home": str(home),
        "airflow_home": str(home / "airflow"),
        "dags_folder": str(dags_folder),
        "database": database,
        "database_async": database_async,
        "parallelism": str(parallelism),
        **{f"{name}_port": str(ports[name]) for name in PORTS},
        **load_secrets(home / "secrets.json"),
    }
    # Airflow's parser interpolates %.
    return AIRFLOW_CONFIGURATION.format_map(
        {name: value.replace("%", "%%") for name, value in values.items()}
    )


def deployment_environment(home: Path, ports: Mapping[str, int], extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of every process of the deployment, and of `airflow` commands run against it.

    It starts from the caller's, less what would point Airflow or MLflow somewhere else; `extra` wins.
    """
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW_", "MLFLOW_", "_MLFLOW_", "_AIRFLOW_"))
        # Without bytecode files each process compiles Airflow anew: 5 s instead of 2 to import it, 10 instead
        # of 4 for MLflow.
        and name != "PYTHONDONTWRITEBYTECODE"
    }
    loopback = "127.0.0.1,localhost"
    for name in ("no_proxy", "NO_PROXY"):
        env[name] = f"{env[name]},{loopback}" if env.get(name) else loopback
    env.update(
        {
            # The virtual environment's commands first: `airflow standalone` starts `airflow` by name.
            "PATH": f"{Path(sys.prefix) / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
            "AIRFLOW_HOME": str(home / "airflow"),
            "AIRFLOW__ML__STORE": (home / "store").as_uri(),
            "AIRFLOW_CONN_MLFLOW_DEFAULT": json.dumps(
                {"conn_type": "mlflow", "host": "http://127.0.0.1", "port": ports["mlflow"]}
            ),
            "AIRFLOW_VAR_FLIGHTS_RAW": str(home / "raw"),
            # Nothing here calls out.
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GX_ANALYTICS_ENABLED": "false",
        }
    )
    env.update(extra)
    return env


def mlflow_command(home: Path, database: str, port: int, host: str = "127.0.0.1") -> list[str]:
    """The command line of the tracking server; artifacts go through it into `home/artifacts`."""
    return [
        str(Path(sys.prefix) / "bin" / "mlflow"),
        "server",
        f"--host={host}",
        f"--port={port}",
        "--workers=1",
        f"--backend-store-uri={database}",
        f"--artifacts-destination={(home / 'artifacts').as_uri()}",
    ]


def mlflow_environment(env: Mapping[str, str]) -> dict[str, str]:
    """The server's own environment: no job runner, whose extra processes serve features not used here."""
    return {**env, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
