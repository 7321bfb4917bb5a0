"""Training steps alone, on arrays in memory: forward, losses, backward, optimiser.

    python step_alone.py SIDE BATCH STEPS [PADDLEDET]

Of PP-YOLOE_plus_SOD-S, with the task-aligned assigner; prints JSON: pictures a second of each step but the first. With
PADDLEDET, a clone of PaddleDetection, it is that one's; packages that it imports and a step does not need are not
loaded. The same arrays, threads and optimiser for both.
"""

import json
import sys
import time
from collections.abc import Callable
from unittest.mock import MagicMock

import numpy as np
import paddle

OBJECTS, CLASSES = 60, 10
UNNEEDED = (
    "imgaug",
    "imgaug.augmenters",
    "imgaug.augmentables.lines",
    "imgaug.augmentables.segmaps",
    "motmetrics",
    "lap",
    "visualdl",
)
Step = Callable[[], paddle.Tensor]


def main() -> None:
    """Measure and print."""
    side, batch, steps = map(int, sys.argv[1:4])
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, side - 30, (batch, OBJECTS, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(6, 30, (batch, OBJECTS, 2))], 2).astype(np.float32)
    labels = rng.integers(0, CLASSES, (batch, OBJECTS))
    images = rng.random((batch, 3, side, side), np.float32)
    make = _paddledet if sys.argv[4:] else _sodbatch
    network, loss = make(images, boxes, labels)
    network.train()
    optimizer = paddle.optimizer.Momentum(
        1e-4, parameters=network.parameters(), weight_decay=paddle.regularizer.L2Decay(5e-4)
    )
    rates = []
    for _ in range(steps):
        started = time.perf_counter()
        value = loss()
        value.backward()
        optimizer.step()
        optimizer.clear_grad()
        float(value)
        rates.append(batch / (time.perf_counter() - started))
    print(json.dumps({"rates": rates[1:]}))


def _sodbatch(images: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> tuple[paddle.nn.Layer, Step]:
    from sodbatch.model.network import SODNetwork
    from sodbatch.model.spec import find_spec
    from sodbatch.train.assign import Truth
    from sodbatch.train.losses import anchors_for, detection_losses

    spec = find_spec("PP-YOLOE_plus_SOD-S")
    network = SODNetwork(spec)
    real = np.ones((*labels.shape, 1), np.float32)
    truth = Truth(*(paddle.to_tensor(each) for each in (labels, boxes, real)))
    pictures, anchors = paddle.to_tensor(images), anchors_for(*images.shape[2:])
    return (
        network,
        lambda: detection_losses(network.logits(pictures), truth, anchors, spec.reg_range[0], static=False).total,
    )


def _paddledet(images: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> tuple[paddle.nn.Layer, Step]:
    folder = sys.argv[4]
    sys.path.insert(0, folder)
    for name in UNNEEDED:
        sys.modules[name] = MagicMock()
    from ppdet.core.workspace import create, load_config

    config = load_config(f"{folder}/configs/smalldet/visdrone/ppyoloe_plus_sod_crn_s_80e_visdrone.yml")
    config["norm_type"], config["pretrain_weights"] = "bn", None
    network = create(config.architecture)
    count, side = len(images), images.shape[2]
    inputs = {
        "image": paddle.to_tensor(images),
        "gt_bbox": paddle.to_tensor(boxes),
        "gt_class": paddle.to_tensor(labels[..., None].astype(np.int32)),
        "pad_gt_mask": paddle.ones([*labels.shape, 1]),
        "epoch_id": 0,
        "im_shape": paddle.to_tensor([[side, side]] * count, dtype="float32"),
        "scale_factor": paddle.ones([count, 2]),
    }
    return network, lambda: network(inputs)["loss"]


if __name__ == "__main__":
    main()
