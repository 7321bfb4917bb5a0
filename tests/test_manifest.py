"""Manifests: every kind of input becomes the same stream of source rows, and nothing is lost or changed on the way."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures_http import HttpServer
from fixtures_s3 import S3Bucket
from hypothesis import given, settings
from hypothesis import strategies as st

from sodbatch.config import FetchSection
from sodbatch.errors import UsageError
from sodbatch.ledger import Ledger
from sodbatch.manifest import Manifest, open_manifest
from sodbatch.manifest.pictures import literal_folder
from sodbatch.pending import Pending
from sodbatch.storage import Storage
from sodbatch.storage.uris import identity
from sodbatch.tables import RESERVED_COLUMNS

STORAGE = Storage()


def rows_of(manifest: Manifest, rows: int = 10_000) -> list[dict[str, Any]]:
    tables = list(manifest.tables(rows))
    assert all(0 < len(table) <= rows for table in tables)
    return [row for table in tables for row in table.to_pylist()]


def sources(inputs: str | list[str], **options: Any) -> list[str]:
    return [row["source"] for row in rows_of(open_manifest(inputs, STORAGE, **options))]


def write(path: Path, content: str | bytes = b"x") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


# --- pictures, folders, globs


def test_one_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jpg")
    monkeypatch.chdir(tmp_path)
    manifest = open_manifest("a.jpg", STORAGE)
    assert rows_of(manifest) == [{"source": path, "uri": path, "etag": None}]
    assert manifest.count_hint() == 1


def test_a_folder_gives_its_pictures_at_any_depth_in_order(tmp_path: Path) -> None:
    names = ["b.JPG", "a/z.png", "a/a.tiff", "a-b.webp", "doc.pdf", "x.ras", "x.sr", "deep/er/p.pnm", "ä.jpeg", "d.dib"]
    for name in [*names, "notes.txt", "jpg", "a.gif", ".hidden", "b.jpg.part"]:
        write(tmp_path / name)
    expected = sorted(str(tmp_path / name) for name in names)
    manifest = open_manifest(str(tmp_path), STORAGE)
    assert [row["uri"] for row in rows_of(manifest, rows=3)] == expected
    assert sources(f"{tmp_path.as_uri()}/") == expected
    assert manifest.count_hint() is None


@pytest.mark.parametrize("pattern", ["*.jpg", "a/*.jpg", "**/*.jpg", "a/?.jpg", "[ab]/*", "*/*/*.jpg", "a/**", "*/1.*"])
def test_a_glob_matches_as_fsspec_does(tmp_path: Path, pattern: str) -> None:
    for name in ["1.jpg", "a/1.jpg", "a/22.jpg", "a/b/1.jpg", "a/b/c/1.jpg", "b/1.png", "c/1.jpg", "a/1.txt"]:
        write(tmp_path / name)
    found = fsspec.filesystem("file").glob(f"{tmp_path}/{pattern}")
    expected = [path for path in found if path.endswith((".jpg", ".png"))]
    assert expected
    assert sources(f"{tmp_path}/{pattern}") == sorted(expected)


def test_a_file_with_the_characters_of_a_glob_in_its_name(tmp_path: Path) -> None:
    path = write(tmp_path / "img[1]*.jpg")
    write(tmp_path / "img1.jpg")
    assert sources(path) == [path]


def test_a_list_keeps_its_order_and_its_repeats(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.jpg"), write(tmp_path / "b.jpg")
    manifest = open_manifest([b, a, str(tmp_path), a], STORAGE)
    assert [row["source"] for row in rows_of(manifest)] == [b, a, a, b, a]
    assert open_manifest([b, a], STORAGE).count_hint() == 2


@pytest.mark.parametrize("column", ["path", "note"])
def test_a_small_parquet_file_that_unpacks_to_much_is_read_in_small_tables(tmp_path: Path, column: str) -> None:
    rows = 20_000
    columns = {"path": [f"/{i}.jpg" for i in range(rows)], column: ["x" * 40_000] * rows}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    assert (tmp_path / "m.parquet").stat().st_size < 2**20
    count = 0
    for table in open_manifest(str(tmp_path / "m.parquet"), STORAGE).tables():
        count += len(table)
        assert table.nbytes < 100 * 2**20
    assert count == rows


@pytest.mark.parametrize("start", ["https:/", "//", "'https://", "", "blob:https://"])
def test_a_url_that_is_taken_for_a_path_shows_no_signature_and_stays_a_picture_of_its_own(
    tmp_path: Path, start: str
) -> None:
    urls = [SIGNED.replace("https://", start).replace("0123", f"{i:04d}") for i in range(2)]
    manifest = open_manifest(write(tmp_path / "m.txt", "".join(f"{url}\n" for url in urls)), STORAGE)
    rows = next(iter(Pending(manifest, Ledger()).tables())).to_pylist()
    assert len({row["input_id"] for row in rows}) == 2
    assert all("X-Amz" not in row["uri"] and "a.jpg" in row["uri"] for row in rows)


def test_blanks_before_a_url_are_none_of_it_but_those_of_a_path_are(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", f"site,image\n1, {SIGNED}\n2, s3://b/k.jpg \n3, /a b .jpg\n")
    rows = rows_of(open_manifest(path, STORAGE))
    assert [row["source"] for row in rows] == [SIGNED, "s3://b/k.jpg ", f"{tmp_path}/ /a b .jpg"]
    assert rows[0]["uri"] == "https://h.example/a.jpg"


def test_urls_are_pictures_and_show_no_secret() -> None:
    url = "https://user:pw@host/a.jpg?X-Amz-Signature=planted"
    assert rows_of(open_manifest([url, "http://host/get?id=1"], STORAGE)) == [
        {"source": url, "uri": "https://host/a.jpg", "etag": None},
        {"source": "http://host/get?id=1", "uri": "http://host/get", "etag": None},
    ]


# --- text


def test_txt(tmp_path: Path) -> None:
    lines = ["/data/a.jpg", "s3://bucket/b.jpg", "c d.jpg", "sub/../e.jpg", "./f.jpg", "ü.jpg", "file:///g%20h.jpg"]
    path = write(tmp_path / "list.txt", b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode() + b"\n  \n\n")
    assert [(row["source"], row["uri"]) for row in rows_of(open_manifest(path, STORAGE), rows=2)] == [
        ("/data/a.jpg", "/data/a.jpg"),
        ("s3://bucket/b.jpg", "s3://bucket/b.jpg"),
        (f"{tmp_path}/c d.jpg", f"{tmp_path}/c d.jpg"),
        (f"{tmp_path}/e.jpg", f"{tmp_path}/e.jpg"),
        (f"{tmp_path}/f.jpg", f"{tmp_path}/f.jpg"),
        (f"{tmp_path}/ü.jpg", f"{tmp_path}/ü.jpg"),
        ("file:///g%20h.jpg", "/g h.jpg"),
    ]


_PRINTABLE = st.characters(exclude_categories=["C", "Z"], include_characters=" ")


@settings(max_examples=30)
@given(st.lists(st.text(_PRINTABLE)))
def test_no_line_of_a_txt_is_lost_at_the_border_of_a_block(names: list[str]) -> None:
    from sodbatch.manifest import text

    storage = Storage()
    storage.write_atomic("memory://border/list.txt", "\n".join(f"/{name}" for name in ["first", *names]).encode())
    block, text._BLOCK_BYTES = text._BLOCK_BYTES, 7
    try:
        found = [row["source"] for row in rows_of(open_manifest("memory://border/list.txt", storage))]
    finally:
        text._BLOCK_BYTES = block
    assert found == [f"/{name}" for name in ["first", *names]]


_CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(), _CELL, _CELL), min_size=1, max_size=20))
def test_csv_round_trip(records: list[tuple[int, str, str]]) -> None:
    storage = Storage()
    text = io.StringIO(newline="")
    csv.writer(text).writerows([("site", "image", "note"), *((s, f"/p{n}.jpg", t) for n, s, t in records)])
    storage.write_atomic("memory://csv/m.csv", text.getvalue().encode("utf-8-sig"))
    manifest = open_manifest("memory://csv/m.csv", storage)
    assert manifest.passthrough == pa.schema({"site": pa.string(), "note": pa.string()})
    assert [(r["source"], r["site"], r["note"]) for r in rows_of(manifest, rows=7)] == [
        (f"/p{n}.jpg", s, t) for n, s, t in records
    ]


def test_csv_values_stay_text_and_empty_ones_stay_empty(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", ',path,code,when,flag\n0,/a.jpg,007,2024-01-01,true\n1,"/b,c.jpg",,NA,1e5\n')
    assert [list(row.values())[3:] for row in rows_of(open_manifest(path, STORAGE))] == [
        ["0", "007", "2024-01-01", "true"],
        ["1", "", "NA", "1e5"],
    ]
    assert open_manifest(path, STORAGE).passthrough.names == ["column_0", "code", "when", "flag"]


def test_jsonl_types_come_from_the_first_rows(tmp_path: Path) -> None:
    records = [
        {"path": "/a.jpg", "n": 1, "f": 1, "s": "x", "b": True, "late": None, "o": {"k": [1]}},
        {"path": "/b.jpg", "n": 2, "f": 2.5, "late": None, "o": [1, 2]},
    ]
    path = write(tmp_path / "m.jsonl", "\n\n".join(json.dumps(record) for record in records))
    manifest = open_manifest(path, STORAGE)
    assert manifest.passthrough == pa.schema(
        {
            "n": pa.int64(),
            "f": pa.float64(),
            "s": pa.string(),
            "b": pa.bool_(),
            "late": pa.string(),
            "o": pa.string(),
        }
    )
    first, second = rows_of(manifest)
    assert (first["n"], first["f"], first["b"], json.loads(first["o"])) == (1, 1.0, True, {"k": [1]})
    assert (second["s"], second["b"], second["f"]) == (None, None, 2.5)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"path": "/z.jpg", "n": "text"}', r"m\.jsonl, line 1502: n is 'text', expected int64"),
        ('{"path": "/z.jpg", "n": 1.5}', r"line 1502: n is '1\.5', expected int64"),
        ('{"path": "/z.jpg", "n": 9223372036854775808}', r"line 1502: n is '9223372036854775808', expected int64"),
        ('{"path": 5, "n": 1}', r"line 1502: path is '5', expected string"),
        ('{"path": "/z.jpg", "new": 1}', r"line 1502: new not among the columns"),
        ('{"path": ', r"line 1502: not valid JSON"),
        ("[1]", r"line 1502: expected an object, found list"),
    ],
)
def test_a_jsonl_line_that_conflicts_is_named(tmp_path: Path, line: str, message: str) -> None:
    good = "".join(f'{{"path": "/{i}.jpg", "n": {i}}}\n' for i in range(1500))
    path = write(tmp_path / "m.jsonl", good + "\n" + line + "\n")
    manifest = open_manifest(path, STORAGE)
    with pytest.raises(UsageError, match=message):
        rows_of(manifest)


# --- Parquet


def test_parquet_keeps_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "url": pa.array(["/a.jpg", "/b.jpg", "/c.jpg"]).dictionary_encode(),
            "site": pa.array([1, None, 3], pa.int16()),
            "when": pa.array([0, 1, 2], pa.timestamp("us", "UTC")),
            "vector": pa.array([[1.0], [], None], pa.list_(pa.float32())),
            "kind": pa.array(["x", "y", "x"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "m.parquet")
    manifest = open_manifest(str(tmp_path / "m.parquet"), STORAGE)
    expected = table.schema.set(4, pa.field("kind", pa.string())).remove(0)
    assert manifest.passthrough == expected
    assert manifest.count_hint() == 3
    read = pa.concat_tables(manifest.tables(2))
    assert read["source"].to_pylist() == ["/a.jpg", "/b.jpg", "/c.jpg"]
    assert read.select(expected.names).to_pylist() == table.drop_columns(["url"]).to_pylist()


def test_a_folder_of_parts_with_partitions(tmp_path: Path) -> None:
    for day, names in (("d=1", ["/a.jpg", "/b.jpg"]), ("d=x%20y", ["/c.jpg"])):
        (tmp_path / "m" / day).mkdir(parents=True)
        pq.write_table(pa.table({"path": names}), tmp_path / "m" / day / "part-0.parquet")
    write(tmp_path / "m" / "_metadata.parquet", b"not parquet")
    write(tmp_path / "m" / "_SUCCESS", b"")
    manifest = open_manifest(str(tmp_path / "m"), STORAGE)
    assert manifest.count_hint() == 3
    assert [(r["source"], r["d"]) for r in rows_of(manifest)] == [("/a.jpg", "1"), ("/b.jpg", "1"), ("/c.jpg", "x y")]


def test_parts_may_lack_columns_but_not_change_their_type(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["/a.jpg"]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"path": ["/b.jpg"], "n": [1]}), tmp_path / "1.parquet")
    assert [row["n"] for row in rows_of(open_manifest(str(tmp_path), STORAGE))] == [None, 1]
    pq.write_table(pa.table({"path": ["/c.jpg"], "n": ["1"]}), tmp_path / "2.parquet")
    with pytest.raises(UsageError, match=r"column 'n' is int64 in .*1\.parquet and string in .*2\.parquet"):
        open_manifest(str(tmp_path), STORAGE)


def test_a_folder_with_pictures_and_parquet_is_a_folder_of_pictures(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["/elsewhere.jpg"]}), tmp_path / "a.parquet")
    path = write(tmp_path / "b.jpg")
    assert sources(str(tmp_path)) == [path]


# --- COCO


@pytest.mark.parametrize("folder", ["annotations", "images"])
def test_coco(tmp_path: Path, folder: str) -> None:
    images = [{"id": 7, "file_name": "a.jpg", "width": 4, "height": 3}, {"file_name": "b.jpg", "id": 8}]
    document = {"info": {"a": [1, {"images": []}]}, "annotations": [{"id": 1}], "images": images, "categories": []}
    path = write(tmp_path / folder / "m.json", json.dumps(document, indent=1))
    write(tmp_path / "images" / "a.jpg")
    manifest = open_manifest(path, STORAGE)
    assert [tuple(row.values()) for row in rows_of(manifest)] == [
        (f"{tmp_path}/images/a.jpg", f"{tmp_path}/images/a.jpg", None, 7, 4, 3),
        (f"{tmp_path}/images/b.jpg", f"{tmp_path}/images/b.jpg", None, 8, None, None),
    ]
    assert manifest.passthrough.names == ["coco_image_id", "coco_width", "coco_height"]


def test_coco_is_read_over_the_borders_of_its_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sodbatch import json_stream

    monkeypatch.setattr(json_stream, "_BLOCK", 3)
    images = [{"id": 10**i, "file_name": f"/ü{i}.jpg"} for i in range(12)]
    path = write(tmp_path / "m.json", json.dumps({"n": 12345678, "images": images}, ensure_ascii=False))
    assert [(r["coco_image_id"], r["source"]) for r in rows_of(open_manifest(path, STORAGE))] == [
        (image["id"], image["file_name"]) for image in images
    ]


# --- paths and columns


def test_relative_paths_are_beside_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "lists" / "img" / "b.jpg")
    write(tmp_path / "img" / "a.jpg")
    path = write(tmp_path / "lists" / "m.txt", "img/a.jpg\nimg/b.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert sources(path) == [f"{tmp_path}/lists/img/a.jpg", f"{tmp_path}/lists/img/b.jpg"]


SIGNED = "https://h.example/a.jpg?X-Amz-Credential=AKIAEXAMPLE&X-Amz-Signature=0123456789abcdef"


def test_a_url_inside_of_a_list_a_record_or_bytes_shows_no_secret(tmp_path: Path) -> None:
    columns = {
        "path": ["/a.jpg"],
        "list": [[SIGNED, None]],
        "record": [{"url": SIGNED, "n": 1}],
        "bytes": [SIGNED.encode()],
        "raw": [b"\xff\x00"],
        "large": pa.array([SIGNED], pa.large_string()),
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    [row] = rows_of(open_manifest(str(tmp_path / "m.parquet"), STORAGE))
    assert "0123456789abcdef" not in repr(row) and "AKIAEXAMPLE" not in repr(row)
    assert (row["list"][1], row["record"]["n"], row["raw"]) == (None, 1, b"\xff\x00")


@pytest.mark.parametrize("kind", ["txt", "csv", "jsonl", "parquet"])
def test_relative_paths_are_under_the_working_directory_where_none_is_beside_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    write(tmp_path / "img" / "b.jpg")
    path = tmp_path / "lists" / f"m.{kind}"
    content = {
        "txt": "img/a.jpg\nimg/b.jpg\n",
        "csv": "path\nimg/a.jpg\nimg/b.jpg\n",
        "jsonl": '{"path": "img/a.jpg"}\n{"path": "img/b.jpg"}\n',
    }
    write(path, content.get(kind, ""))
    if kind == "parquet":
        pq.write_table(pa.table({"path": ["img/a.jpg", "img/b.jpg"]}), path)
    monkeypatch.chdir(tmp_path)
    manifest = open_manifest(f"lists/m.{kind}", STORAGE)
    monkeypatch.chdir("/")  # decided once, when the manifest is opened
    assert [row["source"] for row in rows_of(manifest)] == [f"{tmp_path}/img/a.jpg", f"{tmp_path}/img/b.jpg"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "json"])
def test_rows_without_a_path_stay_rows_of_their_own(tmp_path: Path, kind: str) -> None:
    paths = ["/a.jpg", None, "  ", "/b.jpg", ""]
    path = tmp_path / f"m.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"path": paths}), path)
    elif kind == "csv":
        write(path, "path,n\n" + "".join(f"{value or ''},1\n" for value in paths))
    elif kind == "jsonl":
        write(path, "\n".join(json.dumps({"path": value}) for value in paths))
    else:
        write(path, json.dumps({"images": [{"file_name": value} for value in paths]}))
    rows = rows_of(open_manifest(str(path), STORAGE), rows=2)
    assert [row["source"] for row in rows] == ["/a.jpg", "", "", "/b.jpg", ""]
    assert [row["uri"] for row in rows] == ["/a.jpg", f"{path}#row=1", f"{path}#row=2", "/b.jpg", f"{path}#row=4"]


def test_the_path_column(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", "url,picture,image\n/1,/2,/3\n")
    assert sources(path) == ["/3"]
    assert sources(path, path_column="picture") == ["/2"]
    with pytest.raises(UsageError, match=r"lacks the column 'nope' \(its columns: url, picture, image\)"):
        open_manifest(path, STORAGE, path_column="nope")
    other = write(tmp_path / "o.csv", "a,b\n1,2\n")
    with pytest.raises(UsageError, match=r"lacks a column named one of uri, path, .* \(its columns: a, b\)"):
        open_manifest(other, STORAGE)


def test_columns_that_the_tables_have_themselves_are_renamed(tmp_path: Path) -> None:
    names = sorted((RESERVED_COLUMNS | {"source", "etag", "skip_pages", "pixels"}) - {"uri"})
    path = write(tmp_path / "m.csv", ",".join([*names, "path", "mine"]) + "\n" + "1," * (len(names) + 1) + "2\n")
    manifest = open_manifest(path, STORAGE)
    assert manifest.passthrough.names == [*(f"manifest_{name}" for name in names), "mine"]
    assert not set(manifest.passthrough.names) & RESERVED_COLUMNS


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_column_that_is_no_text_holds_no_paths(tmp_path: Path, kind: str) -> None:
    row = {"image": {"bytes": "x"}, "path": 7, "file_name": "/a.jpg"}
    path = tmp_path / f"m.{kind}"
    if kind == "jsonl":
        write(path, json.dumps(row))
    else:
        pq.write_table(pa.Table.from_pylist([row]), path)
    assert sources(str(path)) == ["/a.jpg"]
    with pytest.raises(UsageError, match="the column 'path' holds no text"):
        open_manifest(str(path), STORAGE, path_column="path")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_url_in_another_column_shows_no_secret(tmp_path: Path, kind: str) -> None:
    notes = ["https://h/m.png?X-Amz-Signature=hunter2", "mail a@b.c?", "https://bob:hunter2@h/m", None]
    path = tmp_path / f"m.{kind}"
    if kind == "csv":
        write(path, "path,note\n" + "".join(f"/{i},{note or ''}\n" for i, note in enumerate(notes)))
    else:
        pq.write_table(pa.table({"path": ["/0", "/1", "/2", "/3"], "note": notes}), path)
    found = [row["note"] for row in rows_of(open_manifest(str(path), STORAGE))]
    assert found[:3] == ["https://h/m.png?[redacted]", "mail a@b.c?", "https://h/m"]
    assert not found[3]


def test_a_renamed_column_takes_a_name_that_is_free(tmp_path: Path) -> None:
    manifest = open_manifest(write(tmp_path / "m.csv", "path,width,manifest_width\n/a,1,2\n"), STORAGE)
    assert manifest.passthrough.names == ["manifest_width_2", "manifest_width"]


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two columns that would be called 'a'"):
        open_manifest(write(tmp_path / "m.csv", "path,a,a\n/a,1,2\n"), STORAGE)


@pytest.mark.parametrize(
    "line",
    ['{"path": "/\\ud800.jpg"}', '{"path": "/b", "n": ["\\udfff"]}', '{"path": ' + "[" * 100_000 + "]" * 100_000 + "}"],
    ids=["path", "value", "deep"],
)
def test_what_is_no_text_or_too_deep_is_named_by_its_line(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "m.jsonl", '{"path": "/a \\ud83d\\ude00", "n": null}\n' + line + "\n")
    with pytest.raises(UsageError, match=r"m.jsonl, line 2: not valid JSON"):
        rows_of(open_manifest(path, STORAGE))


@pytest.mark.parametrize("value", ['"\\ud800"', "[" * 100_000 + "]" * 100_000], ids=["surrogate", "deep"])
def test_what_is_no_text_or_too_deep_in_coco_is_wrong_usage(tmp_path: Path, value: str) -> None:
    path = write(tmp_path / "m.json", f'{{"images": [{{"file_name": {value}}}]}}')
    with pytest.raises(UsageError, match=r"m.json"):
        rows_of(open_manifest(path, STORAGE))


def test_coco_annotations_before_the_images_are_not_held(tmp_path: Path) -> None:
    annotations = [{"id": i, "bbox": [1.5, 2.5, 3.5, 4.5], "segmentation": [[1, 2, 3]]} for i in range(60_000)]
    document = {"annotations": annotations, "images": [{"file_name": "/a.jpg"}]}
    path = write(tmp_path / "m.json", json.dumps(document))
    del annotations, document
    sources(write(tmp_path / "small.json", '{"images": [{"file_name": "/a.jpg"}]}'))  # imports what is needed
    tracemalloc.start()
    found = sources(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == ["/a.jpg"]
    assert peak < 2 * os.path.getsize(path)  # as objects they take nine times its size


@pytest.fixture
def deep_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder under 1,200 others; taken away again bottom up, since pytest's own cleaning would not get down there."""
    folders = [tmp_path]
    for _ in range(1_200):
        folders.append(folders[-1] / "d")
        folders[-1].mkdir()
    yield folders[-1]
    for path in folders[-1].iterdir():
        path.unlink()
    for folder in reversed(folders[1:]):
        folder.rmdir()


def test_a_folder_may_be_deeper_than_pythons_stack(deep_folder: Path, tmp_path: Path) -> None:
    path = write(deep_folder / "a.jpg")
    assert sources(str(tmp_path)) == [path]


def test_a_csv_field_may_be_long(tmp_path: Path) -> None:
    caption = "x" * 200_000
    (row,) = rows_of(open_manifest(write(tmp_path / "m.csv", f"path,caption\n/a,{caption}\n"), STORAGE))
    assert row["caption"] == caption


def test_parts_that_are_not_committed_or_no_data_are_left_out(tmp_path: Path) -> None:
    for folder in ("", "_day=1", "_temporary/0", "_delta_log", ".staging"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"path": [f"/{folder}.jpg"]}), tmp_path / folder / "p.parquet")
    assert sorted(sources(str(tmp_path))) == ["/.jpg", "/_day=1.jpg"]


@pytest.mark.parametrize("kind", [pa.string_view(), pa.large_string(), pa.dictionary(pa.int32(), pa.large_string())])
def test_text_of_any_kind_becomes_plain_text(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array(["a", None]).cast(kind)
    pq.write_table(pa.table({"path": ["/1", "/2"], "note": column}), tmp_path / "m.parquet")
    manifest = open_manifest(str(tmp_path / "m.parquet"), STORAGE)
    assert manifest.passthrough.field("note").type == pa.string()
    assert [row["note"] for row in rows_of(manifest)] == ["a", None]


def test_a_list_of_manifests_has_the_union_of_their_columns(tmp_path: Path) -> None:
    first = write(tmp_path / "1.csv", "path,site\n/a.jpg,x\n")
    second = write(tmp_path / "2.jsonl", '{"path": "/b.jpg", "n": 1}\n')
    picture = write(tmp_path / "c.jpg")
    manifest = open_manifest([first, second, picture], STORAGE)
    assert manifest.passthrough == pa.schema({"site": pa.string(), "n": pa.int64()})
    assert [(row["source"], row["site"], row["n"]) for row in rows_of(manifest)] == [
        ("/a.jpg", "x", None),
        ("/b.jpg", None, 1),
        (picture, None, None),
    ]
    third = write(tmp_path / "3.csv", "path,n\n/a.jpg,1\n")
    with pytest.raises(UsageError, match=r"column 'n' is int64 in .*2\.jsonl and string in .*3\.csv"):
        open_manifest([second, third], STORAGE)


def test_etags_only_where_asked_for(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jpg")
    os.utime(a, ns=(5, 5))
    listed = write(tmp_path / "m.txt", f"a.jpg\n{tmp_path}/missing.jpg\n")
    for inputs, expected in ((str(tmp_path), ["5-1"]), (a, ["5-1"]), (listed, ["5-1", None])):
        assert [row["etag"] for row in rows_of(open_manifest(inputs, STORAGE, with_etag=True))] == expected
        assert {row["etag"] for row in rows_of(open_manifest(inputs, STORAGE))} == {None}


# --- what cannot be opened


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jpg", None, r"no such input: .*missing\.jpg"),
        ("missing.csv", None, r"no such input: .*missing\.csv"),
        ("missing", None, "no such input"),
        ("*.jpg", None, r"names no picture \(files that end in bmp"),
        ("empty.txt", "", r"empty\.txt names no picture \(a path a line\)"),
        ("latin.txt", b"/a.jpg\n/\xe4.jpg\n", r"latin\.txt, line 2: expected UTF-8"),
        ("utf16.txt", "/a.jpg".encode("utf-16"), "line 1: expected UTF-8"),
        ("empty.csv", "", r"empty\.csv is empty"),
        ("header.csv", "path,n\n", "names no picture"),
        ("ragged.csv", "path,n\n/a.jpg,1\n/b.jpg\n", "line 3: 1 columns where the header has 2"),
        ("quote.csv", 'path\n"/a.jpg\n', "not valid CSV"),
        ("empty.jsonl", "\n", "is empty"),
        ("mixed.jsonl", '{"path": "/a", "n": 1}\n{"path": "/b", "n": "x"}', "column 'n': values of different types"),
        ("bad.parquet", b"PAR1", r"cannot read .*bad\.parquet"),
        ("list.json", '["/a.jpg"]', "expected a COCO file"),
        ("other.json", '{"a": 1}', "there is no 'images'"),
        ("cut.json", '{"images": [{"file_name": "/a.jpg"}, {"fi', "expected a COCO file"),
        ("none.json", '{"images": []}', "names no picture"),
        ("number.json", '{"images": [{"file_name": 12}]}', "file_name as text"),
        ("number-later.json", '{"images": [{"file_name": "a"}, {"file_name": {}}]}', "file_name as text"),
        ("id.json", '{"images": [{"file_name": "/a.jpg", "id": "x"}]}', "id, width, height as integers"),
    ],
)
def test_what_cannot_be_opened_is_one_clear_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(UsageError, match=message) as caught:
        rows_of(open_manifest(str(tmp_path / name), STORAGE))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inputs", ["", [], ["a.jpg", ""]])
def test_no_input_at_all(inputs: str | list[str]) -> None:
    with pytest.raises(UsageError, match=r"Predict\.input is empty"):
        open_manifest(inputs, STORAGE)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="names no picture"):
        open_manifest(str(tmp_path), STORAGE)


# --- streams


def test_a_manifest_streams_the_same_again(tmp_path: Path) -> None:
    for i in range(25):
        write(tmp_path / f"{i % 5}" / f"{i}.jpg")
    manifest = open_manifest(str(tmp_path), STORAGE)
    first = pa.concat_tables(manifest.tables(4))
    assert pa.concat_tables(manifest.tables(7)).equals(first)


def test_a_long_list_is_not_read_ahead(tmp_path: Path) -> None:
    path = write(tmp_path / "m.txt", "".join(f"/data/{i:09d}.jpg\n" for i in range(500_000)))

    class Watched(Storage):
        def open(self, url: str) -> Any:
            self.file = super().open(url)
            return self.file

    storage = Watched()
    tables = open_manifest(path, storage).tables(1000)
    assert len(next(tables)) <= 1000
    assert storage.file.tell() < 8_500_000 < Path(path).stat().st_size
    assert sum(len(table) for table in tables) + 1000 == 500_000


# --- S3 and HTTP


@pytest.fixture
def s3_storage(s3_bucket: S3Bucket) -> Storage:
    return Storage(s3_bucket.section, FetchSection(timeout_s=10, retries=0))


def test_s3_pictures(s3_bucket: S3Bucket, s3_storage: Storage) -> None:
    for name in ["p/a.jpg", "p/b/c.PNG", "p/b/d.txt", "q/e.jpg", "p/e f?#.jpg"]:
        s3_bucket.put(name, b"x")
    url = s3_bucket.url

    def found(inputs: str | list[str]) -> list[str]:
        return sorted(row["source"] for row in rows_of(open_manifest(inputs, s3_storage)))

    assert found(f"{url}/p/a.jpg") == [f"{url}/p/a.jpg"]
    assert found(f"{url}/p") == found(f"{url}/p/") == [f"{url}/p/a.jpg", f"{url}/p/b/c.PNG", f"{url}/p/e f?#.jpg"]
    assert found(url) == [*found(f"{url}/p"), f"{url}/q/e.jpg"]
    assert found(f"{url}/*/*.jpg") == [f"{url}/p/a.jpg", f"{url}/p/e f?#.jpg", f"{url}/q/e.jpg"]
    assert found(f"{url}/p/**") == found(f"{url}/p")
    assert found(f"{url}/p/e f?#.jpg") == [f"{url}/p/e f?#.jpg"]
    etags = [row["etag"] for row in rows_of(open_manifest([f"{url}/p/a.jpg", f"{url}/q"], s3_storage, with_etag=True))]
    assert etags == ["9dd4e461268c8034f5c8564e155c67a6"] * 2


def test_s3_manifests(s3_bucket: S3Bucket, s3_storage: Storage) -> None:
    url = s3_bucket.url
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"path": ["a.jpg"], "n": [1]}), buffer)
    s3_bucket.put("m/parts.parquet/0.parquet", buffer.getvalue().to_pybytes())
    s3_bucket.put("m/one.parquet", buffer.getvalue().to_pybytes())
    s3_bucket.put("m/list.txt", b"a.jpg\n../up.jpg\ns3://other/b.jpg\n/local.jpg\n")
    s3_bucket.put("m/t.csv", b"path,n\na.jpg,1\n")
    s3_bucket.put("m/t.jsonl", b'{"path": "a.jpg", "n": 1}\n')
    s3_bucket.put("annotations/c.json", b'{"images": [{"file_name": "a.jpg", "id": 1}]}')
    s3_bucket.put("images/a.jpg", b"x")
    expected = {
        "m/list.txt": [f"{url}/m/a.jpg", f"{url}/up.jpg", "s3://other/b.jpg", "/local.jpg"],
        "m/t.csv": [f"{url}/m/a.jpg"],
        "m/t.jsonl": [f"{url}/m/a.jpg"],
        "m/one.parquet": [f"{url}/m/a.jpg"],
        "m/parts.parquet": [f"{url}/m/parts.parquet/a.jpg"],
        "annotations/c.json": [f"{url}/images/a.jpg"],
    }
    found = {name: [row["source"] for row in rows_of(open_manifest(f"{url}/{name}", s3_storage))] for name in expected}
    assert found == expected


@pytest.mark.parametrize("name", ["missing.jpg", "missing/", "missing.csv", "*.jpg", "missing.parquet"])
def test_s3_no_such_input(s3_bucket: S3Bucket, s3_storage: Storage, name: str) -> None:
    with pytest.raises(UsageError, match=r"no such input|names no picture"):
        open_manifest(f"{s3_bucket.url}/{name}", s3_storage)
    with pytest.raises(UsageError, match="no such input"):
        open_manifest(f"s3://no-such-bucket/{name}", s3_storage)


def test_a_manifest_over_http_and_presigned(s3_bucket: S3Bucket, http_server: HttpServer) -> None:
    s3_bucket.put("m/list.csv", b"path,n\na.jpg,1\n")
    manifest = open_manifest(s3_bucket.presign("m/list.csv"), STORAGE)
    assert rows_of(manifest)[0]["uri"] == f"{s3_bucket.endpoint}/{s3_bucket.name}/m/a.jpg"
    with pytest.raises(UsageError, match=r"cannot read|no such input") as caught:
        open_manifest(s3_bucket.presign("m/list.csv").replace("Signature=", "Signature=0"), STORAGE)
    assert "Signature" not in str(caught.value)


def test_a_listed_key_is_exact_whatever_stands_in_it(s3_bucket: S3Bucket) -> None:
    keys = ["k/q?x=1.jpg", "k/q?x=2.jpg", "k/t?token=1.jpg", "k/t?token=2.jpg", "k/v?versionId=abc.jpg"]
    for key in keys:
        s3_bucket.put(key, key.encode())
    storage = Storage(s3_bucket.section)
    rows = [row for table in open_manifest(f"{s3_bucket.url}/k", storage).tables() for row in table.to_pylist()]
    assert [row["uri"] for row in rows] == [f"{s3_bucket.url}/{key}" for key in keys]
    assert [storage.read_bytes(row["source"]).decode() for row in rows] == keys
    assert len({identity(row["source"]) for row in rows}) == len(keys)


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("/data/2026/*/a?.jpg", "/data/2026"),
        ("/data/day[12]/a.jpg", "/data"),
        ("/*.jpg", "/"),
        ("*.jpg", "."),
        ("pictures/*.jpg", "pictures"),
        ("s3://bucket/a/b*", "s3://bucket/a"),
        ("s3://bucket/*.jpg", "s3://bucket"),
        ("/data/a.jpg", "/data/a.jpg"),
    ],
)
def test_the_folder_of_a_glob_is_what_stands_before_its_first_special_part(source: str, folder: str) -> None:
    assert literal_folder(source) == folder


def test_other_keys_of_coco_images_pass_through(tmp_path: Path) -> None:
    images = [
        {"file_name": "a.jpg", "id": 1, "width": 4, "height": 3, "lat": 50.5, "status": "new", "tags": ["x"]},
        {"file_name": "b.jpg", "id": 2, "width": 4, "height": 3, "lat": None},
    ]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images}))
    manifest = open_manifest(str(tmp_path / "coco.json"), Storage())
    rows = pa.concat_tables(manifest.tables()).to_pylist()
    assert manifest.passthrough.names == [
        "coco_image_id",
        "coco_width",
        "coco_height",
        "lat",
        "manifest_status",
        "tags",
    ]
    assert [(row["coco_image_id"], row["lat"], row["manifest_status"], row["tags"]) for row in rows] == [
        (1, 50.5, "new", '["x"]'),
        (2, None, None, None),
    ]


def test_parquet_with_corrupt_pages_or_text_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    """The first case was found by fuzzing: the footer is whole, a page is not."""
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg"] * 50}), path, compression="zstd")
    whole = path.read_bytes()
    for place in range(4, 60):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            list(open_manifest(str(path), Storage()).tables())
        except UsageError as error:
            assert "list.parquet" in str(error) and "\n" not in str(error)
    pq.write_table(pa.table({"path": ["a.jpg"], "other": ["x"]}), path)
    path.write_bytes(path.read_bytes().replace(b"other", b"oth\xffr"))
    with pytest.raises(UsageError, match="list.parquet"):
        open_manifest(str(path), Storage())
    bad = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    for name in ("path", "other"):
        columns = {"path": ["a.jpg"], "other": ["x"]} | {name: bad}
        pq.write_table(pa.table(columns), path, use_dictionary=False, write_statistics=False)
        with pytest.raises(UsageError, match="list.parquet: .*UTF8"):
            list(open_manifest(str(path), Storage()).tables())


HOSTILE: list[tuple[str, Any, Any]] = [
    ("nul.txt", b"a\0b.jpg\n/c.jpg\n", ["a\0b.jpg", "/c.jpg"]),
    ("nul.csv", b'path,n\n"a\0b.jpg",1\n', ["a\0b.jpg"] if sys.version_info >= (3, 11) else "not valid CSV"),
    ("nul.jsonl", b'{"path": "a\\u0000b.jpg"}\n', ["a\0b.jpg"]),
    ("nul-raw.jsonl", b'{"path": "a\0b.jpg"}\n', "line 1: not valid JSON"),
    ("bom.txt", b"\xef\xbb\xbf/a.jpg\r\n/b.jpg\r\n", ["/a.jpg", "/b.jpg"]),
    ("bom.csv", b"\xef\xbb\xbfpath\r\n/a.jpg\r\n", ["/a.jpg"]),
    ("bom.jsonl", b'\xef\xbb\xbf{"path": "/a.jpg"}\r\n', ["/a.jpg"]),
    ("bom.json", b'\xef\xbb\xbf{"images": [{"file_name": "/a.jpg"}]}', ["/a.jpg"]),
    ("utf16.csv", "path\n/a.jpg\n".encode("utf-16"), "expected UTF-8"),
    ("utf16.jsonl", '{"path": "/a.jpg"}'.encode("utf-16"), "line 1: not valid JSON"),
    ("utf16.json", '{"images": []}'.encode("utf-16"), "expected a COCO file"),
    ("quotes.csv", b'path,n\n/a"b.jpg,1\n', ['/a"b.jpg']),
    ("quotes2.csv", b'path,n\n"/a"b.jpg,1\n', "line 2: not valid CSV"),
    ("lines.csv", b'path,n\n"/a\n.jpg",1\n', ["/a\n.jpg"]),
    ("column.csv", b"picture,n\n/a.jpg,1\n", "lacks a column named one of .*picture, n"),
    ("newline.csv", b'"one\nname",n\n/a.jpg,1\n', "lacks a column named one of .*one name, n"),
    ("names.csv", ",".join(f"c{i}" for i in range(10_000)), "lacks a column named one of .*c0, c1, .* \\.\\.\\."),
    (
        "newline.jsonl",
        b'{"path": "a"}\n' * 1000 + b'{"path": "b", "new\\ncolumn": 1}',
        "line 1001: new column not among",
    ),
    ("column.jsonl", b'{"picture": "/a.jpg"}\n', "lacks a column named one of"),
    ("types.jsonl", b'{"path": ["/a.jpg"]}\n', "lacks a column named one of"),
    ("list.jsonl", b'["/a.jpg"]\n', "line 1: expected an object, found list"),
    ("text.jsonl", b'"/a.jpg"\n', "line 1: expected an object, found str"),
    ("nan.jsonl", b'{"path": "/a.jpg", "n": NaN, "m": 1e999}\n', ["/a.jpg"]),
    ("large.jsonl", b'{"path": "/a.jpg", "n": ' + b"9" * 25 + b"}\n", "column 'n'"),
    ("digits.jsonl", b'{"path": "/a.jpg", "n": ' + b"9" * 9999 + b"}\n", "line 1: not valid JSON|column 'n'"),
    ("deep.jsonl", b'{"path": ' + b"[" * 10**6 + b"\n", "line 1: not valid JSON"),
    ("deep.json", b'{"images": ' + b'[{"a":' * 10**6, "expected a COCO file"),
    ("key.json", b'{"images": [{"file_name": "/a.jpg", "\\ud800": 1}]}', "surrogate pair is no text"),
    ("value.json", b'{"images": [{"file_name": "/a.jpg", "k": "\\ud800"}]}', "surrogate pair is no text"),
    (
        "later.json",
        b'{"images": [' + b'{"file_name": "/a", "k": "x"},' * 1000 + b'{"k": "\\ud800"}]}',
        "k is not string",
    ),
    ("ids.json", b'{"images": [{"file_name": "/a.jpg", "id": 1.5}]}', "id, width, height as integers"),
    ("whole.json", b'{"images": [{"file_name": "/a.jpg", "id": 1.0, "width": 640.0}]}', ["/a.jpg"]),
    ("true.json", b'{"images": [{"file_name": "/a.jpg", "id": true}]}', "id, width, height as integers"),
    ("ids2.json", b'{"images": [{"file_name": "/a.jpg", "id": 99999999999999999999}]}', "id, width, height as"),
    ("ids3.json", b'{"images": [{"file_name": "/a.jpg", "width": [1]}]}', "id, width, height as integers"),
    ("images.json", b'{"images": {"file_name": "/a.jpg"}}', "expected a COCO file"),
    ("texts.json", b'{"images": ["/a.jpg"]}', "found str in the list"),
    ("footer.parquet", b"PAR1" + b"x" * 100 + b"\xff\xff\xff\x7fPAR1", "cannot read"),
    ("footer2.parquet", b"PAR1" + bytes(100) + b"\x10\0\0\0PAR1", "cannot read"),
    ("text.parquet", b"path\n/a.jpg\n", "cannot read"),
    ("blanks.txt", b" \n\t\n\r\n" * 300_000 + b"/a.jpg\n", ["/a.jpg"]),
    ("blanks.csv", b"path\n" + b"\r\n" * 300_000 + b"/a.jpg\n", ["/a.jpg"]),
    ("blanks.jsonl", b" \n" * 300_000 + b'{"path": "/a.jpg"}\n', ["/a.jpg"]),
    ("blanks.json", b" " * 3_000_000 + b'{"images": [{"file_name": "/a.jpg"}]}', ["/a.jpg"]),
    ("wide.csv", ",".join(["path", *(f"c{i}" for i in range(10_000))]) + "\n/a.jpg" + ",1" * 10_000, ["/a.jpg"]),
]


@pytest.mark.parametrize(("name", "content", "expected"), HOSTILE, ids=[name for name, *_ in HOSTILE])
def test_a_hostile_manifest_is_read_as_it_stands_or_one_clear_line(
    tmp_path: Path, name: str, content: Any, expected: list[str] | str
) -> None:
    write(tmp_path / name, content)
    try:
        rows = rows_of(open_manifest(str(tmp_path / name), STORAGE))
    except UsageError as error:
        assert isinstance(expected, str), error
        assert re.search(expected, str(error)) and "\n" not in str(error) and len(str(error)) < 700
    else:
        assert [row["source"].removeprefix(f"{tmp_path}/") for row in rows] == expected


@pytest.mark.parametrize(("name", "start"), [("m.txt", b""), ("m.csv", b"path\n"), ("m.jsonl", b""), ("m.json", b"{")])
def test_a_line_of_a_gigabyte_costs_a_bounded_memory(tmp_path: Path, name: str, start: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(start + b'"')
    os.truncate(path, 2**30)  # NULs, which take no room on the disk
    script = (
        "import sys\n"
        "from sodbatch.errors import UsageError\nfrom sodbatch.manifest import open_manifest\n"
        "from sodbatch.storage import Storage\n"
        "high = lambda: int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])\n"
        "base = high()\n"
        "try:\n    list(open_manifest(sys.argv[1], Storage()).tables())\n"
        "except UsageError as error:\n    print(high() - base, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    kibibytes, _, message = done.stdout.partition(" ")
    assert name in message
    assert int(kibibytes) < 600 * 2**10


def test_a_value_too_long_for_a_folder_is_refused_when_tables_are_partitioned_by_it(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", f"path,site\n/a.jpg,{'é' * 41}\n/b.jpg,{'é' * 42}\n")
    assert len(rows_of(open_manifest(path, STORAGE))) == 2
    with pytest.raises(UsageError, match=r"m\.csv: a value of 'site', 'é+'\.\.\., .* more than 255"):
        rows_of(open_manifest(path, STORAGE, partition_by="site"))
    short = write(tmp_path / "n.csv", f"path,site\n/a.jpg,{'é' * 41}\n/b.jpg,\n")
    assert len(rows_of(open_manifest(short, STORAGE, partition_by="site"))) == 2
