"""The program `regroup` as a user runs it: help, exit codes, and what goes to which stream."""

import json
import os
import subprocess

import h5py
import numpy as np
import pytest

REGROUP = os.environ["REGROUP_BINARY"]


def regroup(*words, **options):
    return subprocess.run([REGROUP, *map(str, words)], capture_output=True, text=True,
                          timeout=120, **options)


def assert_refused(result, exit_code, *parts):
    """One short block on stderr with all parts, nothing on stdout, no trace."""
    assert result.returncode == exit_code, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith("regroup: error: ")
    assert len(result.stderr) < 3000
    assert "frame #" not in result.stderr
    for part in parts:
        assert part in result.stderr


def verbs():
    """The verbs that --help lists, in its third paragraph."""
    return [line.split()[0] for line in regroup("--help").stdout.split("\n\n")[2].splitlines()]


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "tokens.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update(vocab_size=100, eos_id=0, tokenizer="", source="a test", format_version=1,
                          special_tokens="parse", bos="auto")
        for split, n_documents in (("train", 3), ("val", 1)):
            group = file.create_group(split)
            group["tokens"] = np.arange(10 * n_documents, dtype=np.uint16)
            group["offsets"] = np.arange(0, 10 * n_documents + 1, 10, dtype=np.uint64)
        file["train"].attrs["bytes"] = 45
    return path


def test_help_goes_to_stdout_and_lists_the_verbs():
    result = regroup("--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert "inspect" in verbs()


def test_every_verb_explains_itself_with_an_example():
    for verb in verbs():
        for spelling in ("--help", "-h"):
            result = regroup(verb, spelling)
            assert (result.returncode, result.stderr) == (0, "")
            assert result.stdout.startswith(f"regroup {verb} ")
            assert "Example:\n  regroup " in result.stdout


def test_help_wins_over_mistakes_beside_it():
    assert regroup("inspect", "--nonsense", "--help").returncode == 0


def test_version_names_the_parts():
    result = regroup("--version")
    assert (result.returncode, result.stderr) == (0, "")
    first_words = [line.split()[0] for line in result.stdout.splitlines()]
    assert first_words == ["Regroup", "LibTorch", "CUDA", "NCCL", "HDF5", "CPU", "devices"]


def test_no_verb_is_a_wrong_request():
    assert_refused(regroup(), 2, "names no verb", "regroup --help")


def test_an_unknown_verb_names_the_nearest():
    assert_refused(regroup("inspekt", "x"), 2, "inspekt: unknown verb (did you mean inspect?)")


def test_an_unknown_option_names_the_nearest():
    assert_refused(regroup("inspect", "x", "--jsn"), 2,
                   "--jsn: unknown option (did you mean --json?)", "regroup inspect --help")


def test_options_are_never_abbreviated():
    assert_refused(regroup("inspect", "x", "--js"), 2, "--js: unknown option")


def test_a_flag_takes_no_value():
    assert_refused(regroup("inspect", "x", "--json=1"), 2, "--json: takes no value")


def test_all_mistakes_are_reported_together():
    assert_refused(regroup("inspect", "--jsn", "--colour=red"), 2, "3 problems", "--jsn",
                   "--colour", "PATH is missing")


def test_an_unexpected_word_is_refused():
    assert_refused(regroup("inspect", "one", "two"), 2, "two: unexpected word")


def test_many_and_long_mistakes_stay_one_short_block():
    words = [f"--{letter * 5000}" for letter in "abcdefghij"]
    assert_refused(regroup("inspect", *words), 2, "problems", "more")


def test_a_missing_path_is_named(tmp_path):
    assert_refused(regroup("inspect", tmp_path / "none"), 1, str(tmp_path / "none"))


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    assert_refused(regroup("inspect", path), 1, "notes.txt")


def test_words_behind_two_dashes_are_paths(tmp_path):
    (tmp_path / "--json").write_text("hello")
    assert_refused(regroup("inspect", "--", "--json", cwd=tmp_path), 1, "/--json")


def test_inspect_describes_token_data(token_file):
    result = regroup("inspect", token_file)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"token data: {token_file}" in result.stdout
    assert "3 documents, 30 tokens, 45 B of text" in result.stdout
    assert "1 document, 10 tokens\n" in result.stdout
    assert "special tokens parse, BOS auto\n" in result.stdout


def test_inspect_prints_json_for_programs(token_file):
    found = json.loads(regroup("inspect", token_file, "--json").stdout)
    assert found["kind"] == "token data"
    assert (found["vocab_size"], found["special_tokens"], found["bos"]) == (100, "parse", "auto")
    assert found["splits"] == {"train": {"documents": 3, "tokens": 30, "bytes": 45},
                               "val": {"documents": 1, "tokens": 10, "bytes": None}}
    assert found["choices"] is None


def tiny_config(token_file):
    """Overrides that make a run end in seconds."""
    keys = {"data.train": token_file, "data.val": token_file, "data.seq_len": 4, "train.steps": 3,
            "train.batch_tokens": 8, "train.micro_batch": 1, "model.n_layer": 2,
            "model.d_model": 16, "model.n_head": 4, "model.n_kv_head": "4,2"}
    return [f"--{key}={value}" for key, value in keys.items()]


def test_inspect_describes_a_run_and_its_model(token_file, tmp_path):
    run = tmp_path / "run"
    result = regroup("pretrain", "--run", run, "--quiet", *tiny_config(token_file))
    assert result.returncode == 0, result.stderr
    found = json.loads(regroup("inspect", run, "--json").stdout)
    assert (found["kind"], found["finished"]) == ("run", True)
    assert found["last_metrics"]["step"] == 3
    assert found["checkpoints"] == ["step_00000003"]
    model = json.loads(regroup("inspect", run / "final", "--json").stdout)
    assert (model["kind"], model["n_head"], model["n_kv_head"]) == ("model", 4, [4, 2])
    assert {key: model[key] for key in found["model"]} == found["model"]
    checkpoint = regroup("inspect", run / "checkpoints" / "latest")
    assert checkpoint.stdout.startswith("checkpoint: ")
    assert "4,2, one number a layer" in checkpoint.stdout


def test_inspect_tells_hdf5_files_apart(token_file, tmp_path):
    run = tmp_path / "run"
    for words in (["pretrain", "--run", run, "--quiet", *tiny_config(token_file)],
                  ["score", "--model", run, "--data", token_file, "--out", tmp_path / "scores.h5"],
                  ["export", "--model", run, "--to", tmp_path / "hdf5", "--format", "hdf5", "--layout", "expanded"]):
        result = regroup(*words)
        assert result.returncode == 0, result.stderr
    for file, kind, said in ((tmp_path / "scores.h5", "scores", "1 document, 10 tokens"),
                             (run / "checkpoints/latest/training_state.h5", "training state", "step"),
                             (tmp_path / "hdf5/model.h5", "model", "llama")):
        found = regroup("inspect", file).stdout
        assert found.startswith(f"{kind}: {file}\n")
        assert said in found
        assert json.loads(regroup("inspect", file, "--json").stdout)["kind"] == kind


def test_where_results_cannot_be_written_no_work_is_done(token_file, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for target, problem in (("file/out.json", "file is not a folder"), ("folder", "is a folder")):
        for words in (["pretrain", "--run", tmp_path / "run", *tiny_config(token_file), "--json", tmp_path / target],
                      ["score", "--model", tmp_path / "none", "--data", token_file, "--out", tmp_path / target]):
            assert_refused(regroup(*words), 2, target, problem)
    assert not (tmp_path / "run").exists()


def test_a_config_file_and_overrides_are_checked_together(tmp_path):
    config = tmp_path / "bad.ini"
    config.write_text("[optim]\nlrr = 1\n[train]\nsteps = many\n")
    result = regroup("pretrain", "--config", config, "--train.batch_tokens=0", "--nonsense=1")
    assert_refused(result, 2, "bad.ini:2: unknown key optim.lrr (did you mean optim.lr?)",
                   "bad.ini:4: train.steps = many: expected a whole number from 1 to 1e+15",
                   "--train.batch_tokens=0: expected a whole number from 1 to 1000000000",
                   "--nonsense: unknown option", "--run DIR is missing")
    assert not (tmp_path / "run").exists()


def test_a_missing_config_file_is_a_wrong_request(tmp_path):
    result = regroup("pretrain", "--config", tmp_path / "none.ini", "--run", tmp_path / "run")
    assert_refused(result, 2, "none.ini", "no such config file")


def test_a_folder_that_is_not_a_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert_refused(regroup("inspect", tmp_path), 1, "config.json")


def test_an_empty_folder_is_refused_with_the_known_endings(tmp_path):
    assert_refused(regroup("inspect", tmp_path), 1, "is not a file type that Regroup recognises", "runs")


def test_truncated_token_data_is_refused(token_file):
    token_file.write_bytes(token_file.read_bytes()[:500])
    assert_refused(regroup("inspect", token_file), 1, "tokens.h5")


def test_results_that_cannot_be_written_are_a_failure():
    with open("/dev/full", "w") as full:
        result = subprocess.run([REGROUP, "--help"], stdout=full, stderr=subprocess.PIPE,
                                text=True, timeout=60)
    assert result.returncode == 1
    assert "could not be written" in result.stderr
