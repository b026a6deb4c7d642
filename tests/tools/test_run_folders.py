"""A run's folder after a run is refused, stopped early, started twice, or changed."""

import fcntl
import json
import os
import shutil

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_runs import (
    assert_done,
    assert_refused,
    checkpoints,
    everything_in,
    losses,
    make_workplace,
    metrics,
    pretrain,
    regroup,
    uptrain,
    write_split,
)

CONVERSION = {"convert__from": "mha", "convert__n_kv_head": 2, "uptrain__alpha": 0.5}


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """mha (6 steps) and gqa (2 K/V heads, 3 steps), which tests copy before they change them."""
    workplace = make_workplace(tmp_path_factory.mktemp("shared"))
    assert_done(pretrain(workplace, "mha"))
    assert_done(uptrain(workplace, "gqa", **CONVERSION))
    return workplace


@pytest.fixture
def workplace(shared, tmp_path):
    shutil.copytree(shared, tmp_path / "work", symlinks=True)
    return tmp_path / "work"


def stop_before_the_first_checkpoint(run):
    """Leaves what a kill in the first steps leaves: lines, a torn line, a temporary folder, no checkpoint."""
    for name in ("final", "evaluation.json", "checkpoints"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (run / "checkpoints/.regroup-tmp-step_00000002.1").mkdir(parents=True)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:2]) + '{"step": 3, "lo')


@pytest.mark.parametrize("flag", ["--resume", "--force"])
def test_a_run_killed_before_its_first_checkpoint_starts_anew(workplace, shared, flag):
    stop_before_the_first_checkpoint(workplace / "mha")
    assert_done(pretrain(workplace, "mha", flag))
    assert losses(workplace / "mha") == losses(shared / "mha")
    assert not list(workplace.rglob(".regroup-tmp-*"))


def test_a_finished_run_without_checkpoints_is_not_trained_again(workplace):
    shutil.rmtree(workplace / "mha/checkpoints")
    before = everything_in(workplace / "mha")
    assert_refused(pretrain(workplace, "mha", "--resume"), 2, "mha", "no checkpoint to resume from")
    assert everything_in(workplace / "mha") == before


def test_resuming_what_is_not_there_says_so(workplace):
    assert "new has no checkpoint: the run starts at step 0" in assert_done(pretrain(workplace, "new", "--resume")).stderr


@pytest.mark.parametrize("command", [
    ["convert", "--from", "gqa/final", "--to", "gqa", "--kv-heads", "1", "--force"],
    ["convert", "--from", "gqa/final", "--to", "gqa/final", "--kv-heads", "1", "--force"],
    ["export", "--model", "gqa", "--to", "gqa", "--force"],
    ["uptrain", "--config", "run.ini", "--run", "gqa", "--convert.from=gqa/final", "--convert.n_kv_head=1", "--force"],
], ids=" ".join)
def test_force_does_not_delete_what_the_job_reads(workplace, command):
    before = everything_in(workplace / "gqa")
    assert_refused(regroup(*command, cwd=workplace), 2, "gqa", "which this job reads")
    assert everything_in(workplace / "gqa") == before


@pytest.mark.parametrize("change", [{"convert__n_kv_head": 1}, {"convert__method": "first"}, {"convert__from": "gqa/final"}],
                         ids=lambda change: next(iter(change)))
def test_another_conversion_is_refused_on_resuming(workplace, change):
    before = everything_in(workplace / "gqa")
    result = uptrain(workplace, "gqa", "--resume", **{**CONVERSION, "uptrain__original_steps": 6, **change})
    assert_refused(result, 2, "[convert]")
    assert everything_in(workplace / "gqa") == before


def test_another_conversion_replaces_one_that_nothing_was_trained_from(workplace):
    stop_before_the_first_checkpoint(workplace / "gqa")
    assert_done(uptrain(workplace, "gqa", "--resume", **{**CONVERSION, "convert__n_kv_head": 1}))
    config = json.loads((workplace / "gqa/converted/config.json").read_text())
    assert config["num_key_value_heads"] == 1


def test_uptraining_does_not_resume_a_pretraining_run(workplace):
    before = everything_in(workplace / "mha")
    assert_refused(uptrain(workplace, "mha", "--resume", **{**CONVERSION, "convert__from": "gqa/final",
                                                            "convert__n_kv_head": 1}), 2, "mha")
    assert everything_in(workplace / "mha") == before


def test_a_run_that_another_process_works_on_is_refused(workplace):
    descriptor = os.open(workplace / "mha", os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    before = everything_in(workplace / "mha")
    for flag in ("--resume", "--force"):
        assert_refused(pretrain(workplace, "mha", flag), 2, "in use", "mha")
    assert everything_in(workplace / "mha") == before
    os.close(descriptor)
    assert_done(pretrain(workplace, "mha", "--resume"))


def test_the_replaced_run_comes_back_when_the_new_run_fails(workplace):
    before = everything_in(workplace / "mha")
    result = pretrain(workplace, "mha", "--force", optim__lr=1e30, optim__warmup_steps=0, optim__grad_clip=0,
                      train__steps=50, train__max_skipped_steps=2, checkpoint__every=0)
    assert_refused(result, 1, "2 steps in a row")
    assert everything_in(workplace / "mha") == before


@pytest.mark.parametrize("keys, parts", [
    ({"eval__choices": "absent.h5"}, ["absent.h5"]),
    ({"eval__choices": "tokens.h5"}, ["no questions"]),
    ({"data__val": "short.h5"}, ["short.h5", "val"]),
    ({"train__device": "tpu"}, ["train.device", "cuda"])], ids=lambda value: next(iter(value)))
def test_later_failures_are_refused_before_the_folder_is_made(workplace, keys, parts):
    shutil.copy(workplace / "tokens.h5", workplace / "short.h5")
    with h5py.File(workplace / "short.h5", "r+") as file:
        del file["val"]
        write_split(file, "val", [np.arange(9)])
    result = uptrain(workplace, "new", **CONVERSION, **keys)
    assert_refused(result, 2 if "train__device" in keys else 1, *parts)
    assert not (workplace / "new").exists()


def test_checkpoints_after_a_damaged_one_are_kept(workplace):
    damaged = workplace / "mha/checkpoints/step_00000006/training_state.h5"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert_done(pretrain(workplace, "mha", "--resume=auto", checkpoint__keep=1))
    assert checkpoints(workplace / "mha") == ["damaged_step_00000006", "step_00000006"]
    assert_done(regroup("inspect", workplace / "mha/checkpoints/latest"))


def test_an_impossible_path_is_not_called_a_defect(workplace):
    assert_refused(pretrain(workplace, "x" * 300), 1, "xxx", "too long")


def test_an_empty_path_is_a_wrong_request(workplace):
    before = everything_in(workplace)
    assert_refused(regroup("pretrain", "--config", "run.ini", "--run", "", cwd=workplace), 2, "--run")
    assert_refused(regroup("convert", "--from", "mha", "--to=", "--kv-heads", 2, cwd=workplace), 2, "--to")
    assert everything_in(workplace) == before


@pytest.mark.parametrize("key, value", [("model__n_layer", 10**9), ("model__n_head", 10**15), ("uptrain__alpha", 1e300),
                                        ("train__threads", 10**9)])
def test_absurd_numbers_are_a_wrong_request(workplace, key, value):
    assert_refused(pretrain(workplace, "new", **{key: value}), 2, key.replace("__", "."))


def test_the_last_step_is_always_validated(shared):
    assert [line["step"] for line in metrics(shared / "mha") if "val_loss" in line] == [6]


def test_pretraining_writes_its_results_for_programs(workplace):
    assert_done(pretrain(workplace, "new", "--json", "result.json"))
    result = json.loads((workplace / "result.json").read_text())
    assert result["steps"] == 6 and result["model"] == str(workplace / "new/final")
    assert result["loss"] == losses(workplace / "new")[-1][1]
    assert result["val_loss"] == metrics(workplace / "new")[-1]["val_loss"]


# What is compared must be comparable

def test_a_reference_with_another_vocabulary_is_a_wrong_request(workplace):
    assert_done(pretrain(workplace, "other", model__vocab_size=80))
    result = regroup("eval", "--model", "mha", "--reference", "other", "--data", "tokens.h5", cwd=workplace)
    assert_refused(result, 2, "80", "64")
    result = uptrain(workplace, "new", uptrain__from="gqa/final", uptrain__original="other", uptrain__alpha=0.5)
    assert_refused(result, 2, "80", "64")


def test_questions_longer_than_the_context_are_refused(workplace):
    with h5py.File(workplace / "choices.h5", "w") as file:
        group = file.create_group("choices")
        group["tokens"] = np.arange(60, dtype=np.uint16)
        group["context_offsets"] = np.array([0, 50], np.uint64)
        group["option_offsets"] = np.array([[50, 55, 60]], np.uint64)
        group["gold"] = np.array([1], np.int64)
    result = regroup("eval", "--model", "mha", "--data", "tokens.h5", "--choices", "choices.h5", cwd=workplace)
    assert_refused(result, 1, "55", "48")


def test_empty_documents_count_for_nothing(workplace, tmp_path):
    with h5py.File(workplace / "tokens.h5") as file:
        tokens, offsets = file["val/tokens"][:], file["val/offsets"][:]
    shutil.copy(workplace / "tokens.h5", workplace / "gaps.h5")
    with h5py.File(workplace / "gaps.h5", "r+") as file:
        del file["val/offsets"]
        file["val/offsets"] = np.concatenate([offsets[:1], offsets[:1], offsets, offsets[-1:]])

    def rows(data, *more):
        words = ["eval", "--model", "gqa/final", "--data", data, "--json", tmp_path / "eval.json", *more]
        assert_done(regroup(*words, cwd=workplace))
        return [(row["tokens"], row["loss"]) for row in json.loads((tmp_path / "eval.json").read_text())["models"]]

    expected = rows("tokens.h5")
    assert expected[0][0] == len(tokens) - (len(offsets) - 1)
    assert rows("gaps.h5") == expected
    (count, loss), = rows("gaps.h5", "--reference", "mha")
    assert count == expected[0][0] and loss == pytest.approx(expected[0][1], rel=1e-6)


def test_data_without_anything_to_predict_are_refused(workplace):
    with h5py.File(workplace / "tokens.h5", "r+") as file:
        del file["val"]
        write_split(file, "val", [[5], [6]])
    result = regroup("eval", "--model", "gqa/final", "--data", "tokens.h5", cwd=workplace)
    assert_refused(result, 1, "tokens.h5: /val", "nothing to predict")


def test_conversion_keeps_each_tensor_s_dtype(workplace):
    weights = load_file(workplace / "mha/final/model.safetensors")
    mixed = {name: values.astype(np.float16) if values.ndim == 2 else values for name, values in weights.items()}
    shutil.copytree(workplace / "mha/final", workplace / "mixed")
    save_file(mixed, workplace / "mixed/model.safetensors", metadata={"format": "pt"})
    assert_done(regroup("convert", "--from", "mixed", "--to", "converted", "--kv-heads", 2, cwd=workplace))
    converted = load_file(workplace / "converted/model.safetensors")
    assert {name: values.dtype for name, values in converted.items()} == \
           {name: values.dtype for name, values in mixed.items()}
