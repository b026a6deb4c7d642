"""What Regroup exports for programs that know fixed architectures gives Regroup's predictions in those programs."""

import json

import ctranslate2
import numpy as np
import pytest
from ctranslate2.converters import TransformersConverter
from hf_families import FAMILIES, multi_head_fields, random_model, rope
from hf_models import ONE_THREAD, TOKENS, logits_here
from tiny_runs import assert_done, regroup
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

# A multiple of 8, as the converter wants it for OPT, and every special token that a class of transformers would add.
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>", "<|endoftext|>"]
WORDS = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), 104))]

# What the converter does not look at is as it assumes: of Gemma and Falcon RoPE's theta, of Gemma 2 also caps, windows.
ASSUMED = {**rope(10000.0), "sliding_window": 64}
CASES = {
    **{family: (family, "plain", {}) for family in FAMILIES if "plain" in FAMILIES[family]},
    "llama": ("llama", "biases", {}),
    "mistral": ("mistral", "wide heads", {}),
    "gemma": ("gemma", "plain", ASSUMED),
    "gemma2": ("gemma2", "no caps", ASSUMED),
    "falcon RW": ("falcon", "RW", {}),
    "falcon 40B": ("falcon", "40B", {**ASSUMED, "num_kv_heads": 6}),
}
CONVERTED = {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gpt2", "opt", "gptj", "bloom", "falcon RW",
             "falcon 40B"}


def save(model, folder):
    model.save_pretrained(folder)
    words = models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words), unk_token="<unk>", bos_token="<s>", eos_token="</s>",
                            pad_token="<pad>").save_pretrained(folder)


def run(*words):
    return assert_done(regroup(*words, env=ONE_THREAD)).stdout


def export(model, to):
    """The class's own form: of the model's K/V heads, or if the class cannot hold them, of repeated ones."""
    run("export", "--model", model, "--to", to)
    if json.loads((to / "config.json").read_text())["architectures"] == ["RegroupForCausalLM"]:
        run("export", "--model", model, "--to", to, "--layout", "expanded", "--force")


def in_ctranslate2(folder, to):
    TransformersConverter(str(folder)).convert(str(to))
    return ctranslate2.Generator(str(to), compute_type="float32", inter_threads=1, intra_threads=1)


@pytest.fixture(params=CASES)
def exported(request, tmp_path):
    """`gqa`: a converted model; `export`: its class's own form. Skips a class that CTranslate2 cannot take at all."""
    family, variant, fields = CASES[request.param]
    fields = {"vocab_size": len(WORDS), "tie_word_embeddings": False, **multi_head_fields(family), **fields}
    save(random_model(family, variant, **fields), tmp_path / "mha")
    try:
        in_ctranslate2(tmp_path / "mha", tmp_path / "theirs")
    except Exception as refusal:
        assert request.param not in CONVERTED
        pytest.skip(f"CTranslate2 {ctranslate2.__version__} on what transformers wrote: {str(refusal)[:90]}")
    run("convert", "--from", tmp_path / "mha", "--to", tmp_path / "gqa", "--kv-heads", 2)
    export(tmp_path / "gqa", tmp_path / "export")
    return tmp_path


def test_ctranslate2_predicts_and_continues_as_regroup_does(exported):
    there = in_ctranslate2(exported / "export", exported / "ours")
    logits = np.array(there.forward_batch([[WORDS[token] for token in TOKENS[0]]]))[0]
    assert np.abs(logits - logits_here(exported / "gqa")).max() <= 1e-4
    prompt = TOKENS[0, :12].tolist()
    found = there.generate_batch([[WORDS[token] for token in prompt]], max_length=25, end_token=[],
                                 include_prompt_in_result=False)[0].sequences_ids[0]
    here = run("generate", "--model", exported / "gqa", "--tokens", ",".join(map(str, prompt)), "--max-new-tokens", 25,
               "--json")
    assert len(found) == 25
    assert found == json.loads(here)["tokens"]
