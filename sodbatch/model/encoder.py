"""The transformer encoder that PP-YOLOE_plus_SOD puts on the stride-32 map."""

from __future__ import annotations

import functools

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

HEADS = 4
TEMPERATURE = 10_000.0
"""Wavelengths of the position code go up to about this many cells."""


@functools.lru_cache(maxsize=32)
def sincos_positions(height: int, width: int, channels: int) -> np.ndarray:
    """2-D sine-cosine position table, as PaddleDetection lays it out.

    Row ``i * height + j`` holds the code of (i, j), i < width, j < height: the table runs along the columns first
    while the map's tokens run along the rows. On square maps the two axes merely swap roles; trained weights
    rely on it.

    Returns:
        float32 [1, height * width, channels]: sin(i w), cos(i w), sin(j w), cos(j w), a quarter of the channels each.
    """
    quarter = channels // 4
    omega = 1.0 / TEMPERATURE ** (np.arange(quarter, dtype=np.float32) / quarter)
    i, j = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32), indexing="ij")
    angle_i, angle_j = i.reshape(-1, 1) * omega, j.reshape(-1, 1) * omega
    table = np.concatenate([np.sin(angle_i), np.cos(angle_i), np.sin(angle_j), np.cos(angle_j)], axis=1)
    return table[None].astype(np.float32)


class SelfAttention(nn.Layer):
    """Multi-head attention; positions are added to queries and keys, not to values."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.channels = channels
        self.in_proj_weight = self.create_parameter([channels, 3 * channels])
        self.in_proj_bias = self.create_parameter([3 * channels], is_bias=True)
        self.out_proj = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)

    def project(self, tokens: Tensor, part: int) -> Tensor:
        """Query (0), key (1) or value (2) of every head: [N, heads, tokens, channels / heads]."""
        columns = slice(part * self.channels, (part + 1) * self.channels)
        projected = F.linear(tokens, self.in_proj_weight[:, columns], self.in_proj_bias[columns])
        heads = projected.reshape([-1, tokens.shape[1], HEADS, self.channels // HEADS])
        return heads.transpose([0, 2, 1, 3])

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        placed = tokens + positions
        query, key, value = self.project(placed, 0), self.project(placed, 1), self.project(tokens, 2)
        scale = float(self.channels // HEADS) ** -0.5
        weights = F.softmax(paddle.matmul(query, key, transpose_y=True) * scale)
        mixed = paddle.matmul(self.dropout(weights), value).transpose([0, 2, 1, 3])
        return self.out_proj(mixed.reshape([-1, tokens.shape[1], self.channels]))


class EncoderLayer(nn.Layer):
    """Attention and feed-forward, each normalised after its residual sum (post-norm), GELU in its exact form."""

    def __init__(self, channels: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(channels, dropout)
        self.linear1 = nn.Linear(channels, ffn)
        self.linear2 = nn.Linear(ffn, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        tokens = self.norm1(tokens + self.dropout(self.self_attn(tokens, positions)))
        hidden = self.dropout(F.gelu(self.linear1(tokens)))
        return self.norm2(tokens + self.dropout(self.linear2(hidden)))


class TransformerEncoder(nn.Layer):
    """A stack of encoder layers over tokens [N, tokens, channels]."""

    def __init__(self, channels: int, ffn: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.LayerList([EncoderLayer(channels, ffn, dropout) for _ in range(layers)])

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        for layer in self.layers:
            tokens = layer(tokens, positions)
        return tokens
