"""Small files of runs, through MLflow's server (``mlflow-artifacts:``), without MLflow's own client.

Others are left to that: large ones, which it may send in parts straight to the bucket, and those of servers
that let their clients write to the bucket themselves.
"""

from __future__ import annotations

import mimetypes
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow_ml_provider.steps.mlflow_rest import RestError

if TYPE_CHECKING:
    from airflow_ml_provider.steps.mlflow_rest import Server

_SERVICE = "/api/2.0/mlflow-artifacts/artifacts"
_SCHEME = "mlflow-artifacts:/"
# Bytes; above, what the import of MLflow costs does not matter beside the transfer.
_LARGE = 16 << 20


class Files:
    """The files below an artifact address.

    :param address: such as ``mlflow-artifacts:/1/4f.../artifacts``.
    """

    def __init__(self, server: Server, address: str) -> None:
        self._server = server
        self._root = address.removeprefix(_SCHEME).strip("/")

    @staticmethod
    def are_at(address: str) -> bool:
        """Whether files at this address go through the tracking server itself."""
        return address.startswith(_SCHEME) and not address.startswith(_SCHEME + "/")

    def sizes(self, folder: str = "") -> dict[str, int | None]:
        """What is directly in a folder: paths below the address, with their bytes; None for a folder.

        Empty for a file, and for what does not exist.
        """
        answer = self._server.request("GET", _SERVICE, params={"path": _joined(self._root, folder)})
        found = {
            _joined(folder, _safe(entry["path"])): None if entry.get("is_dir") else int(entry.get("file_size") or 0)
            for entry in answer.json().get("files", [])
        }  # fmt: skip
        # As some kinds of storage list a file.
        alone = _joined(folder, PurePosixPath(folder).name)
        return (
            {}
            if folder and found.keys() == {alone} and found[alone] is not None
            else dict(sorted(found.items()))
        )

    def walk(self, folder: str) -> Iterator[tuple[str, int]]:
        """All files below a folder, with their bytes."""
        for path, size in self.sizes(folder).items():
            if size is None:
                yield from self.walk(path)
            else:
                yield path, size

    def put(self, file: Path, folder: str = "") -> None:
        """Send a file."""
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        # Whole, so that it can be sent again.
        self._server.request(
            "PUT", self._path(_joined(folder, file.name)), data=file.read_bytes(), headers={"Content-Type": kind}
        )  # fmt: skip

    def get(self, path: str, to: Path) -> None:
        """Fetch a file."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with self._server.request("GET", self._path(path), stream=True) as answer, to.open("wb") as file:
            answer.raw.decode_content = True
            shutil.copyfileobj(answer.raw, file, 1 << 20)

    def _path(self, path: str) -> str:
        return f"{_SERVICE}/{quote(_joined(self._root, path))}"


def is_large(sizes: Iterable[int]) -> bool:
    """Whether files of these sizes are better left to MLflow's own client."""
    return any(size >= _LARGE for size in sizes)


def _joined(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _safe(path: str) -> str:
    """A path as a server lists it.

    :raises RestError: it leads out of its folder.
    """
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise RestError("INTERNAL_ERROR", f"the server lists a file outside of its folder: {path}")
    return path
