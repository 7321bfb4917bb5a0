"""Class names in scripts that the usual fonts lack: drawn where a font has them, else numbered, never empty boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager

from sodbatch import fonts
from sodbatch.fonts import readable
from sodbatch.threshold import Detections
from sodbatch.visualize import draw


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    fonts._font_with.cache_clear()


def test_names_that_any_font_has_are_left_alone() -> None:
    assert readable({0: "car", 3: "bus"}) == ({0: "car", 3: "bus"}, None)


def test_accents_and_cyrillic_are_in_the_font_that_is_always_there() -> None:
    texts, font = readable({0: "vélo", 1: "автобус"})
    assert texts == {0: "vélo", 1: "автобус"} and Path(font or "").name == "DejaVuSans.ttf"


def test_names_that_no_font_has_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    texts, font = readable({0: "行人", 1: "car", 2: "vélo"})
    assert texts == {0: "class 0", 1: "car", 2: "vélo"} and font


def test_a_systems_font_that_has_them_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: ["/nowhere/cjk.ttf", "/nowhere/none.ttf"])
    monkeypatch.setattr(fonts, "_characters", lambda path: frozenset("行人" if "cjk" in path else "abc"))
    assert readable({0: "行人"}) == ({0: "行人"}, "/nowhere/cjk.ttf")


def test_a_picture_is_labelled_with_what_can_be_read() -> None:
    image = np.zeros((120, 200, 3), np.uint8)
    found = Detections(
        np.zeros(1, np.int32), np.array([0.9], np.float32), np.array([[40, 40, 80, 80]], np.float32), False
    )
    named = draw(image, found, ["автобус"])
    assert (named[:40] > 0).any() and not (named == draw(image, found, ["xyz"])).all()
