"""The result of one picture (or page), with the keys, methods and file names of PaddleX's result."""

from __future__ import annotations

import json
import mimetypes
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sodbatch.threshold import Detections
from sodbatch.visualize import draw


class DetResult(dict[str, Any]):
    """A dict of ``input_path``, ``page_index``, ``input_img`` and ``boxes``.

    ``boxes`` is a list of dicts of ``cls_id`` (int), ``label`` (str), ``score`` (float) and
    ``coordinate`` ([xmin, ymin, xmax, ymax] in pixels of the original picture).
    """

    @classmethod
    def of(
        cls,
        detections: Detections,
        labels: Sequence[str],
        *,
        image: NDArray[np.uint8],
        input_path: str | None = None,
        page_index: int | None = None,
    ) -> DetResult:
        """Make the result of one picture.

        Args:
            detections: Its boxes.
            labels: Class id to name.
            image: The picture, uint8 [H, W, 3], BGR.
            input_path: Where it came from; None for an array.
            page_index: The page of a PDF or TIFF, from 0; None for a plain picture.
        """
        boxes = [
            {"cls_id": cls_id, "label": labels[cls_id], "score": score, "coordinate": coordinate}
            for cls_id, score, coordinate in zip(
                detections.cls_id.tolist(), detections.score.tolist(), detections.boxes.tolist()
            )
        ]
        return cls(input_path=input_path, page_index=page_index, input_img=image, boxes=boxes)

    @property
    def json(self) -> dict[str, dict[str, Any]]:
        """``{"res": {"input_path": ..., "page_index": ..., "boxes": [...]}}``."""
        return {"res": {key: value for key, value in self.items() if key != "input_img"}}

    @property
    def img(self) -> dict[str, Image.Image]:
        """``{"res": the picture with its boxes drawn}``."""
        boxes = self["boxes"]
        labels = {box["cls_id"]: box["label"] for box in boxes}
        cls_ids, scores, corners = ([box[key] for box in boxes] for key in ("cls_id", "score", "coordinate"))
        drawn = draw(self["input_img"], Detections.of(cls_ids, scores, corners), labels)
        return {"res": Image.fromarray(np.ascontiguousarray(drawn[..., ::-1]))}

    def print(self, format_json: bool = True, indent: int = 4, ensure_ascii: bool = False) -> None:
        """Print the result.

        Args:
            format_json: As indented JSON; otherwise as one line of Python.
            indent: Spaces a level, for JSON.
            ensure_ascii: Escape characters beyond ASCII, for JSON.
        """
        print(json.dumps(self.json, indent=indent, ensure_ascii=ensure_ascii) if format_json else self.json)

    def save_to_json(self, save_path: str, indent: int = 4, ensure_ascii: bool = False) -> None:
        """Write the result as JSON.

        Args:
            save_path: A file ending in ``.json``, or a folder, which gets ``<input's stem>_res.json``.
            indent: Spaces a level.
            ensure_ascii: Escape characters beyond ASCII.
        """
        path = Path(save_path)
        if path.suffix.lower() != ".json":
            path = path / f"{self._stem()}_res.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.json["res"], indent=indent, ensure_ascii=ensure_ascii), "utf-8")

    def save_to_img(self, save_path: str) -> None:
        """Write the picture with its boxes.

        Args:
            save_path: A file with a picture's suffix, or a folder, which gets
                ``<input's stem>_res<input's suffix>`` (``.png`` where that suffix cannot be written).
        """
        path = Path(save_path)
        if not _is_image_name(path):
            path = path / f"{self._stem()}_res{_writable_suffix(self['input_path'])}"
        path.parent.mkdir(parents=True, exist_ok=True)
        options: dict[str, Any] = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}
        self.img["res"].save(path, **options)

    def _stem(self) -> str:
        """The input's file name without suffix, with the page; for an array made up as in PaddleX."""
        if self["input_path"] is None:
            made_up = f"{int(time.time())}_{random.randint(1000, 9999)}"  # noqa: S311 - a name, not a secret
            name = self.__dict__.setdefault("_made_up_name", made_up)
        else:
            name = Path(self["input_path"]).stem
        return name if self["page_index"] is None else f"{name}_{self['page_index']}"


def _is_image_name(path: Path) -> bool:
    kind, _ = mimetypes.guess_type(path.name)
    return kind is not None and kind.startswith("image/")


def _writable_suffix(input_path: str | None) -> str:
    path = Path(input_path or "")
    can_write = Image.registered_extensions().get(path.suffix.lower()) in Image.SAVE
    return path.suffix if can_write and _is_image_name(path) else ".png"
