"""Where training starts: not from noise, but from weights that already predict by the token before.

Both parts are plain Llama weights, which training then changes as it likes:

* Embedding and head hold a factorized table of token pairs, so step one is as good as a bigram model.
* Three heads of the first layer look one, two and three tokens back, which gradient descent finds only late.
"""

import numpy as np
from numpy.typing import NDArray

from dev.demo.llama import EMBED, HEAD, SHAPE, Array, Tokens, Weights, frequencies, layer_name, normalize

RANK = 200
"""Embedding values for the pair table; the remaining ones stay random and tell tokens apart."""
CONSTANT, LEVEL = 0, 2.0
"""The embedding value that is the same for every token, and its value: the input of whatever needs a bias."""
SMOOTHING = 8.0
"""Imagined occurrences of every token before pairs are counted, spread as the tokens are."""
LOOK_BACK = (1, 2, 3)
SHARPNESS = 1.6
"""Of the heads that look back: large enough that most attention falls on one token, small enough to be trained."""
POWER_STEPS = 6


def starting_weights(tokens: Tokens, random: np.random.Generator) -> Weights:
    """Random weights with the pair table and the looking heads in place."""
    weights = random_weights(random)
    # Quantization shares one scale among neighbouring values, so none may stand out: a random rotation spreads each
    # meaning over the whole width. The norm does not notice, and what reads the values is rotated alike.
    rotation = np.linalg.qr(random.normal(size=(SHAPE.hidden, SHAPE.hidden)))[0].astype(np.float32)
    weights[EMBED][:, CONSTANT] = LEVEL
    weights[EMBED][:, CONSTANT + 1 : CONSTANT + 1 + RANK] = pair_table(tokens, random)
    weights[EMBED] = weights[EMBED] @ rotation
    weights[HEAD] = fitted_head(weights[EMBED], tokens)
    for head, distance in enumerate(LOOK_BACK):
        look_back(weights, head, distance, rotation[CONSTANT])
    return weights


def random_weights(random: np.random.Generator) -> Weights:
    """Normal values whose spread keeps each layer's output about as large as its input."""
    hidden, wide = SHAPE.hidden, SHAPE.feed_forward
    shapes = dict.fromkeys("qkvo", (hidden, hidden)) | {"gate": (wide, hidden), "up": (wide, hidden)}
    shapes["down"] = (hidden, wide)

    def draw(shape: tuple[int, int], spread: float) -> Array:
        return random.normal(0, spread, shape).astype(np.float32)

    weights = {EMBED: draw((SHAPE.vocab, hidden), 0.5), HEAD: draw((SHAPE.vocab, hidden), 0.02)}
    for layer in range(SHAPE.layers):
        for part, shape in shapes.items():
            # What is added to the residual stream starts small: early steps then train embedding and head.
            weights[layer_name(layer, part)] = draw(shape, (0.5 if part in {"o", "down"} else 1) * shape[1] ** -0.5)
    return weights


def look_back(weights: Weights, head: int, distance: int, constant: Array) -> None:
    """Make a head of the first layer attend to the token ``distance`` before.

    Query and key read only the direction ``constant``, equal for every token. Rotary positions turn pair ``i`` of
    both by their position times the frequency ``w_i``; with the key turned by another ``distance * w_i``, the score
    is ``Σ cos((r - distance) w_i)`` for a token ``r`` back, which is largest at ``r = distance``.
    """
    rows = slice(head * SHAPE.head_dim, (head + 1) * SHAPE.head_dim)
    angle = np.float32(distance) * frequencies()
    directions = {"q": (np.ones_like(angle), np.zeros_like(angle)), "k": (np.cos(angle), np.sin(angle))}
    for part, pair in directions.items():
        weights[layer_name(0, part)][rows] = np.outer(np.float32(SHARPNESS) * np.concatenate(pair), constant)


def pair_table(tokens: Tokens, random: np.random.Generator) -> Array:
    """RANK values per token, close for tokens with the same followers.

    They are the leading left singular vectors of ``log P(b|a) / P(b)``, how much likelier ``b`` is after ``a``;
    frequent tokens count more.
    """
    logs, frequency = pair_logs(tokens)
    weight = np.sqrt(np.sqrt(frequency))[:, None]
    vectors, values = leading_singular((logs - np.log(frequency)) * weight, random)
    table = vectors / weight * np.sqrt(values)
    length = np.sqrt(np.mean(table * table, axis=1, keepdims=True))
    scaled: Array = 0.5 * table / (length + np.float32(1e-3))
    return scaled


def fitted_head(embedding: Array, tokens: Tokens) -> Array:
    """The least-squares head: ``norm(embedding[a]) @ headᵀ`` is close to ``log P(b | a)``."""
    logs, frequency = pair_logs(tokens)
    weight = np.sqrt(np.sqrt(frequency))[:, None]
    known = normalize(embedding)[0] * weight
    wanted = (logs - logs.mean(axis=1, keepdims=True)) * weight
    ridge = np.float32(1e-3) * np.eye(SHAPE.hidden, dtype=np.float32)
    return np.ascontiguousarray(np.linalg.solve(known.T @ known + ridge, known.T @ wanted).T)


def pair_logs(tokens: Tokens) -> tuple[Array, Array]:
    """``log P(b | a)`` as a matrix and ``P(b)``; no probability is zero."""
    counts = np.bincount(tokens, minlength=SHAPE.vocab) + 1.0
    frequency = counts / counts.sum()
    pairs = np.bincount(tokens[:-1] * SHAPE.vocab + tokens[1:], minlength=SHAPE.vocab**2)
    pairs = pairs.reshape(SHAPE.vocab, SHAPE.vocab)
    smooth = (pairs + SMOOTHING * frequency) / (pairs.sum(axis=1, keepdims=True) + SMOOTHING)
    return np.log(smooth).astype(np.float32), frequency.astype(np.float32)


def leading_singular(matrix: Array, random: np.random.Generator) -> tuple[Array, Array]:
    """The first RANK left singular vectors and values, by subspace iteration: ``M Mᵀ`` favours the large ones."""
    basis: NDArray[np.float32] = random.normal(size=(len(matrix), RANK)).astype(np.float32)
    for _ in range(POWER_STEPS):
        basis = np.linalg.qr(matrix @ (matrix.T @ basis))[0]
    left, values, _ = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left, values
