"""Mutations of whole files: what is left still looks enough like one to be read far into."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import strategies as st

_INTERESTING = (
    b"\0",
    b"\xff",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff\xd9",
    b"\n",
)


def mutations(seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> st.SearchStrategy[bytes]:
    """Return a strategy of damaged copies of the seeds.

    Args:
        seeds: Whole files.
        tokens: Pieces of the format that are put in somewhere.
    """
    pieces = st.sampled_from([*_INTERESTING, *tokens]) | st.binary(max_size=8)
    place = st.floats(0, 1, allow_nan=False)
    change = st.tuples(st.sampled_from(["set", "insert", "delete", "copy", "cut", "digits"]), place, place, pieces)
    return st.builds(_mutated, st.sampled_from(seeds), st.lists(change, min_size=1, max_size=12))


def _mutated(data: bytes, changes: list[tuple[str, float, float, bytes]]) -> bytes:
    for kind, where, length, piece in changes:
        # Squared: headers are at the start, and there a change says most.
        start = int(where * where * len(data))
        end = min(len(data), start + int(length * 64))
        if kind == "set":
            data = data[:start] + piece + data[start + len(piece) :]
        elif kind == "insert":
            data = data[:start] + piece + data[start:]
        elif kind == "delete":
            data = data[:start] + data[end:]
        elif kind == "copy":
            data = data[:end] + data[start:]
        elif kind == "cut":
            data = data[: max(start, 1)]
        else:
            data = data[:start] + re.sub(rb"\d+", b"%d" % int(length * 10 ** (1 + 18 * where)), data[start:], count=1)
    return data
