"""A job refuses inputs that give text different token ids, but not one tokenizer in two spellings."""

import copy
import json
import shutil

import h5py
import numpy as np
import pytest
from tiny_runs import VOCAB_SIZE, assert_done, assert_refused, make_workplace, pretrain, regroup, uptrain

INSIST = "--allow-other-tokenizer"


def added_token(number, content):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": True}


def byte_level_bpe():
    """tokenizer.json as new versions of `tokenizers` write it: merges as pairs, every default spelled out."""
    symbols = [chr(code) for code in range(ord("A"), ord("A") + VOCAB_SIZE - 3)]
    vocab = {symbol: i for i, symbol in enumerate(["<eos>", "<turn>", *symbols, "AB"])}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added_token(0, "<eos>"), added_token(1, "<turn>")],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "ignore_merges": False, "vocab": vocab, "merges": [["A", "B"]]}}


def with_another_vocabulary(tokenizer):
    vocab = tokenizer["model"]["vocab"]
    vocab["C"], vocab["D"] = vocab["D"], vocab["C"]
    return tokenizer


def as_an_old_version(tokenizer):
    """Merges as text, defaults and the model's type left out, keys and added tokens in another order."""
    model = tokenizer["model"]
    for field in ("type", "fuse_unk", "byte_fallback", "ignore_merges"):
        del model[field]
    model.update(continuing_subword_prefix="", end_of_word_suffix="", merges=["A B"])
    del tokenizer["pre_tokenizer"]["use_regex"]
    tokenizer["added_tokens"].reverse()
    return dict(reversed(tokenizer.items()))


def with_what_acts_after_the_ids(tokenizer):
    tokenizer["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    tokenizer["padding"] = {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None,
                            "pad_id": 0, "pad_type_id": 0, "pad_token": "<eos>"}
    tokenizer["post_processor"] = None
    tokenizer["decoder"] = None
    tokenizer["pre_tokenizer"]["trim_offsets"] = False
    return tokenizer


def with_a_normalizer(tokenizer):
    tokenizer["normalizer"] = {"type": "NFKC"}
    return tokenizer


def with_an_added_token(tokenizer):
    tokenizer["added_tokens"].append(added_token(5, "D"))
    return tokenizer


def with_prefix_space(tokenizer):
    tokenizer["pre_tokenizer"]["add_prefix_space"] = True
    return tokenizer


def with_other_merges(tokenizer):
    tokenizer["model"]["merges"] = []
    return tokenizer


def write_attributes(path, tokenizer=None, eos_id=0):
    with h5py.File(path, "r+") as file:
        file.attrs["tokenizer"] = "" if tokenizer is None else json.dumps(tokenizer)
        file.attrs["eos_id"] = eos_id


def add_choices(path):
    """Two questions with two options each, of tokens 2 to 9."""
    with h5py.File(path, "r+") as file:
        group = file.create_group("choices")
        group["tokens"] = np.arange(2, 14, dtype=np.uint16)
        group["context_offsets"] = np.array([0, 2, 4], np.uint64)
        group["option_offsets"] = np.array([[4, 6, 8], [8, 10, 12]], np.uint64)
        group["gold"] = np.array([0, 1], np.int64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workplace = make_workplace(tmp_path_factory.mktemp("trained"))
    write_attributes(workplace / "tokens.h5", byte_level_bpe())
    add_choices(workplace / "tokens.h5")
    assert_done(pretrain(workplace, "run", train__steps=1))
    return workplace


@pytest.fixture
def workplace(tmp_path, trained):
    """tokens.h5 and model/, which agree; other.h5, a copy of the tokens to be changed."""
    for name in ("tokens.h5", "run.ini"):
        shutil.copy(trained / name, tmp_path)
    shutil.copy(tmp_path / "tokens.h5", tmp_path / "other.h5")
    shutil.copytree(trained / "run/final", tmp_path / "model")
    return tmp_path


def evaluate(workplace, *words, data="other.h5"):
    return regroup("eval", "--model", "model", "--data", data, *words, cwd=workplace)


def score(workplace, *words):
    return regroup("score", "--model", "model", "--data", "other.h5", "--out", "scores.h5", *words, cwd=workplace)


def convert(workplace, *words):
    return regroup("convert", "--from", "model", "--to", "converted", "--kv-heads", "2", "--method", "pca",
                   "--calibration", "other.h5", "--calibration-tokens", "384", *words, cwd=workplace)


@pytest.mark.parametrize("verb", [evaluate, score, convert])
def test_a_verb_refuses_data_of_another_tokenizer(workplace, verb):
    write_attributes(workplace / "other.h5", with_another_vocabulary(byte_level_bpe()))
    assert_refused(verb(workplace), 2, "other.h5", "model", "model.vocab differs", INSIST)
    result = assert_done(verb(workplace, INSIST))
    assert "model.vocab differs" in result.stderr


@pytest.mark.parametrize("change, part", [
    (with_a_normalizer, "normalizer"), (with_an_added_token, "added_tokens"),
    (with_prefix_space, "pre_tokenizer"), (with_other_merges, "model.merges")])
def test_every_part_that_changes_ids_counts(workplace, change, part):
    write_attributes(workplace / "other.h5", change(byte_level_bpe()))
    assert_refused(evaluate(workplace), 2, "other.h5", f"{part} differs")


@pytest.mark.parametrize("change", [copy.deepcopy, as_an_old_version, with_what_acts_after_the_ids])
def test_the_same_tokenizer_in_other_words_passes(workplace, change):
    write_attributes(workplace / "other.h5", change(byte_level_bpe()))
    result = assert_done(evaluate(workplace))
    assert "tokenizer" not in result.stderr


def test_another_eos_is_refused_and_one_of_several_passes(workplace):
    write_attributes(workplace / "other.h5", byte_level_bpe(), eos_id=1)
    assert_refused(evaluate(workplace), 2, "other.h5", "token 1", "token 0", INSIST)
    for file in ("config.json", "generation_config.json"):
        path = workplace / "model" / file
        config = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**config, "eos_token_id": [0, 1]}))
    assert_done(evaluate(workplace))


def test_the_eos_of_tokenizer_config_counts(workplace):
    """An instruct model ends its turns with another token than its config.json names."""
    write_attributes(workplace / "other.h5", byte_level_bpe(), eos_id=1)
    path = workplace / "model/tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**config, "eos_token": {"content": "<turn>"}}))
    assert_done(evaluate(workplace))


@pytest.mark.parametrize("strip", ["data", "model"])
def test_an_unknown_tokenizer_is_not_compared_and_said_so(workplace, strip):
    if strip == "data":
        write_attributes(workplace / "other.h5", None, eos_id=7)
    else:
        (workplace / "model/tokenizer.json").unlink()
    result = assert_done(evaluate(workplace))
    assert result.stderr.count("no tokenizer is known of") == 1


def test_choices_and_reference_are_compared(workplace):
    write_attributes(workplace / "other.h5", with_another_vocabulary(byte_level_bpe()))
    assert_refused(evaluate(workplace, "--choices", "other.h5", data="tokens.h5"), 2, "other.h5", "tokens.h5")
    shutil.copytree(workplace / "model", workplace / "reference")
    (workplace / "reference/tokenizer.json").write_text(json.dumps(with_a_normalizer(byte_level_bpe())))
    assert_refused(evaluate(workplace, "--reference", "reference", data="tokens.h5"), 2, "reference", "normalizer")


def test_runs_compare_all_of_their_inputs(workplace):
    write_attributes(workplace / "other.h5", with_another_vocabulary(byte_level_bpe()))
    assert_refused(pretrain(workplace, "run", data__val="other.h5"), 2, "other.h5", "tokens.h5",
                   "[data] allow_other_tokenizer = true")
    keys = dict(convert__from="model", convert__n_kv_head=2, uptrain__original_steps=20)
    for key in ("data__train", "data__val", "eval__choices"):
        assert_refused(uptrain(workplace, "up", **keys, **{key: "other.h5"}), 2, "other.h5", "model.vocab differs")
    calibration = dict(convert__method="pca", convert__calibration="other.h5", convert__calibration_tokens=384)
    assert_refused(uptrain(workplace, "up", **keys, **calibration), 2, "other.h5", "model.vocab differs")
    assert not (workplace / "run").exists() and not (workplace / "up").exists()
    assert_done(uptrain(workplace, "up", **keys, **calibration, data__allow_other_tokenizer="true"))


def test_a_tokenizer_that_is_not_json_is_named(workplace):
    with h5py.File(workplace / "other.h5", "r+") as file:
        file.attrs["tokenizer"] = "{"
    assert_refused(evaluate(workplace), 1, "other.h5")
