"""Ingest in shards: each types the rows of some files and writes them where nobody sees them yet.

Rows are numbered as in one pass over the whole source. Bad rows, keys and the numbers of rows are kept beside
the shards' documents; the step puts them together in the order of the files, finds the keys that occur twice,
also in the files of two shards, and goes on as if it had read everything itself.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import Schema

from airflow_ml_provider.contract.errors import InfrastructureError, UserCodeError
from airflow_ml_provider.contract.identity import digest, document_digest
from airflow_ml_provider.contract.shards import Shards
from airflow_ml_provider.steps import functions, ingest_source, shard_files, sharding, tables
from airflow_ml_provider.steps.context import Skipped
from airflow_ml_provider.steps.duplicates import Keys, find_duplicates
from airflow_ml_provider.steps.laid_rows import LaidFiles
from airflow_ml_provider.steps.quarantine import Quarantine
from airflow_ml_provider.steps.sources import SourceFile
from airflow_ml_provider.steps.staging import LINE_BITS, Source, Stage
from airflow_ml_provider.steps.transforming import ROW, Transform
from airflow_ml_provider.steps.unpacking import count_members

if TYPE_CHECKING:
    from airflow_ml_provider.contract.arguments import IngestArguments
    from airflow_ml_provider.contract.partitions import Partitions
    from airflow_ml_provider.steps.context import StepContext
    from airflow_ml_provider.steps.ingest_source import Found


def plan_shards(step: StepContext, arguments: IngestArguments, shards: int) -> Sequence[dict[str, Any]]:
    """The files of the source as they are now, in runs of about the same size."""
    found = ingest_source.find(step, arguments)
    if done := tables.already_published(step.store, arguments.publish, found.partitions, found.content):
        raise Skipped(f"the same bytes are in {done.name}, version {done.version}, already")
    firsts = _firsts(arguments, found)
    of, by_name = _mark(arguments, found), {file.name: file for file in found.files}
    return [
        {
            "of": of,
            "content": found.content,
            "files": [[name, *_identity(by_name[name]), firsts[name]] for name in names],
        }
        for names in shard_files.cut({file.name: file.size for file in found.files}, shards)
    ]


def run_shard(step: StepContext, arguments: IngestArguments, shard: dict[str, Any]) -> dict[str, Any]:
    """Type the rows of some files, and write them."""
    partitions = step.partitions(arguments.partitions)
    schema = ingest_source.schema_of(step, arguments.schema)
    files = _as_planned(arguments, partitions, shard["files"])
    quarantine = Quarantine(step, arguments.publish, partitions, shard["content"])
    function = functions.user_code(step, arguments.transform) if arguments.transform else None
    source = Source(arguments, schema, files, partitions, [file[-1] for file in shard["files"]])
    stage = Stage(step, source, Transform(function, arguments.publish), quarantine)
    assert isinstance(stage.laid, LaidFiles), "no suite audits what a shard writes"
    try:
        names = stage.read()
        given = _kept(step, arguments, stage.laid, stage.keys, quarantine)
    except BaseException:
        stage.laid.discard()
        raise
    read = {"read": stage.rows_read, "elsewhere": stage.rows_elsewhere, "names": names}
    return {**read, "rows": stage.laid.rows, "schema": stage.laid.schema.to_json(), **given}


def gather(step: StepContext, arguments: IngestArguments, found: Found, quarantine: Quarantine) -> Stage:
    """Run the shards that are missing; gives what a pass over the whole source would have left.

    :raises UserCodeError: the user's function gave other columns in one shard than in another.
    :raises InfrastructureError: what shards wrote is gone.
    """
    given = sharding.given_by_shards(step, arguments, _mark(arguments, found))
    target = arguments.publish
    numbered = [(number, file) for number, each in enumerate(given) for file in each["files"]]
    shards = Shards(step.store, step.spec, arguments.shards)
    sharding.check_there(
        step, target.name, [file["path"] for _, file in numbered], shards, [number for number, _ in numbered]
    )
    firsts = _firsts(arguments, found)
    source = Source(
        arguments, found.schema, found.files, found.partitions, [firsts[file.name] for file in found.files]
    )
    stage = Stage(step, source, Transform(None, target), quarantine)
    assert isinstance(stage.laid, LaidFiles), "no suite audits what shards write"
    stage.rows_read = sum(each["read"] for each in given)
    stage.rows_elsewhere = sum(each["elsewhere"] for each in given)
    schema = _schema(arguments, given)
    stage.laid.adopt(
        [shard_files.file_of(file) for _, file in numbered], schema, sum(each["rows"] for each in given)
    )
    for number, each in enumerate(given):
        if path := each.get("quarantine"):
            quarantine.take(_fetched(step, shards, number, path), each["first"])
    if found.schema.key:
        try:
            _drop_duplicates(step, shards, stage, source, given)
        except BaseException:
            stage.laid.discard()
            raise
    return stage


def forget(step: StepContext, arguments: IngestArguments) -> None:
    """Remove what was kept for the publication, which has been made.

    The files are the table's now. They could not become so once more, when part of them has been replaced.
    """
    Shards(step.store, step.spec, arguments.shards).clear()


def _drop_duplicates(
    step: StepContext, shards: Shards, stage: Stage, source: Source, given: Sequence[Mapping[str, Any]]
) -> None:
    keys = Keys(step.scratch / "keys-of-shards", source.schema.key, ROW)
    for number, each in enumerate(given):
        if path := each.get("keys"):
            file = _fetched(step, shards, number, path)
            keys.add_all(file)
            file.unlink()
    if not keys.rows:
        return
    duplicates = find_duplicates(keys)
    if not len(duplicates.rows):
        return
    assert isinstance(stage.laid, LaidFiles)
    for number, each in enumerate(given):
        if path := each.get("numbers"):
            file = _fetched(step, shards, number, path)
            with pq.ParquetFile(file) as groups:
                for group, written in enumerate(each["files"]):
                    stage.laid.know(written["path"], groups.read_row_group(group).column(ROW))
            file.unlink()
    # Only files with duplicates are read once more, for the text of these rows.
    hit = np.unique(duplicates.rows >> LINE_BITS)
    assert source.firsts is not None
    last = np.searchsorted(np.array(source.firsts), hit, side="right") - 1
    wanted = sorted(set(last.tolist()))
    again = replace(
        source,
        files=[source.files[place] for place in wanted],
        firsts=[source.firsts[place] for place in wanted],
    )
    stage.drop(duplicates, [name for each in given for name in each["names"]], again)


def _kept(
    step: StepContext, arguments: IngestArguments, laid: LaidFiles, keys: Keys, quarantine: Quarantine
) -> dict[str, Any]:
    """What a shard keeps beside its documents, and references to that and to the files."""
    folder = f"{Shards(step.store, step.spec, arguments.shards).folder}/kept/{uuid.uuid4()}"
    given: dict[str, Any] = {
        "files": [shard_files.document_of(file) for file in laid.files],
        "first": quarantine.first,
    }
    if quarantine.rows:
        step.store.write_file(f"{folder}/quarantine.arrow", quarantine.path)
        given["quarantine"] = f"{folder}/quarantine.arrow"
    if keys.rows:
        step.store.write_file(f"{folder}/keys.arrow", keys.path)
        numbers = step.scratch / "numbers.parquet"
        with pq.ParquetWriter(
            numbers, pa.schema([(ROW, pa.int64())]), use_dictionary=False, compression="zstd",
            column_encoding={ROW: "DELTA_BINARY_PACKED"},
        ) as writer:  # fmt: skip
            # A group a file, however long; lines that follow each other take a few bits.
            for file in laid.files:
                numbered = laid.numbers(file.path)
                writer.write_table(pa.table({ROW: numbered}), row_group_size=len(numbered) + 1)
        step.store.write_file(f"{folder}/numbers.parquet", numbers)
        given |= {"keys": f"{folder}/keys.arrow", "numbers": f"{folder}/numbers.parquet"}
    return given


def _as_planned(
    arguments: IngestArguments, partitions: Partitions | None, planned: Sequence[Sequence[Any]]
) -> list[SourceFile]:
    """The files of a shard.

    :raises InfrastructureError: one of them is another than when the shards were planned.
    """
    there = {file.name: file for file in ingest_source.files_of(arguments, partitions)}
    for name, *identity, _ in planned:
        if name not in there or _identity(there[name]) != identity:
            raise InfrastructureError(
                f"{name} is not what it was when the shards were planned",
                kept="the table is as it was",
                retry="a retry plans anew, with the files as they are then",
            )
    return [there[file[0]] for file in planned]


def _schema(arguments: IngestArguments, given: Sequence[Mapping[str, Any]]) -> Schema:
    # One that published no row may not have had a value to tell a type by.
    schemas = list(dict.fromkeys(each["schema"] for each in given if each["files"]))
    if len(schemas) > 1:
        raise UserCodeError(
            f"{arguments.transform or 'the source'} gives other columns in one shard than in another: "
            f"{schemas[0]} and {schemas[1]}",
            kept="the table is as it was",
            todo="give the same columns and types whatever the values are",
        )
    return Schema.from_json(schemas[0] if schemas else given[0]["schema"])


def _firsts(arguments: IngestArguments, found: Found) -> dict[str, int]:
    """The number of each file's first member among all of the source."""
    counts = [count_members(file, arguments.format) for file in found.files]
    return {
        file.name: before for file, before in zip(found.files, accumulate(counts, initial=0), strict=False)
    }


def _mark(arguments: IngestArguments, found: Found) -> str:
    """Digest of what the shards do; a table's bytes may change while the step's arguments do not."""
    how = {
        name: value
        for name, value in msgspec.to_builtins(arguments).items()
        if name not in arguments.only_how
    }
    files = [[file.name, *_identity(file)] for file in found.files]
    return digest(found.content, document_digest([files, how]))


def _identity(file: SourceFile) -> list[Any]:
    return [file.size, file.mark, file.modified]


def _fetched(step: StepContext, shards: Shards, number: int, path: str) -> Path:
    file = step.scratch / f"{number}-{path.rpartition('/')[2]}"
    if not step.store.read_file(path, file):
        shards.forget(number)
        raise InfrastructureError(
            f"what shard {number} had kept is gone: {path}",
            kept="what the other shards wrote; the table is as it was",
            retry="a retry does this shard again",
        )
    return file
