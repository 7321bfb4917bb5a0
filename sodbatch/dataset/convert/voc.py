"""Pascal VOC: an XML file a picture."""

from __future__ import annotations

import re
from collections import Counter
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from sodbatch.dataset.convert.scene import MOST, Object, Scene, SceneError, forward

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = ("difficult", "truncated")


def read_voc(data: bytes) -> Scene:
    """Read an annotation.

    As in PaddleX, a side is ``xmax - xmin``, and an object without ``bndbox`` is passed over; that is noted.

    Raises:
        SceneError: It is not VOC; entities and document types are refused.
    """
    try:
        root = fromstring(data, forbid_dtd=True)
    except ParseError as error:
        raise SceneError(f"not XML: {error}", error.position[0]) from error
    except DefusedXmlException as error:
        raise SceneError(f"document types and entities are not read: {type(error).__name__}") from error
    except (ValueError, LookupError) as error:
        raise SceneError(f"not XML: {error}") from error
    picture = root.findtext("filename")
    if not picture or not picture.strip():
        raise SceneError("expected an element filename")
    size = root.find("size")
    if size is None:
        raise SceneError("expected an element size")
    width, height = (_whole(size, name) for name in ("width", "height"))
    lines = [data.count(b"\n", 0, match.start()) + 1 for match in re.finditer(rb"<object[\s>]", data)]
    notes: Counter[str] = Counter()
    objects = []
    for index, each in enumerate(root.findall("object")):
        try:
            made = _object(each)
        except SceneError as error:
            raise SceneError(str(error), lines[index] if index < len(lines) else None) from error
        if made is None:
            notes["objects without bndbox passed over"] += 1
        else:
            objects.append(made)
    return Scene(forward(picture), width, height, objects, notes)


def _object(element: Element) -> Object | None:
    label = (element.findtext("name") or "").strip()
    if not label:
        raise SceneError("expected an element name in the object")
    box = element.find("bndbox")
    if box is None:
        return None
    x0, y0, x1, y1 = (_number(box, name) for name in _CORNERS)  # in any order
    flags = {name: (element.findtext(name) or "").strip() for name in _FLAGS}
    extra = {name: int(text) for name, text in flags.items() if text in ("0", "1")}  # not "Unspecified"
    return Object(label, (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), extra)


def _number(element: Element, name: str) -> float:
    text = (element.findtext(name) or "").strip()
    try:
        value = float(text)
    except ValueError:
        raise SceneError(f"{name}: expected a number, found {text[:40]!r}") from None
    if not abs(value) <= MOST:
        raise SceneError(f"{name}: expected a number of pixels, found {text[:40]!r}")
    return value


def _whole(element: Element, name: str) -> int:
    value = _number(element, name)
    if value != int(value) or value <= 0:
        raise SceneError(f"{name} of the picture: expected a whole number over 0, found {value:g}")
    return int(value)
