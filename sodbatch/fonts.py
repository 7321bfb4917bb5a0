"""Fonts for class names in any script: matplotlib's own, else one of the system's; no network is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path


def readable(names: Mapping[int, str]) -> tuple[dict[int, str], str | None]:
    """Find one font that has all characters of some classes' names.

    Args:
        names: Class id to name.

    Returns:
        Texts by class id, and the path of a font that has their characters; None where any font has. Where no font has
        them all, names outside the first are ``class 7``.
    """
    names = {key: " ".join(name.split()) for key, name in names.items()}
    if all(name.isascii() for name in names.values()):
        return names, None
    characters = frozenset("".join(names.values())) - {" "}
    font = _font_with(characters)
    if font is not None:
        return names, font
    own = next(_fonts())
    known = _characters(own)
    return {key: name if set(name) - {" "} <= known else f"class {key}" for key, name in names.items()}, own


@lru_cache(maxsize=64)
def _font_with(characters: frozenset[str]) -> str | None:
    return next((path for path in _fonts() if characters <= _characters(path)), None)


def _fonts() -> Iterator[str]:
    from matplotlib import font_manager, get_data_path

    yield str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
    yield from sorted(font_manager.findSystemFonts())


@lru_cache(maxsize=512)
def _characters(path: str) -> frozenset[str]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError):  # a file that is no font
        return frozenset()


def plain(name: str) -> str:
    """Keep a name from being taken for mathematics by matplotlib, and short."""
    return name.replace("$", r"\$")[:40]
