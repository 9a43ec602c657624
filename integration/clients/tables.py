"""Programs that keep tables in a bucket: delta-rs, Polars and DuckDB. Which one is the first argument."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3

from common import ACCESS_KEY, ENDPOINT, HOST, SECRET_KEY, check, equal, main

PROGRAM = sys.argv[1]
BUCKET = f"tables-{PROGRAM}"
# The variables of AWS name the place and the keys; delta-rs and Polars want to be told that HTTP without TLS is meant.
OPTIONS = {"aws_allow_http": "true"}

boto3.client("s3").create_bucket(Bucket=BUCKET)

if PROGRAM == "delta":
    import pyarrow
    import pyarrow.compute
    from deltalake import CommitProperties, DeltaTable, write_deltalake
    from deltalake.exceptions import CommitFailedError

    WRITERS, COMMITS = 8, 5
    TABLE = f"s3://{BUCKET}/numbers"

    def rows(writer, numbers):
        return pyarrow.table({"writer": [writer] * len(numbers), "number": list(numbers)})

    @check
    def create_and_append():
        write_deltalake(TABLE, rows(0, range(100)), storage_options=OPTIONS)
        write_deltalake(TABLE, rows(0, range(100, 200)), mode="append", storage_options=OPTIONS)
        table = DeltaTable(TABLE, storage_options=OPTIONS)
        equal((table.version(), table.to_pyarrow_table().num_rows), (1, 200))

    @check
    def concurrent_writers_lose_no_commit():
        # A commit is a PUT of the next number with If-None-Match: who loses takes the number after it.
        patient = CommitProperties(max_commit_retries=1000)

        def write(writer):
            for count in range(COMMITS):
                new = rows(writer, range(count * 10, count * 10 + 10))
                write_deltalake(TABLE, new, mode="append", storage_options=OPTIONS, commit_properties=patient)

        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(write, range(1, WRITERS + 1)))
        table = DeltaTable(TABLE, storage_options=OPTIONS)
        equal(table.version(), 1 + WRITERS * COMMITS)
        found = table.to_pyarrow_table().filter(pyarrow.compute.field("writer") > 0)
        wanted = [(writer, number) for writer in range(1, WRITERS + 1) for number in range(COMMITS * 10)]
        equal(sorted(zip(found["writer"].to_pylist(), found["number"].to_pylist())), wanted)

    @check
    def one_of_two_that_contradict_is_refused():
        first, second = (DeltaTable(TABLE, storage_options=OPTIONS) for _ in range(2))
        first.delete("number < 5")
        try:
            second.delete("number < 7")
        except CommitFailedError:
            return
        raise AssertionError("both deletes of the same rows were committed")

    @check
    def older_versions_checkpoint_and_vacuum():
        table = DeltaTable(TABLE, storage_options=OPTIONS)
        equal(DeltaTable(TABLE, version=0, storage_options=OPTIONS).to_pyarrow_table().num_rows, 100)
        rows_before = table.to_pyarrow_table().num_rows
        table.optimize.compact()
        table.create_checkpoint()
        removed = table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
        assert len(removed) > WRITERS, removed
        equal(DeltaTable(TABLE, storage_options=OPTIONS).to_pyarrow_table().num_rows, rows_before)


if PROGRAM == "polars":
    import polars

    frame = polars.DataFrame({"year": [2023, 2024, 2024, 2025] * 50_000, "value": range(200_000)})
    PLACE = f"s3://{BUCKET}"

    @check
    def write_and_read_parquet():
        frame.write_parquet(f"{PLACE}/one.parquet", storage_options=OPTIONS)
        assert polars.read_parquet(f"{PLACE}/one.parquet", storage_options=OPTIONS).equals(frame), "other rows"

    @check
    def scan_reads_only_what_it_needs():
        found = (
            polars.scan_parquet(f"{PLACE}/one.parquet", storage_options=OPTIONS)
            .filter(polars.col("year") == 2024)
            .select(polars.col("value").sum())
            .collect()
        )
        equal(found.item(), frame.filter(polars.col("year") == 2024)["value"].sum())

    @check
    def sink_many_row_groups():
        frame.lazy().sink_parquet(f"{PLACE}/sunk.parquet", row_group_size=1000, storage_options=OPTIONS)
        assert polars.read_parquet(f"{PLACE}/sunk.parquet", storage_options=OPTIONS).equals(frame), "other rows"

    @check
    def partitions_and_globs():
        for year in [2023, 2024, 2025]:
            frame.filter(polars.col("year") == year).write_parquet(
                f"{PLACE}/years/year={year}/part.parquet", storage_options=OPTIONS
            )
        found = polars.scan_parquet(f"{PLACE}/years/**/*.parquet", hive_partitioning=True, storage_options=OPTIONS)
        equal(found.select(polars.len()).collect().item(), 200_000)
        equal(found.filter(polars.col("year") == 2025).select(polars.len()).collect().item(), 50_000)

    @check
    def csv_and_ipc():
        frame.head(1000).write_csv(f"{PLACE}/head.csv", storage_options=OPTIONS)
        assert polars.scan_csv(f"{PLACE}/head.csv", storage_options=OPTIONS).collect().equals(frame.head(1000)), "other rows"
        frame.lazy().sink_ipc(f"{PLACE}/whole.arrow", storage_options=OPTIONS)
        assert polars.scan_ipc(f"{PLACE}/whole.arrow", storage_options=OPTIONS).collect().equals(frame), "other rows"


if PROGRAM == "duckdb":
    import duckdb
    from duckdb_extensions import import_extension

    import_extension("httpfs")
    base = duckdb.connect()
    base.execute("LOAD httpfs")
    base.execute(
        f"""CREATE SECRET (TYPE s3, KEY_ID '{ACCESS_KEY}', SECRET '{SECRET_KEY}', REGION 'us-east-1',
        ENDPOINT '{HOST}', URL_STYLE 'path', USE_SSL false)"""
    )
    PLACE = f"s3://{BUCKET}"

    def one(query):
        return base.execute(query).fetchone()

    @check
    def write_and_read_parquet():
        base.execute(f"COPY (SELECT range AS n, range % 7 AS d FROM range(1000000)) TO '{PLACE}/numbers.parquet'")
        equal(one(f"SELECT count(*), sum(n) FROM '{PLACE}/numbers.parquet'"), (1_000_000, 499_999_500_000))
        equal(one(f"SELECT count(*) FROM '{PLACE}/numbers.parquet' WHERE n BETWEEN 10 AND 19"), (10,))

    @check
    def partitions_and_globs():
        base.execute(
            f"""COPY (SELECT range AS n, range % 7 AS d FROM range(70000)) TO '{PLACE}/parts'
            (FORMAT parquet, PARTITION_BY (d), OVERWRITE_OR_IGNORE)"""
        )
        equal(one(f"SELECT count(*), count(DISTINCT d) FROM read_parquet('{PLACE}/parts/*/*.parquet')"), (70_000, 7))
        equal(one(f"SELECT count(*) FROM read_parquet('{PLACE}/parts/**', hive_partitioning = true) WHERE d = 3"), (10_000,))
        equal(one(f"SELECT count(*) FROM glob('{PLACE}/parts/*/*.parquet')"), (7,))

    @check
    def csv_json_and_a_large_upload_in_parts():
        base.execute(f"COPY (SELECT range AS n FROM range(10000)) TO '{PLACE}/numbers.csv'")
        equal(one(f"SELECT sum(n) FROM '{PLACE}/numbers.csv'"), (49_995_000,))
        base.execute(f"COPY (SELECT range AS n, md5(range::VARCHAR) AS m FROM range(2000000)) TO '{PLACE}/large.csv'")
        equal(one(f"SELECT count(*), count(DISTINCT m) FROM '{PLACE}/large.csv'"), (2_000_000, 2_000_000))

    @check
    def attach_a_database():
        local = "local.duckdb"
        with duckdb.connect(local) as made:
            made.execute("CREATE TABLE t AS SELECT range AS n FROM range(100000)")
        boto3.client("s3").upload_file(local, BUCKET, "kept.duckdb")
        os.remove(local)
        base.execute(f"ATTACH '{PLACE}/kept.duckdb' AS kept (READ_ONLY)")
        equal(one("SELECT sum(n) FROM kept.t"), (4_999_950_000,))


try:
    main(PROGRAM)
except SystemExit as ended:
    # Threads of the libraries still run, and some abort the process that ends around them.
    os._exit(ended.code)
