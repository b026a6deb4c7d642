"""Conversion of every family's multi-head form: what must be exact is, and equals a plain loop through transformers."""


import numpy as np
import pytest
import torch
from hf_families import VARIANTS, multi_head_fields, pool_kv_heads, random_model
from hf_models import load_there, logits_here, logits_there, output_of

MULTI_HEAD = [pair for pair in VARIANTS if pair[0] != "falcon" or pair[1] == "RW"]

pytestmark = pytest.mark.parametrize("family, variant", MULTI_HEAD, ids=["-".join(pair) for pair in MULTI_HEAD])


def saved(family, variant, folder):
    model = random_model(family, variant, **multi_head_fields(family))
    model.save_pretrained(folder)
    return model


def test_mean_pooling_is_that_of_a_plain_loop_and_both_layouts_agree(family, variant, tmp_path):
    model = saved(family, variant, tmp_path / "mha")
    before = logits_there(model)
    output_of("convert", "--from", tmp_path / "mha", "--to", tmp_path / "gqa", "--kv-heads", "2,3,1")
    output_of("export", "--model", tmp_path / "gqa", "--to", tmp_path / "expanded", "--layout", "expanded")
    found = logits_here(tmp_path / "gqa")
    assert np.abs(found - before).max() > 0.01
    assert np.abs(logits_there(load_there(tmp_path / "expanded")) - found).max() <= 1e-4
    output_of("convert", "--from", tmp_path / "mha", "--to", tmp_path / "pairs", "--kv-heads", "3")
    pool_kv_heads(model, 3, lambda heads: torch.stack(list(heads)).double().mean(0).float())
    assert np.abs(logits_here(tmp_path / "pairs") - logits_there(model)).max() <= 1e-4


@pytest.mark.parametrize("method", ["mean", "align", "pca"])
def test_equal_heads_pool_without_loss(family, variant, method, tmp_path):
    model = random_model(family, variant, **multi_head_fields(family))
    pool_kv_heads(model, 2, lambda heads: heads[0])
    model.save_pretrained(tmp_path / "mha")
    output_of("convert", "--from", tmp_path / "mha", "--to", tmp_path / "gqa", "--kv-heads", "2", "--method", method)
    assert np.abs(logits_here(tmp_path / "gqa") - logits_there(model)).max() <= 2e-4

