"""PaddleX's ``predict`` over a list of pictures; run by the interpreter of an environment with PaddleX.

    python paddlex_predict.py MODEL_NAME MODEL_DIR LISTING MODE BATCH THRESHOLD THREADS [BOXES.json]

MODE is a run mode of its Paddle engine (``paddle``, ``mkldnn``), or ``onnxruntime``, for which MODEL_DIR also holds
``inference.onnx``. The boxes go by file name, as lists of class, score, x1, y1, x2, y2.
"""

import json
import sys
from pathlib import Path

from paddlex import create_model

name, model_dir, listing, mode, batch, threshold, threads, *boxes_path = sys.argv[1:]
if mode == "onnxruntime":
    engine = {"engine": "onnxruntime", "engine_config": {"intra_op_num_threads": int(threads)}}
else:
    engine = {"engine_config": {"run_mode": mode, "cpu_threads": int(threads)}}
model = create_model(name, model_dir=model_dir, device="cpu", **engine)
paths = Path(listing).read_text().split()
pictures = {}
for path, result in zip(paths, model.predict(paths, batch_size=int(batch), threshold=float(threshold)), strict=True):
    boxes = result["boxes"]
    pictures[Path(path).name] = [[box["cls_id"], float(box["score"]), *map(float, box["coordinate"])] for box in boxes]
if boxes_path:
    Path(boxes_path[0]).write_text(json.dumps(pictures))
print(json.dumps({"pictures": len(pictures), "boxes": sum(map(len, pictures.values()))}))
