"""A model with NaN, or one that overflows, ends in an error that names the tensor or the layer."""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_runs import assert_refused, make_workplace, regroup, uptrain, write_tokens

TENSOR = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def workplace(tmp_path, trained):
    """tokens.h5, run.ini, a sound model in sound/ and one to be damaged in model/."""
    make_workplace(tmp_path)
    for name in ("sound", "model"):
        shutil.copytree(trained / "run/final", tmp_path / name)
    return tmp_path


def damage(workplace, name, change):
    path = workplace / "model/model.safetensors"
    tensors = load_file(path)
    change(tensors[name])
    save_file(tensors, path, metadata={"format": "pt"})


def set_nan(values):
    values.flat[7] = np.nan


def set_infinity(values):
    values.flat[7] = np.inf


def enlarge(values):
    values *= 1e25


def generate(*words):
    return ["generate", "--model", "model", "--tokens", "1,2,3", "--max-new-tokens", "3", *words]


EVAL = ["eval", "--data", "tokens.h5", "--json", "out.json", "--model"]
USES = {"greedy": generate(), "sampling": generate("--temperature", "1"), "top-p": generate(
            "--temperature", "1", "--top-p", "0.9"),
        "score": ["score", "--model", "model", "--data", "tokens.h5", "--out", "scores.h5"],
        "eval": [*EVAL, "model"], "reference": [*EVAL, "sound", "--reference", "model"],
        "compared": [*EVAL, "model", "--reference", "sound"]}


@pytest.mark.parametrize("spoil", [set_nan, set_infinity])
@pytest.mark.parametrize("use", USES)
def test_a_nonfinite_weight_is_named(workplace, use, spoil):
    damage(workplace, TENSOR, spoil)
    assert_refused(regroup(*USES[use], cwd=workplace), 1, "model", TENSOR, "not finite")
    assert not (workplace / "out.json").exists() and not (workplace / "scores.h5").exists()


def test_a_layer_that_overflows_is_named(workplace):
    damage(workplace, TENSOR, enlarge)
    damage(workplace, TENSOR.replace("up_proj", "down_proj"), enlarge)
    for use in ("greedy", "sampling", "score", "eval"):
        assert_refused(regroup(*USES[use], cwd=workplace), 1, "model", "layer 1", "exceeds the range of fp32")


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", TENSOR,
                                  "model.norm.weight"])
def test_calibration_names_a_nonfinite_weight(workplace, name):
    write_tokens(workplace / "tokens.h5", n_train=200)
    damage(workplace, name, set_nan)
    result = regroup("convert", "--from", "model", "--to", "converted", "--kv-heads", "2", "--method", "pca",
                     "--calibration", "tokens.h5", "--verify", cwd=workplace)
    assert_refused(result, 1, "model", name, "not finite")
    assert not (workplace / "converted").exists()


@pytest.mark.parametrize("words", [["convert", "--from", "model", "--to", "made", "--kv-heads", "2"],
                                   ["export", "--model", "model", "--to", "made"]])
def test_a_nonfinite_weight_is_not_copied(workplace, words):
    damage(workplace, TENSOR, set_nan)
    assert_refused(regroup(*words, cwd=workplace), 1, "model", TENSOR, "not finite")
    assert not (workplace / "made").exists()


def test_training_names_a_nonfinite_weight(workplace):
    damage(workplace, TENSOR, set_nan)
    result = uptrain(workplace, "up", convert__from="model", convert__n_kv_head=2, uptrain__alpha=1,
                     uptrain__original_steps=20)
    assert_refused(result, 1, TENSOR, "not finite")
