"""Evaluation of detections against a data set: COCO's figures, charts, the worst pictures."""
