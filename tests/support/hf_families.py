"""Small random models of every family, with awkward sizes and each option on and off, as transformers makes them."""

import torch
from hf_models import VOCAB_SIZE
from transformers import AutoConfig, AutoModelForCausalLM

# 6 heads of a width that is no power of two, an odd number of layers, a context above the test's tokens.
LLAMA_LIKE = dict(hidden_size=60, intermediate_size=88, num_hidden_layers=3, num_attention_heads=6,
                  num_key_value_heads=3, max_position_embeddings=64)
NEOX_LIKE = {key: value for key, value in LLAMA_LIKE.items() if key != "num_key_value_heads"}
GPT2_LIKE = dict(n_embd=60, n_layer=3, n_head=6, n_positions=64)
BLOOM_LIKE = dict(hidden_size=60, n_layer=3, n_head=6)
MPT_LIKE = dict(d_model=60, n_layers=3, n_heads=6, max_seq_len=64)
FALCON_LIKE = dict(hidden_size=60, num_hidden_layers=3, num_attention_heads=6, max_position_embeddings=64)
OPT_LIKE = dict(hidden_size=60, ffn_dim=88, num_hidden_layers=3, num_attention_heads=6, max_position_embeddings=64,
                word_embed_proj_dim=60)


def rope(theta=700.0, **scaling):
    return {"rope_parameters": {"rope_theta": theta, "rope_type": "default", **scaling}}


def scaled(kind, **fields):
    return rope(rope_type=kind, **fields)


ORIGINAL = {"original_max_position_embeddings": 32}
YARN = scaled("yarn", factor=4.0, **ORIGINAL)
LONGROPE = scaled("longrope", short_factor=[1.0 + 0.1 * i for i in range(5)],
                  long_factor=[2.0 + 0.3 * i for i in range(5)], **ORIGINAL)
SLIDING = dict(use_sliding_window=True, sliding_window=7, max_window_layers=1)

# model_type -> variant -> fields of its config
FAMILIES = {
    "llama": {
        "biases": {**LLAMA_LIKE, **rope(), "attention_bias": True, "mlp_bias": True},
        "dynamic": {**LLAMA_LIKE, **scaled("dynamic", factor=2.0)},
        "yarn": {**LLAMA_LIKE, **YARN},
        "yarn with factors": {**LLAMA_LIKE, **scaled("yarn", factor=8.0, beta_fast=16.0, beta_slow=2.0,
                                                     mscale=0.7, mscale_all_dim=1.2, truncate=False, **ORIGINAL)},
        "longrope beyond the original context": {**LLAMA_LIKE, **LONGROPE},
        "gelu": {**LLAMA_LIKE, **rope(), "hidden_act": "gelu"},
    },
    "mistral": {
        "window": {**LLAMA_LIKE, **rope(), "sliding_window": 7},
        "no window": {**LLAMA_LIKE, **rope(), "sliding_window": None},
        "wide heads": {**LLAMA_LIKE, **rope(), "sliding_window": 64, "head_dim": 14},
    },
    "qwen2": {
        "plain": {**LLAMA_LIKE, **rope()},
        "windows above": {**LLAMA_LIKE, **rope(), **SLIDING},
        "tied": {**LLAMA_LIKE, **rope(), "tie_word_embeddings": True},
        "yarn": {**LLAMA_LIKE, **YARN},
    },
    "qwen3": {
        "plain": {**LLAMA_LIKE, **rope(), "head_dim": 16},
        "windows and biases": {**LLAMA_LIKE, **rope(), **SLIDING, "head_dim": 8, "attention_bias": True},
    },
    "olmo": {
        "plain": {**LLAMA_LIKE, **rope()},
        "clipped and biased": {**LLAMA_LIKE, **rope(), "clip_qkv": 0.4, "attention_bias": True},
    },
    "olmo2": {
        "plain": {**LLAMA_LIKE, **rope()},
        "biases": {**LLAMA_LIKE, **rope(), "attention_bias": True, "tie_word_embeddings": True},
    },
    "gemma": {
        "plain": {**LLAMA_LIKE, **rope(), "head_dim": 16},
        "mqa with biases": {**LLAMA_LIKE, **rope(), "head_dim": 8, "num_key_value_heads": 1, "attention_bias": True},
    },
    "gemma2": {
        "plain": {**LLAMA_LIKE, **rope(), "head_dim": 16, "sliding_window": 7, "query_pre_attn_scalar": 11},
        "no caps": {**LLAMA_LIKE, **rope(), "head_dim": 8, "sliding_window": 7, "query_pre_attn_scalar": 8,
                    "attn_logit_softcapping": None, "final_logit_softcapping": None},
        "small caps": {**LLAMA_LIKE, **rope(), "head_dim": 8, "sliding_window": 40, "attn_logit_softcapping": 2.0,
                       "final_logit_softcapping": 3.0, "layer_types": ["full_attention", "sliding_attention"] * 1
                       + ["full_attention"]},
    },
    "phi": {
        "plain": {**LLAMA_LIKE, **rope(partial_rotary_factor=0.4)},
        "norms of heads": {**LLAMA_LIKE, **rope(partial_rotary_factor=0.8), "qk_layernorm": True},
    },
    "phi3": {
        "plain": {**LLAMA_LIKE, **rope()},
        "window": {**LLAMA_LIKE, **rope(), "sliding_window": 7},
        "longrope": {**LLAMA_LIKE, **LONGROPE, "original_max_position_embeddings": 32},
    },
    "stablelm": {
        "plain": {**LLAMA_LIKE, **rope(partial_rotary_factor=0.4)},
        "parallel with biases": {**LLAMA_LIKE, **rope(partial_rotary_factor=0.4), "use_parallel_residual": True,
                                 "use_qkv_bias": True},
        "norms of heads": {**LLAMA_LIKE, **rope(partial_rotary_factor=0.4), "qk_layernorm": True},
    },
    "starcoder2": {
        "plain": {**LLAMA_LIKE, **rope(), "sliding_window": None},
        "window without biases": {**LLAMA_LIKE, **rope(), "sliding_window": 7, "use_bias": False,
                                  "tie_word_embeddings": False},
    },
    "gpt2": {
        "plain": GPT2_LIKE,
        "scaled by layer": {**GPT2_LIKE, "scale_attn_by_inverse_layer_idx": True, "n_inner": 88},
        "not scaled": {**GPT2_LIKE, "scale_attn_weights": False, "tie_word_embeddings": False,
                       "activation_function": "relu"},
    },
    "gpt_neox": {
        "plain": {**NEOX_LIKE, **rope(partial_rotary_factor=0.4)},
        "sequential": {**NEOX_LIKE, **rope(), "use_parallel_residual": False, "attention_bias": False},
    },
    "opt": {
        "plain": OPT_LIKE,
        "norms after, narrow embedding": {**OPT_LIKE, "do_layer_norm_before": False, "word_embed_proj_dim": 36},
        "no final norm, no biases": {**OPT_LIKE, "_remove_final_layer_norm": True, "enable_bias": False,
                                     "tie_word_embeddings": False},
        "norms without weights": {**OPT_LIKE, "layer_norm_elementwise_affine": False},
    },
    "gptj": {
        "plain": {**GPT2_LIKE, "rotary_dim": 4},
        "all dims": {**GPT2_LIKE, "rotary_dim": 10, "n_inner": 88},
    },
    "bloom": {
        "plain": BLOOM_LIKE,
        "normed stream": {**BLOOM_LIKE, "apply_residual_connection_post_layernorm": True},
    },
    "falcon": {
        "7B": {**FALCON_LIKE, **rope()},
        "40B": {**FALCON_LIKE, **rope(), "new_decoder_architecture": True, "num_kv_heads": 2},
        "11B": {**FALCON_LIKE, **rope(), "new_decoder_architecture": True, "num_kv_heads": 3,
                "num_ln_in_parallel_attn": 1},
        "RW": {**FALCON_LIKE, "alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    },
    "mpt": {
        "plain": MPT_LIKE,
        "clipped, own scale": {**MPT_LIKE, "attn_config": {"clip_qkv": 0.4, "softmax_scale": 0.2}},
    },
}
VARIANTS = [(family, variant) for family, variants in FAMILIES.items() for variant in variants]


def random_model(family, variant, dtype=torch.float32, **fields):
    """A model whose weights, gains and biases are all large enough to show in the logits."""
    config = AutoConfig.for_model(family, bos_token_id=None, eos_token_id=None, pad_token_id=None,
                                  **{"vocab_size": VOCAB_SIZE, **FAMILIES[family][variant], **fields})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn_like(parameter)
            if parameter.dim() > 1:
                parameter.copy_(0.15 * noise)
            else:
                parameter.add_(0.3 * noise)
    return model.to(dtype).eval()


def multi_head_fields(family):
    """What makes a variant multi-head, where its class has a number of K/V heads."""
    has_field = "num_key_value_heads" in next(iter(FAMILIES[family].values()))
    if has_field:
        return {"num_key_value_heads": 6}
    return {"multi_query": False} if family == "falcon" else {}


def kv_heads_of(model):
    """Views of every key and value projection of a multi-head model, by head: weights, biases, and gains of keys."""
    n_head = model.config.num_attention_heads
    for name, parameter in model.named_parameters():
        values = parameter.data
        kind = name.rsplit(".", 1)[0].rsplit(".", 1)[-1]
        if kind in ("k_proj", "v_proj"):
            yield values.view(n_head, -1, *values.shape[1:])
        elif kind in ("c_attn", "Wqkv", "qkv_proj"):
            rows = values.t() if kind == "c_attn" and values.dim() == 2 else values
            for part in rows.chunk(3)[1:]:
                yield part.unflatten(0, (n_head, -1))
        elif kind == "query_key_value":
            by_head = values.unflatten(0, (n_head, 3, -1))
            yield by_head[:, 1]
            yield by_head[:, 2]
        elif kind == "k_norm" and values.numel() % n_head == 0 and values.numel() > 20:
            yield values.view(n_head, -1)
    for name, module in model.named_modules():
        if name.endswith("k_layernorm") and hasattr(module, "norms"):
            yield [norm.weight.data for norm in module.norms]


@torch.no_grad()
def pool_kv_heads(model, n_groups, pool):
    """Gives all heads of a group the values of pool(heads of the group), in a plain loop."""
    for heads in kv_heads_of(model):
        size = len(heads) // n_groups
        for group in range(n_groups):
            members = [heads[head] for head in range(group * size, (group + 1) * size)]
            pooled = pool(members).clone()
            for member in members:
                member.copy_(pooled)
