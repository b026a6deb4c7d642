"""Conversion from end to end: written models against plain NumPy methods and against transformers, what the verb
`convert` says, and uptraining from what it makes."""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from test_hf_conformance import ONE_THREAD, TOKENS, load_there, logits_here, logits_there, random_llama
from transformers import LlamaForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from tiny_runs import (REGROUP, assert_done, assert_refused, everything_in, losses, make_workplace, pretrain, regroup,
                       uptrain, weights_bytes, words_of, write_split, write_tokens)

D_MODEL, N_HEAD, HEAD_DIM, N_LAYER = 24, 4, 10, 2
VOCAB_SIZE, CONTEXT = 97, 64  # of random_llama
LEAST_TOKENS = 2 * CONTEXT  # for calibration of this model
TOLERANCE = 1e-4  # relative


def small_llama(n_kv_head=N_HEAD):
    return random_llama(hidden_size=D_MODEL, intermediate_size=40, num_hidden_layers=N_LAYER,
                        num_attention_heads=N_HEAD, num_key_value_heads=n_kv_head, head_dim=HEAD_DIM)


def kv_heads_of(model):
    """The weights of every key and value projection, by head, to be changed in place."""
    for layer in model.model.layers:
        for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj):
            yield projection.weight.data.view(-1, HEAD_DIM, D_MODEL)


def make_every_second_alike(model, noise):
    """K/V heads 2 and 3 become 0 and 1 again, disturbed."""
    for heads in kv_heads_of(model):
        heads[2:] = heads[:2] + noise * heads[2:]
    return model


def write_text(path, tokens, split="train"):
    """A token file of one document."""
    with h5py.File(path, "w") as file:
        file.attrs.update(vocab_size=VOCAB_SIZE, eos_id=0, tokenizer="", source="a test", format_version=1)
        write_split(file, split, [tokens])


def random_windows(n):
    return np.random.default_rng(5).integers(VOCAB_SIZE, size=(n, CONTEXT))


def write_windows(path, windows):
    """Text that is cut into exactly these windows, and the target of the last token."""
    write_text(path, np.append(windows.flatten(), windows[0, 0]))


def convert(source, to, *words, **options):
    return assert_done(regroup("convert", "--from", source, "--to", to, *words, env=ONE_THREAD, **options))


def convert_json(source, to, *words):
    file = to.with_name(to.name + ".json")
    convert(source, to, "--json", file, *words)
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Originals by name, and text.h5; no test changes them."""
    folder = tmp_path_factory.mktemp("conversion")
    small_llama().save_pretrained(folder / "mha")
    small_llama(n_kv_head=2).save_pretrained(folder / "gqa")
    make_every_second_alike(small_llama(), noise=0.2).save_pretrained(folder / "alike")
    write_tokens(folder / "text.h5")
    return folder


# Methods, written plainly from the equations in models/convert/methods.h. Each takes the group's K/V heads and the
# moments of inputs, and gives what stands in the place of every one of these heads: keys, [n, planes, d] complex, and
# values, [n, HEAD_DIM, d].

@dataclass
class Heads:
    """Of a layer or a group, the planes that RoPE turns as complex rows: n K/V heads and s query heads to each."""

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
    """Generalised Procrustes: every head in turn is turned towards the sum of the others."""
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


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def heads_of(folder, layer):
    """The heads of a layer as they stand in a folder."""
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
    """All that depends on a choice of basis is gone: scores, conj(q)ᵀ k, [n_head, planes, d, d], and outputs, O V,
    [n_head, d, d], by query head."""

    scores: np.ndarray
    outputs: np.ndarray

    def __sub__(self, other):
        return Forms(self.scores - other.scores, self.outputs - other.outputs)

    def energy(self, seen, attended):
        """Expected squares, added over query heads."""
        left, right = np.linalg.cholesky(seen), np.linalg.cholesky(attended)
        return np.array([np.sum(abs(left.T @ self.scores @ left) ** 2), np.sum((self.outputs @ right) ** 2)])


def forms(heads, keys=None, values=None):
    """What query heads see, of the heads' own keys and values or of these."""
    keys, values = heads.k if keys is None else keys, heads.v if values is None else values
    scores = np.einsum("nspd,npe->nspde", heads.q.conj(), keys)
    outputs = np.einsum("nsdi,nie->nsde", heads.o, values)
    return Forms(scores.reshape(-1, *scores.shape[2:]), outputs.reshape(-1, *outputs.shape[2:]))


def expected_forms(heads, groups, method, moments=NO_TEXT):
    """What the query heads of the groups, in this order, are to see after conversion."""
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


KEPT = [*product(["mha"], ["1", "2", "2,1", "1,4", "4,2"]), *product(["gqa"], ["1", "2", "2,1", "1,2"])]


@pytest.mark.parametrize("source, n", KEPT, ids=lambda value: value)
@pytest.mark.parametrize("method", METHODS)
def test_a_conversion_agrees_with_a_plain_version_of_its_method(shared, tmp_path, method, source, n):
    convert(shared / source, tmp_path / "out", "--kv-heads", n, "--method", method)
    for layer, n_kv_head in enumerate(heads_per_layer(n)):
        heads = heads_of(shared / source, layer)
        assert len(heads_of(tmp_path / "out", layer).k) == n_kv_head
        assert_heads_see(tmp_path / "out", layer, expected_forms(heads, neighbours(len(heads.k), n_kv_head), method))


@pytest.mark.parametrize("source", ["mha", "gqa"])
def test_the_comparison_tells_the_methods_apart(shared, source):
    heads = heads_of(shared / source, 0)
    found = {method: expected_forms(heads, neighbours(len(heads.k), 1), method) for method in METHODS}
    for one, other in product(METHODS, METHODS):
        assert one == other or distance(found[one], found[other]) > 100 * TOLERANCE


@pytest.mark.parametrize("method, of_group", [("mean", lambda heads: heads.mean(1)),
                                              ("first", lambda heads: heads[:, 0])])
def test_the_simple_methods_leave_queries_and_outputs_alone(shared, tmp_path, method, of_group):
    convert(shared / "mha", tmp_path / "out", "--kv-heads", 2, "--method", method)
    before, after = weights_of(shared / "mha"), weights_of(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, values in before.items():
        if "k_proj" in name or "v_proj" in name:
            heads = values.astype(np.float64).reshape(2, 2, HEAD_DIM, D_MODEL)
            np.testing.assert_allclose(after[name], of_group(heads).reshape(-1, D_MODEL), rtol=1e-6, atol=1e-7)
        else:
            np.testing.assert_array_equal(after[name], values, err_msg=name)


@pytest.mark.parametrize("method", ["align", "pca"])
def test_only_attention_and_only_pooled_layers_change(shared, tmp_path, method):
    convert(shared / "mha", tmp_path / "out", "--kv-heads", "4,2", "--method", method)
    before, after = weights_of(shared / "mha"), weights_of(tmp_path / "out")
    changed = {name for name, values in before.items() if not np.array_equal(after[name], values)}
    assert changed == {f"model.layers.1.self_attn.{name}_proj.weight" for name in "qkvo"}


# random

@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """An original whose K/V heads 2 and 3 are three times the size of 0 and 1."""
    model = small_llama()
    for heads in kv_heads_of(model):
        heads[2:] *= 3
    folder = tmp_path_factory.mktemp("uneven")
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("n_kv_head", [2, 4])
def test_random_heads_are_drawn_anew_at_the_scale_of_their_group(uneven, tmp_path, n_kv_head):
    convert(uneven, tmp_path / "out", "--kv-heads", n_kv_head, "--method", "random")
    before, after = weights_of(uneven), weights_of(tmp_path / "out")
    drawn = []
    for name, values in before.items():
        if "k_proj" not in name and "v_proj" not in name:
            np.testing.assert_array_equal(after[name], values, err_msg=name)
            continue
        for group, head in zip(values.reshape(n_kv_head, -1), after[name].reshape(n_kv_head, -1)):
            assert head.std() == pytest.approx(group.std(), rel=0.2)
            assert abs(head.mean()) < 0.25 * group.std()
            drawn.append(head / head.std())
            drawn += [part / part.std() for part in np.split(group, N_HEAD // n_kv_head)]
    likeness = np.corrcoef(drawn) - np.eye(len(drawn))
    assert abs(likeness).max() < 0.4  # all heads drawn, and all before, have nothing to do with each other


def test_random_heads_depend_on_the_seed_alone(shared, tmp_path):
    words = ("--kv-heads", "2", "--method", "random")
    for name, more in {"a": (), "b": ("--seed", "0"), "c": ("--seed", "1")}.items():
        convert(shared / "mha", tmp_path / name, *words, *more)
    assert weights_bytes(tmp_path / "a") == weights_bytes(tmp_path / "b")
    a, c = weights_of(tmp_path / "a"), weights_of(tmp_path / "c")
    for layer, projection in product(range(N_LAYER), "kv"):
        name = f"model.layers.{layer}.self_attn.{projection}_proj.weight"
        assert abs(np.corrcoef(a[name].flatten(), c[name].flatten())[0, 1]) < 0.3


# Grouping and budget, from the weights alone

PAIRINGS = [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[0, 3], [1, 2]]]


def share_lost(heads, groups, method, moments=NO_TEXT):
    """Of a layer's scores and of its outputs, added."""
    before = forms(heads[np.concatenate(groups)])
    lost = (expected_forms(heads, groups, method, moments) - before).energy(*moments)
    return np.sum(lost / before.energy(*moments))


@pytest.mark.parametrize("source", ["mha", "alike"])
@pytest.mark.parametrize("method", METHODS)
def test_similar_heads_are_those_that_lose_least_together(shared, tmp_path, method, source):
    report = convert_json(shared / source, tmp_path / "out", "--kv-heads", 2, "--method", method, "--grouping",
                          "similar")
    for layer in range(N_LAYER):
        heads = heads_of(shared / source, layer)
        best = min(PAIRINGS, key=lambda groups: share_lost(heads, groups, method))
        assert report["layers"][layer]["groups"] == best
        assert source != "alike" or best == [[0, 2], [1, 3]]
        assert_heads_see(tmp_path / "out", layer, expected_forms(heads, best, method))


@pytest.mark.parametrize("method", METHODS)
def test_equal_heads_that_stand_apart_pool_without_a_change(tmp_path, method):
    model = make_every_second_alike(small_llama(), noise=0)
    model.save_pretrained(tmp_path / "original")
    for grouping in ("similar", "neighbours"):
        convert(tmp_path / "original", tmp_path / grouping, "--kv-heads", 2, "--method", method, "--grouping", grouping)
    expected = logits_there(model)
    assert np.abs(logits_here(tmp_path / "similar") - expected).max() <= 1e-4
    assert np.abs(logits_here(tmp_path / "neighbours") - expected).max() > 1e-2


@pytest.mark.parametrize("budget, n_kept", [("0.25", 2), ("0.5", 4), ("0.625", 5), ("0.9", 7), ("1", 8)])
def test_a_budget_goes_where_it_is_worth_most(tmp_path, budget, n_kept):
    model = small_llama()
    for heads in list(kv_heads_of(model))[2:]:  # of layer 1
        heads[1:] = heads[:1] + 0.05 * heads[1:]
    model.save_pretrained(tmp_path / "original")
    choices = (1, 2, 4)
    lost = [{n: share_lost(heads_of(tmp_path / "original", layer), neighbours(N_HEAD, n), "pca") for n in choices}
            for layer in range(N_LAYER)]
    allowed = [pair for pair in product(choices, choices) if sum(pair) <= n_kept]
    best = min(allowed, key=lambda pair: lost[0][pair[0]] + lost[1][pair[1]])
    report = convert_json(tmp_path / "original", tmp_path / "out", "--kv-budget", budget, "--method", "pca")
    assert report["n_kv_head"]["after"] == list(best)
    assert budget != "0.625" or best == (4, 1)


# With text. Which windows of a file are held out is the program's own affair: where all are equal, it does not matter.

@dataclass
class Inputs:
    """Of a layer's attention, as transformers sees them."""

    stream: np.ndarray  # [windows, T, d]
    x: np.ndarray  # the same, normed
    weights: np.ndarray  # of attention: [windows, n_head, T, T]


def inputs_of(folder, windows, layer):
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    with torch.no_grad():
        result = model(torch.from_numpy(windows), output_hidden_states=True, output_attentions=True)
        stream = result.hidden_states[layer]
        x = model.model.layers[layer].input_layernorm(stream)
    return Inputs(stream.numpy(), x.numpy(), result.attentions[layer].double().numpy())


def input_moments(folder, windows, layer):
    inputs = inputs_of(folder, windows, layer)
    attended = inputs.weights @ inputs.x[:, None]  # [windows, n_head, T, d]
    attended /= np.linalg.norm(inputs.stream, axis=-1)[:, None, :, None]
    return tuple(rows.T @ rows for rows in (inputs.x.reshape(-1, D_MODEL), attended.reshape(-1, D_MODEL)))


@pytest.fixture(scope="module")
def repeated(tmp_path_factory):
    """A file of four equal windows, and the window: [1, CONTEXT]."""
    window = random_windows(1)
    file = tmp_path_factory.mktemp("repeated") / "text.h5"
    write_windows(file, np.repeat(window, 4, axis=0))
    return file, window


@pytest.mark.parametrize("source, n", [("mha", "1"), ("mha", "2"), ("mha", "1,2"), ("gqa", "1")])
@pytest.mark.parametrize("method", ["align", "pca"])
def test_calibration_weighs_inputs_as_transformers_sees_them(shared, repeated, tmp_path, method, source, n):
    file, window = repeated
    report = convert_json(shared / source, tmp_path / "out", "--kv-heads", n, "--method", method, "--calibration", file)
    assert report["calibration_tokens"] == 4 * CONTEXT
    for layer, n_kv_head in enumerate(heads_per_layer(n)):
        heads = heads_of(shared / source, layer)
        groups = neighbours(len(heads.k), n_kv_head)
        seen, attended = input_moments(shared / source, window, layer)
        expected = expected_forms(heads, groups, method, (seen, attended))
        for wrong in (NO_TEXT, (seen, seen), (attended, attended)):
            assert distance(expected_forms(heads, groups, method, wrong), expected) > 10 * TOLERANCE
        assert_heads_see(tmp_path / "out", layer, expected)


@pytest.mark.parametrize("method", METHODS)
def test_similar_heads_under_calibration_lose_least_on_its_inputs(shared, repeated, tmp_path, method):
    file, window = repeated
    report = convert_json(shared / "mha", tmp_path / "out", "--kv-heads", 2, "--method", method, "--grouping",
                          "similar", "--calibration", file)
    for layer in range(N_LAYER):
        heads, moments = heads_of(shared / "mha", layer), input_moments(shared / "mha", window, layer)
        best = min(PAIRINGS, key=lambda groups: share_lost(heads, groups, method, moments))
        assert report["layers"][layer]["groups"] == best
        assert_heads_see(tmp_path / "out", layer, expected_forms(heads, best, method, moments))


def test_an_eighth_of_the_windows_is_held_out_of_the_moments(shared, tmp_path):
    windows = random_windows(8)
    write_windows(tmp_path / "text.h5", windows)
    convert(shared / "mha", tmp_path / "out", "--kv-heads", 1, "--method", "pca", "--calibration", tmp_path / "text.h5")
    held_out = []
    for layer in range(N_LAYER):
        heads, found = heads_of(shared / "mha", layer), forms(heads_of(tmp_path / "out", layer))
        without = [input_moments(shared / "mha", np.delete(windows, i, axis=0), layer) for i in range(8)]
        distances = [distance(found, expected_forms(heads, [[0, 1, 2, 3]], "pca", moments)) for moments in without]
        held_out.append(int(np.argmin(distances)))
        distances.sort()
        assert distances[0] <= TOLERANCE < distances[1]
    assert held_out[0] == held_out[1]


def test_calibration_tokens_say_how_many_windows_are_looked_at(shared, tmp_path):
    write_windows(tmp_path / "text.h5", random_windows(6))
    words = ("--kv-heads", "1", "--method", "pca", "--calibration", tmp_path / "text.h5")
    for n_given, n_used in ((LEAST_TOKENS, 2), (LEAST_TOKENS + CONTEXT - 1, 2), (5 * CONTEXT, 5)):
        report = convert_json(shared / "mha", tmp_path / f"of_{n_given}", *words, "--calibration-tokens", n_given)
        assert report["calibration_tokens"] == n_used * CONTEXT
    assert convert_json(shared / "mha", tmp_path / "of_all", *words)["calibration_tokens"] == 6 * CONTEXT


# What is written is the same model to transformers

PLANS = {
    "plain": ("--kv-heads", "2"),
    "calibrated": ("--kv-heads", "2", "--calibration", "text.h5"),
    "similar": ("--kv-heads", "2", "--grouping", "similar"),
    "refit output": ("--kv-heads", "2", "--calibration", "text.h5", "--refit", "output"),
    "refit block": ("--kv-heads", "1", "--calibration", "text.h5", "--refit", "block"),
    "budget": ("--kv-budget", "0.75"),
    "all": ("--kv-budget", "0.75", "--calibration", "text.h5", "--refit", "block", "--grouping", "similar", "--verify"),
}


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("method", [*METHODS, "random"])
def test_a_converted_model_has_equal_logits_in_transformers(shared, tmp_path, method, plan):
    convert(shared / "alike", tmp_path / "out", "--method", method, *PLANS[plan], cwd=shared)
    found, folder = logits_here(tmp_path / "out"), tmp_path / "out"
    config = json.loads((folder / "config.json").read_text())
    assert config["regroup"]["method"] == method
    for option, unless_told in (("grouping", "neighbours"), ("refit", "none")):
        assert config["regroup"][option] == dict(zip(PLANS[plan], PLANS[plan][1:])).get(f"--{option}", unless_told)
    if "--kv-budget" in PLANS[plan]:
        n_kv_head = config["regroup"]["n_kv_head"]
        assert sum(n_kv_head) <= 6 and len(set(n_kv_head)) == 2  # three quarters of 8: 2 and 4, or less
        folder = tmp_path / "expanded"
        assert_done(regroup("export", "--model", tmp_path / "out", "--to", folder, "--layout", "expanded"))
        assert np.abs(logits_here(folder) - found).max() <= 1e-4
    else:
        assert config["num_key_value_heads"] == int(PLANS[plan][1])
    assert found.std() > 0.3
    assert np.abs(found - logits_there(load_there(folder))).max() <= 1e-4


def test_a_refit_of_the_output_changes_the_output_projection_alone(shared, tmp_path):
    words = ("--kv-heads", "2", "--method", "pca", "--calibration", shared / "text.h5")
    convert(shared / "mha", tmp_path / "plain", *words)
    convert(shared / "mha", tmp_path / "refit", *words, "--refit", "output")
    before, after = weights_of(tmp_path / "plain"), weights_of(tmp_path / "refit")
    changed = {name for name, values in before.items() if not np.array_equal(after[name], values)}
    assert changed == {f"model.layers.{layer}.self_attn.o_proj.weight" for layer in range(N_LAYER)}


def test_a_refit_of_the_block_changes_all_projections_and_nothing_else(shared, tmp_path):
    words = ("--kv-heads", "2", "--method", "mean", "--calibration", shared / "text.h5")
    convert(shared / "mha", tmp_path / "plain", *words)
    convert(shared / "mha", tmp_path / "refit", *words, "--refit", "block")
    before, after = weights_of(tmp_path / "plain"), weights_of(tmp_path / "refit")
    changed = {name for name, values in before.items() if not np.array_equal(after[name], values)}
    assert changed == {name for name in before if "_proj" in name and "self_attn" in name}


# What the verb says

def kl_and_agreement(log_p, log_q):
    same = log_p.argmax(-1) == log_q.argmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1).mean().item(), same.double().mean().item()


def causal_scores(heads, x, frequencies):
    """Before the softmax, [n_head, T, T]: RoPE turns a plane's form by the distance of the positions."""
    position = np.arange(len(x))
    turns = np.exp(1j * frequencies[:, None, None] * (position - position[:, None]))  # [planes, query, key]
    by_plane = x @ forms(heads).scores @ x.T
    return np.tril((by_plane * turns).real.sum(1))


def outputs_of_attention(model, layer, window):
    """What attention of a layer adds to the stream."""
    written = []
    hook = model.model.layers[layer].self_attn.register_forward_hook(
        lambda module, inputs, result: written.append(result[0]))
    with torch.no_grad():
        model(torch.from_numpy(window))
    hook.remove()
    return written[0]


def test_verification_measures_what_transformers_measures(shared, repeated, tmp_path):
    file, window = repeated
    result = convert(shared / "mha", tmp_path / "out", "--kv-heads", "2", "--method", "pca", "--calibration", file,
                     "--verify", "--json", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    original, converted = load_there(shared / "mha"), load_there(tmp_path / "out")
    targets = torch.from_numpy(np.roll(window, -1))
    with torch.no_grad():
        log_p, log_q = (torch.log_softmax(model(torch.from_numpy(window)).logits.double(), -1)
                        for model in (original, converted))
    kl, agreement = kl_and_agreement(log_p, log_q)
    held_out = report["held_out"]
    for key, log_probabilities in (("before", log_p), ("after", log_q)):
        loss = -log_probabilities.gather(-1, targets[..., None]).mean().item()
        assert held_out["loss"][key] == pytest.approx(loss, abs=1e-5)
    assert held_out["loss"]["before"] != pytest.approx(held_out["loss"]["after"], abs=1e-3)
    assert held_out["kl"] == pytest.approx(kl, rel=1e-3)
    assert held_out["agreement"] == pytest.approx(agreement, abs=1.5 / CONTEXT)

    for layer in range(N_LAYER):
        expected = outputs_of_attention(original, layer, window)
        found = outputs_of_attention(converted, layer, window)
        error = ((found - expected).norm() / expected.norm()).item()
        assert report["layers"][layer]["output_error"] == pytest.approx(error, rel=1e-3)
        converted.model.layers[layer] = original.model.layers[layer]  # the layers after see the original's stream

        x = inputs_of(shared / "mha", window, layer).x[0]
        expected, found = (causal_scores(heads_of(folder, layer), x, original.model.rotary_emb.inv_freq.numpy())
                           for folder in (shared / "mha", tmp_path / "out"))
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert report["layers"][layer]["score_error"] == pytest.approx(error, rel=1e-3)

    header, *lines, summary, last = result.stdout.splitlines()
    for word in ("layer", "K/V heads", "score error", "output error"):
        assert word in header
    assert len(lines) == N_LAYER
    for layer, line in enumerate(lines):
        cells = re.fullmatch(r" *(\d+) +(\d+) +([\d.]+) % +([\d.]+) %  (.*)", line).groups()
        errors = [f"{100 * report['layers'][layer][name]:.1f}" for name in ("score_error", "output_error")]
        assert list(cells) == [str(layer), "2", *errors, "0+1 2+3"]
    numbers = re.fullmatch(r"on held-out calibration text: loss ([\d.]+) -> ([\d.]+), KL ([\d.]+), "
                           r"agreement ([\d.]+) %", summary).groups()
    assert list(numbers) == [f"{held_out['loss']['before']:.4f}", f"{held_out['loss']['after']:.4f}",
                             f"{held_out['kl']:.4f}", f"{100 * held_out['agreement']:.1f}"]
    assert "4 -> 2" in last and str(tmp_path / "out") in last


FIELDS = {"from", "to", "method", "grouping", "refit", "calibration_tokens", "n_kv_head", "parameters",
          "kv_bytes_per_token", "layers", "seconds", "peak_rss_bytes"}


def test_the_account_of_a_conversion_without_text(shared, tmp_path):
    report = convert_json(shared / "mha", tmp_path / "out", "--kv-heads", "2,1")
    assert set(report) == FIELDS
    assert (report["from"], report["to"]) == (str(shared / "mha"), str(tmp_path / "out"))
    assert (report["method"], report["grouping"], report["refit"]) == ("mean", "neighbours", "none")
    assert report["calibration_tokens"] == 0
    assert report["n_kv_head"] == {"before": [4, 4], "after": [2, 1]}
    assert report["kv_bytes_per_token"] == {"before": 2 * 8 * HEAD_DIM * 4, "after": 2 * 3 * HEAD_DIM * 4}
    for when, folder in (("before", shared / "mha"), ("after", tmp_path / "out")):
        assert report["parameters"][when] == sum(values.size for values in weights_of(folder).values())
    assert report["layers"] == [{"groups": [[0, 1], [2, 3]]}, {"groups": [[0, 1, 2, 3]]}]
    assert report["seconds"] > 0 and report["peak_rss_bytes"] > 1e6


@pytest.mark.parametrize("refit", ["none", "output", "block"])
def test_the_account_of_a_verified_refit(shared, tmp_path, refit):
    words = ("--kv-heads", "2", "--method", "align", "--calibration", shared / "text.h5", "--refit", refit)
    report = convert_json(shared / "mha", tmp_path / "out", *words, "--verify")
    assert set(report) == FIELDS | {"held_out"}
    assert report["refit"] == refit
    assert set(report["held_out"]) == {"loss", "kl", "agreement"}
    assert set(report["held_out"]["loss"]) == {"before", "after"}
    for layer in report["layers"]:
        assert set(layer) == {"groups", "score_error", "output_error", "stream_error", "refit_strength"}
        pooled, mended = layer["stream_error"]["pooled"], layer["stream_error"]["refit"]
        assert 0 < mended < 0.9 * pooled if refit != "none" else mended == pooled > 0
        assert layer["refit_strength"] > 0 if refit != "none" else layer["refit_strength"] == 0
    if refit != "none":
        unmended = convert_json(shared / "mha", tmp_path / "unmended", *words[:-1], "none", "--verify")
        assert report["held_out"]["kl"] < unmended["held_out"]["kl"]


@pytest.mark.parametrize("refit", ["output", "block"])
def test_a_conversion_is_deterministic(shared, tmp_path, refit):
    words = ("--kv-budget", "0.75", "--method", "pca", "--calibration", shared / "text.h5", "--grouping", "similar",
             "--refit", refit, "--verify", "--force")
    reports = []
    for _ in range(2):
        report = convert_json(shared / "mha", tmp_path / "out", *words)
        del report["seconds"], report["peak_rss_bytes"]
        reports.append((report, everything_in(tmp_path / "out")))
    assert reports[0] == reports[1]


@pytest.mark.parametrize("words, is_noted", [
    (("--method", "mean"), False), (("--method", "first"), False), (("--method", "random"), False),
    (("--method", "align"), True), (("--method", "pca"), True),
    (("--method", "pca", "--calibration", "text.h5"), False), (("--method", "pca", "--quiet"), False)],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_methods_that_would_gain_from_text_say_so_once(shared, tmp_path, words, is_noted):
    result = convert(shared / "mha", tmp_path / "out", "--kv-heads", "2", *words, cwd=shared)
    notes = [line for line in result.stderr.splitlines() if "calibration" in line or "weights alone" in line]
    assert len(notes) == is_noted
    for note in notes:
        assert words[1] in note and "--calibration" in note and "weights alone" in note
    assert len(result.stdout.splitlines()) == 1


KEEP_2 = ("--kv-heads", "2")
REFUSED = {  # words, exit code, parts of the message
    "refit without text": ((*KEEP_2, "--refit", "output"), 2, ("refit", "--calibration")),
    "verify without text": ((*KEEP_2, "--verify"), 2, ("verify", "--calibration")),
    "heads and budget": ((*KEEP_2, "--kv-budget", "0.5"), 2, ("kv_budget", "exactly one")),
    "neither heads nor budget": ((), 2, ("kv_budget", "exactly one")),
    "a budget below one head a layer": (("--kv-budget", "0.2"), 2, ("0.2", "2 layers", "0.25")),
    "a budget above all": (("--kv-budget", "1.5"), 2, ("--kv-budget=1.5", "0 to 1")),
    "heads that do not divide": (("--kv-heads", "3"), 2, ("3", "4")),
    "an unknown grouping": ((*KEEP_2, "--grouping", "alike"), 2, ("alike", "similar")),
    "too few tokens asked for": ((*KEEP_2, "--calibration", "text.h5", "--calibration-tokens", "127"), 2,
                                 ("127", LEAST_TOKENS)),
    "more tokens asked for than there are": (
        (*KEEP_2, "--calibration", "text.h5", "--calibration-tokens", "1000000"), 1, ("text.h5", "1000000", "tokens")),
    "text of less than two windows": ((*KEEP_2, "--calibration", "short.h5"), 2, ("short.h5", LEAST_TOKENS)),
    "text of less than a window": ((*KEEP_2, "--calibration", "tiny.h5"), 2, ("tiny.h5", LEAST_TOKENS)),
    "text of another vocabulary": ((*KEEP_2, "--calibration", "wide.h5"), 1, ("wide.h5", "200", VOCAB_SIZE)),
    "ids beyond the vocabulary": ((*KEEP_2, "--calibration", "beyond.h5"), 1, ("beyond.h5", VOCAB_SIZE)),
    "text that is not there": ((*KEEP_2, "--calibration", "absent.h5"), 1, ("absent.h5",)),
    "text that is no token file": ((*KEEP_2, "--calibration", "notes.txt"), 1, ("notes.txt", "HDF5")),
    "text without a training split": ((*KEEP_2, "--calibration", "val.h5"), 1, ("val.h5", "train")),
}


@pytest.fixture(scope="module")
def texts(shared, tmp_path_factory):
    """The folder of the token files that REFUSED names."""
    folder = tmp_path_factory.mktemp("texts")
    tokens = random_windows(40).flatten()
    write_text(folder / "text.h5", tokens)
    write_text(folder / "short.h5", tokens[: 2 * CONTEXT])
    write_text(folder / "tiny.h5", tokens[: CONTEXT // 2])
    write_text(folder / "beyond.h5", np.append(tokens, VOCAB_SIZE))
    write_text(folder / "val.h5", tokens, split="val")
    write_tokens(folder / "wide.h5", vocab_size=200)
    (folder / "notes.txt").write_text("no tokens")
    return folder


def assert_refused_without_a_trace(folder, source, words, exit_code, parts, cwd):
    """One short block, and a folder for outputs as empty as before."""
    folder.mkdir()
    result = regroup("convert", "--from", source, "--to", folder / "out", "--json", folder / "report.json", *words,
                     "--quiet", cwd=cwd, env=ONE_THREAD)
    assert_refused(result, exit_code, *parts)
    assert result.stderr.startswith("regroup: error: ") and len(result.stderr.splitlines()) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", ["mean", "pca"])
def test_a_request_that_cannot_be_met_is_refused_without_a_trace(shared, texts, tmp_path, method, name):
    words, exit_code, parts = REFUSED[name]
    assert_refused_without_a_trace(tmp_path / "outputs", shared / "mha", (*words, "--method", method), exit_code, parts,
                                   texts)


def test_activations_that_overflow_leave_no_trace(shared, tmp_path):
    model = small_llama()
    for name in ("up_proj", "down_proj"):
        getattr(model.model.layers[0].mlp, name).weight.data.fill_(1e30)
    model.save_pretrained(tmp_path / "original")
    words = (*KEEP_2, "--method", "pca", "--calibration", shared / "text.h5")
    assert_refused_without_a_trace(tmp_path / "outputs", tmp_path / "original", words, 1, ("layer 0", "not finite"),
                                   tmp_path)


# Uptraining: a conversion with all that text gives, then distillation

LONG_STEPS = 150  # enough that a signal after the first steps comes in time
CONVERT = {"convert__from": "mha", "convert__n_kv_head": 2, "convert__method": "pca", "convert__refit": "output",
           "convert__grouping": "similar"}
DISTILL = {"distill__weight": 0.5, "distill__temperature": 2}
SHORT = {**CONVERT, "uptrain__alpha": 0.5}  # of 6 steps
LONG = {**CONVERT, **DISTILL, "uptrain__alpha": LONG_STEPS / 6, "data__val": ""}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """mha, and runs of 3 steps from it with and without distillation; tests add runs of their own."""
    folder = make_workplace(tmp_path_factory.mktemp("uptraining"))
    assert_done(pretrain(folder, "mha"))
    assert_done(uptrain(folder, "plain", **SHORT))
    assert_done(uptrain(folder, "distilled", **SHORT, **DISTILL))
    return folder


def compute_fraction(run):
    rows = json.loads((run / "evaluation.json").read_text())["models"]
    return next(row["compute_fraction"] for row in rows if row["name"] == "uptrained")


def test_distillation_counts_the_teacher_s_work(workplace):
    plain, distilled = (compute_fraction(workplace / run) for run in ("plain", "distilled"))
    # half of the original's steps, each with its forward pass: a third of what training one took
    assert distilled - plain == pytest.approx(0.5 / 3, rel=1e-6)


def test_distillation_trains_another_model_from_the_same_conversion(workplace):
    plain, distilled = workplace / "plain", workplace / "distilled"
    assert weights_bytes(plain / "converted") == weights_bytes(distilled / "converted")
    assert weights_bytes(plain / "final") != weights_bytes(distilled / "final")
    assert [step for step, _ in losses(distilled)] == [1, 2, 3]
    assert np.isfinite([loss for _, loss in losses(distilled)]).all()
    ours = json.loads((distilled / "final/config.json").read_text())["regroup"]
    assert (ours["method"], ours["grouping"], ours["refit"]) == ("pca", "similar", "output")
    assert load_there(distilled / "final").config.num_key_value_heads == 2


def test_a_run_converts_as_the_verb_does_from_its_training_text(workplace, tmp_path):
    convert(workplace / "mha", tmp_path / "out", "--kv-heads", 2, "--method", "pca", "--refit", "output", "--grouping",
            "similar", "--calibration", workplace / "tokens.h5")
    found, expected = weights_of(workplace / "plain/converted"), weights_of(tmp_path / "out")
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name, keys", [
    ("distill.weight", {"distill__weight": 0.25}), ("distill.weight", {"distill__weight": 0}),
    ("distill.temperature", {"distill__temperature": 1}), ("convert", {"convert__refit": "none"}),
    ("convert", {"convert__method": "align"}), ("convert", {"convert__grouping": "neighbours"})],
    ids=lambda value: "".join(f"{key}={number}" for key, number in value.items()) if isinstance(value, dict) else "")
def test_another_distillation_or_conversion_is_refused_on_resuming(workplace, name, keys):
    before = everything_in(workplace / "distilled")
    assert_refused(uptrain(workplace, "distilled", "--resume", **{**SHORT, **DISTILL, **keys}), 2, name)
    assert everything_in(workplace / "distilled") == before


@pytest.fixture(scope="module")
def long_run(workplace):
    assert_done(uptrain(workplace, "long", **LONG))
    return workplace / "long"


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_distillation_resumes_bit_identically(workplace, long_run, signal_number):
    name = f"interrupted_{signal_number.name}"
    run = workplace / name
    process = subprocess.Popen([REGROUP, *words_of("uptrain", name, **LONG)], cwd=workplace, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (run / "checkpoints/latest").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal_number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (130 if signal_number == signal.SIGINT else -signal_number), stderr
    assert losses(run)[-1][0] < LONG_STEPS and not (run / "final").exists()
    assert_done(uptrain(workplace, name, "--resume", **LONG))
    assert losses(run) == losses(long_run)
    assert weights_bytes(run / "final") == weights_bytes(long_run / "final")
    assert (run / "final/config.json").read_text() == (long_run / "final/config.json").read_text()
