"""Makes the files beside it, with pyarrow 26: what other people's software writes.

    python shell/store/tests/parquet/make.py

Row n holds "row n", a CJK word and as many dots as n modulo 7; every fifth row is null.
"""

import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

here = pathlib.Path(__file__).parent
rows = [None if n % 5 == 4 else f"row {n} 算粒" + "." * (n % 7) for n in range(300)]
table = pa.table({
    "id": pa.array(range(300), pa.int64()),
    "tags": pa.array([["a", "b"]] * 300),
    "text": pa.array(rows),
    "place": pa.array([{"x": 1, "text": "inner"}] * 300),
})


def write(name, **options):
    pq.write_table(table, here / f"{name}.parquet", row_group_size=120, store_schema=False, **options)


write("zstd", compression="zstd")
write("zstd-v2-delta", compression="zstd", data_page_version="2.0", use_dictionary=False,
      column_encoding={"text": "DELTA_BYTE_ARRAY"})
write("snappy-length", compression="snappy", use_dictionary=False, data_page_size=512,
      column_encoding={"text": "DELTA_LENGTH_BYTE_ARRAY"})
write("lz4", compression="lz4")
write("gzip-v2", compression="gzip", data_page_version="2.0")
write("none", compression="none", use_dictionary=False)
write("brotli", compression="brotli")

# Few bytes, so that a change of one is a change of something: for fuzzing.
few = pa.table({"text": pa.array(["the cat sat on the mat", None, "the cat sat on the hat"] * 4)})
for name, options in {
    "few-snappy": {"compression": "snappy"},
    "few-zstd-delta": {"compression": "zstd", "data_page_version": "2.0", "use_dictionary": False,
                       "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
    "few-gzip": {"compression": "gzip", "use_dictionary": False},
    "few-lz4-length": {"compression": "lz4", "use_dictionary": False,
                       "column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY"}},
}.items():
    pq.write_table(few, here / f"{name}.parquet", store_schema=False, write_statistics=False, **options)
