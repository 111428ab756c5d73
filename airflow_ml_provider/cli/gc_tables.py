"""Files of tables that no live version needs, and no version that a model or a kept run has read."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import NamedTuple

from airflow_ml_provider.contract.errors import TransientError
from airflow_ml_provider.contract.store import Store


class Swept(NamedTuple):
    """What was done, or would be, for a table.

    :param files: how many files were removed.
    :param versions: the versions whose files were kept beside the newest.
    """

    table: str
    files: int
    versions: tuple[int, ...]


def sweep(store: Store, table: str, versions: Collection[int], *, hours: int, dry_run: bool) -> Swept | None:
    """Remove files that were replaced, or never committed, longer ago than ``hours``; None without a table.

    A version that can be opened no more has no files to keep.

    :raises TransientError: the table cannot be read.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    uri = store.table_uri(table)
    try:
        # On S3 a vacuum's commits are conditional puts.
        opened = DeltaTable(
            uri, storage_options={"aws_conditional_put": "etag"} if uri.startswith("s3") else None
        )
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        raise TransientError(f"table {table!r} cannot be opened, and is left as it is: {error}") from error
    kept = [version for version in sorted(versions) if _opens(uri, version)]
    try:
        vacuum = partial(
            opened.vacuum, hours, enforce_retention_duration=False, full=True,
            keep_versions=[*kept, opened.version()],
        )  # fmt: skip
        found = vacuum(dry_run=True)
        strange = [path for path in found if not path.endswith(".parquet")]
        if strange:
            raise TransientError(
                f"table {table!r} is left as it is: in its folder is {strange[0]}, which is no file of a table",
                todo="move it out of the table's folder",
            )
        if found and not dry_run:
            # A vacuum is a commit: one that removes nothing is not made.
            vacuum(dry_run=False)
    except (DeltaError, OSError) as error:
        raise TransientError(f"table {table!r} could not be swept: {error}") from error
    return Swept(table, len(found), tuple(kept))


def _opens(uri: str, version: int) -> bool:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    try:
        DeltaTable(uri, version=version)
    except (DeltaError, OSError):
        return False
    return True
