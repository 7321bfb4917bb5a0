"""The official models, for ``sodbatch models``."""

from __future__ import annotations

from pathlib import Path

from sodbatch.cache import cache_dir
from sodbatch.model.download import model_base_url
from sodbatch.model.find import PACKAGED
from sodbatch.model.spec import SPECS

PUBLISHED_MAP = {
    "PP-YOLOE_plus_SOD-S": (25.1, 42.8),
    "PP-YOLOE_plus_SOD-L": (31.9, 52.1),
    "PP-YOLOE_plus_SOD-largesize-L": (42.7, 65.9),
}
"""(mAP 0.5:0.95, mAP 0.5) in per cent on VisDrone-DET val, as PaddleX's documentation of the module publishes them."""


def describe() -> str:
    """Return the table of official models: name, input, accuracy, where it comes from, where it is cached."""
    base_url = model_base_url()
    lines = [f"{'model':<31}{'input':<13}{'mAP 0.5:0.95':<14}mAP 0.5 (VisDrone val, as published)"]
    for name, (strict, loose) in PUBLISHED_MAP.items():
        height, width = SPECS[name].input_size
        lines.append(f"{name:<31}{f'{height} x {width}':<13}{strict:<14}{loose}")
        lines.append(f"  from   {base_url}/{name}_infer.tar")
        lines.append(f"  cached {cached(name) or 'no'}")
    for folder in sorted(path for path in PACKAGED.iterdir() if path.is_dir()):
        height, width = SPECS[folder.name].input_size
        lines.append(f"{folder.name:<31}{f'{height} x {width}':<13}a demonstration on made scenes, see its README.md")
        lines.append(f"  packaged {folder}")
    return "\n".join(lines)


def cached(name: str) -> Path | None:
    """Return the folder of a model that has been downloaded, from whichever place; None where none has."""
    return next(iter(sorted(cache_dir().glob(f"official/*/{name}"))), None)
