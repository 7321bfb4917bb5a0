"""The PP-YOLOE_plus_SOD network; parameter names and shapes are those of PaddleDetection's checkpoints."""

from __future__ import annotations

from paddle import Tensor, nn

from sodbatch.model.backbone import CSPResNet
from sodbatch.model.head import PPYOLOEHead
from sodbatch.model.layers import RepVggBlock
from sodbatch.model.neck import CSPPAN
from sodbatch.model.spec import NetworkSpec


class SODNetwork(nn.Layer):
    """Backbone, neck and head of one :class:`NetworkSpec`."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = CSPResNet(spec)
        self.neck = CSPPAN(spec, self.backbone.out_channels)
        self.yolo_head = PPYOLOEHead(spec, self.neck.out_channels)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Every anchor point's box and scores, before suppression.

        Args:
            image: float32 [N, 3, H, W], RGB, values 0 to 1, H and W as in the spec.

        Returns:
            Boxes float32 [N, M, 4] (x1, y1, x2, y2) in input pixels, and scores float32 [N, classes, M] in 0 to 1.
        """
        return self.yolo_head(self.neck(self.backbone(image)))

    def logits(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What training learns from: class and bin logits per level, as of :meth:`PPYOLOEHead.logits`.

        Args:
            image: As of :meth:`forward`, but of any height and width that are multiples of 32.
        """
        return self.yolo_head.logits(self.neck(self.backbone(image)))

    def fuse(self) -> None:
        """Fuse every RepVGG block into one convolution; the network can then only be evaluated."""
        for layer in self.sublayers():
            if isinstance(layer, RepVggBlock):
                layer.fuse()
