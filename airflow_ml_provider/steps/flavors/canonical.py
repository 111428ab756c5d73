"""skops files without the accidents of one process: equal scikit-learn models are equal bytes.

skops numbers the objects of a model by their addresses in memory, names files by these or by random ids, and
notes the time. Here objects and files are numbered in the order of the model's description instead.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

_SCHEMA = "schema.json"
# The least that a zip file can say.
_THEN = (1980, 1, 1, 0, 0, 0)


def dumps(model: Any) -> bytes:
    """A model as ``skops.io.load`` reads it."""
    import skops.io

    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(model))) as given:
        names: dict[str, str] = {}
        schema = _renumbered(json.loads(given.read(_SCHEMA)), {}, names)
        files = {names.get(name, name): given.read(name) for name in given.namelist() if name != _SCHEMA}
    files[_SCHEMA] = json.dumps(schema).encode()
    return packed(files)


def packed(files: dict[str, bytes]) -> bytes:
    """A zip file that depends on names and contents only."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for name, content in sorted(files.items()):
            written.writestr(entry(name), content)
    return buffer.getvalue()


def entry(name: str) -> zipfile.ZipInfo:
    """A file of a zip file, compressed, of no time."""
    found = zipfile.ZipInfo(name, _THEN)
    found.compress_type = zipfile.ZIP_DEFLATED
    return found


def _renumbered(node: Any, ids: dict[int, int], files: dict[str, str]) -> Any:
    if isinstance(node, list):
        return [_renumbered(each, ids, files) for each in node]
    if not isinstance(node, dict):
        return node
    found: dict[str, Any] = {}
    for name, value in node.items():
        if name == "__id__" and isinstance(value, int):
            found[name] = ids.setdefault(value, len(ids))
        elif name == "file" and isinstance(value, str) and "__loader__" in node:
            ending = value.rpartition(".")[2]
            found[name] = files.setdefault(value, f"{len(files)}.{ending}")
        else:
            found[name] = _renumbered(value, ids, files)
    return found
