#!/usr/bin/env python3
"""Reads what `meridian replay` wrote, with pyarrow, DuckDB and Polars.

    meridian replay --bucket s3://history/prod --topic orders --out orders
    meridian replay --bucket s3://history/prod --topic orders --format arrow --out - | python3 replay.py orders -

The first argument is a directory of Parquet files. With `-` as the second, an Arrow stream is read from standard input too.
Prints a JSON object per library. The columns are described in docs/formats/replay.md.
"""

import json
import sys
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def report(library, records, tombstones, value_bytes, offsets, with_header):
    print(
        json.dumps(
            {
                "library": library,
                "records": records,
                "tombstones": tombstones,
                "value_bytes": value_bytes,
                "offsets": offsets,
                "with_header": with_header,
            }
        )
    )


def of_table(library, table):
    by_partition = table.group_by("partition").aggregate([("offset", "min"), ("offset", "max")])
    offsets = {str(row["partition"]): [row["offset_min"], row["offset_max"]] for row in by_partition.to_pylist()}
    headers = table["headers"].combine_chunks()
    if isinstance(headers, pa.ChunkedArray):
        headers = pa.concat_arrays(headers.chunks)
    names = pc.struct_field(headers.flatten(), "key")
    report(
        library,
        table.num_rows,
        table["value"].null_count,
        pc.sum(pc.binary_length(table["value"])).as_py() or 0,
        offsets,
        pc.sum(pc.equal(names, "number")).as_py() or 0,
    )


def with_pyarrow(files):
    # One file at a time, as a program would that has less memory than history. `read_table` would use the dataset
    # scanner, whose threads now and then abort a program that ends right behind a scan (apache/arrow issue 34314).
    of_table("pyarrow", pa.concat_tables(pq.ParquetFile(file).read() for file in files))


def with_duckdb(files):
    relation = duckdb.sql(
        """
        select partition, count(*) records, count(*) filter (where value is null) tombstones,
               coalesce(sum(octet_length(value)), 0) value_bytes, min("offset") first, max("offset") last,
               count(*) filter (where len(list_filter(headers, lambda h: h.key = 'number')) > 0) with_header
        from read_parquet($files) group by partition
        """,
        params={"files": files},
    )
    rows = relation.fetchall()
    report(
        "duckdb",
        sum(row[1] for row in rows),
        sum(row[2] for row in rows),
        int(sum(row[3] for row in rows)),
        {str(row[0]): [row[4], row[5]] for row in rows},
        sum(row[6] for row in rows),
    )


def with_polars(files):
    frame = pl.scan_parquet(files)
    summary = (
        frame.group_by("partition")
        .agg(
            pl.len().alias("records"),
            pl.col("value").null_count().alias("tombstones"),
            pl.col("value").bin.size().sum().alias("value_bytes"),
            pl.col("offset").min().alias("first"),
            pl.col("offset").max().alias("last"),
        )
        .collect()
        .to_dicts()
    )
    with_header = (
        frame.select(pl.col("headers").explode().struct.field("key").alias("key"))
        .filter(pl.col("key") == "number")
        .select(pl.len())
        .collect()
        .item()
    )
    report(
        "polars",
        sum(row["records"] for row in summary),
        sum(row["tombstones"] for row in summary),
        sum(row["value_bytes"] for row in summary),
        {str(row["partition"]): [row["first"], row["last"]] for row in summary},
        with_header,
    )


def main():
    files = sorted(str(file) for file in Path(sys.argv[1]).rglob("*.parquet"))
    if not files:
        sys.exit(f"{sys.argv[1]} has no Parquet files")
    with_pyarrow(files)
    with_duckdb(files)
    with_polars(files)
    if sys.argv[2:] == ["-"]:
        with pa.ipc.open_stream(sys.stdin.buffer) as stream:
            of_table("stream", stream.read_all())


if __name__ == "__main__":
    main()
