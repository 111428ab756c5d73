"""Sources and stores in object storage: a real S3 server on loopback, credentials from the environment."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
import servers
from raw_orders import HEADER, ORDERS_WITH_KEY, Ingest, write_packed

from airflow_ml_provider.contract.documents import StepResult, StepSpec, read_spec
from airflow_ml_provider.contract.shards import Shards
from airflow_ml_provider.contract.store import Store
from airflow_ml_provider.contract.tables import Table
from airflow_ml_provider.steps import runner, sharding
from airflow_ml_provider.steps.pinned_tables import open_table


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its address."""
    with servers.s3_server(tmp_path_factory.mktemp("s3") / "server.log") as address:
        yield address


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket, reachable as a step finds one: through the environment."""
    environment = {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset", method="POST")).close()
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/landing", method="PUT")).close()
    return "s3://landing"


@pytest.fixture
def put(bucket: str, tmp_path: Path) -> Callable[[str, str], None]:
    """Puts an object, packed as its name says."""
    import obstore
    from obstore.store import from_url

    def write(path: str, text: str) -> None:
        local = tmp_path / "packed"
        local.mkdir(exist_ok=True)
        content = write_packed(local / Path(path).name, text).read_bytes()
        obstore.put(from_url(bucket), path, content)

    return write


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.csv.zip"])
def test_an_object_is_read_plain_gzipped_and_zipped(
    ingest: Ingest, bucket: str, put: Callable[[str, str], None], rows: Callable[..., pl.DataFrame], name: str
) -> None:
    put(f"raw/{name}", HEADER + "".join(f"d1,{n},1,{'x' * 60}\n" for n in range(30_000)) + "d1,7,1,again\n")
    result = ingest(f"{bucket}/raw/{name}", schema=ORDERS_WITH_KEY, max_bad_rows=1)
    assert result.status == "success", result.failure
    assert len(rows()) == 30_000
    assert rows("orders_quarantine")["line"].item() == 30_002


def test_a_folder_and_a_glob_of_objects_are_read_and_the_same_objects_not_twice(
    ingest: Ingest, bucket: str, put: Callable[[str, str], None], rows: Callable[..., pl.DataFrame]
) -> None:
    for number, path in enumerate(
        ("2013/06/a b.csv", "2013/06/deep/b.jsonl", "2013/07/c.csv", "2013/06/_c.csv")
    ):
        text = (
            f'{{"day": "d", "id": {number}, "amount": 1, "note": ""}}'
            if "json" in path
            else f"d,{number},1,\n"
        )
        put(path, text if "json" in path else HEADER + text)
    assert ingest(f"{bucket}/2013/06").summary["source files"] == 1
    assert rows()["id"].to_list() == [0]
    assert ingest(f"{bucket}/2013/**/[abc]*").summary["source files"] == 3
    assert rows()["id"].to_list() == [0, 1, 2]
    assert "already ingested" in ingest(f"{bucket}/2013/**/[abc]*").summary
    put("2013/07/c.csv", HEADER + "d,5,1,\n")
    assert "already ingested" not in ingest(f"{bucket}/2013/**/[abc]*").summary
    assert rows()["id"].to_list() == [0, 1, 5]


def test_what_is_not_there_is_told_apart(ingest: Ingest, bucket: str) -> None:
    assert ingest(f"{bucket}/nothing/here/", partitions="d1").status == "skipped"
    assert ingest(f"{bucket}/nothing/*.csv", partitions="d1").status == "skipped"
    missing = ingest(f"{bucket}/nothing/a.csv").failure
    assert missing is not None
    assert "there is no file s3://landing/nothing/a.csv" in missing.message
    no_bucket = ingest("s3://no-such-bucket/raw/").failure
    assert no_bucket is not None
    assert "the bucket of s3://no-such-bucket/raw/" in no_bucket.message


def test_a_store_in_object_storage_holds_the_same_tables(
    run_step: Callable[..., StepResult], bucket: str, landing: Path
) -> None:
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\nd 2:x,2,1,\nd1,x,1,\n")
    arguments = {
        "source": str(landing),
        "schema": ORDERS_WITH_KEY,
        "publish": {"name": "orders", "partition_by": "day"},
        "partitions": "d1,d 2:x",
        "max_bad_rows": 1,
    }
    first = run_step("ingest", arguments, store_uri=f"{bucket}/store")
    assert first.status == "success", first.failure
    assert first.table is not None
    assert first.table.uri == "s3://landing/store/tables/orders"
    write_packed(landing / "a.csv", HEADER + "d1,3,1,\nd 2:x,4,1,\n")
    arguments["partitions"] = "d 2:x"
    again = run_step("ingest", arguments, store_uri=f"{bucket}/store", step_key="again")
    assert again.table is not None
    pinned = open_table(Store(f"{bucket}/store"), Table("orders", version=again.table.version))
    assert sorted(pinned.lazy().select("day", "id").collect().rows()) == [("d 2:x", 4), ("d1", 1)]


def test_a_store_in_a_bucket_that_does_not_exist_says_so(
    run_step: Callable[..., StepResult], bucket: str, landing: Path
) -> None:
    write_packed(landing / "a.csv", HEADER + "d1,1,1,\n")
    arguments = {
        "source": str(landing),
        "schema": ORDERS_WITH_KEY,
        "publish": {"name": "orders", "partition_by": "day"},
    }
    failure = run_step("ingest", arguments, store_uri="s3://no-such-bucket/store").failure
    assert failure is not None
    assert failure.kind == "config"
    assert "there is no such bucket" in failure.message
    assert "next: create the bucket" in failure.message


def test_shards_read_objects_and_keep_what_they_give_in_object_storage(
    bucket: str, put: Callable[[str, str], None]
) -> None:
    put("raw/a.csv", HEADER + "d1,1,1,\nd1,x,1,\n")
    put("raw/b.csv.gz", HEADER + "d1,2,1,\nd1,1,1,\n")
    arguments = {
        "source": f"{bucket}/raw", "schema": ORDERS_WITH_KEY, "max_bad_rows": 2, "shards": 2,
        "publish": {"name": "orders", "partition_by": "day"},
    }  # fmt: skip
    spec = read_spec(StepSpec("ingest", f"{bucket}/store", arguments).encode(), source="the test")
    assert [sharding.run_one(spec, number) for number in (0, 1)] == [0, 0]
    put("raw/a.csv", HEADER + "d1,1,1,\nd1,y,1,\n")
    # Another ETag: what was done is not taken, and a shard of the plan of before is refused.
    shards = Shards(Store(spec.store), spec, 2)
    shards.forget(0)
    assert sharding.run_one(spec, 0) != 0
    assert sharding.write_plan(spec) == 0
    assert [sharding.run_one(spec, number) for number in (0, 1)] == [0, 0]
    result = runner.run_step(spec)
    assert result.status == "success", result.failure
    assert result.metrics == {"rows": 2, "rejected": 2}
    bad = open_table(Store(spec.store), Table("orders_quarantine")).lazy().collect()
    assert sorted(bad.select("file", "line", "raw").rows()) == [
        ("a.csv", 3, "d1,y,1,"),
        ("b.csv.gz", 3, "d1,1,1,"),
    ]
    assert not list(Store(spec.store).paths(shards.folder)), "nothing is kept for a publication that was made"
