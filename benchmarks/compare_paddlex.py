"""Do sodbatch and PaddleX find the same boxes on the same model folder and pictures?

In two halves, since PaddleX wants an environment of its own
(``pip install paddlepaddle==3.2.2 'paddlex[cv]==3.7.2'``):

    python benchmarks/compare_paddlex.py dump MODEL_NAME MODEL_DIR PICTURES paddlex.json
    python benchmarks/compare_paddlex.py compare MODEL_NAME MODEL_DIR paddlex.json --backend openvino
    python benchmarks/compare_paddlex.py compare MODEL_NAME MODEL_DIR paddlex.json --run OUT

The first runs where PaddleX is installed and needs nothing of sodbatch; the second predicts here, the third
reads the tables of a run with the same threshold. ``compare`` exits with 1 if a box has no partner within the
tolerances: score 1e-4 and 0.02 px for paddle, 1e-3 and 0.1 px for the others.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TOLERANCES = {"paddle": (1e-4, 0.02), "openvino": (1e-3, 0.1), "onnxruntime": (1e-3, 0.1)}
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def dump(args: argparse.Namespace) -> int:
    """Write PaddleX's boxes as JSON: by file name, lists of class, score, x1, y1, x2, y2."""
    from paddlex import create_model

    model = create_model(
        args.model_name,
        model_dir=args.model_dir,
        device="cpu",
        engine_config={"run_mode": args.run_mode, "cpu_threads": args.threads},
    )
    files = sorted(path for path in Path(args.pictures).iterdir() if path.suffix.lower() in SUFFIXES)
    pictures, seconds = {}, []
    for path in files[: args.limit]:
        start = time.perf_counter()
        (result,) = model.predict(str(path), threshold=args.threshold)
        seconds.append(time.perf_counter() - start)
        pictures[path.name] = [[box["cls_id"], box["score"], *map(float, box["coordinate"])] for box in result["boxes"]]
    content = {
        "threshold": args.threshold,
        "folder": str(Path(args.pictures).resolve()),
        "seconds": seconds,
        "pictures": pictures,
    }
    Path(args.output).write_text(json.dumps(content))
    boxes = sum(map(len, pictures.values()))
    print(f"{len(pictures)} pictures, {boxes} boxes, median {statistics.median(seconds):.3f} s a picture")
    return 0


def compare(args: argparse.Namespace) -> int:
    """Compare, and print the figures."""
    import numpy as np

    from sodbatch.predictor.agreement import Agreement, compare

    theirs = json.loads(Path(args.boxes).read_text())
    ours = _of_run(args.run) if args.run else _predicted(args, theirs)
    score_tolerance, box_tolerance = TOLERANCES[args.backend]
    total, seconds, compared = Agreement(), [], 0
    for name, boxes, second in ours:
        if name not in theirs["pictures"]:
            continue
        agreement = compare(
            np.array(theirs["pictures"][name], np.float32).reshape(-1, 6),
            np.array(boxes, np.float32).reshape(-1, 6),
            score_tolerance=score_tolerance,
            box_tolerance=box_tolerance,
            keep_top_k=sys.maxsize,
            score_floor=-1.0,  # every box counts, also one just over the threshold
        )
        if agreement.unmatched:
            print(f"{name}: {agreement}")
        total += agreement
        seconds.append(second)
        compared += 1
    missing = len(theirs["pictures"]) - compared
    print(f"{compared} pictures compared, {missing} missing: {total}")
    if not args.run:
        print(
            f"median s a picture: sodbatch {statistics.median(seconds):.3f}, "
            f"PaddleX {statistics.median(theirs['seconds']):.3f}"
        )
    return 0 if total.agrees and not missing else 1


def _predicted(args: argparse.Namespace, theirs: dict) -> Iterator[tuple[str, list, float]]:
    from sodbatch import create_model

    model = create_model(
        args.model_name, args.model_dir, theirs["threshold"], backend=args.backend, threads=args.threads
    )
    paths = [str(Path(args.pictures or theirs["folder"]) / name) for name in theirs["pictures"]]
    start = time.perf_counter()
    for result in model.predict(paths):
        second = time.perf_counter() - start
        boxes = [[box["cls_id"], box["score"], *box["coordinate"]] for box in result["boxes"]]
        yield Path(result["input_path"]).name, boxes, second
        start = time.perf_counter()
    print(model.backend)


def _of_run(output: str) -> Iterator[tuple[str, list, float]]:
    import pyarrow.dataset as ds

    columns = ["uri", "status", "detections"]
    for row in ds.dataset(f"{output}/images", format="parquet").to_table(columns=columns).to_pylist():
        if row["status"] == "ok":
            keys = ("cls_id", "score", "xmin", "ymin", "xmax", "ymax")
            yield Path(row["uri"]).name, [[box[key] for key in keys] for box in row["detections"]], 0.0


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    halves = parser.add_subparsers(required=True)
    for half in (dump, compare):
        sub = halves.add_parser(half.__name__)
        sub.set_defaults(run_half=half)
        sub.add_argument("model_name")
        sub.add_argument("model_dir")
        sub.add_argument("--threads", type=int, default=2)
        if half is dump:
            sub.add_argument("pictures", help="a folder")
            sub.add_argument("output", help="a JSON file")
            sub.add_argument("--threshold", type=float, default=0.5)
            sub.add_argument("--run-mode", default="mkldnn", choices=["mkldnn", "paddle"])
            sub.add_argument("--limit", type=int, help="the first so many pictures")
        else:
            sub.add_argument("boxes", help="the JSON file of the first half")
            sub.add_argument("--backend", default="openvino", choices=TOLERANCES)
            sub.add_argument("--pictures", help="a folder, where not the one that PaddleX read")
            sub.add_argument("--run", help="an output folder of sodbatch predict, instead of predicting")
    args = parser.parse_args()
    return int(args.run_half(args))


if __name__ == "__main__":
    sys.exit(main())
