"""Model folders, archives and weights: whatever the bytes, opening gives a model or one UsageError."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import yaml
from hypothesis import strategies as st

from fuzz.mutate import mutations
from sodbatch.errors import UsageError
from sodbatch.model.archive import unpack_model
from sodbatch.model.folder import open_model_folder
from sodbatch.model.weights import read_pdparams

_CONFIG = {
    "draw_threshold": 0.5,
    "Global": {"model_name": "PP-YOLOE_plus_SOD-S"},
    "Preprocess": [
        {"type": "Resize", "target_size": [64, 64], "keep_ratio": False, "interp": 2},
        {"type": "NormalizeImage", "mean": [0.0, 0, 0], "std": [1.0, 1, 1], "norm_type": "none"},
        {"type": "Permute"},
    ],
    "label_list": ["car", "bus"],
}


def _operation(kind: str, **attributes: object) -> dict[str, object]:
    return {"#": kind, "A": [{"N": name, "AT": {"D": value}} for name, value in attributes.items()]}


_PROGRAM = {
    "program": {
        "regions": [
            {
                "blocks": [
                    {
                        "ops": [
                            _operation("1.data", name="image", shape=[-1, 3, 64, 64]),
                            _operation("1.data", name="scale_factor", shape=[-1, 2]),
                            _operation("1.multiclass_nms3", keep_top_k=500),
                        ]
                    }
                ]
            }
        ]
    }
}
YML, PROGRAM = yaml.safe_dump(_CONFIG).encode(), json.dumps(_PROGRAM).encode()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in {"inference.yml": YML, "inference.json": PROGRAM, "inference.pdiparams": b"p"}.items():
            member = tarfile.TarInfo(f"model/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


_WEIGHTS = {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bn.bias": np.zeros(2, np.float64)}
_YML_TOKENS = (b"&a ", b"*a", b"!!python/object/apply:os.system [true]", b"<<: ", b".nan", b"1e999", b"{", b"? ")
_JSON_TOKENS = (b"null", b"[[[[", b"{}", b"1e999", b"-1", b'"#"', b'"D": [')
_PICKLE_TOKENS = (
    b"cos\nsystem\n",
    b"\x93",
    b"R",
    b"b",
    b".",
    b"}",
    b"\x8c\x02os\x8c\x06system\x93",
    b"cnumpy\ndtype\n",
)

CASES = st.one_of(
    st.tuples(st.just("inference.yml"), mutations([YML], _YML_TOKENS)),
    st.tuples(st.just("inference.json"), mutations([PROGRAM], _JSON_TOKENS)),
    st.tuples(st.just("tar"), mutations([_tar()], (b"../", b"/", b"ustar", b"1", b"2", b"L"))),
    st.tuples(st.just("pdparams"), mutations([pickle.dumps(_WEIGHTS, n) for n in (2, 4)], _PICKLE_TOKENS)),
)


def check_model(case: tuple[str, bytes]) -> None:
    """Open a model folder, an archive or weights; nothing may come of it but a model or a UsageError."""
    kind, data = case
    try:
        if kind == "pdparams":
            assert all(array.dtype == np.float32 for array in read_pdparams(data).values())
            return
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, "model")
            folder.mkdir()
            if kind == "tar":
                Path(name, "model.tar").write_bytes(data)
                unpack_model(Path(name, "model.tar"), folder)
            else:
                files = {"inference.yml": YML, "inference.json": PROGRAM, "inference.pdiparams": b"p"} | {kind: data}
                for file, content in files.items():
                    (folder / file).write_bytes(content)
            assert {path.name for path in Path(name).iterdir()} <= {"model", "model.tar"}
            model = open_model_folder(folder)
            assert model.labels and model.preprocess.height > 0 and model.preprocess.width > 0
    except UsageError as error:
        assert str(error)
