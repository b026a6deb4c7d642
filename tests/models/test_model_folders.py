"""What the verbs make of a model folder as a whole: tensors that config.json denies, files beside the weights, links,
modes; and whether transformers finds all it needs in what Regroup writes."""

import json
import os
import shutil

import h5py
import pytest
import torch
from hf_models import load_there
from safetensors.torch import load_file, save_file
from small_models import small_llama, write_text
from tiny_runs import VOCAB_SIZE, assert_done, everything_in, make_workplace, pretrain, regroup, uptrain, words_of
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

END = "<|endoftext|>"
SHORT = dict(train__steps=2, checkpoint__every=1, data__val="")


def tokenizer_text():
    words = {END: 0} | {f"w{i}": i for i in range(1, VOCAB_SIZE)}
    tokenizer = Tokenizer(WordLevel(words, unk_token=END))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.add_special_tokens([END])
    return tokenizer.to_str()


def run_with_umask(verb, workplace, run, *flags, **keys):
    return assert_done(regroup(*words_of(verb, run, *flags, **keys), cwd=workplace, umask=0o022))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """Token data with a tokenizer, and a run `mha` that pretrained on it under umask 022."""
    folder = make_workplace(tmp_path_factory.mktemp("folders"))
    with h5py.File(folder / "tokens.h5", "r+") as file:
        file.attrs["tokenizer"] = tokenizer_text()
    run_with_umask("pretrain", folder, "mha", **SHORT)
    return folder


@pytest.fixture
def model(tmp_path):
    """A small Llama of transformers, and text.h5 for it."""
    small_llama().save_pretrained(tmp_path / "model")
    write_text(tmp_path / "text.h5", [1, 2, 3, 4, 5, 6, 7, 8], split="val")
    return tmp_path / "model"


def say_in_config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_tensors(folder, change):
    """change edits a dict of tensors in place."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def loss_of(folder, *words):
    result = folder.parent / "eval.json"
    done = assert_done(regroup("eval", "--model", folder, "--data", folder.parent / "text.h5", "--json", result, *words))
    return json.loads(result.read_text())["models"][0]["loss"], done.stderr


def convert(source, to, *words, **options):
    return assert_done(regroup("convert", "--from", source, "--to", to, "--kv-heads", 2, *words, **options)).stderr


def modes_in(folder):
    return {str(path.relative_to(folder)): oct(path.stat().st_mode & 0o777)
            for path in sorted(folder.rglob("*")) if path.is_file()}


# config.json against the weights

def test_a_head_that_differs_is_kept_though_config_json_ties_it(model):
    loss, said = loss_of(model)
    assert "warning" not in said
    say_in_config(model, tie_word_embeddings=True)
    tied_loss, said = loss_of(model, "--speed", "--reference", model)
    assert tied_loss == loss
    assert said.count("lm_head.weight differs from model.embed_tokens.weight") == 1

    said = convert(model, model.parent / "gqa")
    assert said.count("the head is kept and the model is untied") == 1
    assert "untied" in assert_done(regroup("export", "--model", model, "--to", model.parent / "bf16", "--dtype",
                                           "bf16")).stderr
    for written in ("gqa", "bf16"):
        assert json.loads((model.parent / written / "config.json").read_text())["tie_word_embeddings"] is False
        assert "lm_head.weight" in load_file(model.parent / written / "model.safetensors")
    assert torch.equal(load_file(model.parent / "gqa/model.safetensors")["lm_head.weight"],
                       load_file(model / "model.safetensors")["lm_head.weight"])


def test_inspect_says_whether_a_model_is_tied(model):
    def tied():
        text = assert_done(regroup("inspect", model)).stdout
        said = json.loads(assert_done(regroup("inspect", model, "--json")).stdout)["tie_embeddings"]
        return next(line.split()[1] for line in text.splitlines() if line.split()[0] == "tied"), said

    say_in_config(model, tie_word_embeddings=True)
    assert tied() == ("no", False)
    change_tensors(model, lambda tensors: tensors.update(
        {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assert tied() == ("yes:", True)
    change_tensors(model, lambda tensors: tensors.pop("lm_head.weight"))
    assert tied() == ("yes:", True)


def test_an_equal_head_leaves_a_model_tied_without_a_word(model):
    say_in_config(model, tie_word_embeddings=True)
    change_tensors(model, lambda tensors: tensors.update(
        {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assert "warning" not in convert(model, model.parent / "gqa")
    assert json.loads((model.parent / "gqa/config.json").read_text())["tie_word_embeddings"] is True
    assert "lm_head.weight" not in load_file(model.parent / "gqa/model.safetensors")


def test_uptraining_keeps_a_head_that_differs_and_warns_once(workplace, tmp_path):
    shutil.copytree(workplace / "mha/final", tmp_path / "tied")
    say_in_config(tmp_path / "tied", tie_word_embeddings=True)
    done = assert_done(uptrain(workplace, tmp_path / "run", convert__from=tmp_path / "tied", convert__n_kv_head=2,
                               uptrain__alpha=1))
    assert done.stderr.count("the head is kept and the model is untied") == 1
    for folder in ("converted", "final", "checkpoints/latest"):
        assert json.loads((tmp_path / "run" / folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_stored_frequencies_that_contradict_config_json_are_named_once(model):
    frequencies = 700.0 ** -(torch.arange(0, 10, 2) / 10)
    names = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(2)]

    def store(values):
        change_tensors(model, lambda tensors: tensors.update({name: values.clone() for name in names}))
        return loss_of(model)

    loss, said = store(frequencies)
    assert "warning" not in said
    other_loss, said = store(frequencies / 2)
    assert other_loss == loss
    assert said.count("warning") == 1
    assert f"{names[0]} and 1 more like it differ" in said


def test_safetensors_that_are_not_read_are_named(model):
    save_file({"w": torch.ones(1)}, model / "adapter_model.safetensors")
    _, said = loss_of(model)
    assert said.count("warning") == 1
    assert "not read: adapter_model.safetensors" in said


# Files beside the weights

def add_text_files(folder):
    """A tokenizer of transformers with two chat templates, and files that do not belong to it."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer_text()), eos_token=END)
    tokenizer.chat_template = {"default": "{{ messages[0].content }}", "tool_use": "TOOL {{ messages[0].content }}"}
    tokenizer.save_pretrained(folder)
    for name in ("README.md", "pytorch_model.bin", "qwen.tiktoken"):
        (folder / name).write_text(name)


def chat(folder):
    return AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, chat_template="tool_use")


def test_named_chat_templates_travel_and_what_stays_behind_is_named(model):
    add_text_files(model)
    (model / "tokenizer.json").chmod(0o444)
    (model / "tokenizer_config.json").chmod(0o600)
    said = convert(model, model.parent / "gqa", umask=0o022)
    assert f"{model}: not copied: README.md, pytorch_model.bin\n" in said
    assert_done(regroup("export", "--model", model.parent / "gqa", "--to", model.parent / "bf16", umask=0o022))
    unlike_the_source = {"config.json", "model.safetensors", "README.md"}
    for written, left in ((model.parent / "gqa", {"README.md", "pytorch_model.bin"}),
                          (model.parent / "bf16", {"pytorch_model.bin"})):
        assert chat(written) == "TOOL hi"
        assert set(modes_in(written).values()) == {"0o644"}
        ours, theirs = everything_in(written), everything_in(model)
        assert set(theirs) - set(ours) == left
        assert set(ours) == set(theirs) - left
        for name in set(ours) - unlike_the_source:
            assert ours[name] == theirs[name], name


def test_text_files_go_through_a_run_that_is_resumed(workplace, tmp_path):
    shutil.copytree(workplace / "mha/final", tmp_path / "model")
    add_text_files(tmp_path / "model")
    keys = dict(convert__from=tmp_path / "model", convert__n_kv_head=2, uptrain__original_steps=2, uptrain__alpha=1,
                data__val="", checkpoint__every=1)
    run_with_umask("uptrain", workplace, tmp_path / "run", **keys)
    done = run_with_umask("uptrain", workplace, tmp_path / "run", "--resume", **keys | dict(uptrain__alpha=2))
    assert done.stderr.count("not copied") <= 1
    for folder in ("converted", "checkpoints/latest", "final"):
        assert chat(tmp_path / "run" / folder) == "TOOL hi"
        assert (tmp_path / "run" / folder / "qwen.tiktoken").exists()
    assert set(modes_in(tmp_path / "run").values()) == {"0o644"}


# What transformers finds

@pytest.mark.parametrize("folder", ["final", "checkpoints/latest"])
def test_what_pretrain_writes_is_complete_for_transformers(workplace, folder):
    model = workplace / "mha" / folder
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == (END, 0)
    assert tokenizer.model_max_length == 48
    config, generation = AutoConfig.from_pretrained(model), GenerationConfig.from_pretrained(model)
    for ids in (config, generation):
        assert (ids.bos_token_id, ids.eos_token_id, ids.pad_token_id) == (tokenizer.bos_token_id, 0, None)
    assert tokenizer.bos_token == END
    assert tokenizer("w3 w1").input_ids == [3, 1]
    tokenizer.pad_token = tokenizer.eos_token
    assert tokenizer(["w3 w1", "w2"], padding=True).input_ids == [[3, 1], [2, 0]]
    load_there(model)


def test_everything_that_a_run_leaves_follows_the_umask(workplace):
    assert set(modes_in(workplace / "mha").values()) == {"0o644"}


def test_a_model_without_a_tokenizer_has_no_bos(workplace, tmp_path):
    make_workplace(tmp_path)
    assert_done(pretrain(tmp_path, "run", **SHORT))
    config = json.loads((tmp_path / "run/final/config.json").read_text())
    assert config["bos_token_id"] is None and config["pad_token_id"] is None
    assert config["eos_token_id"] == 0
    assert AutoConfig.from_pretrained(tmp_path / "run/final").bos_token_id is None


def test_conversion_completes_a_folder_that_has_only_its_tokenizer(workplace, tmp_path):
    shutil.copytree(workplace / "mha/final", tmp_path / "model")
    for name in ("tokenizer_config.json", "generation_config.json"):
        (tmp_path / "model" / name).unlink()
    config = json.loads((tmp_path / "model/config.json").read_text())
    del config["bos_token_id"]
    (tmp_path / "model/config.json").write_text(json.dumps(config))
    convert(tmp_path / "model", tmp_path / "gqa")
    assert AutoTokenizer.from_pretrained(tmp_path / "gqa").eos_token == END
    for name in ("tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "gqa" / name).read_bytes() == (workplace / "mha/final" / name).read_bytes()
    assert json.loads((tmp_path / "gqa/config.json").read_text())["bos_token_id"] == 0


def test_data_whose_tokenizer_is_no_json_is_refused_before_training(tmp_path):
    make_workplace(tmp_path)
    with h5py.File(tmp_path / "tokens.h5", "r+") as file:
        file.attrs["tokenizer"] = "{"
    done = pretrain(tmp_path, "run", **SHORT)
    assert done.returncode == 1 and "tokens.h5: tokenizer" in done.stderr
    assert not (tmp_path / "run").exists()


# Links

def test_a_model_of_links_out_of_its_folder_is_read(model):
    loss, _ = loss_of(model)
    small_llama().save_pretrained(model.parent / "sharded", max_shard_size="20KB")
    for source in (model, model.parent / "sharded"):
        linked = model.parent / f"{source.name}-linked"
        linked.mkdir()
        for file in source.iterdir():
            os.symlink(file, linked / file.name)
        assert loss_of(linked)[0] == loss
        convert(linked, model.parent / f"{source.name}-gqa")
        assert not any(file.is_symlink() for file in (model.parent / f"{source.name}-gqa").iterdir())
    assert everything_in(model.parent / "model-gqa").keys() == everything_in(model.parent / "sharded-gqa").keys()
