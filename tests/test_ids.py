from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sodbatch.ids import IdSet, digest, image_id, input_id, part_name

texts = st.text(max_size=20).filter(lambda text: "\0" not in text)


@given(st.lists(texts, min_size=1, max_size=4), st.lists(texts, min_size=1, max_size=4))
def test_equal_parts_give_equal_ids_and_different_parts_do_not(a: list[str], b: list[str]) -> None:
    assert (digest(*a) == digest(*b)) == (a == b)


def test_ids_do_not_change_from_release_to_release() -> None:
    assert input_id("s3://bucket/a.jpg") == "73d27d696480c1329d57a660ae6333c8"
    assert image_id("ab", None) == "ab"
    assert image_id("ab", 0) != image_id("ab", 1)
    assert input_id("/a.jpg", "etag-1") != input_id("/a.jpg", "etag-2") != input_id("/a.jpg")


@given(st.permutations(["a", "b", "c"]))
def test_a_part_is_named_after_its_ids_in_any_order(ids: list[str]) -> None:
    assert part_name(ids, "f") == part_name(["a", "b", "c"], "f")
    assert part_name(ids, "f") != part_name(ids, "g")
    assert part_name(ids, "f") != part_name(ids[:2], "f")


@given(st.lists(st.lists(st.integers(0, 30), max_size=12), max_size=8))
def test_id_set_does_what_a_python_set_does(calls: list[list[int]]) -> None:
    ids, reference = IdSet(), set()
    for call in calls:
        keys = [digest(str(number)) for number in call]
        expected = []
        for key in keys:
            expected.append(key not in reference)
            reference.add(key)
        assert ids.add(pa.array(keys, pa.string())).tolist() == expected
        assert len(ids) == len(reference)
    probe = [digest(str(number)) for number in range(31)]
    assert ids.contains(pa.array(probe)).tolist() == [key in reference for key in probe]
    every = IdSet()
    every.add(pa.array(probe))
    assert every.count_missing(ids) == 31 - len(reference)
    assert ids.count_missing(every) == 0


def test_id_set_keeps_ids_apart_that_end_in_zero_bytes() -> None:
    ids = IdSet()
    zeros, one = "00" * 16, "01" + "00" * 15
    assert ids.add(pa.array([zeros, one])).tolist() == [True, True]
    assert ids.contains(pa.array([zeros, one, "0100" + "01" * 14])).tolist() == [True, True, False]


def test_id_set_tells_ids_apart_that_begin_or_end_alike() -> None:
    halves = ["00" * 8, "ff" * 8, "01" * 8]
    alike = [high + low for high in halves for low in halves]
    ids = IdSet()
    for key in alike[::2]:
        assert ids.add(pa.array([key, key])).tolist() == [True, False]
    assert ids.contains(pa.array(alike)).tolist() == [True, False] * 4 + [True]
    assert ids.add(pa.array(alike)).tolist() == [False, True] * 4 + [False]
    assert len(ids) == 9


def test_missing_ids_are_counted_slice_by_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sodbatch.ids.SLICE", 7)
    some, others = IdSet(), IdSet()
    some.add(pa.array([digest(str(number)) for number in range(100)]))
    others.add(pa.array([digest(str(number)) for number in range(50, 150)]))
    assert some.count_missing(others) == 50


def test_id_set_refuses_what_is_no_id() -> None:
    with pytest.raises(ValueError, match="32 hexadecimal"):
        IdSet().add(pa.array(["abc"]))
