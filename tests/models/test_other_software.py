"""Programs that know fixed architectures continue prompts with what Regroup exports as Regroup itself does."""

import json

import pytest
import torch
from hf_families import FAMILIES, multi_head_fields, random_model, rope
from hf_models import TOKENS, output_of
from other_software import PROGRAMS

PROMPTS = TOKENS[0, :36].view(3, 12).tolist()
N_TOKENS = 25

# What a converter does not look at is as it assumes.
ASSUMED = {**rope(10000.0), "sliding_window": 64}
GEMMA = {**ASSUMED, "tie_word_embeddings": True}
CASES = {
    **{family: (family, "plain", {}) for family in FAMILIES if "plain" in FAMILIES[family]},
    "llama": ("llama", "biases", {}),
    "mistral": ("mistral", "wide heads", {}),
    "gemma": ("gemma", "plain", GEMMA),
    "gemma2": ("gemma2", "plain", {**GEMMA, "query_pre_attn_scalar": 16}),
    "falcon RW": ("falcon", "RW", {}),
    "falcon 40B": ("falcon", "40B", {**ASSUMED, "num_kv_heads": 6}),
}
COMPUTED = {
    "CTranslate2": {"llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gpt2", "opt", "gptj",
                    "bloom", "falcon RW", "falcon 40B"},
    "llama.cpp": {"llama", "mistral", "qwen2", "qwen3", "olmo", "olmo2", "gemma", "gemma2", "starcoder2", "gpt2", "bloom",
                  "falcon 40B"},
}


def export(model, to):
    """The class's own form: of the model's K/V heads, or if the class cannot hold them, of repeated ones."""
    output_of("export", "--model", model, "--to", to)
    if json.loads((to / "config.json").read_text())["architectures"] == ["RegroupForCausalLM"]:
        output_of("export", "--model", model, "--to", to, "--layout", "expanded", "--force")


def continuations_in_transformers(model):
    prompts = torch.tensor(PROMPTS)
    return model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=N_TOKENS, do_sample=False,
                          pad_token_id=0)[:, prompts.shape[1]:].tolist()


def continuation_here(folder, prompt):
    words = ("--tokens", ",".join(map(str, prompt)), "--max-new-tokens", N_TOKENS, "--json")
    return json.loads(output_of("generate", "--model", folder, *words))["tokens"]


def model_of(case, program, **more):
    family, variant, fields = CASES[case]
    fields = {"vocab_size": program.vocab_size(family), "tie_word_embeddings": False, **multi_head_fields(family),
              **fields, **more}
    return random_model(family, variant, **fields)


def save(model, program, folder):
    model.save_pretrained(folder)
    program.save_tokenizer(folder, model.config.model_type)


def what_the_program_lacks(program, case, folder):
    """Why it cannot run this class with grouped heads, where it has them, even as transformers writes it."""
    model = model_of(case, program)
    names = [name for name in ("num_key_value_heads", "num_kv_heads") if name in model.config.to_dict()]
    model = model_of(case, program, **dict.fromkeys(names, 2))
    save(model, program, folder)
    try:
        found = program.continuations(folder, PROMPTS, N_TOKENS)
    except (Exception, SystemExit) as refusal:
        return f"it refuses what transformers writes: {type(refusal).__name__} {str(refusal)[:90]}"
    return "" if found == continuations_in_transformers(model) else "it does not compute what transformers does"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_continues_as_regroup_does(name, case, tmp_path):
    program = PROGRAMS[name]
    if case not in COMPUTED[name]:
        lack = what_the_program_lacks(program, case, tmp_path / "theirs")
        assert lack, "it does compute this class: list it"
        pytest.skip(lack)
    save(model_of(case, program), program, tmp_path / "mha")
    output_of("convert", "--from", tmp_path / "mha", "--to", tmp_path / "gqa", "--kv-heads", 2)
    export(tmp_path / "gqa", tmp_path / "export")
    found = program.continuations(tmp_path / "export", PROMPTS, N_TOKENS)
    assert found == [continuation_here(tmp_path / "gqa", prompt) for prompt in PROMPTS]
