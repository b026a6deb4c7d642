"""Inputs that differ in form but not in meaning are accepted; what cannot be is refused with the advice that helps."""

import json

import pytest
from safetensors.numpy import load_file, save_file
from tiny_runs import CONFIG, assert_done, assert_refused, pretrain, regroup, uptrain


def edit_config(workplace, **fields):
    path = workplace / "model/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def loss(workplace):
    assert_done(regroup("eval", "--model", "model", "--data", "tokens.h5", "--json", "out.json", cwd=workplace))
    return json.loads((workplace / "out.json").read_text())["models"][0]["loss"]


def test_swish_is_silu_and_dropout_is_not_computed(workplace):
    expected = loss(workplace)
    edit_config(workplace, hidden_act="swish", attention_dropout=0.1, hidden_dropout=0.1, dropout=0.2, embd_pdrop=0.1)
    assert loss(workplace) == expected
    result = assert_done(uptrain(workplace, "up", convert__from="model", convert__n_kv_head=2,
                                 uptrain__original_steps=20))
    assert "unknown fields" not in result.stderr


@pytest.mark.parametrize("change", [lambda text: b"\xef\xbb\xbf" + text, lambda text: text.replace(b"\n", b"\r\n"),
                                    lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")],
                         ids=["byte order mark", "line ends of Windows", "both"])
def test_a_config_from_windows_is_read(workplace, change):
    (workplace / "run.ini").write_bytes(change(CONFIG.encode()))
    assert_done(pretrain(workplace, "run", train__steps=1))


def test_a_missing_shard_is_said_to_be_an_interrupted_download(workplace):
    tensors = load_file(workplace / "model/model.safetensors")
    (workplace / "model/model.safetensors").unlink()
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[1:]}, workplace / "model/model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 if name != names[0] else 2}-of-00002.safetensors" for name in names}
    (workplace / "model/model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    assert_refused(regroup("inspect", "model", cwd=workplace), 1, "model-00002-of-00002.safetensors", "is not there",
                   "download was interrupted")


def test_inspect_names_the_importer_of_gguf(workplace):
    (workplace / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    assert_refused(regroup("inspect", "model.gguf", cwd=workplace), 1, "GGUF", "tools/import_gguf.py")


@pytest.mark.parametrize("strategy", ["shard", "hybrid"])
def test_a_sharded_run_recomputes_activations_by_itself(workplace, strategy):
    assert_done(pretrain(workplace, "run", train__steps=1, dist__strategy=strategy))
    assert_done(pretrain(workplace, "run", "--resume", train__steps=2))
    refused = pretrain(workplace, "none", dist__strategy=strategy, train__activation_checkpointing="none")
    assert_refused(refused, 2, "train.activation_checkpointing = full")


def test_help_shows_the_launcher_s_command():
    assert "torchrun --no-python --nproc-per-node 2 -- regroup uptrain" in regroup("--help").stdout
