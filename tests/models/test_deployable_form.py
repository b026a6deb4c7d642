"""What export leaves for others where a class of transformers cannot hold the K/V heads: Regroup's own class."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from hf_families import VARIANTS, multi_head_fields, random_model
from hf_models import TOKENS, VOCAB_SIZE, logits_here, output_of
from transformers import AutoModelForCausalLM

KV_HEADS = [2, 3, 1]
MULTI_HEAD = [pair for pair in VARIANTS if pair[0] != "falcon" or pair[1] == "RW"]


@pytest.fixture(scope="module", params=MULTI_HEAD, ids=["-".join(pair) for pair in MULTI_HEAD])
def place(request, tmp_path_factory):
    """`gqa`: a model with K/V heads that differ by layer; `deployed`: the same in the form that others load."""
    folder = tmp_path_factory.mktemp("place")
    family, variant = request.param
    random_model(family, variant, **multi_head_fields(family)).save_pretrained(folder / "mha")
    heads = ",".join(map(str, KV_HEADS))
    output_of("convert", "--from", folder / "mha", "--to", folder / "gqa", "--kv-heads", heads)
    output_of("export", "--model", folder / "gqa", "--to", folder / "deployed")
    return folder


def load_with_its_code(folder):
    model, report = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32,
                                                         output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    return model.eval()


@torch.no_grad()
def test_its_class_computes_the_model_and_caches_only_its_heads(place):
    model = load_with_its_code(place / "deployed")
    output = model(TOKENS, use_cache=True)
    assert np.abs(output.logits[0].numpy() - logits_here(place / "gqa")).max() <= 1e-4
    assert [layer.keys.shape[1] for layer in output.cache.layers] == KV_HEADS


@torch.no_grad()
def test_its_class_takes_and_gives_what_users_of_transformers_expect(place, tmp_path):
    model = load_with_its_code(place / "deployed")
    logits = model(TOKENS).logits
    is_close = partial(torch.allclose, rtol=0, atol=1e-4)
    assert is_close(model(inputs_embeds=model.get_input_embeddings()(TOKENS)).logits, logits)
    assert is_close(model(TOKENS, return_dict=False)[0], logits)
    assert is_close(model(TOKENS, logits_to_keep=torch.tensor([3, 5])).logits, logits[:, [3, 5]])
    assert is_close(model(TOKENS, logits_to_keep=2).logits, logits[:, -2:])
    streams = model(TOKENS, output_hidden_states=True).hidden_states
    assert len(streams) == len(model.layers) + 1
    assert is_close(model.logits(streams[-1]), logits)
    with pytest.raises(ValueError, match="attentions"):
        model(TOKENS, output_attentions=True)
    with pytest.raises(ValueError, match="DynamicCache"):
        model.generate(TOKENS[:, :5], max_new_tokens=2, cache_implementation="static", use_cache=True)
    model.resize_token_embeddings(VOCAB_SIZE + 5, mean_resizing=False)
    model.save_pretrained(tmp_path / "resized")
    assert is_close(load_with_its_code(tmp_path / "resized")(TOKENS).logits[..., :VOCAB_SIZE], logits)
    assert json.loads(output_of("inspect", tmp_path / "resized", "--json"))["vocab_size"] == VOCAB_SIZE + 5


def test_a_padded_batch_continues_each_prompt_as_regroup_does(place):
    model = load_with_its_code(place / "deployed")
    prompts = [TOKENS[0, :12], TOKENS[0, 20:27]]
    padded = torch.stack([torch.nn.functional.pad(prompt, (12 - len(prompt), 0)) for prompt in prompts])
    mask = torch.stack([torch.arange(12) >= 12 - len(prompt) for prompt in prompts]).long()
    there = model.generate(padded, attention_mask=mask, max_new_tokens=25, do_sample=False, pad_token_id=0)
    for prompt, tokens in zip(prompts, there[:, 12:].tolist(), strict=True):
        words = ("--tokens", ",".join(map(str, prompt.tolist())), "--max-new-tokens", 25, "--json")
        here = json.loads(output_of("generate", "--model", place / "deployed", *words))
        assert tokens == here["tokens"]


def test_regroup_reads_it_again_as_the_same_model(place):
    read = json.loads(output_of("inspect", place / "deployed", "--json"))
    assert read["n_kv_head"] == KV_HEADS
    assert np.array_equal(logits_here(place / "deployed"), logits_here(place / "gqa"))
    output_of("export", "--model", place / "deployed", "--to", place / "expanded", "--layout", "expanded")
    stock = AutoModelForCausalLM.from_pretrained(place / "expanded", dtype=torch.float32).eval()
    assert type(stock).__module__.startswith("transformers.models.")
    with torch.no_grad():
        assert np.abs(stock(TOKENS).logits[0].numpy() - logits_here(place / "deployed")).max() <= 1e-4
