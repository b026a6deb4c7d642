"""A decoder whose layers share K/V heads in a way that no class of transformers has a field for. Regroup wrote it:
config.json describes it under "decoder_config". Load it with AutoModelForCausalLM.from_pretrained(..., trust_remote_code=True).
Needs PyTorch 2.5 and transformers 4.48, or newer."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache, StaticCache
from transformers.modeling_outputs import CausalLMOutputWithPast

# transformers 5.24 named the K/V cache anew.
CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"), "relu": F.relu}


class RegroupConfig(PretrainedConfig):
    model_type = "regroup"
    keys_to_ignore_at_inference = [CACHE]

    def __init__(self, decoder_config=None, use_cache=True, **kwargs):
        self.decoder_config = decoder_config
        self.use_cache = use_cache
        super().__init__(**kwargs)


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last axis; its gain may have more axes, or be absent."""

    def __init__(self, config, *shape):
        super().__init__()
        self.config = config
        self.weight = nn.Parameter(torch.ones(shape)) if config["has_gain"] else None
        self.bias = nn.Parameter(torch.zeros(shape)) if config["has_bias"] else None

    def forward(self, x):
        y = x.float()
        if self.config["kind"] == "layer":
            y = y - y.mean(-1, keepdim=True)
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.config["eps"])
        if self.weight is not None:
            y = y * (self.weight.float() + self.config["gain_offset"])
        if self.bias is not None:
            y = y + self.bias.float()
        return y.to(x.dtype)


def optional_norm(config, *shape):
    return Norm(config, *shape) if config is not None else None


def apply(norm, x):
    return norm(x) if norm is not None else x


def rotary_frequencies(rotary, lengths):
    """The angle per position of each pair of dims, in sequences of these lengths: [batch or 1, dims / 2]."""
    device = lengths.device
    dims, theta, scaling = rotary["dims"], rotary["theta"], rotary["scaling"]
    factor, original = scaling["factor"], scaling["original_max_seq_len"]
    frequencies = 1.0 / theta ** (torch.arange(0, dims, 2, dtype=torch.float32, device=device) / dims)
    if scaling["kind"] == "linear":
        frequencies = frequencies / factor
    if scaling["kind"] == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        blend = ((original * frequencies / (2 * math.pi) - low) / (high - low)).clamp(0, 1)
        frequencies = (1 - blend) * frequencies / factor + blend * frequencies
    if scaling["kind"] == "yarn":
        bounds = [dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
                  for turns in (scaling["beta_fast"], scaling["beta_slow"])]
        if scaling["truncate"]:
            bounds = [math.floor(bounds[0]), math.ceil(bounds[1])]
        low, high = max(bounds[0], 0), min(bounds[1], dims - 1)
        high += 0.001 if low == high else 0
        ramp = ((torch.arange(dims // 2, device=device) - low) / (high - low)).clamp(0, 1)
        frequencies = frequencies / factor * ramp + frequencies * (1 - ramp)
    if scaling["kind"] == "longrope":
        long, short = (torch.tensor(scaling[name], device=device) for name in ("long_factor", "short_factor"))
        return frequencies / torch.where(lengths[:, None] > original, long, short)
    return frequencies[None]


def rotated(heads, rotary, positions, lengths):
    """heads: [batch, heads, T, head_dim], positions: [batch, T], lengths: [batch]. Dims i and i + dims / 2 turn
    together."""
    if rotary is None:
        return heads
    dims = rotary["dims"]
    angles = positions[:, None, :, None].float() * rotary_frequencies(rotary, lengths)[:, None, None]
    scale = rotary["scaling"]["attention_factor"]
    cos, sin = angles.cos() * scale, angles.sin() * scale
    a, b = heads[..., :dims].float().chunk(2, -1)
    turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(heads.dtype)
    return torch.cat([turned, heads[..., dims:]], -1)


def alibi(config, n_head, ahead, n_keys):
    """Press et al. 2022. ahead: positions of keys minus those of queries, [T, S] -> [heads, T or 1, S]."""
    below = 2 ** math.floor(math.log2(n_head))
    exponents = [8 * i / below for i in range(1, below + 1)]
    exponents += [8 * i / (2 * below) for i in range(1, 2 * (n_head - below), 2)]
    slopes = torch.tensor([2.0 ** -e for e in exponents], device=ahead.device)[:, None, None]
    if config["rounds"]:
        keys = torch.arange(n_keys, device=ahead.device)
        return config["scale"] * (slopes.bfloat16() * keys.bfloat16()).float()
    return config["scale"] * slopes * ahead


class Attention(nn.Module):
    def __init__(self, config, d_model, index):
        super().__init__()
        self.config, self.index = config, index
        n_head, n_kv_head, head_dim = config["n_head"], config["n_kv_head"], config["head_dim"]
        bias = config["qkv_bias"]
        self.q_proj = nn.Linear(d_model, n_head * head_dim, bias)
        self.k_proj = nn.Linear(d_model, n_kv_head * head_dim, bias)
        self.v_proj = nn.Linear(d_model, n_kv_head * head_dim, bias)
        self.o_proj = nn.Linear(n_head * head_dim, d_model, config["output_bias"])
        self.q_norm = self.k_norm = None
        if config["qk_norm"] is not None:
            self.q_norm = Norm(config["qk_norm"]["norm"], *self.norm_shape(n_head))
            self.k_norm = Norm(config["qk_norm"]["norm"], *self.norm_shape(n_kv_head))

    def norm_shape(self, heads):
        head_dim = self.config["head_dim"]
        return {"head": [head_dim], "heads": [heads, head_dim],
                "all_heads": [heads * head_dim]}[self.config["qk_norm"]["over"]]

    def heads(self, x, projection, norm=None):
        """-> [batch, heads, T, head_dim], clipped and normed."""
        y = projection(x)
        if self.config["clip_qkv"] is not None:
            y = y.clamp(-self.config["clip_qkv"], self.config["clip_qkv"])
        over_all = norm is not None and self.config["qk_norm"]["over"] == "all_heads"
        y = norm(y) if over_all else y
        y = y.unflatten(-1, (-1, self.config["head_dim"]))
        y = norm(y) if norm is not None and not over_all else y
        return y.transpose(1, 2)

    def bias(self, allowed, past, dtype):
        """What is added to scores. allowed: [batch, 1, T, S], keys that are no padding and not ahead."""
        scores = self.config["scores"]
        queries, n_keys = allowed.shape[-2:]
        positions = torch.arange(n_keys, device=allowed.device)
        ahead = positions - positions[past:past + queries, None]
        if scores["window"] is not None:
            allowed = allowed & (ahead > -scores["window"])
        bias = torch.zeros((), device=allowed.device)
        if scores["alibi"] is not None:
            bias = alibi(scores["alibi"], self.config["n_head"], ahead, n_keys)
        return torch.where(allowed, bias, torch.finfo(dtype).min).to(dtype)

    def forward(self, x, positions, allowed, cache):
        rotary, rule = self.config["rotary"], self.config["scores"]
        q = self.heads(x, self.q_proj, self.q_norm)
        k = self.heads(x, self.k_proj, self.k_norm)
        v = self.heads(x, self.v_proj)
        n_keys = allowed.shape[-1]
        past = n_keys - x.shape[1]
        lengths = positions[:, -1] + 1
        q = rotated(q, rotary, positions[:, past:], lengths)
        k = rotated(k, rotary, positions[:, past:], lengths)
        if cache is not None:
            k, v = cache.update(k, v, self.index)
        bias = self.bias(allowed, past, q.dtype)
        if rule["soft_cap"] is None:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=rule["scale"], enable_gqa=True)
        else:
            groups = q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            scores = torch.tanh(q @ k.mT * rule["scale"] / rule["soft_cap"]) * rule["soft_cap"] + bias
            y = scores.float().softmax(-1).to(v.dtype) @ v
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, config, d_model):
        super().__init__()
        self.activation = ACTIVATIONS[config["activation"]["kind"]]
        self.gate_proj = None
        if config["activation"]["gated"]:
            self.gate_proj = nn.Linear(d_model, config["d_ff"], config["in_bias"])
        self.up_proj = nn.Linear(d_model, config["d_ff"], config["in_bias"])
        self.down_proj = nn.Linear(config["d_ff"], d_model, config["out_bias"])

    def forward(self, x):
        up = self.up_proj(x)
        return self.down_proj(self.activation(up) if self.gate_proj is None else self.activation(self.gate_proj(x)) * up)


class Layer(nn.Module):
    def __init__(self, config, d_model, index):
        super().__init__()
        self.wiring = config["wiring"]
        self.attention_norm = optional_norm(config["attention_in"], d_model)
        self.attention = Attention(config["attention"], d_model, index)
        self.attention_out_norm = optional_norm(config["attention_out"], d_model)
        self.mlp_norm = optional_norm(config["mlp_in"], d_model)
        self.mlp = Mlp(config["mlp"], d_model)
        self.mlp_out_norm = optional_norm(config["mlp_out"], d_model)

    def forward(self, x, positions, allowed, cache):
        inputs = apply(self.attention_norm, x)
        written = self.attention(inputs, positions, allowed, cache)
        if self.wiring == "parallel":
            mlp_inputs = inputs if self.mlp_norm is None else self.mlp_norm(x)
            return x + apply(self.attention_out_norm, written) + self.mlp(mlp_inputs)
        if self.wiring == "normed_stream":
            stream = apply(self.mlp_norm, inputs + written)
            return stream + self.mlp(stream)
        if self.wiring == "norm_after":
            y = apply(self.attention_out_norm, x + written)
            return apply(self.mlp_out_norm, y + self.mlp(y))
        y = x + apply(self.attention_out_norm, written)
        return y + apply(self.mlp_out_norm, self.mlp(apply(self.mlp_norm, y)))


class RegroupForCausalLM(PreTrainedModel, GenerationMixin):
    config_class = RegroupConfig
    base_model_prefix = ""
    _supports_sdpa = True
    _no_split_modules = ["Layer"]
    _tied_weights_keys = {"head.weight": "embedding.weight"}

    def __init__(self, config):
        super().__init__(config)
        decoder = config.decoder_config
        d_model, embedding = decoder["d_model"], decoder["embedding"]
        width = embedding["width"] or d_model
        self.embedding = nn.Embedding(decoder["vocab_size"], width)
        self.positions = None
        if embedding["first_position"] is not None:
            self.positions = nn.Embedding(embedding["first_position"] + decoder["max_seq_len"], d_model)
        has_projections = embedding["width"] is not None
        self.embedding_in = nn.Linear(width, d_model, bias=False) if has_projections else None
        self.embedding_norm = optional_norm(embedding["norm"], d_model)
        kinds = decoder["layer_kinds"]
        self.layers = nn.ModuleList(Layer(kinds[kind], d_model, i) for i, kind in enumerate(decoder["layers"]))
        self.final_norm = optional_norm(decoder["final_norm"], d_model)
        self.embedding_out = nn.Linear(d_model, width, bias=False) if has_projections else None
        self.head = nn.Linear(width, decoder["vocab_size"], decoder["head"]["bias"])
        self.post_init()

    def get_input_embeddings(self):
        return self.embedding

    def set_input_embeddings(self, value):
        self.embedding = value

    def get_output_embeddings(self):
        return self.head

    def set_output_embeddings(self, value):
        self.head = value

    def resize_token_embeddings(self, *args, **kwargs):
        embedding = super().resize_token_embeddings(*args, **kwargs)
        self.config.decoder_config = {**self.config.decoder_config, "vocab_size": embedding.num_embeddings}
        return embedding

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        """With LongRoPE the cache is computed anew when a sequence grows beyond the original context: all keys turn
        otherwise then."""
        inputs = super().prepare_inputs_for_generation(input_ids, **kwargs)
        if inputs.get("input_ids") is None:
            return inputs
        rotaries = [kind["attention"]["rotary"] for kind in self.config.decoder_config["layer_kinds"]]
        scalings = [rotary["scaling"] for rotary in rotaries if rotary is not None]
        original = next((s["original_max_seq_len"] for s in scalings if s["kind"] == "longrope"), None)
        n_new = inputs["input_ids"].shape[1]
        if original is None or n_new == input_ids.shape[1]:
            return inputs
        is_text = inputs.get("attention_mask")
        lengths = (torch.ones_like(input_ids) if is_text is None else is_text).sum(-1)
        if ((lengths - n_new <= original) & (lengths > original)).any():
            inputs.update({"input_ids": input_ids, "position_ids": None, CACHE: DynamicCache()})
        return inputs

    def embedded(self, x, positions):
        rule = self.config.decoder_config["embedding"]
        if rule["scale"] != 1:
            x = x * torch.tensor(rule["scale"], dtype=x.dtype, device=x.device)
        x = apply(self.embedding_in, x)
        if self.positions is not None:
            x = x + self.positions(positions + rule["first_position"])
        return apply(self.embedding_norm, x)

    def logits(self, x):
        rule = self.config.decoder_config["head"]
        y = self.head(apply(self.embedding_out, x) * rule["scale"])
        return y if rule["soft_cap"] is None else torch.tanh(y / rule["soft_cap"]) * rule["soft_cap"]

    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, past_key_values=None,
                inputs_embeds=None, use_cache=None, labels=None, logits_to_keep=0, output_hidden_states=None,
                output_attentions=None, return_dict=None, **kwargs):
        cache = past_key_values if cache is None else cache
        if output_attentions or isinstance(cache, StaticCache):
            raise ValueError("RegroupForCausalLM returns no attentions and needs a cache that grows (DynamicCache).")
        if attention_mask is not None and attention_mask.dim() != 2:
            raise ValueError("RegroupForCausalLM needs an attention_mask of [batch, positions].")
        if inputs_embeds is None:
            inputs_embeds = self.embedding(input_ids)
        if cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache()
        past = cache.get_seq_length() if cache is not None else 0
        n_new = inputs_embeds.shape[1]
        n_keys = past + n_new
        keys = torch.arange(n_keys, device=inputs_embeds.device)
        allowed = (keys <= keys[past:, None])[None, None]
        positions = keys[None].expand(inputs_embeds.shape[0], -1)
        if attention_mask is not None:
            is_text = attention_mask[:, -n_keys:].bool()
            # A padding position sees itself, since a softmax over nothing is not a number.
            itself = keys == keys[past:, None]
            allowed = allowed & (is_text[:, None, None, :] | itself)
            positions = (is_text.long().cumsum(-1) - 1).clamp(min=0)
        if position_ids is not None and position_ids.shape[-1] == n_new:
            positions = torch.cat([positions[:, :past], position_ids.expand(positions.shape[0], -1)], -1)
        x = self.embedded(inputs_embeds, positions[:, past:])
        streams = []
        for layer in self.layers:
            streams.append(x)
            x = layer(x, positions, allowed, cache)
        x = apply(self.final_norm, x)
        kept = slice(-logits_to_keep or None, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.logits(x[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **kwargs)
        shows_streams = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        output = CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: cache},
                                        hidden_states=(*streams, x) if shows_streams else None)
        return output.to_tuple() if return_dict is False else output
