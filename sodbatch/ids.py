"""Identities: of pictures, of parts, and compact sets of them.

An id is 128 bits of BLAKE2b, written as 32 hexadecimal characters. At 10^8 pictures the chance that any two
share one is about 10^-23.
"""

from __future__ import annotations

import hashlib
import re
from binascii import unhexlify
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

ID_BYTES = 16

SLICE = 1_000_000
"""Keys of a set that are looked up in another at once, which takes some 40 bytes a key."""

PART_NAME = re.compile(rf"part-[0-9a-f]{{{2 * ID_BYTES}}}\.parquet")


def digest(*parts: str) -> str:
    """Hash strings to an id; the separator keeps ``("ab", "c")`` and ``("a", "bc")`` apart."""
    text = "\x00".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=ID_BYTES).hexdigest()


def input_id(identity: str, etag: str | None = None) -> str:
    """Return the id of one input: its path and, where asked for, the ETag of its content."""
    return digest(identity) if etag is None else digest(identity, etag)


def image_id(input_id: str, page_index: int | None) -> str:
    """Return the id of one picture: its input's, or that of one page of its input."""
    return input_id if page_index is None else digest(input_id, str(page_index))


def part_name(image_ids: Iterable[str], fingerprint: str) -> str:
    """Name a part after what is in it, so that a retried write lands on itself.

    Args:
        image_ids: The ids of its rows, in any order.
        fingerprint: The run's fingerprint.
    """
    return f"part-{digest(fingerprint, *sorted(image_ids))}.parquet"


class IdSet:
    """A set of ids at 16 bytes each: sorted runs of 128-bit keys that are merged as they grow.

    Runs double in size, so that n additions cost O(n log n) and a lookup searches O(log n) runs. Meant for the
    10^6 to 10^8 ids of a ledger, for which a Python set takes ten times the memory. Keys are kept as two halves and
    sorted by the high one, since numpy searches whole numbers several times faster than strings.
    """

    def __init__(self) -> None:
        self._runs: list[_Keys] = []

    def __len__(self) -> int:
        return sum(len(run.high) for run in self._runs)

    def contains(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Tell for each id whether it is in the set.

        Args:
            ids: Strings of 32 hexadecimal characters, without nulls.

        Returns:
            Booleans, one an id.
        """
        keys, order = _sorted_keys(ids)
        found = np.empty(len(order), dtype=bool)
        found[order] = self._find(keys)
        return found

    def add(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Add ids and tell which were new; of equal ids in one call, the first is the new one.

        Args:
            ids: Strings of 32 hexadecimal characters, without nulls.

        Returns:
            Booleans, one an id.
        """
        keys, order = _sorted_keys(ids)
        repeated = np.zeros(len(order), dtype=bool)
        repeated[1:] = (keys.high[1:] == keys.high[:-1]) & (keys.low[1:] == keys.low[:-1])
        added = ~(repeated | self._find(keys))
        if added.any():
            self._runs.append(_Keys(keys.high[added], keys.low[added]))
            while len(self._runs) > 1 and len(self._runs[-2].high) < 2 * len(self._runs[-1].high):
                younger, older = self._runs.pop(), self._runs.pop()
                self._runs.append(_merged(older, younger))
        new = np.empty(len(order), dtype=bool)
        new[order] = added
        return new

    def count_missing(self, other: IdSet) -> int:
        """Count the ids of this set that another lacks."""
        missing = 0
        for run in self._runs:
            for start in range(0, len(run.high), SLICE):
                part = _Keys(run.high[start : start + SLICE], run.low[start : start + SLICE])
                missing += int(np.count_nonzero(~other._find(part)))
        return missing

    def _find(self, keys: _Keys) -> np.ndarray:
        """Tell for each key whether it is in the set; fast where the keys are sorted, so that neighbours lie near."""
        found = np.zeros(len(keys.high), dtype=bool)
        for run in self._runs:
            at = np.searchsorted(run.high, keys.high)
            left = np.arange(len(at))
            while len(left):  # a second time for those whose high half was there, in case that the next one's is equal
                left = left[at[left] < len(run.high)]
                left = left[run.high[at[left]] == keys.high[left]]
                found[left] |= run.low[at[left]] == keys.low[left]
                at[left] += 1
        return found


class _Keys(NamedTuple):
    """Ids as numbers: the upper and the lower 64 bits of each."""

    high: np.ndarray
    low: np.ndarray


def _merged(older: _Keys, younger: _Keys) -> _Keys:
    at = np.searchsorted(older.high, younger.high)
    return _Keys(np.insert(older.high, at, younger.high), np.insert(older.low, at, younger.low))


def _sorted_keys(ids: pa.Array | pa.ChunkedArray) -> tuple[_Keys, np.ndarray]:
    """Turn hexadecimal ids into sorted keys; also say which id each came from, equal ones in their order."""
    joined = "".join(ids.to_pylist())
    if len(joined) != 2 * ID_BYTES * len(ids):
        raise ValueError(f"expected ids of {2 * ID_BYTES} hexadecimal characters, found {ids[0].as_py()!r}, ...")
    halves = np.frombuffer(unhexlify(joined), dtype=">u8").astype(np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    return _Keys(halves[order, 0], halves[order, 1]), order
