"""A Llama decoder in numpy: forward, and backward by hand.

Shapes: ``T`` tokens of one sequence, ``d`` hidden, ``f`` feed-forward, ``h`` heads of ``d/h``, ``V`` vocabulary.
Matrices are ``(outputs, inputs)`` as checkpoints store them, so a layer computes ``x @ w.T``. For ``y = x wᵀ`` and
a loss ``l`` with ``dy = ∂l/∂y`` the chain rule gives ``dx = dy w`` and ``dw = dyᵀ x``; every backward step below is
that, or the derivative written next to it.

The gains of the RMS norms stay one: a gain can always be folded into the matrix behind it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Tokens = NDArray[np.int64]
Weights = dict[str, Array]
"""Hugging Face's tensor names to values; gradients have the same keys."""


@dataclass(frozen=True)
class Shape:
    """The dimensions that config.json states."""

    vocab: int = 2048
    hidden: int = 256
    """Whole blocks of 256, so that the K-quants apply."""
    feed_forward: int = 1024
    layers: int = 2
    heads: int = 4
    context: int = 2048
    epsilon: float = 1e-6
    rope_base: float = 10000.0

    @property
    def head_dim(self) -> int:
        """Values per head."""
        return self.hidden // self.heads


SHAPE = Shape()
EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def layer_name(layer: int, part: str) -> str:
    """Checkpoint name of one matrix, such as ``model.layers.0.mlp.up_proj.weight``."""
    block = "mlp" if part in {"gate", "up", "down"} else "self_attn"
    return f"model.layers.{layer}.{block}.{part}_proj.weight"


def frequencies(shape: Shape = SHAPE) -> Array:
    """Rotation per position of each pair of values in a head: ``base^(-2i/head_dim)`` radians."""
    half = shape.head_dim // 2
    return (shape.rope_base ** (-np.arange(half) / half)).astype(np.float32)


def rotate(x: Array, direction: int = 1) -> Array:
    """Rotary positions: value ``i`` and ``i + head_dim/2`` turn by ``position * frequency_i``.

    A rotation is orthogonal, so its gradient is the rotation the other way (``direction=-1``).
    """
    angle = np.outer(np.arange(x.shape[-2]), frequencies()).astype(np.float32)
    cos, sin = np.cos(angle), np.float32(direction) * np.sin(angle)
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def normalize(x: Array) -> tuple[Array, Array]:
    """RMS norm ``y = x / rms(x)``, and ``1 / rms`` for the way back."""
    scale = 1 / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(SHAPE.epsilon))
    return x * scale, scale


def normalize_back(dy: Array, y: Array, scale: Array) -> Array:
    """``dx = (dy - y mean(dy y)) / rms``: what would only lengthen ``x`` is lost in the norm."""
    dx: Array = scale * (dy - y * np.mean(dy * y, axis=-1, keepdims=True))
    return dx


def softmax(x: Array) -> Array:
    """Probabilities along the last axis, in place."""
    x -= x.max(axis=-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(axis=-1, keepdims=True)
    return x


def split_heads(x: Array) -> Array:
    """``(T, d)`` to ``(h, T, d/h)``."""
    return np.ascontiguousarray(x.reshape(len(x), SHAPE.heads, -1).transpose(1, 0, 2))


def join_heads(x: Array) -> Array:
    """The inverse of ``split_heads``."""
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


class Attention:
    """``x + softmax(q kᵀ / √(d/h)) v oᵀ``, causal."""

    def __init__(self, weights: Weights, layer: int) -> None:
        self.names = {part: layer_name(layer, part) for part in "qkvo"}
        self.w = {part: weights[name] for part, name in self.names.items()}

    def forward(self, x: Array) -> Array:
        """Remember what ``backward`` needs."""
        self.y, self.scale = normalize(x)
        self.q, self.k = (rotate(split_heads(self.y @ self.w[part].T)) for part in "qk")
        self.v = split_heads(self.y @ self.w["v"].T)
        scores = self.q @ self.k.swapaxes(1, 2) / np.float32(SHAPE.head_dim**0.5)
        scores += np.triu(np.full((len(x), len(x)), -1e9, np.float32), 1)
        self.p = softmax(scores)
        self.mixed = join_heads(self.p @ self.v)
        return x + self.mixed @ self.w["o"].T

    def backward(self, dx: Array, grads: Weights) -> Array:
        """Softmax: ``ds = p (dp - Σ dp p)``."""
        grads[self.names["o"]] = dx.T @ self.mixed
        dmixed = split_heads(dx @ self.w["o"])
        dp = dmixed @ self.v.swapaxes(1, 2)
        ds = self.p * (dp - np.sum(dp * self.p, axis=-1, keepdims=True)) / np.float32(SHAPE.head_dim**0.5)
        parts = {
            "q": rotate(ds @ self.k, -1),
            "k": rotate(ds.swapaxes(1, 2) @ self.q, -1),
            "v": self.p.swapaxes(1, 2) @ dmixed,
        }
        dy = np.zeros_like(dx)
        for part, gradient in parts.items():
            flat = join_heads(gradient)
            grads[self.names[part]] = flat.T @ self.y
            dy += flat @ self.w[part]
        return dx + normalize_back(dy, self.y, self.scale)


class FeedForward:
    """``x + (silu(gate) · up) downᵀ`` with ``silu(g) = g sigma(g)``."""

    def __init__(self, weights: Weights, layer: int) -> None:
        self.names = {part: layer_name(layer, part) for part in ("gate", "up", "down")}
        self.w = {part: weights[name] for part, name in self.names.items()}

    def forward(self, x: Array) -> Array:
        """Remember what ``backward`` needs."""
        self.y, self.scale = normalize(x)
        self.gate, self.up = self.y @ self.w["gate"].T, self.y @ self.w["up"].T
        self.sigma = 1 / (1 + np.exp(-self.gate))
        self.active = self.gate * self.sigma * self.up
        output: Array = x + self.active @ self.w["down"].T
        return output

    def backward(self, dx: Array, grads: Weights) -> Array:
        """``silu' = sigma (1 + g (1 - sigma))``."""
        grads[self.names["down"]] = dx.T @ self.active
        dactive = dx @ self.w["down"]
        dgate = dactive * self.up * self.sigma * (1 + self.gate * (1 - self.sigma))
        dup = dactive * self.gate * self.sigma
        grads[self.names["gate"]], grads[self.names["up"]] = dgate.T @ self.y, dup.T @ self.y
        return dx + normalize_back(dgate @ self.w["gate"] + dup @ self.w["up"], self.y, self.scale)


def loss_and_gradients(weights: Weights, tokens: Tokens) -> tuple[float, Weights]:
    """Mean cross-entropy (nats) of predicting each token from those before it, and its gradients.

    Softmax and logarithm together have the gradient ``p - onehot(target)``.
    """
    inputs, targets = tokens[:-1], tokens[1:]
    blocks, y, scale = _hidden(weights, inputs)
    p, rows = softmax(y @ weights[HEAD].T), np.arange(len(targets))
    loss = -float(np.mean(np.log(p[rows, targets] + np.float32(1e-20))))
    p[rows, targets] -= 1
    p /= np.float32(len(targets))
    grads = {HEAD: p.T @ y}
    dx = normalize_back(p @ weights[HEAD], y, scale)
    for block in reversed(blocks):
        dx = block.backward(dx, grads)
    grads[EMBED] = np.zeros_like(weights[EMBED])
    np.add.at(grads[EMBED], inputs, dx)
    return loss, grads


def loss_of(weights: Weights, tokens: Tokens) -> float:
    """Only the loss."""
    y = _hidden(weights, tokens[:-1])[1]
    p = softmax(y @ weights[HEAD].T)
    return -float(np.mean(np.log(p[np.arange(len(p)), tokens[1:]] + np.float32(1e-20))))


def _hidden(weights: Weights, inputs: Tokens) -> tuple[list[Attention | FeedForward], Array, Array]:
    """The blocks with what they remember, and the normalized last state with its scale."""
    x = weights[EMBED][inputs]
    blocks = [kind(weights, layer) for layer in range(SHAPE.layers) for kind in (Attention, FeedForward)]
    for block in blocks:
        x = block.forward(x)
    y, scale = normalize(x)
    return blocks, y, scale
