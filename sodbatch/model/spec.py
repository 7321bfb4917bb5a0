"""What sets one PP-YOLOE_plus_SOD model apart from another: sizes, DFL range, classes."""

from __future__ import annotations

from dataclasses import dataclass

from sodbatch.errors import UsageError

VISDRONE_LABELS = (
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
)


@dataclass(frozen=True)
class NetworkSpec:
    """One PP-YOLOE_plus_SOD network.

    Attributes:
        name: The model's name, as PaddleX has it.
        depth_mult: Factor on the number of blocks per stage.
        width_mult: Factor on the number of channels.
        input_size: (height, width) in pixels, multiples of 32.
        reg_range: Bins of the box distribution, half open, in strides; below 0 an edge may lie behind its anchor.
        labels: Class names in the order of the class ids.
        encoder_layers: Transformer layers on the stride-32 map.
        encoder_ffn: Width of their feed-forward part.
        encoder_dropout: Share of values that their dropout leaves out in training.
        train_sides: Input sides in pixels that training takes in turn, multiples of 32.
        train_expand: The most that training may enlarge a picture's canvas, which makes its objects smaller.
        reference_batch: Pictures of one step for which the published learning rate was chosen.
    """

    name: str
    depth_mult: float
    width_mult: float
    input_size: tuple[int, int]
    reg_range: tuple[int, int]
    labels: tuple[str, ...] = VISDRONE_LABELS
    encoder_layers: int = 4
    encoder_ffn: int = 2048
    encoder_dropout: float = 0.1
    train_sides: tuple[int, ...] = tuple(range(320, 769, 32))
    train_expand: float = 4.0
    reference_batch: int = 64

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def channels(self, base: tuple[int, ...]) -> tuple[int, ...]:
        """``base`` channel counts at this width, at least 1 each."""
        return tuple(max(round(count * self.width_mult), 1) for count in base)

    def blocks(self, base: int) -> int:
        """``base`` blocks at this depth, at least 1."""
        return max(round(base * self.depth_mult), 1)


SPECS = {
    spec.name: spec
    for spec in (
        NetworkSpec("PP-YOLOE_plus_SOD-S", 0.33, 0.5, (640, 640), (-2, 8)),
        NetworkSpec("PP-YOLOE_plus_SOD-L", 1.0, 1.0, (640, 640), (-2, 8)),
        NetworkSpec(
            "PP-YOLOE_plus_SOD-largesize-L",
            1.0,
            1.0,
            (1920, 1920),
            (-2, 20),
            train_sides=tuple(range(1024, 1921, 64)),
            reference_batch=8,
        ),
        NetworkSpec(
            "PP-YOLOE_plus_SOD-tiny",
            0.33,
            0.125,
            (320, 320),
            (-2, 8),
            encoder_layers=2,
            encoder_ffn=256,
            encoder_dropout=0.0,
            train_sides=(256, 288, 320, 352, 384),
        ),
        NetworkSpec(
            "PP-YOLOE_plus_SOD-demo",
            0.33,
            0.125,
            (640, 640),
            (-2, 8),
            labels=("pedestrian", "car", "truck", "bus"),
            encoder_layers=1,
            encoder_ffn=256,
            train_sides=(384, 448, 512),
            train_expand=1.5,
            reference_batch=8,
        ),
    )
}
"""The three official models, a reduced one for tests, and the one of the demonstration."""


def find_spec(name: str) -> NetworkSpec:
    """Look a model up by name.

    Raises:
        UsageError: No such model.
    """
    if name not in SPECS:
        raise UsageError(f"unknown model {name!r}; known models: {', '.join(SPECS)}")
    return SPECS[name]
