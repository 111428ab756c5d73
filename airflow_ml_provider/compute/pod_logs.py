"""A pod's output without gaps or repeats, through lost connections and deferrals.

Kubernetes gives a log from a second on, not from a line on. So each read begins somewhat early, and a cursor
drops what was told before: it knows the time of the newest line, to the nanosecond, and how many lines it has
told of that very time.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from airflow.providers.cncf.kubernetes.utils.pod_manager import AsyncPodManager, PodManager

from airflow_ml_provider.compute.output import Output

# Clocks of nodes and workers differ; the cursor drops what this reads twice.
_EARLIER = 30
# What the triggerer holds of a log at a time; it serves many tasks in one process.
_PIECE = 4 * 2**20
_ROTATED = 2**30


class LogCursor:
    """How far a container's log was told.

    :param text: what :meth:`__str__` gave, empty at the beginning.
    """

    def __init__(self, text: str = "") -> None:
        newest, _, told = text.partition(" ")
        self._newest = newest
        self._told = int(told or 0)

    def __str__(self) -> str:
        return f"{self._newest} {self._told}" if self._newest else ""

    def since_seconds(self) -> int | None:
        """From when to read; None for from the beginning."""
        if not self._newest:
            return None
        newest = datetime.fromisoformat(self._newest[:19]).replace(tzinfo=UTC).timestamp()
        return max(1, math.ceil(time.time() - newest) + _EARLIER)

    def new(self, lines: Iterable[bytes]) -> Iterator[str]:
        """The lines of one read that were not told yet, without their times."""
        newest, told, same = self._newest, self._told, 0
        for raw in lines:
            stamp, _, text = raw.decode("utf-8", errors="backslashreplace").rstrip("\r\n").partition(" ")
            at = _comparable(stamp)
            if at is None:
                # No line of a container's: what an API server or a gateway put in between.
                continue
            if at < newest:
                continue
            if at == newest:
                same += 1
                if same <= told:
                    continue
            self._told = self._told + 1 if at == self._newest else 1
            self._newest = at
            yield text


class StepPodManager(PodManager):
    """The provider's, telling each line at once and only once."""

    def __init__(self, kube_client: Any, output: Output, cursor: LogCursor) -> None:
        super().__init__(kube_client=kube_client)
        self._output = output
        self._cursor = cursor

    def read_pod_logs(self, pod: Any, container_name: str, **options: Any) -> Any:
        """The log from where it was told to; telling is what reading it does, so nothing is left to tell."""
        options |= {"timestamps": True, "since_seconds": self._cursor.since_seconds()}
        options.pop("tail_lines", None)
        return self._tell(super().read_pod_logs(pod, container_name, **options))

    def _tell(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        for line in self._cursor.new(lines):
            self._output.tell(line)
        yield from ()


class StepAsyncPodManager(AsyncPodManager):
    """The provider's, in the triggerer: reads a log in pieces, from where it was told to."""

    async def fetch_container_logs_before_current_sec(
        self, pod: Any, container_name: str, since_time: Any = None
    ) -> Any:
        """Tell what is new, and give the cursor; a failed read is made up for by the next one."""
        cursor, output = LogCursor(since_time or ""), Output()
        limit = _PIECE
        try:
            while True:
                before = str(cursor)
                lines, size = await self._piece(pod, container_name, cursor.since_seconds(), limit)
                await asyncio.to_thread(_tell_all, cursor, lines, output)
                if size < limit:
                    break
                # More in one stretch of seconds than a piece holds: the next one has to be larger.
                limit = _PIECE if str(cursor) != before else min(limit * 2, _ROTATED)
        except Exception as error:
            self.log.warning("the log could not be read, and is read again later: %s", type(error).__name__)
        return str(cursor)

    async def _piece(
        self, pod: Any, container: str, since: int | None, limit: int
    ) -> tuple[list[bytes], int]:
        from kubernetes_asyncio.client import CoreV1Api

        options: dict[str, Any] = {"since_seconds": since} if since else {}
        async with self._hook.get_conn() as connection:
            answer: Any = await CoreV1Api(connection).read_namespaced_pod_log(
                name=pod.metadata.name, namespace=pod.metadata.namespace, container=container,
                timestamps=True, limit_bytes=limit, _preload_content=False, **options,
            )  # fmt: skip
            content: bytes = await answer.read()
            if answer.status >= 400:
                raise RuntimeError(f"HTTP {answer.status}")
        lines = content.splitlines()
        # The last line of a full piece is likely cut in the middle.
        return (lines[:-1] if len(content) >= limit else lines), len(content)


def _tell_all(cursor: LogCursor, lines: list[bytes], output: Output) -> None:
    for line in cursor.new(lines):
        output.tell(line)


def _comparable(stamp: str) -> str | None:
    """A time as Kubernetes writes it, as text that sorts by time: UTC, nine digits of fraction."""
    if len(stamp) < 20 or stamp[10:11] != "T" or not stamp[:4].isdigit():
        return None
    body = stamp.rstrip("Z")
    if body == stamp:
        # An offset; kubelets give UTC, others may not.
        try:
            return datetime.fromisoformat(stamp).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f") + "000"
        except ValueError:
            return None
    whole, _, fraction = body.partition(".")
    return f"{whole}.{fraction[:9]:0<9}"
