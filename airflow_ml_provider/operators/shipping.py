"""The user's code on its way to where the DAG's folders are not."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from airflow_ml_provider.contract.code import reachable_files, split_entry_point
from airflow_ml_provider.contract.errors import ConfigError
from airflow_ml_provider.contract.packing import archive_digest, files_of, pack

if TYPE_CHECKING:
    from airflow_ml_provider.contract.documents import Code
    from airflow_ml_provider.contract.store import Store

log = logging.getLogger(__name__)


def shipped(
    code: Code, entry_points: Iterable[str | None], store: Store, *, named: bool, looks_for_code: bool
) -> Code:
    """The code, packed and in the store: once a digest.

    :param named: the DAG author named its folders: they are packed whole.
    :param looks_for_code: the step may need more than its entry points reach: a model's own types, the features
        that a model was trained on. Its folders are packed whole, too, unless they are too large for it.
    """
    given = [entry for entry in entry_points if entry]
    if not given and not looks_for_code:
        return code
    content = None
    if named or looks_for_code:
        try:
            content = pack(files_of(code.roots))
        except ConfigError as error:
            if named:
                raise
            log.warning("only what the step's functions reach is packed: %s", error.what)
    if content is None:
        files = [entry for entry in given if entry.endswith(".json")]
        modules = [split_entry_point(entry)[0] for entry in given if entry not in files]
        content = pack(files_of(code.roots, reachable_files(modules, code.roots).values(), files))
    name = archive_digest(content)
    path = f"code/{name}.zip"
    if not store.exists(path):
        store.create(path, content)
    return msgspec.structs.replace(code, archive=path, archive_digest=name)
