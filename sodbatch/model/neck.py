"""CSP-PAN with the transformer encoder on its deepest map (arXiv 2203.16250; SOD variant of PaddleDetection)."""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from sodbatch.model.encoder import TransformerEncoder, sincos_positions
from sodbatch.model.layers import BasicBlock, ConvBN
from sodbatch.model.spec import NetworkSpec

CHANNELS = (768, 384, 192)
BLOCKS = 3
POOL_SIZES = (5, 9, 13)


class SPP(nn.Layer):
    """The map beside its maxima over three windows (spatial pyramid pooling)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvBN(channels * (1 + len(POOL_SIZES)), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in POOL_SIZES]
        return self.conv(paddle.concat([x, *pooled], axis=1))


class CSPStage(nn.Layer):
    """Two 1x1 branches, one through the blocks (with SPP after the middle one on the deepest map)."""

    def __init__(self, ch_in: int, ch_out: int, blocks: int, spp: bool) -> None:
        super().__init__()
        ch_mid = ch_out // 2
        self.conv1 = ConvBN(ch_in, ch_mid, 1)
        self.conv2 = ConvBN(ch_in, ch_mid, 1)
        self.convs = nn.Sequential()
        for index in range(blocks):
            self.convs.add_sublayer(str(index), BasicBlock(ch_mid, shortcut=False, use_alpha=False))
            if spp and index == (blocks - 1) // 2:
                self.convs.add_sublayer("spp", SPP(ch_mid))
        self.conv3 = ConvBN(ch_mid * 2, ch_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(paddle.concat([self.conv1(x), self.convs(self.conv2(x))], axis=1))


class CSPPAN(nn.Layer):
    """Top-down then bottom-up fusion of the maps at strides 8, 16 and 32."""

    def __init__(self, spec: NetworkSpec, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.out_channels = spec.channels(CHANNELS)
        blocks = spec.blocks(BLOCKS)
        deepest = in_channels[-1]
        self.encoder = TransformerEncoder(deepest, spec.encoder_ffn, spec.encoder_layers, spec.encoder_dropout)
        self.input_cells = (spec.input_size[0] // 32, spec.input_size[1] // 32)
        positions = paddle.to_tensor(sincos_positions(*self.input_cells, deepest))
        self.register_buffer("positions", positions, persistable=False)

        routed = (0, *(channels // 2 for channels in self.out_channels[:-1]))
        self.fpn_stages = nn.LayerList(
            nn.Sequential(CSPStage(ch_in + ch_route, ch_out, blocks, spp=index == 0))
            for index, (ch_in, ch_route, ch_out) in enumerate(
                zip(reversed(in_channels), routed, self.out_channels, strict=True)
            )
        )
        self.fpn_routes = nn.LayerList(ConvBN(channels, channels // 2, 1) for channels in self.out_channels[:-1])
        self.pan_stages = nn.LayerList(
            nn.Sequential(CSPStage(deep + shallow, deep, blocks, spp=False))
            for deep, shallow in zip(self.out_channels[:-1], self.out_channels[1:], strict=True)
        )
        self.pan_routes = nn.LayerList(ConvBN(channels, channels, 3, stride=2) for channels in self.out_channels[1:])

    def encode(self, deepest: Tensor) -> Tensor:
        """Let every position of the stride-32 map [N, C, h, w] see every other."""
        _, channels, height, width = deepest.shape
        if (height, width) == self.input_cells:
            positions = self.positions
        else:  # in training, where pictures come in several sizes
            positions = paddle.to_tensor(sincos_positions(height, width, channels))
        tokens = self.encoder(deepest.flatten(2).transpose([0, 2, 1]), positions)
        return tokens.transpose([0, 2, 1]).reshape([-1, channels, height, width])

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps at strides 8, 16, 32 in; fused maps at strides 32, 16, 8 out."""
        x = self.fpn_stages[0](self.encode(maps[-1]))
        down = [x]
        for index, route in enumerate(self.fpn_routes):
            upsampled = F.interpolate(route(x), scale_factor=2.0)
            x = self.fpn_stages[index + 1](paddle.concat([upsampled, maps[-2 - index]], axis=1))
            down.append(x)
        fused = [x]
        for index in reversed(range(len(self.pan_stages))):
            x = self.pan_stages[index](paddle.concat([self.pan_routes[index](x), down[index]], axis=1))
            fused.append(x)
        return fused[::-1]
