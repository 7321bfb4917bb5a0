"""The cache: where it lies, and folders that appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from sodbatch.cache import cache_dir, new_folder


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SODBATCH_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert cache_dir() == Path("/a")
    monkeypatch.setenv("SODBATCH_CACHE", "")
    assert cache_dir() == Path("/b/sodbatch")


def test_a_new_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with new_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1" and list(target.parent.iterdir()) == [target]


def test_after_an_exception_nothing_is_left(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "model") as folder:
            (folder / "a").write_text("1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_whoever_is_first_stays(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with new_folder(target) as late:
        (late / "a").write_text("late")
        with new_folder(target) as early:
            (early / "a").write_text("early")
    assert (target / "a").read_text() == "early" and list(tmp_path.iterdir()) == [target]
