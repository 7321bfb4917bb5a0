"""Weights from PaddleDetection checkpoints (``.pdparams``)."""

from __future__ import annotations

import io
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sodbatch.errors import UsageError

if TYPE_CHECKING:
    from sodbatch.model.network import SODNetwork

State = dict[str, np.ndarray]

NAME_TABLE = "StructuredToParameterName@@"
SLICE_TABLE = "UnpackBigParamInfor@@"

PLAIN_TYPES = re.compile("[<>|=]?(f[248]|[iu][1248]|b1)")
"""Numpy's codes of the types that weights and what goes with them are of."""


class _PlainType:
    """The type of numbers as a pickle describes it; nothing that is read is ever given to numpy's own ``dtype``, which
    could be told of pointers in an array's bytes."""

    def __init__(self, code: str, *_: Any) -> None:
        if not isinstance(code, str) or not PLAIN_TYPES.fullmatch(code):
            raise pickle.UnpicklingError(f"it has an array of type {code!r}, expected plain numbers")
        self.type = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it has numbers in byte order {state[1]!r}")
        self.type = self.type.newbyteorder(state[1])


class _Array:
    """An array as a pickle describes it."""

    def __init__(self, *_: Any) -> None:
        self.value = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, plain, in_columns, raw = state
        if not isinstance(plain, _PlainType) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("it has an array of other things than plain numbers")
        self.value = np.frombuffer(raw, plain.type).reshape(shape, order="F" if in_columns else "C")


def _unwrapped(content: Any) -> Any:
    """Return containers with the arrays that were described in them."""
    if isinstance(content, _Array):
        return content.value
    if isinstance(content, dict):
        return {name: _unwrapped(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return type(content)(map(_unwrapped, content))
    return content


def _latin1_bytes(text: str, encoding: str) -> bytes:
    """How pickle protocol 2 spells bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes in encoding {encoding!r}, expected latin1")
    return text.encode(encoding)


ALLOWED_GLOBALS: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _PlainType,
    ("_codecs", "encode"): _latin1_bytes,
    ("collections", "OrderedDict"): OrderedDict,
}


SHOWN_NAMES = 12
"""Names that an error lists."""

MAX_MEMO = 1_000_000
"""Objects that a pickle may keep to name again; the memory for the highest number is taken at once."""


def check_memo(data: bytes) -> None:
    """Refuse a pickle that would number its objects beyond ``MAX_MEMO``.

    Raises:
        pickle.UnpicklingError: It does.
        ValueError: It is no pickle.
    """
    for opcode, number, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "LONG_BINPUT") and number is not None and int(number) > MAX_MEMO:
            raise pickle.UnpicklingError(f"it numbers an object {number}, expected at most {MAX_MEMO}")


class ArrayUnpickler(pickle.Unpickler):
    """Reads containers and numpy arrays; any other object is refused before it is made."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which weights do not need")
        return ALLOWED_GLOBALS[module, name]


def read_saved(data: bytes) -> dict[str, Any]:
    """Read what ``paddle.save`` wrote of a dictionary, without running anything that it may carry.

    Args:
        data: Content of the file.

    Returns:
        Arrays, numbers, texts and containers of them, by name.

    Raises:
        UsageError: Not such a file, or one that holds more than that.
    """
    try:
        check_memo(data)
        content = _unwrapped(ArrayUnpickler(io.BytesIO(data)).load())
    except Exception as error:  # a hostile or damaged pickle can raise anything
        raise UsageError(f"the weights cannot be read as .pdparams: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"the weights hold a {type(content).__name__}, expected arrays by parameter name")
    content.pop(NAME_TABLE, None)
    return content


def read_pdparams(data: bytes) -> State:
    """Read what ``paddle.save(layer.state_dict())`` wrote, as :func:`read_saved` does.

    Args:
        data: Content of a ``.pdparams`` file.

    Returns:
        float32 arrays by parameter name.

    Raises:
        UsageError: Not such a file, or one that holds more than arrays.
    """
    content = read_saved(data)
    try:
        state = _join_slices(content)
        return {str(name): _as_float32(name, value) for name, value in state.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"the weights are damaged: {error}") from error


def _join_slices(content: dict[str, Any]) -> dict[str, Any]:
    """Put arrays over 1 GiB together again, which protocols 2 and 3 store in slices."""
    for name, table in dict(content.pop(SLICE_TABLE, {})).items():
        slices = [content.pop(part) for part in table["slices"]]
        content[name] = np.concatenate(slices).reshape(table["OriginShape"])
    return content


def _as_float32(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray) or not np.issubdtype(value.dtype, np.number):
        raise TypeError(f"{name} is not a numeric array")
    return value.astype(np.float32)


def check_state(shapes: Mapping[str, tuple[int, ...]], state: Mapping[str, np.ndarray]) -> None:
    """Compare weights with what a network expects.

    Args:
        shapes: Expected shape by parameter name.
        state: Arrays by parameter name.

    Raises:
        UsageError: Lists the first missing, surplus and misshapen names.
    """
    problems = [f"missing: {name} {list(shape)}" for name, shape in shapes.items() if name not in state]
    problems += [f"surplus: {name} {list(array.shape)}" for name, array in state.items() if name not in shapes]
    problems += [
        f"wrong shape: {name} is {list(state[name].shape)}, expected {list(shape)}"
        for name, shape in shapes.items()
        if name in state and state[name].shape != shape
    ]
    if problems:
        more = [f"... and {len(problems) - SHOWN_NAMES} more"] if len(problems) > SHOWN_NAMES else []
        raise UsageError(
            f"the weights do not fit the network ({len(problems)} names differ); are they of the model that "
            "Global.model names?\n  " + "\n  ".join(problems[:SHOWN_NAMES] + more)
        )


def load_state(network: SODNetwork, state: State) -> None:
    """Copy ``state`` into ``network``; nothing is copied when anything differs.

    Raises:
        UsageError: As :func:`check_state`.
    """
    expected = network.state_dict()
    check_state({name: tuple(tensor.shape) for name, tensor in expected.items()}, state)
    for name, tensor in expected.items():
        tensor.set_value(state[name])


@dataclass(frozen=True)
class Loaded:
    """What became of a checkpoint's names.

    Attributes:
        missing: Names of the network that the checkpoint has not, which keep their values.
        surplus: Names of the checkpoint that the network has not.
        misshapen: Names whose shapes differ, as the class layer's where there are other classes; they keep theirs.
    """

    missing: tuple[str, ...]
    surplus: tuple[str, ...]
    misshapen: tuple[str, ...]


def load_matching(network: SODNetwork, state: State) -> Loaded:
    """Copy into ``network`` what fits, to begin a training with.

    Raises:
        UsageError: Nothing fits.
    """
    expected = network.state_dict()
    fitting = [name for name in expected if name in state and tuple(expected[name].shape) == state[name].shape]
    if not fitting:
        raise UsageError("none of the weights has a name and shape of this network")
    for name in fitting:
        expected[name].set_value(state[name])
    return Loaded(
        missing=tuple(name for name in expected if name not in state),
        surplus=tuple(name for name in state if name not in expected),
        misshapen=tuple(name for name in expected if name in state and name not in set(fitting)),
    )
