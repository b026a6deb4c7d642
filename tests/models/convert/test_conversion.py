"""Conversion from end to end: written models against plain NumPy methods and against transformers."""

import json
import re
from dataclasses import dataclass
from itertools import product

import numpy as np
import pytest
import torch
from hf_models import load_there, logits_here, logits_there
from plain_methods import (
    METHODS,
    NO_TEXT,
    TOLERANCE,
    assert_heads_see,
    distance,
    expected_forms,
    forms,
    heads_of,
    heads_per_layer,
    neighbours,
)
from small_models import (
    CONTEXT,
    D_MODEL,
    HEAD_DIM,
    LEAST_TOKENS,
    N_HEAD,
    N_LAYER,
    convert,
    convert_json,
    kv_heads_of,
    make_every_second_alike,
    random_windows,
    small_llama,
    weights_of,
    write_windows,
)
from tiny_runs import assert_done, regroup, weights_bytes
from transformers import LlamaForCausalLM

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
def test_the_comparison_distinguishes_the_methods(shared, source):
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
    assert abs(likeness).max() < 0.4  # drawn heads are unrelated to each other and to the original ones


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
    """The layer's errors of scores and of outputs, added."""
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


# With text. All windows of a file are equal, so it does not matter which of them the program holds out.

@dataclass
class Inputs:
    """The inputs of a layer's attention in transformers."""

    stream: np.ndarray  # [windows, T, d]
    x: np.ndarray  # the normed stream, [windows, T, d]
    weights: np.ndarray  # attention weights, [windows, n_head, T, T]


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


# transformers loads what is written as the same model

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
    for option, default in (("grouping", "neighbours"), ("refit", "none")):
        assert config["regroup"][option] == dict(zip(PLANS[plan], PLANS[plan][1:])).get(f"--{option}", default)
    if "--kv-budget" in PLANS[plan]:
        n_kv_head = config["regroup"]["n_kv_head"]
        assert sum(n_kv_head) <= 6 and len(set(n_kv_head)) == 2  # three quarters of 8 heads: 2 and 4, or fewer
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


# What the verb prints

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
    """What a layer's attention adds to the stream."""
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
        converted.model.layers[layer] = original.model.layers[layer]  # later layers see the original's stream

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
