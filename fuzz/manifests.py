"""Manifests: whatever the bytes, reading gives rows of the promised shape or one UsageError."""

from __future__ import annotations

import io
import json
import os
import tempfile

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from fuzz.mutate import mutations
from sodbatch.errors import UsageError
from sodbatch.manifest import open_manifest
from sodbatch.storage import Storage


def _parquet(**options: str) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"path": ["a.jpg", "b.jpg", None], "n": [1, None, 3], "l": [[1], [], None], "t": ["x", "x", "y"]})
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


_LINES = [{"path": "a.jpg", "n": 1, "deep": {"x": [1, 2]}}, {"path": "../b.jpg", "n": None, "deep": {}}]
_COCO = {
    "info": {},
    "licenses": [],
    "images": [{"id": 1, "file_name": "a.jpg", "width": 9}, {"id": 2, "file_name": "b"}],
}

SEEDS = {
    "txt": [b"a.jpg\nb.jpg\r\n\n  \n/c/d.jpg\nhttp://x/a?b=c\n", "ä\u2028.jpg\n".encode(), b"\xef\xbb\xbfa.jpg\n"],
    "csv": [b'path,a,b\n"x ""q"".jpg",1,2\ny.jpg,,\n', b"\xef\xbb\xbfuri,score\r\na,1\r\n", b"image\n\n\na\n"],
    "jsonl": ["\n".join(map(json.dumps, _LINES)).encode(), b'{"uri": "a", "x": "\\ud83d\\ude00", "y": 1.5}\n\n'],
    "json": [json.dumps(_COCO).encode(), json.dumps(_COCO, indent=1).encode()],
    "parquet": [_parquet(), _parquet(compression="zstd"), _parquet(compression="gzip", version="1.0")],
}
TOKENS = (
    b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\r", b'"', b",", b"{", b"}", b"[", b"]", b"null", b"true", b"1e999", b"NaN",
    b"[[[[[[[[", b'{"a":', b"\\ud800", b'"images":', b'"file_name":', b"PAR1", b"9" * 30, "\u2028".encode(), b"://",
)  # fmt: skip

CASES = st.one_of([st.tuples(st.just(kind), mutations(seeds, TOKENS)) for kind, seeds in SEEDS.items()])


def check_manifest(case: tuple[str, bytes]) -> None:
    """Read a manifest whole, and hold it against what :class:`sodbatch.manifest.Manifest` promises."""
    kind, data = case
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"list.{kind}")
        with open(path, "wb") as file:
            file.write(data)
        try:
            manifest = open_manifest(path, Storage())
            tables = list(manifest.tables(7))
        except UsageError as error:
            assert str(error) and "\n" not in str(error)
            return
    schema = pa.schema([("source", pa.string()), ("uri", pa.string()), ("etag", pa.string()), *manifest.passthrough])
    for table in tables:
        table.validate(full=True)
        assert table.schema.names == schema.names and table.schema.types == schema.types
        assert 0 < len(table) <= 7
        assert not table["source"].null_count and not table["uri"].null_count
        assert all(table["uri"].to_pylist())
