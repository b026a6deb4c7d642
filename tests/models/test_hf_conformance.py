"""Random Llamas saved by transformers give the same logits here, and folders written here there."""

import json
import os
import subprocess

import numpy as np
import pytest
import torch
from hf_models import ONE_THREAD, load_there, logits_here, logits_there, random_llama

REGROUP = os.environ["REGROUP_BINARY"]
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}

SHAPES = {
    "mha": dict(num_key_value_heads=6),
    "gqa of half the heads": dict(num_key_value_heads=3),
    "mqa": dict(num_key_value_heads=1),
    "wide heads": dict(num_key_value_heads=2, head_dim=32),
    "narrow heads": dict(num_key_value_heads=3, head_dim=6),
    "tied": dict(num_key_value_heads=3, tie_word_embeddings=True),
    "one layer, one head": dict(num_hidden_layers=1, num_attention_heads=1,
                                num_key_value_heads=1),
    "large theta": dict(num_key_value_heads=3, rope_theta=500000.0),
    "large epsilon": dict(num_key_value_heads=3, rms_norm_eps=0.5),
    "linear scaling": dict(num_key_value_heads=3, scaling={"rope_type": "linear", "factor": 2.5}),
    "llama3 scaling": dict(num_key_value_heads=3, scaling=LLAMA3),
}


def convert(source, target, *options):
    command = [REGROUP, "convert", "--from", str(source), "--to", str(target), *options]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=ONE_THREAD)
    assert result.returncode == 0, result.stderr


def as_transformers_4_wrote_it(folder):
    """Turns config.json into the older dialect."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_of_a_model_saved_by_transformers_are_equal(shape, tmp_path):
    model = random_llama(**SHAPES[shape])
    model.save_pretrained(tmp_path)
    expected = logits_there(model)
    assert expected.std() > 0.3
    assert np.abs(logits_here(tmp_path) - expected).max() <= 1e-4


@pytest.mark.parametrize("shape", ["gqa of half the heads", "tied", "llama3 scaling"])
def test_the_older_dialect_gives_the_same_logits(shape, tmp_path):
    model = random_llama(**SHAPES[shape])
    model.save_pretrained(tmp_path)
    as_transformers_4_wrote_it(tmp_path)
    assert np.abs(logits_here(tmp_path) - logits_there(model)).max() <= 1e-4


@pytest.mark.parametrize("field, value", [("rope_theta", 690.0), ("rms_norm_eps", 1e-2)])
def test_the_comparison_notices_a_wrong_config(field, value, tmp_path):
    model = random_llama(num_key_value_heads=3)
    model.save_pretrained(tmp_path)
    as_transformers_4_wrote_it(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    assert np.abs(logits_here(tmp_path) - logits_there(model)).max() > 1e-3


@pytest.mark.parametrize("shape", ["mha", "gqa of half the heads", "mqa", "tied"])
def test_logits_in_bf16_are_as_close_to_fp32_as_those_of_transformers(shape, tmp_path):
    model = random_llama(**SHAPES[shape], dtype=torch.bfloat16)
    model.save_pretrained(tmp_path)
    exact = logits_there(load_there(tmp_path))
    assert np.abs(logits_here(tmp_path, "fp32") - exact).max() <= 1e-4
    error_there = np.abs(logits_there(load_there(tmp_path, torch.bfloat16)) - exact)
    error_here = np.abs(logits_here(tmp_path, "bf16") - exact)
    assert error_here.mean() <= 1.5 * error_there.mean()
    assert error_here.max() <= 2 * error_there.max()


def test_shards_are_read_like_a_single_file(tmp_path):
    model = random_llama(num_key_value_heads=3)
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert np.abs(logits_here(tmp_path) - logits_there(model)).max() <= 1e-4


@pytest.mark.parametrize("shape, dtype", [*((shape, torch.float32) for shape in SHAPES),
                                          ("gqa of half the heads", torch.bfloat16),
                                          ("tied", torch.bfloat16)])
def test_a_folder_written_here_is_the_same_model_to_transformers(shape, dtype, tmp_path):
    model = random_llama(**SHAPES[shape], dtype=dtype)
    model.save_pretrained(tmp_path / "theirs")
    n_kv_head = str(model.config.num_key_value_heads)
    convert(tmp_path / "theirs", tmp_path / "ours", "--kv-heads", n_kv_head)
    loaded = load_there(tmp_path / "ours", dtype)
    assert loaded.config.rope_parameters == model.config.rope_parameters
    for name, parameter in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], parameter), name
    theirs = load_there(tmp_path / "theirs", dtype)
    assert np.array_equal(logits_there(loaded), logits_there(theirs))


@pytest.mark.parametrize("n_kv_head", [1, 2, 3])
@pytest.mark.parametrize("shape", ["mha", "tied", "llama3 scaling"])
def test_a_converted_folder_gives_equal_logits_in_transformers(shape, n_kv_head, tmp_path):
    model = random_llama(**{**SHAPES[shape], "num_key_value_heads": 6})
    model.save_pretrained(tmp_path / "mha")
    convert(tmp_path / "mha", tmp_path / "gqa", "--kv-heads", str(n_kv_head))
    loaded = load_there(tmp_path / "gqa")
    assert loaded.config.num_key_value_heads == n_kv_head
    name = "model.layers.1.self_attn.v_proj.weight"
    heads = model.state_dict()[name].view(n_kv_head, 6 // n_kv_head, 10, 60)
    assert torch.allclose(loaded.state_dict()[name], heads.mean(1).flatten(0, 1), atol=1e-6)
    assert np.abs(logits_here(tmp_path / "gqa") - logits_there(loaded)).max() <= 1e-4


def test_a_model_whose_heads_in_a_group_are_equal_converts_without_a_change(tmp_path):
    model = random_llama(num_key_value_heads=6)
    for layer in model.model.layers:
        for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj):
            heads = projection.weight.data.view(2, 3, 10, 60)
            heads.copy_(heads[:, :1].clone().expand_as(heads))
    model.save_pretrained(tmp_path / "mha")
    convert(tmp_path / "mha", tmp_path / "gqa", "--kv-heads", "2")
    assert np.abs(logits_here(tmp_path / "gqa") - logits_there(model)).max() <= 1e-4
