"""Other formats to COCO: read whole and checked first, then written and swapped in; and COCO to others."""

from sodbatch.dataset.convert.from_coco import texts
from sodbatch.dataset.convert.to_coco import Converted, convert

__all__ = ["Converted", "convert", "texts"]
