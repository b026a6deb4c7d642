"""Small Llama models of transformers, text for them, and the verb `convert`, for the tests of conversion."""

import json

import h5py
import numpy as np
from hf_models import ONE_THREAD, random_llama
from safetensors.numpy import load_file
from tiny_runs import assert_done, regroup, write_split

D_MODEL, N_HEAD, HEAD_DIM, N_LAYER = 24, 4, 10, 2
VOCAB_SIZE, CONTEXT = 97, 64  # of random_llama
LEAST_TOKENS = 2 * CONTEXT  # calibration of this model needs them


def small_llama(n_kv_head=N_HEAD):
    return random_llama(hidden_size=D_MODEL, intermediate_size=40, num_hidden_layers=N_LAYER,
                        num_attention_heads=N_HEAD, num_key_value_heads=n_kv_head, head_dim=HEAD_DIM)


def kv_heads_of(model):
    """The weights of every key and value projection, by head; changing them changes the model."""
    for layer in model.model.layers:
        for projection in (layer.self_attn.k_proj, layer.self_attn.v_proj):
            yield projection.weight.data.view(-1, HEAD_DIM, D_MODEL)


def make_every_second_alike(model, noise):
    """Makes K/V heads 2 and 3 noisy copies of 0 and 1."""
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


def weights_of(folder):
    return load_file(folder / "model.safetensors")
