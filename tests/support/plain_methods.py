"""Conversion methods, written plainly in NumPy from the equations in models/convert/methods.h, and comparisons.

Each takes the group's K/V heads and the moments of inputs, and returns what replaces each head: keys, [n, planes, d]
complex, and values, [n, HEAD_DIM, d].
"""

from dataclasses import dataclass
from itertools import product

import numpy as np
from small_models import D_MODEL, HEAD_DIM, N_LAYER, weights_of

TOLERANCE = 1e-4  # relative


@dataclass
class Heads:
    """The heads of a layer or group: n K/V heads, s query heads each. RoPE's planes are complex rows."""

    q: np.ndarray  # [n, s, planes, d]
    k: np.ndarray  # [n, planes, d]
    v: np.ndarray  # [n, HEAD_DIM, d]
    o: np.ndarray  # [n, s, d, HEAD_DIM]

    def __getitem__(self, heads):
        return Heads(self.q[heads], self.k[heads], self.v[heads], self.o[heads])


def mean_heads(heads, seen, attended):
    return np.broadcast_to(heads.k.mean(0), heads.k.shape), np.broadcast_to(heads.v.mean(0), heads.v.shape)


def first_heads(heads, seen, attended):
    return np.broadcast_to(heads.k[0], heads.k.shape), np.broadcast_to(heads.v[0], heads.v.shape)


def align_heads(heads, seen, attended):
    """Generalised Procrustes: turns one head after another towards the sum of the other heads."""
    turns = np.ones(heads.k.shape[:2], complex)
    rotations = np.stack([np.eye(HEAD_DIM)] * len(heads.v))
    for _, h in product(range(200 if len(heads.k) > 1 else 0), range(len(heads.k))):
        others = sum(turns[g, :, None] * heads.k[g] for g in range(len(heads.k)) if g != h)
        toward = np.sum(others @ seen * heads.k[h].conj(), axis=1)
        turns[h] = toward / abs(toward)
        others = sum(rotations[g] @ heads.v[g] for g in range(len(heads.v)) if g != h)
        u, _, w = np.linalg.svd(others @ attended @ heads.v[h].T)
        rotations[h] = u @ w
    key, value = (turns[:, :, None] * heads.k).mean(0), (rotations @ heads.v).mean(0)
    return turns.conj()[:, :, None] * key, rotations.swapaxes(1, 2) @ value


def root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(values) @ vectors.T


def pca_heads(heads, seen, attended):
    keys = np.empty_like(heads.k)
    for plane in range(keys.shape[1]):
        q, z = heads.q[:, :, plane], heads.k[:, plane]
        w = np.sum(q @ seen * q.conj(), axis=(1, 2)).real
        weighted = np.sqrt(w)[:, None] * z
        u = np.linalg.eigh(weighted @ seen @ weighted.conj().T)[1][:, -1]
        keys[:, plane] = np.outer(u / np.sqrt(w), u.conj() @ weighted)
    roots = [root(sum(o.T @ o for o in of_head)) for of_head in heads.o]
    stacked = np.concatenate([matrix @ v for matrix, v in zip(roots, heads.v)])
    u = np.linalg.eigh(stacked @ attended @ stacked.T)[1][:, -HEAD_DIM:]
    maps = [np.linalg.solve(matrix, rows) for matrix, rows in zip(roots, np.split(u, len(roots)))]
    return keys, np.stack([matrix @ u.T @ stacked for matrix in maps])


METHODS = {"mean": mean_heads, "first": first_heads, "align": align_heads, "pca": pca_heads}
NO_TEXT = (np.eye(D_MODEL), np.eye(D_MODEL))


def heads_of(folder, layer):
    """The heads of a layer in a model folder."""
    weights = weights_of(folder)

    def by_head(name):
        weight = weights[f"model.layers.{layer}.self_attn.{name}_proj.weight"].astype(np.float64)
        return (weight.T if name == "o" else weight).reshape(-1, HEAD_DIM, D_MODEL)

    def planes(heads):
        return heads[:, : HEAD_DIM // 2] + 1j * heads[:, HEAD_DIM // 2 :]

    k, v, q, o = planes(by_head("k")), by_head("v"), planes(by_head("q")), by_head("o").swapaxes(1, 2)
    return Heads(q.reshape(len(k), -1, *q.shape[1:]), k, v, o.reshape(len(k), -1, *o.shape[1:]))


@dataclass
class Forms:
    """What does not depend on the choice of basis, by query head: scores, conj(q)ᵀ k, [n_head, planes, d, d], and
    outputs, O V, [n_head, d, d]."""

    scores: np.ndarray
    outputs: np.ndarray

    def __sub__(self, other):
        return Forms(self.scores - other.scores, self.outputs - other.outputs)

    def energy(self, seen, attended):
        """Expected squares, added over query heads."""
        left, right = np.linalg.cholesky(seen), np.linalg.cholesky(attended)
        return np.array([np.sum(abs(left.T @ self.scores @ left) ** 2), np.sum((self.outputs @ right) ** 2)])


def forms(heads, keys=None, values=None):
    """The forms of the query heads with these keys and values; by default those of the heads."""
    keys, values = heads.k if keys is None else keys, heads.v if values is None else values
    scores = np.einsum("nspd,npe->nspde", heads.q.conj(), keys)
    outputs = np.einsum("nsdi,nie->nsde", heads.o, values)
    return Forms(scores.reshape(-1, *scores.shape[2:]), outputs.reshape(-1, *outputs.shape[2:]))


def expected_forms(heads, groups, method, moments=NO_TEXT):
    """The forms that the groups' query heads, in this order, must have after conversion."""
    pooled = [METHODS[method](heads[group], *moments) for group in groups]
    keys, values = (np.concatenate(parts) for parts in zip(*pooled))
    return forms(heads[np.concatenate(groups)], keys, values)


def distance(found, expected):
    """The largest relative error of any form."""
    def worst(x, y):
        return (np.linalg.norm(x - y, axis=(-2, -1)) / np.linalg.norm(y, axis=(-2, -1))).max()
    return max(worst(found.scores, expected.scores), worst(found.outputs, expected.outputs))


def assert_heads_see(folder, layer, expected):
    error = distance(forms(heads_of(folder, layer)), expected)
    assert error <= TOLERANCE


def neighbours(n_kv_head, n_groups):
    return np.arange(n_kv_head).reshape(n_groups, -1).tolist()


def heads_per_layer(n):
    counts = [int(count) for count in n.split(",")]
    return counts if len(counts) == N_LAYER else counts * N_LAYER
