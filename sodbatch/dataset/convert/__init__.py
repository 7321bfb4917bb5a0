"""Other formats to COCO: read whole and checked first, then written and swapped in."""

from sodbatch.dataset.convert.to_coco import Converted, convert

__all__ = ["Converted", "convert"]
