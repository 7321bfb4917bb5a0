"""Pictures a second of ``sodbatch predict`` beside PaddleX's ``predict`` on the same files, side by side.

Each tool runs as whole commands on a short and on a long list of pictures, in turn, several times. The difference
between the two is free of start-up: it gives the steady rate. What is printed are medians and the ratio.

    python benchmarks/throughput.py --pictures DIR --model-dir MODEL [--paddlex-python PYTHON] [--rounds 3]

``--paddlex-python`` is the interpreter of an environment with ``paddlepaddle==3.2.2`` and ``paddlex[cv]==3.7.2``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sodbatch.predictor.base import usable_cpus

PADDLEX = """
import sys
from pathlib import Path
from paddlex import create_model
name, model_dir, listing, mode, threshold, threads = sys.argv[1:]
engine = {"run_mode": mode, "cpu_threads": int(threads)}
model = create_model(name, model_dir=model_dir, device="cpu", engine_config=engine)
paths = Path(listing).read_text().split("\\n")
print(sum(len(result["boxes"]) for result in model.predict(paths, batch_size=1, threshold=float(threshold))))
"""


def list_pictures(folder: Path, pictures: list[Path], count: int) -> Path:
    """Write a list of ``count`` paths, all different: links to the pictures, again and again."""
    links = folder / str(count)
    links.mkdir()
    paths = []
    for i in range(count):
        link = links / f"{i:06d}{pictures[i % len(pictures)].suffix}"
        os.symlink(pictures[i % len(pictures)].resolve(), link)
        paths.append(str(link))
    listing = folder / f"{count}.txt"
    listing.write_text("\n".join(paths))
    return listing


def seconds_of(command: list[str]) -> float:
    """Run a command and return how long it took; its output is shown when it fails."""
    started = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stdout}\n{ended.stderr}")
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--model-dir", type=Path, required=True, help="inference folder")
    parser.add_argument("--model-name", default="PP-YOLOE_plus_SOD-S")
    parser.add_argument("--paddlex-python", help="python of an environment with PaddleX")
    parser.add_argument("--paddlex-mode", default="mkldnn", choices=["mkldnn", "paddle"])
    parser.add_argument("--engine", nargs="+", default=["ray", "inline"], choices=["ray", "inline"])
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="CPU threads of each tool")
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--short", type=int, default=40, help="pictures of the short run")
    parser.add_argument("--long", type=int, default=160, help="pictures of the long run")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pictures = sorted(path for path in options.pictures.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        listings = {count: list_pictures(folder, pictures, count) for count in (options.short, options.long)}
        times: dict[str, dict[int, list[float]]] = {}
        for round_ in range(options.rounds):
            for count, listing in listings.items():
                for tool, command in commands(options, listing, folder / f"out-{round_}-{count}").items():
                    times.setdefault(tool, {}).setdefault(count, []).append(seconds_of(command))
    report(times, options.short, options.long)


def commands(options: argparse.Namespace, listing: Path, output: Path) -> dict[str, list[str]]:
    """Return the command of each tool for one list."""
    made = {}
    for engine in options.engine:
        overrides = {
            "Predict.model_dir": options.model_dir,
            "Predict.input": listing,
            "Predict.threshold": options.threshold,
            "Predict.engine": engine,
            "Resources.actors": 1,
            "Resources.threads_per_actor": options.threads,
            "Global.device": "cpu",
            "Global.output": f"{output}-{engine}",
        }
        words = [word for key, value in overrides.items() for word in ("-o", f"{key}={value}")]
        made[f"sodbatch, {engine}"] = [sys.executable, "-m", "sodbatch", "predict", "-c", options.model_name, *words]
    if options.paddlex_python:
        arguments = [
            options.model_name,
            str(options.model_dir),
            str(listing),
            options.paddlex_mode,
            str(options.threshold),
            str(options.threads),
        ]
        made[f"PaddleX, {options.paddlex_mode}"] = [options.paddlex_python, "-c", PADDLEX, *arguments]
    return made


def report(times: dict[str, dict[int, list[float]]], short: int, long: int) -> None:
    """Print a Markdown table of medians, and the raw times as JSON."""
    rates = {
        tool: statistics.median((long - short) / (b - a) for a, b in zip(by[short], by[long], strict=True))
        for tool, by in times.items()
    }
    base = next((rate for tool, rate in rates.items() if tool.startswith("PaddleX")), None)
    print(f"| tool | pictures/s, steady | whole command, {long} pictures (s) | steady rate / PaddleX's |")
    print("| --- | --- | --- | --- |")
    for tool, rate in rates.items():
        ratio = f"{rate / base:.2f}" if base else ""
        print(f"| {tool} | {rate:.2f} | {statistics.median(times[tool][long]):.1f} | {ratio} |")
    print(json.dumps(times))


if __name__ == "__main__":
    main()
