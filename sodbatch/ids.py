"""Identities: of pictures, of parts, and compact sets of them.

An id is 128 bits of BLAKE2b, written as 32 hexadecimal characters. At 10^8 pictures the chance that any two
share one is about 10^-23.
"""

from __future__ import annotations

import hashlib
import re
from binascii import unhexlify
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

ID_BYTES = 16
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
    10^6 to 10^8 ids of a ledger, for which a Python set takes ten times the memory.
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def contains(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Tell for each id whether it is in the set.

        Args:
            ids: Strings of 32 hexadecimal characters, without nulls.

        Returns:
            Booleans, one an id.
        """
        return self._find(_keys(ids))

    def add(self, ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Add ids and tell which were new; of equal ids in one call, the first is the new one.

        Args:
            ids: Strings of 32 hexadecimal characters, without nulls.

        Returns:
            Booleans, one an id.
        """
        keys = _keys(ids)
        new = np.zeros(len(keys), dtype=bool)
        _, first = np.unique(keys, return_index=True)
        new[first] = True
        new &= ~self._find(keys)
        if new.any():
            self._runs.append(np.sort(keys[new]))
            while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
                younger, older = self._runs.pop(), self._runs.pop()
                self._runs.append(np.sort(np.concatenate([older, younger]), kind="stable"))
        return new

    def count_missing(self, other: IdSet) -> int:
        """Count the ids of this set that another lacks."""
        return sum(int(np.count_nonzero(~other._find(run))) for run in self._runs)

    def _find(self, keys: np.ndarray) -> np.ndarray:
        found = np.zeros(len(keys), dtype=bool)
        for run in self._runs:
            position = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            found |= run[position] == keys
        return found


_KEY = np.dtype(f"S{ID_BYTES}")


def _keys(ids: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Turn hexadecimal ids into fixed-width byte strings, which numpy sorts and compares as a whole.

    numpy's ``S`` type drops trailing zero bytes alike on both sides of a comparison, which keeps equality and
    order for strings of one fixed length.
    """
    if len(ids) == 0:
        return np.empty(0, dtype=_KEY)
    joined = "".join(ids.to_pylist())
    if len(joined) != 2 * ID_BYTES * len(ids):
        raise ValueError(f"expected ids of {2 * ID_BYTES} hexadecimal characters, found {ids[0].as_py()!r}, ...")
    return np.frombuffer(unhexlify(joined), dtype=_KEY)
