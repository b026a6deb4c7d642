"""Bad input to `regroup`: the right exit code, a short message that names the fault, nothing lost."""

import json
import shutil
import struct

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_runs import (
    assert_done,
    assert_refused,
    everything_in,
    pretrain,
    regroup,
    uptrain,
    write_split,
    write_tokens,
)

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"
K_PROJ = "model.layers.1.self_attn.k_proj.weight"


def convert(workplace, *words):
    return regroup("convert", "--from", "model", "--to", "converted", "--kv-heads", "2", *words,
                   cwd=workplace)


def evaluate(workplace):
    return regroup("eval", "--model", "model", "--data", "tokens.h5", "--json", "out.json",
                   cwd=workplace)


def assert_all_refuse(workplace, exit_code, *parts, verbs=(convert, evaluate)):
    """Every verb that reads model/ refuses it, and leaves the workplace as it was."""
    before = everything_in(workplace)
    for verb in verbs:
        assert_refused(verb(workplace), exit_code, *parts)
    result = uptrain(workplace, "up", convert__from="model", convert__n_kv_head=2)
    assert_refused(result, exit_code, *parts)
    assert everything_in(workplace) == before
    assert {path.name for path in workplace.iterdir()} == {"model", "run.ini", "tokens.h5"}


# Configs

@pytest.mark.parametrize("keys, parts", [
    ({"train__stepz": 3}, ["train.stepz", "did you mean --train.steps?"]),
    ({"optim__lr": "fast"}, ["optim.lr", "fast"]),
    ({"optim__lr": "nan"}, ["optim.lr", "nan"]),
    ({"optim__schedule": "cosin"}, ["optim.schedule", "cosine"]),
    ({"train__steps": 0}, ["train.steps"]),
    ({"train__steps": "99999999999999999999"}, ["train.steps"]),
    ({"train__tokens": 512}, ["steps", "tokens"]),
    ({"train__batch_tokens": 8}, ["batch_tokens (8)", "seq_len (16)"]),
    ({"train__device": "tpu"}, ["train.device", "tpu"]),
    ({"optim__min_lr": 1}, ["min_lr (1)", "lr (0.01)"]),
    ({"model__n_kv_head": 3}, ["n_kv_head (3)", "n_head (4)", "1, 2, 4"]),
    ({"model__n_kv_head": "2,3"}, ["n_kv_head (3)", "n_head (4)"]),
    ({"model__n_kv_head": "1,2,4"}, ["3", "2 layers"]),
    ({"model__n_head": 5}, ["n_head (5)", "d_model (32)"]),
    ({"model__d_model": 4000000000000}, ["d_model"]),
    ({"model__vocab_size": 20}, ["vocab_size (20)", "64"]),
    ({"data__seq_len": 100, "train__batch_tokens": 200}, ["seq_len (100)", "max_seq_len (48)"]),
    ({"data__train": ""}, ["data.train"])], ids=lambda value: str(value)[:40])
def test_a_wrong_config_is_a_wrong_request(workplace, keys, parts):
    assert_refused(pretrain(workplace, "run", **keys), 2, *parts)
    assert not (workplace / "run").exists()


def test_a_misspelled_key_in_the_file_is_refused_by_both_verbs(workplace):
    with open(workplace / "run.ini", "a") as file:
        file.write("[model]\nn_kv_heads = 2\n")
    for train, keys in ((pretrain, {}), (uptrain, {"convert__from": "model"})):
        assert_refused(train(workplace, "run", **keys), 2, "model.n_kv_heads", "model.n_kv_head?")
        assert not (workplace / "run").exists()


def test_all_wrong_values_are_reported_together(workplace):
    result = pretrain(workplace, "run", optim__lr=-1, train__dtype="int8", model__layers=2)
    assert_refused(result, 2, "optim.lr", "train.dtype", "model.layers")


@pytest.mark.parametrize("kv_heads, parts", [("3", ["3", "4"]), ("0", ["0"]), ("2,2,2", ["3", "2"]),
                                             ("8", ["8", "4"]), ("two", ["two"])])
def test_k_v_heads_that_do_not_fit_are_a_wrong_request(workplace, kv_heads, parts):
    result = regroup("convert", "--from", "model", "--to", "converted", "--kv-heads", kv_heads,
                     cwd=workplace)
    assert_refused(result, 2, *parts)
    assert_refused(uptrain(workplace, "up", convert__from="model", convert__n_kv_head=kv_heads), 2)
    assert not (workplace / "converted").exists() and not (workplace / "up").exists()


def test_a_sequence_longer_than_the_original_s_context_is_a_wrong_request(workplace):
    result = uptrain(workplace, "up", convert__from="model", convert__n_kv_head=2,
                     data__seq_len=100, train__batch_tokens=200)
    assert_refused(result, 2, "seq_len", "100", "48")
    assert not (workplace / "up").exists()


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_an_occupied_output_folder_is_refused(workplace, force):
    (workplace / "converted").mkdir()
    (workplace / "converted/thesis.txt").write_text("years of work")
    assert_refused(convert(workplace, *force), 2, "converted", "not empty")
    assert everything_in(workplace / "converted") == {"thesis.txt": b"years of work"}


# Token data

def rewrite(workplace, change):
    with h5py.File(workplace / "tokens.h5", "r+") as file:
        change(file)


def replace(file, name, values):
    del file[name]
    file[name] = values


def large_ids(file):
    file["train/tokens"][5] = 64


def large_ids_in_val(file):
    file["val/tokens"][5] = 64


def signed_tokens(file):
    replace(file, "train/tokens", file["train/tokens"][:].astype(np.int64))


def float_tokens(file):
    replace(file, "train/tokens", file["train/tokens"][:].astype(np.float32))


def tokens_on_two_axes(file):
    replace(file, "train/tokens", file["train/tokens"][:][None])


def signed_offsets(file):
    replace(file, "train/offsets", file["train/offsets"][:].astype(np.int32))


def offsets_beyond_the_end(file):
    file["train/offsets"][-1] = 10**18


def falling_offsets(file):
    file["train/offsets"][1] = 10**6


def no_split(file):
    del file["val"]


def empty_split(file):
    del file["val"]
    write_split(file, "val", [np.zeros(0)])


def unknown_version(file):
    file.attrs["format_version"] = 99


def large_vocabulary(file):
    file.attrs["vocab_size"] = 10**6


TOKEN_DAMAGES = [(large_ids, "64"), (large_ids_in_val, "64"), (signed_tokens, "int64"),
                 (float_tokens, "float32"), (tokens_on_two_axes, "[1, "), (signed_offsets, "int32"),
                 (offsets_beyond_the_end, "offsets"), (falling_offsets, "offsets"),
                 (no_split, "val"), (empty_split, "val"), (unknown_version, "99")]


@pytest.mark.parametrize("damage, part", TOKEN_DAMAGES, ids=lambda value: getattr(
    value, "__name__", ""))
def test_unsound_token_data_are_refused(workplace, damage, part):
    rewrite(workplace, damage)
    assert_refused(pretrain(workplace, "run"), 1, "tokens.h5", part)
    assert_refused(uptrain(workplace, "up", convert__from="model", convert__n_kv_head=2), 1,
                   "tokens.h5", part)
    assert not (workplace / "run").exists() and not (workplace / "up").exists()


def test_a_vocabulary_above_the_model_s_is_refused(workplace):
    rewrite(workplace, large_vocabulary)
    assert_all_refuse(workplace, 1, "tokens.h5", "vocab_size (1000000)", "(64)", verbs=(evaluate,))


def test_evaluation_refuses_unsound_token_data(workplace):
    for damage in (large_ids_in_val, no_split):
        rewrite(workplace, damage)
        assert_refused(evaluate(workplace), 1, "tokens.h5", "val")
        assert not (workplace / "out.json").exists()


@pytest.mark.parametrize("contents", [b"", b"hello", b"\x89HDF\r\n\x1a\n", b"\x89HDF\r\n\x1a\n" * 99])
def test_a_file_that_is_not_hdf5_is_refused(workplace, contents):
    (workplace / "tokens.h5").write_bytes(contents)
    assert_refused(pretrain(workplace, "run"), 1, "tokens.h5")
    assert_refused(evaluate(workplace), 1, "tokens.h5")
    assert not (workplace / "run").exists()


def test_truncated_token_data_are_refused_wherever_they_end(workplace):
    whole = (workplace / "tokens.h5").read_bytes()
    for share in (0.03, 0.2, 0.5, 0.9, 0.999):
        (workplace / "tokens.h5").write_bytes(whole[:int(share * len(whole))])
        assert_refused(pretrain(workplace, "run"), 1, "tokens.h5")
    assert not (workplace / "run").exists()


def test_token_data_shorter_than_a_sequence_are_refused(workplace):
    write_tokens(workplace / "tokens.h5", n_train=1, n_val=1)
    assert_refused(pretrain(workplace, "run", data__seq_len=48, train__batch_tokens=96), 1,
                   "tokens.h5", "seq_len 48")
    assert not (workplace / "run").exists()


def test_missing_files_are_named(workplace):
    assert_refused(pretrain(workplace, "run", data__train="none.h5"), 1, "none.h5")
    (workplace / "tokens.h5").unlink()
    assert_refused(evaluate(workplace), 1, "tokens.h5")
    assert_refused(regroup("pretrain", "--config", "none.ini", "--run", "run", cwd=workplace), 2,
                   "none.ini")


# Tensors

def change_tensors(workplace, change):
    path = workplace / "model/model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("change, parts", [
    (lambda t: t.pop(K_PROJ), [K_PROJ, "missing"]),
    (lambda t: t.update(extra=np.zeros(3, np.float32)), ["extra"]),
    (lambda t: t.update({Q_PROJ: np.zeros((32, 31), np.float32)}), [Q_PROJ, "[32, 31]", "[32, 32]"]),
    (lambda t: t.update({Q_PROJ: np.zeros(1024, np.float32)}), [Q_PROJ, "[1024]"]),
    (lambda t: t.update({Q_PROJ: np.zeros((32, 32), np.int32)}), [Q_PROJ]),
    (lambda t: t.clear(), ["missing", "more"])],
    ids=["missing", "extra", "misshapen", "flat", "integers", "none"])
def test_tensors_that_do_not_belong_are_refused(workplace, change, parts):
    change_tensors(workplace, change)
    assert_all_refuse(workplace, 1, "model", *parts)


def header_of(workplace):
    contents = (workplace / "model/model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", contents[:8])
    return json.loads(contents[8:8 + length]), contents[8 + length:]


def write_raw(workplace, header, data, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(text) if length is None else length)
    (workplace / "model/model.safetensors").write_bytes(size + text + data)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**40, 2**63, 2**64 - 1])
def test_a_lying_header_length_is_refused(workplace, length):
    header, data = header_of(workplace)
    write_raw(workplace, header, data, length)
    assert_all_refuse(workplace, 1, "model.safetensors")


@pytest.mark.parametrize("entry", [
    {"data_offsets": [0, 2**62]}, {"data_offsets": [-4, 4092]}, {"data_offsets": [4096, 0]},
    {"data_offsets": [1, 2, 3]}, {"data_offsets": "all"},
    {"shape": [2**40, 2**40]}, {"shape": [-32, -32]}, {"shape": [32.5, 32]}, {"dtype": "F33"},
    {"dtype": "F64"}, {"dtype": 7}], ids=str)
def test_a_lying_tensor_entry_is_refused(workplace, entry):
    header, data = header_of(workplace)
    header[Q_PROJ] |= entry
    write_raw(workplace, header, data)
    assert_all_refuse(workplace, 1, "model.safetensors", Q_PROJ)


def test_tensors_that_overlap_are_refused(workplace):
    header, data = header_of(workplace)
    header[Q_PROJ]["data_offsets"] = header[Q_PROJ.replace("q_proj", "o_proj")]["data_offsets"]
    write_raw(workplace, header, data)
    assert_all_refuse(workplace, 1, "model.safetensors", "inside the data before it")


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"a":' * 100_000, b"{}", b"null", b"\xff\xfe",
                                    b"{", b'{"a": 1, "a": 2}'], ids=lambda value: value[:6])
def test_a_malformed_header_is_refused(workplace, header):
    write_raw(workplace, header, header_of(workplace)[1])
    assert_all_refuse(workplace, 1, "model.safetensors")


def test_truncated_weights_are_refused_wherever_they_end(workplace):
    path = workplace / "model/model.safetensors"
    whole = path.read_bytes()
    for size in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert_refused(evaluate(workplace), 1, "model.safetensors")
        assert_refused(convert(workplace), 1, "model.safetensors")


def test_a_shard_index_that_points_outside_is_refused(workplace):
    shutil.move(workplace / "model/model.safetensors", workplace / "outside.safetensors")
    names = load_file(workplace / "outside.safetensors")
    for shard in ("../outside.safetensors", str(workplace / "outside.safetensors"), "", "..",
                  "absent.safetensors"):
        index = {"metadata": {}, "weight_map": {name: shard for name in names}}
        (workplace / "model/model.safetensors.index.json").write_text(json.dumps(index))
        assert_refused(evaluate(workplace), 1, "model.safetensors.index.json")
        assert_refused(convert(workplace), 1, "model.safetensors.index.json")
    assert not (workplace / "converted").exists()


def test_pickles_are_refused_and_the_message_says_why(workplace):
    (workplace / "model/model.safetensors").rename(workplace / "model/pytorch_model.bin")
    assert_all_refuse(workplace, 1, "pytorch_model.bin", "pickle", "safe")


# config.json

@pytest.mark.parametrize("text", [
    '{"a":' * 50_000 + "1" + "}" * 50_000, "[" * 1_000_000, "", "[]", "null", "{", '{"model_type": 3}',
    '{"model_type": "llama"}', '{"model_type": "unheard-of"}', '"' + "x" * 5_000_000,
    '{"model_type": "llama", "model_type": "llama"}', "\x00"], ids=lambda value: repr(value[:16]))
def test_a_config_json_that_is_none_is_refused(workplace, text):
    (workplace / "model/config.json").write_text(text)
    assert_all_refuse(workplace, 1, "config.json")


def test_a_huge_config_json_is_refused(workplace):
    with open(workplace / "model/config.json", "w") as file:
        file.truncate(300 << 20)  # sparse
    assert_refused(evaluate(workplace), 1, "config.json")


@pytest.mark.parametrize("field, value", [
    ("hidden_act", "mish"), ("attention_bias", True), ("mlp_bias", True), ("sliding_window", 128),
    ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}), ("partial_rotary_factor", 0.5),
    ("quantization_config", {"bits": 4}), ("rope_theta", 5e5), ("num_key_value_heads", 3),
    ("num_key_value_heads", 2), ("hidden_size", 33), ("head_dim", 7), ("num_hidden_layers", 3),
    ("num_hidden_layers", 10**9), ("num_hidden_layers", "two"), ("vocab_size", -1),
    ("hidden_size", 1e99), ("rms_norm_eps", -1), ("rms_norm_eps", 1e300),
    ("architectures", ["LlamaForSequenceClassification"]),
    ("regroup", {"n_kv_head": [3, 3]}), ("regroup", {"n_kv_head": [2, 2]}), ("regroup", "ours")],
    ids=lambda value: str(value)[:24])
def test_a_config_field_that_is_wrong_or_not_implemented_is_refused(workplace, field, value):
    path = workplace / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    assert_all_refuse(workplace, 1, "model")


def test_an_unknown_field_is_one_warning(workplace):
    path = workplace / "model/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flavour": "x", "colour": "y"}))
    result = assert_done(evaluate(workplace))
    assert [line for line in result.stderr.splitlines() if "flavour" in line and "colour" in line]


def test_a_model_that_is_not_a_folder_is_named(workplace):
    for name in ("absent", "tokens.h5"):
        result = regroup("eval", "--model", name, "--data", "tokens.h5", cwd=workplace)
        assert_refused(result, 1, name)


def test_a_name_of_the_hub_is_explained(workplace):
    for name, is_explained in (("EleutherAI/pythia-70m", True), ("model/absent", False), ("../absent", False)):
        result = regroup("eval", "--model", name, "--data", "tokens.h5", cwd=workplace)
        assert_refused(result, 1, name.removeprefix("../"))
        assert (f"hf download {name}" in result.stderr) == is_explained
