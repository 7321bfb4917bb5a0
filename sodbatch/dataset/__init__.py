"""Data sets in COCO's format and PaddleX's layout: read, checked, drawn."""
