"""The verbs that use a model: score, generate, export, bench."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file
from tiny_runs import (
    MAX_SEQ_LEN,
    VOCAB_SIZE,
    assert_done,
    assert_refused,
    everything_in,
    make_workplace,
    pretrain,
    regroup,
)
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import LlamaForCausalLM


def word_tokenizer():
    """A tokenizer whose words are w0, w1, ... with the number as id."""
    words = {f"w{i}": i for i in range(VOCAB_SIZE)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer.to_str()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A trained MHA model, and one whose K/V heads differ by layer; no test changes them."""
    workplace = make_workplace(tmp_path_factory.mktemp("verbs"))
    with h5py.File(workplace / "tokens.h5", "r+") as file:
        file.attrs["tokenizer"] = word_tokenizer()
    assert_done(pretrain(workplace, "mha"))
    assert_done(regroup("convert", "--from", "mha", "--to", "mixed", "--kv-heads", "2,1", cwd=workplace))
    return workplace


def hf_logits(folder, tokens):
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0]


def score(workplace, out, *words):
    return regroup("score", "--model", "mha", "--data", "tokens.h5", "--out", out, *words, cwd=workplace)


def scores_in(file):
    with h5py.File(file) as scores:
        assert scores["logprob"].dtype == np.float32
        return scores["logprob"][:], scores["offsets"][:]


def documents(workplace):
    with h5py.File(workplace / "tokens.h5") as file:
        tokens, offsets = file["val/tokens"][:], file["val/offsets"][:]
    return [tokens[a:b].astype(int).tolist() for a, b in zip(offsets, offsets[1:])]


def test_scores_are_the_log_probabilities_that_transformers_gives(shared, tmp_path):
    assert_done(score(shared, tmp_path / "scores.h5"))
    logprob, offsets = scores_in(tmp_path / "scores.h5")
    for document, begin in zip(documents(shared), offsets.astype(int)):
        expected = torch.log_softmax(hf_logits(shared / "mha/final", document), -1)
        targets = torch.tensor(document[1:])
        expected = expected[:-1].gather(-1, targets.unsqueeze(-1)).squeeze(-1).numpy()
        assert logprob[begin] == 0
        np.testing.assert_allclose(logprob[begin + 1 : begin + len(document)], expected, atol=1e-4)


def test_evaluation_loss_is_minus_the_mean_score(shared, tmp_path):
    assert_done(score(shared, tmp_path / "scores.h5"))
    logprob, offsets = scores_in(tmp_path / "scores.h5")
    assert_done(regroup("eval", "--model", "mha", "--data", "tokens.h5", "--json", tmp_path / "eval.json", cwd=shared))
    row = json.loads((tmp_path / "eval.json").read_text())["models"][0]
    n_scored = len(logprob) - (len(offsets) - 1)
    assert row["tokens"] == n_scored
    assert row["loss"] == pytest.approx(-logprob.sum(dtype=np.float64) / n_scored, rel=1e-6)


def test_models_of_one_run_stand_in_the_table_by_their_paths(shared, tmp_path):
    models = ["mha/final", "mha/checkpoints/latest"]
    words = [word for model in models for word in ("--model", model)]
    assert_done(regroup("eval", *words, "--data", "tokens.h5", "--json", tmp_path / "eval.json", cwd=shared))
    assert [row["name"] for row in json.loads((tmp_path / "eval.json").read_text())["models"]] == ["mha/final", "mha/checkpoints/step_00000006"]


def test_windows_give_each_token_the_context_that_they_leave_it(shared, tmp_path):
    window, stride = 8, 3
    assert_done(score(shared, tmp_path / "scores.h5", "--window", window, "--stride", stride))
    logprob, offsets = scores_in(tmp_path / "scores.h5")
    document, begin = documents(shared)[0], int(offsets[0])
    target, first = 1, 0
    while target < len(document):
        end = min(first + window, len(document) - 1)
        log_probabilities = torch.log_softmax(hf_logits(shared / "mha/final", document[first:end]), -1)
        for position in range(target, end + 1):
            expected = log_probabilities[position - 1 - first, document[position]].item()
            assert logprob[begin + position] == pytest.approx(expected, abs=1e-4)
        target, first = end + 1, first + stride


def test_scores_are_not_overwritten_unless_forced(shared, tmp_path):
    out = tmp_path / "scores.h5"
    assert_done(score(shared, out))
    assert_refused(score(shared, out), 2, out, "--force")
    assert_done(score(shared, out, "--force"))
    other = tmp_path / "mine.h5"
    other.write_text("mine")
    assert_refused(score(shared, other, "--force"), 2, other)
    assert other.read_text() == "mine"


def test_score_refuses_windows_that_leave_tokens_out(shared, tmp_path):
    assert_refused(score(shared, tmp_path / "s.h5", "--window", MAX_SEQ_LEN + 1), 2, MAX_SEQ_LEN + 1, MAX_SEQ_LEN)
    assert_refused(score(shared, tmp_path / "s.h5", "--window", 4, "--stride", 5), 2, "--stride (5)")
    assert not (tmp_path / "s.h5").exists()


def generated(workplace, *words, model="mha"):
    return regroup("generate", "--model", model, *words, cwd=workplace)


def test_greedy_tokens_are_the_most_likely_ones_of_transformers(shared):
    prompt, n_new = [5, 7, 9, 11], 6
    result = assert_done(generated(shared, "--tokens", "5,7,9,11", "--max-new-tokens", n_new, "--json"))
    answer = json.loads(result.stdout)
    tokens = list(prompt)
    for _ in answer["tokens"]:
        tokens.append(int(hf_logits(shared / "mha/final", tokens)[-1].argmax()))
    assert answer["prompt_tokens"] == prompt
    assert answer["tokens"] == tokens[len(prompt) :]
    assert answer["stopped_by"] == ("eos" if tokens[-1] == 0 else "length")


def test_a_prompt_is_read_and_continued_as_text(shared):
    text = assert_done(generated(shared, "--prompt", "w5 w7 w9 w11", "--max-new-tokens", "4")).stdout
    ids = assert_done(generated(shared, "--tokens", "5,7,9,11", "--max-new-tokens", "4")).stdout
    assert text.split() == [f"w{i}" for i in ids.strip().split(",")]


def test_draws_depend_on_the_seed_alone(shared):
    words = ("--tokens", "1", "--max-new-tokens", "12", "--temperature", "1.5", "--top-k", "40", "--top-p", "0.99")
    first = assert_done(generated(shared, *words, "--seed", "1")).stdout
    assert assert_done(generated(shared, *words, "--seed", "1")).stdout == first
    others = {assert_done(generated(shared, *words, "--seed", seed)).stdout for seed in "234"}
    assert others != {first}


def test_generate_refuses_a_prompt_that_does_not_fit(shared):
    assert_refused(generated(shared, "--tokens", "1,2", "--max-new-tokens", MAX_SEQ_LEN), 2, MAX_SEQ_LEN)
    assert_refused(generated(shared, "--tokens", f"1,{VOCAB_SIZE}"), 2, VOCAB_SIZE)
    assert_refused(generated(shared), 2, "--prompt", "--tokens")
    assert_refused(generated(shared, "--tokens", "1", "--top-p", "0"), 2, "top-p")


def test_a_prompt_without_a_tokenizer_names_tokens(shared, tmp_path):
    model = tmp_path / "model"
    assert_done(regroup("export", "--model", "mha", "--to", model, cwd=shared))
    (model / "tokenizer.json").unlink()
    assert_refused(generated(shared, "--prompt", "w1", model=model), 2, "--tokens", "tokenizer.json")


def test_inspect_lists_the_families_as_their_page_does():
    listed = json.loads(assert_done(regroup("inspect", "--families", "--json")).stdout)
    page = (Path(__file__).parents[2] / "models/families/README.md").read_text()
    rows = re.findall(r"^\| `(\w+)`[^|]*\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)
    assert [(family["model_type"], family["class"], family["covers"]) for family in listed] == [
        (name, cls, covers.replace("`", "")) for name, cls, covers in rows]
    without = re.search(r"^\| no field for K/V heads: (.*?) \|", page, re.MULTILINE).group(1)
    assert sorted(re.findall(r"`(\w+)`", without)) == sorted(
        family["model_type"] for family in listed if not family["has_kv_head_field"])
    for_people = assert_done(regroup("inspect", "--families")).stdout
    assert all(family["covers"] in for_people for family in listed)
    assert_refused(regroup("inspect"), 2, "PATH is missing")
    assert_refused(regroup("inspect", "--families", "x"), 2, "--families")


def export(workplace, to, *words, model="mixed"):
    return regroup("export", "--model", model, "--to", to, *words, cwd=workplace)


def test_a_grouped_export_of_mixed_heads_says_how_it_is_loaded(shared, tmp_path):
    result = assert_done(export(shared, tmp_path / "out", "--layout", "grouped"))
    for words in ("LlamaForCausalLM has no field for 2,1 K/V heads", "trust_remote_code", "--layout expanded"):
        assert words in result.stderr
    read = json.loads(assert_done(regroup("inspect", tmp_path / "out", "--json")).stdout)
    assert read["family"] == "llama" and read["n_kv_head"] == [2, 1]
    again = assert_done(export(shared, tmp_path / "again", "--layout", "expanded", model=tmp_path / "out"))
    assert "modeling_regroup" not in again.stderr
    assert not (tmp_path / "again/modeling_regroup.py").exists()
    assert LlamaForCausalLM.from_pretrained(tmp_path / "again").config.num_key_value_heads == 2


@pytest.mark.parametrize("words", [(), ("--layout", "expanded", "--dtype", "bf16"), ("--format", "hdf5")])
def test_an_export_and_inspect_say_the_same_of_what_was_written(shared, tmp_path, words):
    said = assert_done(export(shared, tmp_path / "out", *words)).stdout
    count, sizes = said.removesuffix(f": {tmp_path / 'out'}\n").split(" parameters ")
    inspected = assert_done(regroup("inspect", tmp_path / "out")).stdout
    assert re.search(f"^ *parameters +{re.escape(count)} {re.escape(sizes)}$", inspected, re.MULTILINE)


def test_an_export_of_an_unfinished_run_says_so(shared, tmp_path):
    shutil.copytree(shared / "mha", tmp_path / "run", symlinks=True)
    assert "is not finished" not in assert_done(export(tmp_path, "whole", model="run")).stderr
    shutil.rmtree(tmp_path / "run/final")
    said = assert_done(export(tmp_path, "part", model="run")).stderr
    assert "run is not finished: this is its newest checkpoint, step_00000006" in said


def test_an_expanded_export_is_the_same_function_in_transformers(shared, tmp_path):
    assert_done(export(shared, tmp_path / "out", "--layout", "expanded"))
    prompt = [3, 1, 4, 1, 5, 9, 2, 6]
    words = ("--tokens", ",".join(map(str, prompt)), "--max-new-tokens", "1", "--json")
    ours = json.loads(assert_done(generated(shared, *words, model="mixed")).stdout)["tokens"]
    assert ours == [int(hf_logits(tmp_path / "out", prompt)[-1].argmax())]
    for model, file in (("mixed", "a.h5"), (tmp_path / "out", "b.h5")):
        assert_done(regroup("score", "--model", model, "--data", "tokens.h5", "--out", tmp_path / file, cwd=shared))
    np.testing.assert_allclose(scores_in(tmp_path / "a.h5")[0], scores_in(tmp_path / "b.h5")[0], atol=1e-5)


def test_an_hdf5_export_holds_the_weights_and_the_config(shared, tmp_path):
    assert_done(export(shared, tmp_path / "out", "--format", "hdf5", "--layout", "expanded"))
    assert_done(export(shared, tmp_path / "hf", "--layout", "expanded"))
    weights = load_file(tmp_path / "hf/model.safetensors")
    assert not (tmp_path / "out/model.safetensors").exists()
    with h5py.File(tmp_path / "out/model.h5") as file:
        assert json.loads(file.attrs["config.json"]) == json.loads((tmp_path / "hf/config.json").read_text())
        for name, values in weights.items():
            np.testing.assert_array_equal(file[name][:], values)


def test_an_hdf5_export_is_a_model_to_every_verb(shared, tmp_path):
    assert_done(export(shared, tmp_path / "hdf5", "--format", "hdf5"))
    assert_done(export(shared, tmp_path / "hf"))
    weights = (tmp_path / "hf/model.safetensors").read_bytes()
    shutil.copy(tmp_path / "hdf5/model.h5", tmp_path / "alone.h5")
    words = ("--tokens", "1,2,3", "--max-new-tokens", "8")
    expected = assert_done(generated(shared, *words, model=tmp_path / "hf")).stdout
    for name in ("hdf5", "hdf5/model.h5", "alone.h5"):
        model, out = tmp_path / name, tmp_path / (name.replace("/", "-") + ".out")
        assert assert_done(generated(shared, *words, model=model)).stdout == expected
        assert json.loads(assert_done(regroup("inspect", model, "--json")).stdout)["n_kv_head"] == [2, 1]
        assert_done(regroup("eval", "--model", model, "--data", "tokens.h5", cwd=shared))
        assert_done(export(shared, out, model=model))
        assert (out / "model.safetensors").read_bytes() == weights
        assert (out / "tokenizer.json").exists() == (name != "alone.h5")
        assert_done(regroup("convert", "--from", model, "--to", f"{out}-mqa", "--kv-heads", "1", cwd=shared))


def test_an_hdf5_file_without_a_model_is_refused(shared):
    assert_refused(generated(shared, "--tokens", "1", model="tokens.h5"), 1, "HDF5 file without a model")


def lose_a_tensor(file):
    del file["lm_head.weight"]


def add_a_group(file):
    file.create_group("more")


def damage_the_config(file):
    file.attrs["config.json"] = "{"


def store_text(file):
    file["notes"] = "text"


@pytest.mark.parametrize("damage, said", [
    (lose_a_tensor, "missing tensor lm_head.weight"), (add_a_group, "more"), (damage_the_config, "config.json"),
    (store_text, "notes")])
def test_a_damaged_hdf5_model_is_refused(shared, tmp_path, damage, said):
    assert_done(export(shared, tmp_path / "out", "--format", "hdf5", model="mha"))
    alone = shutil.copy(tmp_path / "out/model.h5", tmp_path / "alone.h5")
    with h5py.File(alone, "r+") as file:
        damage(file)
    assert_refused(regroup("inspect", alone), 1, said)


@pytest.mark.parametrize("dtype, torch_dtype", [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_an_export_rounds_to_the_dtype_asked_for(shared, tmp_path, dtype, torch_dtype):
    assert_done(export(shared, tmp_path / "out", "--dtype", dtype, model="mha"))
    exported = LlamaForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    source = LlamaForCausalLM.from_pretrained(shared / "mha/final").state_dict()
    for name, values in source.items():
        assert torch.equal(exported[name], values.to(torch_dtype)), name


def test_an_export_keeps_each_tensors_dtype_unless_one_is_asked_for(shared, tmp_path):
    shutil.copytree(shared / "mha/final", tmp_path / "eights")
    weights = safetensors.torch.load_file(tmp_path / "eights/model.safetensors")
    stored = {name: values.to(torch.float8_e4m3fn) if "proj" in name else values.to(torch.bfloat16)
              for name, values in weights.items()}
    stored["lm_head.weight"] = weights["lm_head.weight"]
    safetensors.torch.save_file(stored, tmp_path / "eights/model.safetensors")
    assert_done(export(shared, tmp_path / "kept", model=tmp_path / "eights"))
    assert_done(export(shared, tmp_path / "bf16", "--dtype", "bf16", model=tmp_path / "eights"))
    kept, rounded = (safetensors.torch.load_file(tmp_path / folder / "model.safetensors") for folder in ("kept", "bf16"))
    for name, values in stored.items():
        assert kept[name].dtype == values.dtype, name
        assert torch.equal(kept[name].view(torch.uint8), values.view(torch.uint8)), name
        assert torch.equal(rounded[name], values.to(torch.bfloat16)), name


def test_values_too_large_for_fp16_are_refused(shared, tmp_path):
    assert_done(export(shared, tmp_path / "model", model="mha"))
    path = tmp_path / "model/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-4:] = np.float32(1e6).tobytes()
    path.write_bytes(content)
    before = everything_in(tmp_path)
    assert_refused(export(shared, tmp_path / "out", "--dtype", "fp16", model=tmp_path / "model"), 1, "fp16", "bf16")
    assert everything_in(tmp_path) == before


def test_a_small_shard_size_gives_shards_that_transformers_loads(shared, tmp_path):
    assert_done(export(shared, tmp_path / "out", "--max-shard-size", "20KB", model="mha"))
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 1
    prompt = [3, 1, 4, 1, 5]
    torch.testing.assert_close(hf_logits(tmp_path / "out", prompt), hf_logits(shared / "mha/final", prompt))


def test_models_carry_the_tokenizer_and_eos_of_their_data(shared):
    for folder in ("mha/final", "mixed"):
        assert json.loads((shared / folder / "config.json").read_text())["eos_token_id"] == 0
        assert (shared / folder / "tokenizer.json").read_text() == word_tokenizer()


def test_bench_reports_what_the_contract_names(shared, tmp_path):
    out = tmp_path / "bench.json"
    common = ("--threads", "1", "--json", out)
    assert_done(regroup("bench", "train", "--config", "run.ini", "--model.vocab_size=64", "--batch", "2", "--seq-len",
                        "16", "--seconds", "0.2", "--kv-heads", "2", *common, cwd=shared))
    train = json.loads(out.read_text())
    assert {"tokens_per_s", "step_s", "mfu", "parameters", "peak_rss_bytes"} <= set(train)
    assert train["tokens_per_s"] == pytest.approx(2 * 16 / train["step_s"])
    assert train["n_kv_head"] == [2, 2]
    assert train["mfu"] > 0 and train["peak_flops"] > 0
    assert_says_how_busy_the_machine_was(train)
    assert_done(regroup("bench", "decode", "--model", "mixed", "--batch", "2", "--prompt", "8", "--new", "4", *common,
                        cwd=shared))
    decode = json.loads(out.read_text())
    assert {"prefill_tokens_per_s", "decode_tokens_per_s", "peak_rss_bytes"} <= set(decode)
    assert decode["kv_bytes_per_token"] == 2 * (2 + 1) * 8 * 4
    assert_says_how_busy_the_machine_was(decode)


def assert_says_how_busy_the_machine_was(measured):
    assert 0 <= measured["busy_elsewhere"] <= len(os.sched_getaffinity(0))
    assert measured["machine_was_busy"] in (True, False)


@pytest.fixture
def busy_processors():
    """A busy loop on each processor while the test runs."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    yield
    for loop in loops:
        loop.kill()
        loop.wait()


def test_bench_says_that_the_machine_was_busy(shared, tmp_path, busy_processors):
    out = tmp_path / "bench.json"
    result = assert_done(regroup("bench", "decode", "--model", "mha", "--prompt", "8", "--new", "4", "--quiet", "--json",
                                 out, cwd=shared))
    assert json.loads(out.read_text())["machine_was_busy"] is True
    assert "warning: the machine was busy: other processes computed on" in result.stderr


def test_speeds_of_models_are_medians_with_their_spread(shared, tmp_path):
    out = tmp_path / "eval.json"
    result = assert_done(regroup("eval", "--model", "mha", "--model", "mixed", "--data", "tokens.h5", "--speed", "--json",
                                 out, cwd=shared))
    head, *rows = result.stdout.strip().splitlines()
    assert "tokens/s x1 (spread)" in head and "tokens/s x16 (spread)" in head
    for model, row in zip(json.loads(out.read_text())["models"], rows):
        assert list(model["decode_tokens_per_s"]) == list(model["decode_spread"]) == ["1", "16"]
        for batch, speed in model["decode_tokens_per_s"].items():
            spread = model["decode_spread"][batch]
            noisy = ", noisy" if spread > 0.15 else ""
            assert speed > 0 and f"{speed:.0f} ({100 * spread:.0f} %{noisy})" in row


def test_threads_are_the_processors_unless_the_user_chose(shared):
    def threads(**variables):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | variables
        version = assert_done(regroup("--version", env=environment)).stdout
        return int(version.split("cpu (")[1].split(" threads")[0])

    assert 1 <= threads() <= len(os.sched_getaffinity(0))
    assert threads(OMP_NUM_THREADS="1") == 1
    assert threads(OMP_NUM_THREADS="1", TORCHELASTIC_RUN_ID="none") == threads()  # torchrun chose the 1


def test_bench_refuses_lengths_beyond_the_context(shared):
    assert_refused(regroup("bench", "decode", "--model", "mha", "--prompt", "40", "--new", "20", cwd=shared), 2, 60,
                   MAX_SEQ_LEN)
    assert_refused(regroup("bench", "train", cwd=shared), 2, "--config", "--model")
    assert_refused(regroup("bench", "speed", cwd=shared), 2, "speed")
