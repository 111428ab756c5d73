"""The patch formats of the API: JSON patch, merge patch, and strategic merge patch."""

from __future__ import annotations

import copy
from typing import Any

from .kinds import Object, bad_request

# Lists that a strategic patch merges by a key of their items; other lists are replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "conditions": "type",
    "ownerReferences": "uid",
    "imagePullSecrets": "name",
}


def apply_patch(content_type: str, obj: Object, patch: Any) -> Object:
    """The patched copy of an object."""
    if "json-patch" in content_type:
        if not isinstance(patch, list):
            raise bad_request("json: cannot unmarshal object into Go value of type jsonpatch.Patch")
        return _json_patch(obj, patch)
    return _merge(obj, patch, strategic="strategic" in content_type or "apply" in content_type)


def _merge(obj: Any, patch: Any, *, strategic: bool) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = copy.deepcopy(obj) if isinstance(obj, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif strategic and name == "finalizers":
            merged[name] = list(dict.fromkeys([*(merged.get(name) or []), *value]))
        elif name.startswith("$deleteFromPrimitiveList/"):
            field = name.split("/", 1)[1]
            merged[field] = [each for each in merged.get(field) or [] if each not in value]
        elif strategic and name in MERGE_KEYS and isinstance(value, list):
            merged[name] = _merge_list(merged.get(name) or [], value, MERGE_KEYS[name])
        else:
            merged[name] = _merge(merged.get(name), value, strategic=strategic)
    return merged


def _merge_list(items: list[Object], patches: list[Object], key: str) -> list[Object]:
    by_key = {item.get(key): item for item in items}
    for patch in patches:
        if patch.get("$patch") == "delete":
            by_key.pop(patch.get(key), None)
        else:
            by_key[patch.get(key)] = _merge(by_key.get(patch.get(key)), patch, strategic=True)
    return list(by_key.values())


def _json_patch(obj: Object, operations: list[Object]) -> Object:
    root = {"": copy.deepcopy(obj)}
    for each in operations:
        steps = [part.replace("~1", "/").replace("~0", "~") for part in each["path"].split("/")]
        parent: Any = root
        try:
            for step in steps[:-1]:
                parent = parent[int(step) if isinstance(parent, list) else step]
            last: Any = steps[-1]
            if isinstance(parent, list):
                last = len(parent) if last == "-" else int(last)
            _operate(each["op"], parent, last, each)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise bad_request(
                f"the server rejected our request due to an error in our request: {error}"
            ) from error
    return root[""]


def _operate(name: str, parent: Any, last: Any, operation: Object) -> None:
    if name == "test":
        if parent[last] != operation["value"]:
            raise ValueError(f"testing value {operation['path']} failed")
    elif name == "remove":
        del parent[last]
    elif name == "add" and isinstance(parent, list):
        parent.insert(last, operation["value"])
    elif name == "add" or (name == "replace" and parent[last] is not Ellipsis):
        parent[last] = operation["value"]
    else:
        raise ValueError(f"unexpected operation {name}")
