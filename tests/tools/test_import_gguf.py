"""tools/import_gguf.py: tiny random Llamas, written as llama.cpp's converter does, come back."""

import json

import h5py
import import_gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, TokenType
from gguf.quants import dequantize, quantize
from safetensors.torch import load_file
from script_runner import assert_refused, run
from script_support import Problem
from tiny_runs import assert_done, regroup, write_tokens
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)  # on models this small, more threads cost time

VOCAB_SIZE = 300
TEXTS = [f"The model's {n} heads share {n % 7} keys, it's {n}.{n}%.\n" for n in range(1000, 1100)]
TRICKY = "  I'm 12345 naïve\t½ 中文 🙂 Ⅷ\n\n\n'll ٣٤ x_1  "
TEXT_AND_MARKUP = f"<|im_start|>{TRICKY}<|endoftext|>\n"
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


# --- A GGUF file as llama.cpp's converter writes it ---


def random_llama(scaling=None, **sizes):
    """A Llama whose weights, norm gains included, are large enough to show in the logits."""
    fields = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.15,
        "rms_norm_eps": 1e-5,
    }
    rope = {"rope_theta": 20000.0, **(scaling or {"rope_type": "default"})}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**fields, **sizes}, rope_parameters=rope))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def bpe():
    """A byte-level BPE that merges digits if its splitting rule allows it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<|endoftext|>", "<|im_start|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    assert any(token.isdigit() and len(token) > 1 for token in tokenizer.get_vocab())
    return tokenizer


def tokenizer_keys(bpe):
    model = json.loads(bpe.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    kinds = [TokenType.CONTROL] * 2 + [TokenType.NORMAL] * (len(tokens) - 2)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [int(kind) for kind in kinds],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": "{{ messages }}",
    }


def model_keys(config):
    return {
        "general.name": "Tiny",
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": config.rope_parameters["rope_theta"],
        "llama.vocab_size": config.vocab_size,
    }


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers": "blk",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def model_tensors(model):
    """The weights under GGUF's names, the halves of q's and k's heads interleaved."""
    tensors, config = {}, model.config
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        for there, here in NAMES.items():
            name = name.replace(there, here)
        for part, n_head in heads.items():
            if part in name.split("."):
                halves = values.reshape(n_head, 2, -1, values.shape[-1])
                values = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)
        tensors[name] = values
    return tensors


def write_gguf(path, keys, tensors, matrices="F32", architecture="llama"):
    """Keys that are None and tensors that are None are left out."""
    writer = GGUFWriter(path, architecture)
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    adders |= {str: writer.add_string, list: writer.add_array}
    for key, value in keys.items():
        if value is not None:
            adders[type(value)](key, value)
    for name, values in tensors.items():
        if values is None:
            continue
        kind = GGMLQuantizationType[matrices if values.ndim == 2 else "F32"]
        writer.add_tensor(name, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def llama():
    return random_llama()


@pytest.fixture
def gguf(tmp_path, bpe, llama):
    """Writes the tiny model, with changes if given; returns the path."""

    def write(name="tiny.gguf", model=llama, keys=None, tensors=None, **more):
        all_keys = {**model_keys(model.config), **tokenizer_keys(bpe), **(keys or {})}
        all_tensors = {**model_tensors(model), **(tensors or {})}
        return write_gguf(tmp_path / name, all_keys, all_tensors, **more)

    return write


def imported(path, *options):
    """Runs the script in this process; returns the folder, which is beside the file."""
    folder = path.with_suffix("")
    import_gguf.main([str(path), "--to", str(folder), *options])
    return folder


def problem(path, *options):
    """The problem that an import raises; checks that nothing is left behind."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(Problem) as caught:
        imported(path, *options)
    assert sorted(path.parent.rglob("*")) == before
    return caught.value


def load(folder):
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not report[kind], report
    return model.eval()


@torch.no_grad()
def logits(model):
    tokens = torch.randint(VOCAB_SIZE, (1, 60), generator=torch.Generator().manual_seed(1))
    return model(tokens).logits[0]


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


# --- The model ---


@pytest.mark.parametrize(
    "sizes",
    [{}, {"num_key_value_heads": 1, "head_dim": 32}, {"tie_word_embeddings": True}],
    ids=str,
)
def test_an_fp32_model_comes_back_exactly(gguf, sizes):
    original = random_llama(**sizes)
    folder = imported(gguf(model=original))
    assert torch.equal(logits(load(folder)), logits(original))
    config = config_of(folder)
    assert (config["dtype"], config["regroup"]) == ("float32", {"imported_from": "tiny.gguf"})
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 0)


def test_regroup_gives_the_tokens_the_same_probabilities(gguf, llama, tmp_path):
    folder = imported(gguf())
    data, scores = tmp_path / "tokens.h5", tmp_path / "scores.h5"
    write_tokens(data, vocab_size=VOCAB_SIZE)
    done = regroup("score", "--model", folder, "--data", data, "--out", scores)
    assert "unknown fields" not in assert_done(done).stderr
    with h5py.File(scores) as scores, h5py.File(data) as data:
        end = int(data["val/offsets"][1])
        document = torch.from_numpy(data["val/tokens"][:end].astype(np.int64))
        scored = scores["logprob"][1:end]
    with torch.no_grad():
        expected = torch.log_softmax(llama(document[None]).logits[0, :-1], -1)
    expected = expected.gather(-1, document[1:, None])[:, 0].numpy()
    np.testing.assert_allclose(scored, expected, atol=1e-4)


@pytest.mark.parametrize("matrices, dtype", [("F16", "fp16"), ("Q8_0", "bf16")])
def test_weights_keep_the_digits_that_the_file_has(gguf, llama, matrices, dtype):
    path = gguf(matrices=matrices)
    kept = load_file(imported(path) / "model.safetensors")
    exact = load_file(imported(path, "--force", "--dtype", "fp32") / "model.safetensors")
    for name, parameter in llama.named_parameters():
        values = parameter.detach()
        if values.ndim == 2:  # rows are quantized one by one, so their order does not matter
            kind = GGMLQuantizationType[matrices]
            values = torch.from_numpy(dequantize(quantize(values.numpy(), kind), kind))
        assert torch.equal(exact[name], values)
        assert torch.equal(kept[name], values.to(import_gguf.DTYPES[dtype]))


def test_linear_rope_scaling_is_read(gguf):
    original = random_llama({"rope_type": "linear", "factor": 2.5})
    keys = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5}
    assert torch.equal(logits(load(imported(gguf(model=original, keys=keys)))), logits(original))


def test_llama_3_s_rope_scaling_is_recognised_by_what_it_does(gguf, llama):
    original = random_llama(LLAMA3)
    there, here = (model.model.rotary_emb.inv_freq for model in (llama, original))
    divisors = (there / here).numpy()
    assert divisors.min() == 1 and divisors.max() == 8 and len(set(divisors)) == 3
    folder = imported(gguf(model=original, tensors={"rope_freqs.weight": divisors}))
    assert torch.equal(logits(load(folder)), logits(original))


@pytest.mark.parametrize(
    "keys, divisors",
    [
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, None),
        ({}, np.linspace(1, 8, 8, dtype=np.float32)),
    ],
    ids=["yarn", "odd divisors"],
)
def test_rope_scaling_that_is_unknown_is_refused(gguf, keys, divisors):
    wrong = problem(gguf(keys=keys, tensors={"rope_freqs.weight": divisors}))
    assert "scales RoPE neither" in str(wrong) and wrong.exit_code == 1


# --- The tokenizer ---


def assert_encodes(folder, expected, text=TEXT_AND_MARKUP):
    """tokenizer.json gives the expected ids, on its own and in transformers, and the text back."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.encode(text).ids == expected
    assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == expected
    bare = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(bare, skip_special_tokens=False) == text


def test_smollm_splits_digits_one_by_one(gguf, bpe):
    path = gguf()
    path.with_name("tokenizer.json").write_text("{}")  # another model's, which must not be used
    folder = imported(path)
    digits = pre_tokenizers.Digits(individual_digits=True)
    rule = Tokenizer.from_str(bpe.to_str())
    rule.pre_tokenizer = pre_tokenizers.Sequence([digits, bpe.pre_tokenizer])
    assert rule.encode(TEXT_AND_MARKUP).ids != bpe.encode(TEXT_AND_MARKUP).ids
    assert_encodes(folder, rule.encode(TEXT_AND_MARKUP).ids)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|endoftext|>")
    assert (tokenizer.chat_template, tokenizer.model_max_length) == ("{{ messages }}", 64)


def test_gpt_2_keeps_numbers_together(gguf, bpe):
    folder = imported(gguf(keys={"tokenizer.ggml.pre": "gpt-2"}))
    assert_encodes(folder, bpe.encode(TEXT_AND_MARKUP).ids)


def test_llama_3_begins_texts_and_takes_whole_words_without_merging(gguf, bpe):
    keys = tokenizer_keys(bpe)
    keys["tokenizer.ggml.pre"] = "llama-bpe"
    keys["tokenizer.ggml.tokens"][-1] = "qzw"  # no merge produces it
    keys["tokenizer.ggml.merges"].pop()
    folder = imported(gguf(keys=keys))
    assert_encodes(folder, [1, VOCAB_SIZE - 1], "qzw")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    split = tokenizer.pre_tokenizer.pre_tokenize_str("It'S 12345\n\n x")
    assert [piece for piece, _ in split] == ["It", "'S", "Ġ", "123", "45", "ĊĊ", "Ġx"]
    without_bos = {**keys, "tokenizer.ggml.add_bos_token": False}
    assert_encodes(imported(gguf(keys=without_bos), "--force"), [VOCAB_SIZE - 1], "qzw")


def test_an_unknown_tokenizer_is_left_out_with_a_note(gguf, llama, bpe, capsys):
    tokens = tokenizer_keys(bpe)["tokenizer.ggml.tokens"]
    for unknown in (
        {"tokenizer.ggml.model": "llama"},
        {"tokenizer.ggml.pre": "tekken"},
        {"tokenizer.ggml.tokens": ["<｜begin｜>", *tokens[1:]]},  # transformers respells it
    ):
        folder = imported(gguf(keys=unknown), "--force")
        assert "no tokenizer.json is written" in capsys.readouterr().err
        assert not (folder / "tokenizer.json").exists()
        assert torch.equal(logits(load(folder)), logits(llama))


# --- Bad files ---


@pytest.mark.parametrize(
    "keys, tensors, words",
    [
        ({}, {"blk.1.attn_q.weight": None}, "blk.1.attn_q.weight is missing"),
        ({}, {"blk.0.attn_q.bias": np.ones(64, np.float32)}, "blk.0.attn_q.bias is [64], expected"),
        ({"llama.feed_forward_length": 90}, {}, "blk.0.ffn_gate.weight is [96, 64]"),
        ({"llama.block_count": 2**31}, {}, "fewer tensors than layers"),
        ({"llama.attention.layer_norm_rms_epsilon": None}, {}, "has no llama.attention.layer_norm"),
        ({"tokenizer.ggml.merges": ["a zzz"]}, {}, "cannot be read"),
    ],
)
def test_damage_to_a_llama_is_named(gguf, keys, tensors, words):
    wrong = problem(gguf(keys=keys, tensors=tensors))
    assert words in str(wrong) and wrong.exit_code == 1


def test_values_too_large_for_the_dtype_are_refused(gguf):
    path = gguf(tensors={"output_norm.weight": np.full(64, 7e4, np.float32)})
    assert "values that are not finite in torch.float16" in str(problem(path, "--dtype", "fp16"))
    imported(path, "--dtype", "bf16")


def test_another_architecture_is_refused(gguf, tmp_path):
    path = gguf(architecture="qwen2")
    done = run("import_gguf.py", path, "--to", tmp_path / "out")
    assert_refused(done, 1, 'tiny.gguf: has the architecture "qwen2"')
    assert not (tmp_path / "out").exists()


def test_a_truncated_file_is_refused_wherever_it_ends(gguf, tmp_path):
    whole = gguf().read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(64), *np.linspace(64, len(whole) - 1, 40).astype(int)]:
        cut.write_bytes(whole[:size])
        wrong = problem(cut)
        assert "cut.gguf: cannot be read as a GGUF file" in str(wrong) and wrong.exit_code == 1
    done = run("import_gguf.py", cut, "--to", tmp_path / "out")
    assert_refused(done, 1, "bytes, and its header says at least", "Download")
    assert done.stderr.count("\n") == 1


# --- The output ---


def test_an_output_that_exists_is_replaced_only_by_force_and_only_if_regroup_wrote_it(gguf, llama):
    path = gguf()
    folder = imported(path)
    (folder / "stale.txt").write_text("from before")
    wrong = problem(path)
    assert "exists and is not empty" in str(wrong) and wrong.exit_code == 2
    imported(path, "--force")
    assert not (folder / "stale.txt").exists()
    assert torch.equal(logits(load(folder)), logits(llama))

    (folder / "config.json").write_text('{"model_type": "llama"}')
    wrong = problem(path, "--force")
    assert "only a model that Regroup wrote" in str(wrong) and wrong.exit_code == 2


def test_a_bad_request_is_refused(gguf, tmp_path):
    path = gguf()
    (tmp_path / "config.json").write_text('{"regroup": {}}')  # --force would replace the file too
    for output in (tmp_path / "config.json", tmp_path):
        with pytest.raises(Problem, match="exists and is not empty") as caught:
            import_gguf.main([str(path), "--to", str(output), "--force"])
        assert caught.value.exit_code == 2
    with pytest.raises(Problem, match="tiny.gguf: is not a folder. Name another place with --to"):
        import_gguf.main([str(path), "--to", str(path / "out")])
    wrong = problem(tmp_path / "none.gguf")
    assert "none.gguf: is not a file" in str(wrong) and wrong.exit_code == 2


def test_an_empty_folder_is_filled_and_missing_parents_are_made(gguf, tmp_path, llama):
    (tmp_path / "tiny").mkdir()
    folder = imported(gguf())
    assert torch.equal(logits(load(folder)), logits(llama))
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1
    done = run("import_gguf.py", gguf(), "--to", tmp_path / "deep" / "er")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'deep' / 'er'}: a Llama of ")
    assert done.stderr == f"reading tensors\nwriting {tmp_path / 'deep' / 'er'}\n"  # no bar in a file or pipe
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["er"]


def test_an_import_that_fails_half_way_leaves_what_was_there(gguf, llama, monkeypatch):
    path = gguf()
    folder = imported(path)

    def disk_full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(import_gguf, "require_space", disk_full)
    with pytest.raises(OSError, match="disk full"):
        imported(path, "--force")
    assert torch.equal(logits(load(folder)), logits(llama))
    assert sorted(beside.name for beside in path.parent.iterdir()) == ["tiny", "tiny.gguf"]
