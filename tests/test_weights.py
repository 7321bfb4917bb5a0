"""Checkpoints: what paddle.save writes is read, anything else is refused unexecuted; seeded weights are usable."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from sodbatch.errors import UsageError
from sodbatch.model.spec import SPECS
from sodbatch.model.weights import check_state, read_pdparams

TINY = SPECS["PP-YOLOE_plus_SOD-tiny"]


class Malicious:
    """Runs a command when unpickled by the ordinary unpickler."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_paddle_saves_is_read(protocol):
    paddle = pytest.importorskip("paddle")
    layer = paddle.nn.Sequential(paddle.nn.Conv2D(2, 3, 3), paddle.nn.BatchNorm2D(3))
    buffer = io.BytesIO()
    paddle.save(layer.state_dict(), buffer, protocol=protocol)
    state = read_pdparams(buffer.getvalue())
    expected = {name: tensor.numpy() for name, tensor in layer.state_dict().items()}
    assert state.keys() == expected.keys()
    for name, array in expected.items():
        assert state[name].dtype == np.float32
        np.testing.assert_array_equal(state[name], array)


def test_arrays_stored_in_slices_are_joined():
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    content = {
        "w@@.0": whole.ravel()[:7],
        "w@@.1": whole.ravel()[7:],
        "UnpackBigParamInfor@@": {"w": {"OriginShape": (3, 4), "slices": ["w@@.0", "w@@.1"]}},
    }
    state = read_pdparams(pickle.dumps(content, protocol=2))
    assert list(state) == ["w"]
    np.testing.assert_array_equal(state["w"], whole)


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_malicious_file_is_refused_and_nothing_runs(tmp_path, protocol):
    marker = tmp_path / "ran"
    payload = pickle.dumps({"w": np.zeros(2, np.float32), "evil": Malicious(marker)}, protocol=protocol)
    with pytest.raises(UsageError, match="posix.system"):
        read_pdparams(payload)
    assert not marker.exists()
    pickle.loads(payload)
    assert marker.exists(), "the payload must be a real one"


@pytest.mark.parametrize(
    ("module", "name"), [("builtins", "eval"), ("numpy", "load"), ("numpy.ctypeslib", "load_library"), ("io", "open")]
)
def test_other_globals_are_refused_by_name(module, name):
    payload = b"c" + f"{module}\n{name}\n".encode() + b"."
    with pytest.raises(UsageError, match=f"{module}.{name}"):
        read_pdparams(payload)


@pytest.mark.parametrize("content", [{"w": "text"}, {"w": np.array(["a"])}, {"w": np.array([None])}, ["w"], {"w": 1.0}])
def test_anything_but_numeric_arrays_is_refused(content):
    with pytest.raises(UsageError):
        read_pdparams(pickle.dumps(content, protocol=4))


@pytest.mark.parametrize("dtype", ["c8", "m8[s]", "V8", "O", [("pointer", "O")], "S4"])
def test_arrays_of_anything_but_plain_numbers_are_refused(dtype):
    content = {"w": np.zeros(1, dtype), "UnpackBigParamInfor@@": {"x": {"slices": ["w"], "OriginShape": [1]}}}
    with pytest.raises(UsageError, match="expected plain numbers"):
        read_pdparams(pickle.dumps(content, protocol=4))


def test_bytes_are_never_taken_for_pointers():
    """An array whose type is told of an object at its first byte only when it is set up."""
    objects = pickle.dumps(np.dtype("O"), protocol=2)[2:-1]
    plain = b"cnumpy\ndtype\n(X\x02\x00\x00\x00V8\x89\x88tR"
    told = (
        b"(K\x03X\x01\x00\x00\x00|N(X\x01\x00\x00\x00at}X\x01\x00\x00\x00a" + objects + b"K\x00\x86sK\x08K\x01K\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\n(NK\x00\x85C\x01btR"
    state = b"(K\x01K\x01\x85" + plain + told + b"\x89C\x08AAAAAAAAtb"
    with pytest.raises(UsageError, match="expected plain numbers"):
        read_pdparams(b"\x80\x04}X\x01\x00\x00\x00w" + array + state + b"s.")


@pytest.mark.parametrize("data", [b"", b"not a pickle", b"\x80\x04\x95"])
def test_a_damaged_file_is_refused(data):
    with pytest.raises(UsageError, match="cannot be read as .pdparams"):
        read_pdparams(data)


def test_all_differences_are_listed_in_one_error():
    shapes = {"a": (1,), "b": (2, 3), "c": (4,)}
    state = {"b": np.zeros((3, 2)), "c": np.zeros(4), "d": np.zeros(5), "e": np.zeros(6)}
    with pytest.raises(UsageError) as caught:
        check_state(shapes, state)
    lines = str(caught.value).splitlines()
    assert "4 names differ" in lines[0]
    assert [line.strip() for line in lines[1:]] == [
        "missing: a [1]",
        "surplus: d [5]",
        "surplus: e [6]",
        "wrong shape: b is [3, 2], expected [2, 3]",
    ]


def test_a_fitting_state_is_accepted():
    check_state({"a": (1, 2)}, {"a": np.zeros((1, 2))})


def test_misfitting_weights_leave_the_network_untouched():
    pytest.importorskip("paddle")
    from sodbatch.model.network import SODNetwork
    from sodbatch.model.weights import load_state

    network = SODNetwork(TINY)
    before = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    state = {name: array + 1 for name, array in before.items()}
    del state["yolo_head.pred_cls.0.bias"]
    with pytest.raises(UsageError, match=r"missing: yolo_head.pred_cls.0.bias \[10\]"):
        load_state(network, state)
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])


UNIT_OF_THIRD_DIGIT = 0.0101


def test_seeded_weights_depend_on_the_seed_alone():
    pytest.importorskip("paddle")
    from sodbatch.model.seeded import seeded_state

    np.random.seed(1)
    first = seeded_state(TINY, 3)
    np.random.seed(2)
    again = seeded_state(TINY, 3)
    other = seeded_state(TINY, 4)
    for name, array in first.items():
        np.testing.assert_allclose(array, again[name], rtol=UNIT_OF_THIRD_DIGIT, err_msg=name)
    assert any(not np.array_equal(array, other[name]) for name, array in first.items())
    np.testing.assert_array_equal(first["yolo_head.proj_conv.weight"].ravel(), np.arange(-2, 8))


@pytest.mark.parametrize("seed", [0, 1])
def test_seeded_weights_give_boxes_of_several_classes_and_sizes(seed):
    paddle = pytest.importorskip("paddle")
    from sodbatch.model.network import SODNetwork
    from sodbatch.model.seeded import seeded_state, synthetic_pictures
    from sodbatch.model.weights import load_state

    network = SODNetwork(TINY)
    network.eval()
    load_state(network, seeded_state(TINY, seed))
    pictures = synthetic_pictures(np.random.default_rng(9), 4, *TINY.input_size)
    with paddle.no_grad():
        boxes, scores = (tensor.numpy() for tensor in network(paddle.to_tensor(pictures)))
    picture, classes, anchors = np.nonzero(scores > 0.3)
    assert 10 < len(anchors) < 0.05 * scores.size
    assert len(np.unique(classes)) >= 5
    found = boxes[picture, anchors]
    widths = found[:, 2] - found[:, 0]
    assert np.percentile(widths, 90) > 1.5 * np.percentile(widths, 10)
    assert len(np.unique(scores[scores > 0.3].round(2))) > 5
