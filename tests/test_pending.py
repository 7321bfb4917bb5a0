from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest
from fakes import ListManifest
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.ids import input_id
from sodbatch.ledger import Document, Ledger
from sodbatch.pending import Pending

names = st.sampled_from([f"/data/{letter}.jpg" for letter in "abcdefgh"])


def ledger_of(sources: list[str]) -> Ledger:
    ledger = Ledger()
    ledger.done.add(pa.array([input_id(source) for source in sources], pa.string()))
    return ledger


@given(st.lists(names, max_size=20), st.sets(names))
def test_pending_is_the_manifest_minus_the_ledger_minus_repeats(listed: list[str], committed: set[str]) -> None:
    ends: list[int] = []
    pending = Pending(ListManifest(listed), ledger_of(sorted(committed)), ends.append)
    sources = [source for table in pending.tables() for source in table["source"].to_pylist()]
    assert sources == [x for x in dict.fromkeys(listed) if x not in committed]
    assert pending.repeats == len(listed) - len(set(listed))
    assert pending.already_done == len(set(listed) & committed)
    assert len(pending.listed) == pending.inputs == len(set(listed))
    assert pending.to_do == len(sources) and ends == [len(sources)]


def test_two_presigned_urls_of_one_object_are_one_picture() -> None:
    urls = [f"https://b.s3.amazonaws.com/a.jpg?X-Amz-Date={i}&X-Amz-Signature={i}" for i in (1, 2)]
    pending = Pending(ListManifest(urls), Ledger())
    [table] = pending.tables()
    assert len(table) == 1 and pending.repeats == 1


def test_a_changed_etag_is_a_new_picture() -> None:
    ledger = Ledger()
    ledger.done.add(pa.array([input_id("/a.jpg", "1")]))
    pending = Pending(ListManifest(["/a.jpg", "/a.jpg"], etags=["1", "2"]), ledger)
    assert [len(table) for table in pending.tables()] == [1]


def test_columns_pass_through_and_pages_that_are_committed_are_named() -> None:
    ledger = Ledger(partial={input_id("/b.tif"): Document(3, {2, 0})})
    manifest = ListManifest(["/a.jpg", "/b.tif"], city=["Aix", "Bonn"])
    [table] = Pending(manifest, ledger).tables()
    assert table["city"].to_pylist() == ["Aix", "Bonn"]
    assert table["page_count"].to_pylist() == [None, 3]
    assert table["skip_pages"].to_pylist() == [None, [0, 2]]


def test_counts_stay_when_the_ids_are_let_go() -> None:
    pending = Pending(ListManifest(["/a.jpg", "/b.jpg", "/a.jpg"]), ledger_of(["/b.jpg"]))
    [_] = pending.tables()
    pending.forget()
    assert len(pending.listed) == 0
    assert (pending.inputs, pending.repeats, pending.already_done, pending.to_do) == (2, 1, 1, 1)


def test_a_listing_that_breaks_off_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = ListManifest(["/a.jpg", "/b.jpg"])
    pending = Pending(manifest, Ledger())
    assert not pending.whole
    assert len(list(pending.tables())) == 1 and pending.whole

    tables = ListManifest.tables

    def broken(self: ListManifest) -> Iterator[pa.Table]:
        yield from tables(self)
        raise RuntimeError("the store's own error")

    monkeypatch.setattr(ListManifest, "tables", broken)
    pending = Pending(manifest, Ledger())
    with pytest.raises(RuntimeError, match="own error"):
        list(pending.tables())
    assert pending.inputs == 2 and not pending.whole
