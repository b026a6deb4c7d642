"""Every family against transformers: logits, folders written here and read there, decoding with a cache."""

import json

import numpy as np
import pytest
import torch
from hf_families import VARIANTS, random_model
from hf_models import TOKENS, load_there, logits_here, logits_there, output_of


def of_each(variants):
    return pytest.mark.parametrize("family, variant", variants, ids=["-".join(pair) for pair in variants])


# Beyond the original context Llama's class keeps keys that it turned before; Phi-3's, as Regroup, computes them anew.
DECODED_ALIKE = [pair for pair in VARIANTS if not (pair[0] == "llama" and pair[1].startswith("longrope"))]


def kv_heads_of(folder):
    return ",".join(map(str, json.loads(output_of("inspect", folder, "--json"))["n_kv_head"]))


@of_each(VARIANTS)
def test_logits_of_a_model_saved_by_transformers_are_equal(family, variant, tmp_path):
    model = random_model(family, variant)
    model.save_pretrained(tmp_path)
    expected = logits_there(model)
    assert expected.std() > 0.3
    assert np.abs(logits_here(tmp_path) - expected).max() <= 1e-4


@of_each(VARIANTS)
def test_a_folder_written_here_is_the_same_model_to_transformers(family, variant, tmp_path):
    model = random_model(family, variant)
    model.save_pretrained(tmp_path / "theirs")
    output_of("convert", "--from", tmp_path / "theirs", "--to", tmp_path / "ours", "--kv-heads",
            kv_heads_of(tmp_path / "theirs"))
    loaded = load_there(tmp_path / "ours")
    for name, parameter in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], parameter), name
    assert np.abs(logits_there(loaded) - logits_there(model)).max() <= 1e-5


@of_each(DECODED_ALIKE)
def test_decoding_continues_as_transformers_does(family, variant, tmp_path):
    model = random_model(family, variant)
    model.save_pretrained(tmp_path)
    prompt = TOKENS[:, :12]
    there = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=25, do_sample=False,
                           pad_token_id=0)[0, 12:].tolist()
    found = json.loads(output_of("generate", "--model", tmp_path, "--tokens", ",".join(map(str, prompt[0].tolist())),
                               "--max-new-tokens", "25", "--json"))
    assert found["tokens"] == there
