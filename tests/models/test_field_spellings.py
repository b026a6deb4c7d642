"""Folders that say a family's model in other words than transformers writes today: names without the base's prefix,
other spellings of the class, early names of a RoPE scaling."""

import json

import numpy as np
import pytest
import torch
from hf_families import FAMILIES, random_model
from hf_models import logits_here, logits_there
from safetensors.torch import load_file, save_file
from tiny_runs import assert_refused, regroup


def change_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize("family", FAMILIES)
def test_files_of_the_class_without_a_head_are_read(family, tmp_path):
    model = random_model(family, next(iter(FAMILIES[family])))
    model.save_pretrained(tmp_path)
    expected = logits_here(tmp_path)
    prefix = model.base_model_prefix + "."
    tensors = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith(prefix) for name in tensors)
    save_file({name.removeprefix(prefix): values for name, values in tensors.items()}, tmp_path / "model.safetensors")
    change_config(tmp_path, architectures=[type(model.base_model).__name__])
    assert np.array_equal(logits_here(tmp_path), expected)


@pytest.mark.parametrize("architectures", [["LLaMAForCausalLM"], [], None, ["MistralForCausalLM"]])
def test_model_type_decides_whatever_the_class_is_called(architectures, tmp_path):
    random_model("llama", "gelu").save_pretrained(tmp_path)
    expected = logits_here(tmp_path)
    change_config(tmp_path, architectures=architectures)
    assert np.array_equal(logits_here(tmp_path), expected)


def test_a_class_for_another_task_is_refused(tmp_path):
    random_model("llama", "gelu").save_pretrained(tmp_path)
    change_config(tmp_path, architectures=["LlamaForSequenceClassification"])
    assert_refused(regroup("inspect", tmp_path), 1, "LlamaForSequenceClassification")


@pytest.mark.parametrize("name", ["su", "yarn"])
def test_early_names_of_longrope_in_phi3_mean_longrope(name, tmp_path):
    model = random_model("phi3", "longrope")
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    old = {"type": name, "short_factor": saved["short_factor"], "long_factor": saved["long_factor"]}
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    path.write_text(json.dumps(config | {"rope_scaling": old, "rope_theta": saved["rope_theta"]}))
    with torch.no_grad():
        assert np.abs(logits_here(tmp_path) - logits_there(model)).max() <= 1e-4
