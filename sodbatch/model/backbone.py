"""CSPResNet, the backbone of PP-YOLOE+ (arXiv 2203.16250)."""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from sodbatch.model.layers import BasicBlock, ConvBN
from sodbatch.model.spec import NetworkSpec

CHANNELS = (64, 128, 256, 512, 1024)
BLOCKS = (3, 6, 6, 3)


class EffectiveSE(nn.Layer):
    """Channel attention of one layer (effective squeeze-excitation, arXiv 1911.06667)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2D(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.fc(x.mean([2, 3], keepdim=True)))


class CSPResStage(nn.Layer):
    """Halves the map; one half of the channels goes through the blocks, the other passes by."""

    def __init__(self, ch_in: int, ch_out: int, blocks: int) -> None:
        super().__init__()
        ch_mid = (ch_in + ch_out) // 2
        self.conv_down = ConvBN(ch_in, ch_mid, 3, stride=2)
        self.conv1 = ConvBN(ch_mid, ch_mid // 2, 1)
        self.conv2 = ConvBN(ch_mid, ch_mid // 2, 1)
        self.blocks = nn.Sequential(*(BasicBlock(ch_mid // 2, shortcut=True, use_alpha=True) for _ in range(blocks)))
        self.attn = EffectiveSE(ch_mid)
        self.conv3 = ConvBN(ch_mid, ch_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_down(x)
        y = paddle.concat([self.conv1(x), self.blocks(self.conv2(x))], axis=1)
        return self.conv3(self.attn(y))


class CSPResNet(nn.Layer):
    """Stem of three convolutions and four stages."""

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        channels = spec.channels(CHANNELS)
        half = channels[0] // 2
        self.stem = nn.Sequential(
            ("conv1", ConvBN(3, half, 3, stride=2)),
            ("conv2", ConvBN(half, half, 3)),
            ("conv3", ConvBN(half, channels[0], 3)),
        )
        self.stages = nn.Sequential(
            *(
                CSPResStage(ch_in, ch_out, spec.blocks(blocks))
                for ch_in, ch_out, blocks in zip(channels[:-1], channels[1:], BLOCKS, strict=True)
            )
        )
        self.out_channels = channels[2:]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps at strides 8, 16 and 32 of ``image`` [N, 3, H, W]."""
        x = self.stem(image)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps[1:]
