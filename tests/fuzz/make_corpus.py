"""Writes the stored corpus: small right and wrong inputs from which each fuzz target starts. Run it again after adding
an input here: .venv/bin/python tests/fuzz/make_corpus.py"""

import json
import random
import struct
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def main():
    write("safetensors", [safetensors(header, data) for header, data in safetensors_files()])
    write("config_json", map(as_json, config_files()))
    write("shard_index", map(as_json, shard_indices()))
    write("config_ini", config_inis())
    write("command_line", ["\n".join(words) for words in command_lines()])
    write("tokenizer_output", ["1 2 3", "", "0", "-1 5", "9223372036854775808", "1 x 3", "1\n2\t3 ", "\x00", "ids 1"])
    write("token_file", recipes())
    write("training_state", recipes())


def write(target, inputs):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    for number, contents in enumerate(inputs):
        contents = contents.encode("utf-8") if isinstance(contents, str) else contents
        (folder / f"{number:02}").write_bytes(contents)


def as_json(value):
    return value if isinstance(value, str) else json.dumps(value)


def safetensors(header, data):
    text = as_json(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors_files():
    def entry(dtype, shape, begin, end):
        return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}

    yield {}, b""
    yield {"a": entry("F32", [2], 0, 8)}, bytes(8)
    yield {"__metadata__": {"format": "pt"}, "a": entry("BF16", [1, 2], 0, 4), "b": entry("BOOL", [3], 4, 7)}, bytes(7)
    yield {"a": entry("I64", [], 0, 8), "b": entry("F16", [0, 3], 8, 8)}, bytes(8)
    yield {"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)}, bytes(8)  # overlap
    yield {"a": entry("F32", [1 << 62, 4], 0, 8)}, bytes(8)
    yield {"a": entry("F32", [2], 8, 0)}, bytes(8)
    yield {"a": entry("U8", [-1], 0, 1)}, bytes(1)
    yield '{"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}', bytes(1)
    yield '{"a": 1, "a": 2}', b""
    yield "[" * 80, b""


def config_files():
    llama = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 16,
        "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": False,
        "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": [2, 3],
    }
    yield llama
    yield {**llama, "rope_scaling": {"rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4,
                                     "original_max_position_embeddings": 16}}
    yield {**llama, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}
    yield {**llama, "head_dim": 6, "num_key_value_heads": 4,
           "regroup": {"n_kv_head": [4, 2], "original": {"name": "a", "hash": "b", "n_kv_head": [4, 4]},
                       "method": "mean", "pretrain_steps": 10, "uptrain_steps": 1, "tokens_seen": 5, "kv_budget": 0.5}}
    for key, value in [("num_hidden_layers", 1 << 40), ("num_attention_heads", 0), ("hidden_size", 2.5),
                       ("vocab_size", None), ("rope_theta", "x"), ("quantization_config", {})]:
        yield {**llama, key: value}
    wide = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16,
            "intermediate_size": 8, "max_position_embeddings": 16}
    for model_type in ("mistral qwen2 qwen3 olmo olmo2 gemma gemma2 phi phi3 stablelm starcoder2 gpt_neox bloom "
                       "falcon").split():
        yield {**wide, "model_type": model_type}
    for model_type in ("gpt2", "gptj"):
        yield {"model_type": model_type, "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 16}
    yield {**wide, "model_type": "opt", "ffn_dim": 8, "word_embed_proj_dim": 8}
    yield {"model_type": "mpt", "d_model": 8, "n_layers": 1, "n_heads": 2, "max_seq_len": 16, "vocab_size": 16}
    yield "{"


def shard_indices():
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    good = {"a": first, "b": first, "c": second}
    yield {"metadata": {"total_size": 24}, "weight_map": good}
    yield {"weight_map": {**good, "c": first}}
    yield {"weight_map": {**good, "c": "../" + second}}
    yield {"weight_map": {**good, "c": "/etc/passwd"}}
    yield {"weight_map": {**good, "c": ""}}
    yield {"weight_map": {**good, "d": second}}
    yield {"weight_map": {"a": first}}
    yield {"weight_map": {}}
    yield {"weight_map": 1}
    yield {}
    yield {"weight_map": {**good, "c": "a\0b"}}


def config_inis():
    yield "[model]\nn_layer = 2\nd_model = 32\nn_head = 4\nn_kv_head = 4,2\nd_ff = 48\n"
    yield "[data]\ntrain = a.h5\nval = b.h5\nseq_len = 16\n[optim]\nlr = 0.01\nschedule = linear\nwarmup_steps = 2\n"
    yield "[train]\nsteps = 6\nbatch_tokens = 128\nmicro_batch = 3\ndtype = bf16\ndevice = cuda:1\n# a comment\n"
    yield "[convert]\nfrom = m\nn_kv_head = 2\nmethod = pca\ngrouping = similar\nrefit = block\nkv_budget = 0.5\n"
    yield "[uptrain]\nalpha = 0.1\noriginal_steps = 10\n[distill]\nweight = 1\ntemperature = 2\n"
    yield "[eval]\nevery = 2\n[checkpoint]\nkeep = 0\n[dist]\nstrategy = hybrid\nbackend = gloo\ntimeout_s = 1e3\n"
    yield "\ufeff[train]\r\nsteps = 1\r\nsteps = 2\r\n"
    yield "[train\nsteps\n= 5\n[]\n[a.b]\nc.d = e\nmodel.n_layer = 3\n"
    yield "[optim]\nlr = nan\nbeta1 = 1e999\neps = -0\nweight_decay = 0x10\n"
    yield "[data]\ntrain = a.h5:0.7, b.h5:0.3\nskip_tokens = 99999999999999999999\n"


def command_lines():
    yield "--number", "3", "--share=0.5", "--is-on=yes", "--size", "5GB", "--numbers", "1,2,3"
    yield "--number=3", "--text", "--model", "a", "--model=b", "--method", "mean", "path", "--quiet", "--json", "x"
    yield "--number=1", "--", "--share"
    yield "--numbr=1", "--share=2", "--size=-1MiB", "--method=last", "--is-on=maybe"
    yield "--number=1", "--train.steps=5", "--optim.lr", "1e-3", "--model.n_kv_head=4,2", "--config", "/dev/null"
    yield "--number=", "", "-n", "3", "---", "--=", "--numbers="
    yield "--size=9223372036854775807GB", "--number=9223372036854775808"


def recipes():
    """Bytes that hdf5_recipe.cpp takes as changes of a good file."""
    numbers = random.Random(0)
    yield b""
    yield bytes(40)
    for byte in (160, 190, 216, 230, 248, 252):
        yield bytes([byte]) * 60
        for place in range(0, 12, 3):
            yield bytes(place) + bytes([byte]) + numbers.randbytes(40)


if __name__ == "__main__":
    main()
