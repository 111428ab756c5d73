"""Nested settings that can be hashed, and whose repr is the same at every parse."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class FrozenMapping(dict[str, Any]):
    """A mapping that nobody changes, sorted by key; it hashes by content."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True, default=str))

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise TypeError("a compute's settings cannot be changed; make another compute with .but(...)")

    __setitem__ = __delitem__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMapping, (dict(self),)


def frozen(value: Any) -> Any:
    """Mappings as :class:`FrozenMapping`, lists as tuples, all the way down."""
    if isinstance(value, Mapping):
        return FrozenMapping({str(key): frozen(value[key]) for key in sorted(value, key=str)})
    if isinstance(value, (list, tuple)):
        return tuple(frozen(each) for each in value)
    return value


def thawed(value: Any) -> Any:
    """Plain dictionaries and lists again, for those who change them."""
    if isinstance(value, Mapping):
        return {key: thawed(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [thawed(each) for each in value]
    return value
