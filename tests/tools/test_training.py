"""Training through `regroup`: run folders, resuming, divergence, evaluation."""

import json
import resource
import shutil
import signal
import subprocess
import time

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tiny_runs import (
    REGROUP,
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
    weights_bytes,
    words_of,
    write_tokens,
)
from transformers import LlamaForCausalLM

LONG_STEPS = 150  # enough for a signal after the first steps to arrive before the end


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Runs that several tests read and none changes: mha (6 steps) and gqa (2 K/V heads, 3 steps)."""
    workplace = make_workplace(tmp_path_factory.mktemp("shared"))
    assert_done(pretrain(workplace, "mha"))
    assert_done(uptrain(workplace, "gqa", convert__from="mha", convert__n_kv_head=2,
                        uptrain__alpha=0.5))
    return workplace


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    """An uninterrupted run of LONG_STEPS steps, by dtype."""
    workplace = make_workplace(tmp_path_factory.mktemp("long"))
    for dtype in ("fp32", "bf16"):
        assert_done(pretrain(workplace, dtype, train__steps=LONG_STEPS, train__dtype=dtype))
    return workplace


@pytest.fixture
def workplace(tmp_path):
    return make_workplace(tmp_path)


@pytest.fixture
def finished(workplace, shared):
    """A workplace with a finished run of 6 steps that the test may change."""
    shutil.copytree(shared / "mha", workplace / "mha", symlinks=True)
    return workplace


def start_long_run(workplace, **keys):
    """A run of LONG_STEPS steps that is going on and has made its first checkpoint."""
    words = words_of("pretrain", "run", train__steps=LONG_STEPS, **keys)
    process = subprocess.Popen([REGROUP, *words], cwd=workplace, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (workplace / "run/checkpoints/latest").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return process


def end_with(process, signal_number):
    process.send_signal(signal_number)
    return process.communicate(timeout=60)


def assert_same_training(run, reference):
    assert losses(run) == losses(reference)
    assert weights_bytes(run / "final") == weights_bytes(reference / "final")


# The run folder

def test_a_run_folder_holds_the_promised_files(shared):
    run = shared / "mha"
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "config.ini", "final",
                                                           "metrics.jsonl"]
    assert checkpoints(run) == ["step_00000004", "step_00000006"]
    assert (run / "checkpoints/latest").resolve() == run / "checkpoints/step_00000006"
    files = sorted(path.name for path in (run / "checkpoints/latest").iterdir())
    assert files == ["checksums.json", "config.json", "generation_config.json", "model.safetensors",
                     "training_state.h5"]
    assert weights_bytes(run / "checkpoints/latest") == weights_bytes(run / "final")


def test_metrics_have_a_line_for_every_step(shared):
    lines = [line for line in metrics(shared / "mha") if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert set(line) == {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s", "mfu",
                             "rss_bytes"}
        assert line["tokens"] == 128 * line["step"]
        assert line["tokens_per_s"] > 0 and line["mfu"] > 0 and line["rss_bytes"] > 1e6
    assert [line["lr"] for line in lines][:2] == [0.005, 0.01]
    assert lines[-1]["lr"] == pytest.approx(0.001)


def test_the_last_step_is_always_logged(workplace):
    assert_done(pretrain(workplace, "run", log__every=4))
    assert [step for step, _ in losses(workplace / "run")] == [4, 6]


def test_validation_losses_stand_in_the_metrics(workplace):
    assert_done(pretrain(workplace, "run", eval__every=3))
    found = [(line["step"], line["tokens"]) for line in metrics(workplace / "run")
             if "val_loss" in line]
    assert found == [(3, 384), (6, 768)]


def test_a_saved_config_runs_again_from_elsewhere(shared, tmp_path):
    config = (shared / "mha/config.ini").read_text()
    assert f"train = {shared / 'tokens.h5'}" in config
    again = regroup("pretrain", "--config", shared / "mha/config.ini", "--run", tmp_path / "again",
                    cwd="/")
    assert_done(again)
    assert_same_training(tmp_path / "again", shared / "mha")
    assert (tmp_path / "again/config.ini").read_text() == config


def test_training_learns(long_run):
    for dtype in ("fp32", "bf16"):
        found = [loss for _, loss in losses(long_run / dtype)]
        assert found[-1] < 0.75 * found[0]


def test_bf16_runs_train_as_fp32_runs_do(long_run):
    first, second = (np.array(losses(long_run / dtype))[:, 1] for dtype in ("fp32", "bf16"))
    assert not np.array_equal(first, second)
    np.testing.assert_allclose(first, second, atol=0.1)


def test_a_length_in_tokens_is_rounded_up_to_steps(workplace):
    config = (workplace / "run.ini").read_text()
    (workplace / "run.ini").write_text(config.replace("\nsteps = 6", "\ntokens = 257"))
    assert_done(pretrain(workplace, "run"))
    assert [step for step, _ in losses(workplace / "run")] == [1, 2, 3]


def test_a_step_of_other_than_batch_tokens_is_noted(workplace):
    said = assert_done(pretrain(workplace, "whole", train__steps=1, train__batch_tokens=32)).stderr
    assert "not batch_tokens" not in said
    said = assert_done(pretrain(workplace, "part", train__steps=1, train__batch_tokens=40)).stderr
    assert "a step has 32 tokens, not batch_tokens (40)" in said
    assert metrics(workplace / "part")[0]["tokens"] == 32


def test_sequences_of_a_single_token_train(workplace):
    assert_done(pretrain(workplace, "run", data__seq_len=1, train__steps=2, train__batch_tokens=2))


def test_a_warm_up_longer_than_the_run_is_shortened_with_a_warning(workplace):
    result = assert_done(pretrain(workplace, "run", optim__warmup_steps=100))
    assert "warmup_steps (100)" in result.stderr
    assert [line["lr"] for line in metrics(workplace / "run") if "lr" in line][-1] == 0.01


# What may not change a run

@pytest.mark.parametrize("micro_batch", [1, 8])
def test_gradient_accumulation_does_not_change_the_losses(shared, workplace, micro_batch):
    """The shared run takes 8 sequences a step in micro-batches of 3, 3 and 2."""
    assert_done(pretrain(workplace, "run", train__micro_batch=micro_batch))
    np.testing.assert_allclose(losses(workplace / "run"), losses(shared / "mha"), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_activation_checkpointing_is_bit_identical(workplace, dtype):
    for kind in ("none", "full"):
        assert_done(pretrain(workplace, kind, train__activation_checkpointing=kind,
                             train__dtype=dtype))
    assert_same_training(workplace / "full", workplace / "none")


# Resuming

@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_resumes_bit_identically(workplace, long_run, signal_number, dtype):
    process = start_long_run(workplace, train__dtype=dtype)
    stdout, stderr = end_with(process, signal_number)
    assert process.returncode == 130, stderr
    assert stdout == "" and "--resume" in stderr
    run = workplace / "run"
    last_step = losses(run)[-1][0]
    assert last_step < LONG_STEPS
    assert checkpoints(run)[-1] == f"step_{last_step:08d}"
    assert not (run / "final").exists()
    result = pretrain(workplace, "run", "--resume", train__steps=LONG_STEPS, train__dtype=dtype)
    assert_done(result)
    assert_same_training(run, long_run / dtype)


def test_a_killed_run_resumes_bit_identically(workplace, long_run):
    process = start_long_run(workplace)
    end_with(process, signal.SIGKILL)
    run = workplace / "run"
    (run / ".regroup-tmp-leftover").mkdir()
    (run / "checkpoints/.regroup-tmp-leftover").mkdir()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert_done(pretrain(workplace, "run", "--resume", train__steps=LONG_STEPS))
    assert_same_training(run, long_run / "fp32")
    assert not list(run.rglob(".regroup-tmp-*"))


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_run_resumes_to_more_steps(workplace, schedule):
    keys = {"optim__schedule": schedule}
    assert_done(pretrain(workplace, "short", train__steps=3, **keys))
    shutil.copytree(workplace / "short", workplace / "run", symlinks=True)
    assert_done(pretrain(workplace, "run", "--resume", **keys))
    assert_done(pretrain(workplace, "whole", **keys))
    assert losses(workplace / "run")[:3] == losses(workplace / "short")
    assert len(losses(workplace / "run")) == 6
    if schedule == "constant":
        assert_same_training(workplace / "run", workplace / "whole")


def test_resuming_with_nothing_there_starts_at_step_0(workplace, shared):
    (workplace / "empty").mkdir()
    for run in ("absent", "empty"):
        assert_done(pretrain(workplace, run, "--resume"))
        assert_same_training(workplace / run, shared / "mha")


def test_resuming_a_finished_run_changes_nothing(finished, shared):
    assert_done(pretrain(finished, "mha", "--resume"))
    assert_same_training(finished / "mha", shared / "mha")
    assert checkpoints(finished / "mha") == checkpoints(shared / "mha")


def test_lines_past_the_checkpoint_are_dropped_on_resuming(finished, shared):
    shutil.rmtree(finished / "mha/checkpoints/step_00000006")
    assert_done(pretrain(finished, "mha", "--resume"))
    assert_same_training(finished / "mha", shared / "mha")


def test_auto_passes_over_a_damaged_checkpoint_and_latest_refuses_it(finished, shared):
    damaged = finished / "mha/checkpoints/step_00000006/training_state.h5"
    damaged.write_bytes(damaged.read_bytes()[:1000])
    before = everything_in(finished / "mha/checkpoints")
    assert_refused(pretrain(finished, "mha", "--resume"), 1, "step_00000006")
    assert_refused(pretrain(finished, "mha", "--resume=latest"), 1, "step_00000006")
    assert everything_in(finished / "mha/checkpoints") == before
    result = assert_done(pretrain(finished, "mha", "--resume=auto"))
    assert "step_00000006" in result.stderr and "step_00000004" in result.stderr
    assert_same_training(finished / "mha", shared / "mha")


def test_auto_passes_over_damaged_weights(finished, shared):
    damaged = finished / "mha/checkpoints/step_00000006/model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-4])
    assert_done(pretrain(finished, "mha", "--resume=auto"))
    assert_same_training(finished / "mha", shared / "mha")


def test_auto_with_no_sound_checkpoint_left_refuses(finished):
    for state in finished.glob("mha/checkpoints/step_*/training_state.h5"):
        state.write_bytes(b"nothing")
    assert_refused(pretrain(finished, "mha", "--resume=auto"), 1, "step_0000000")


@pytest.mark.parametrize("keys", [
    {"train__micro_batch": 8}, {"train__threads": 2}, {"train__steps": 9},
    {"uptrain__alpha": 0.2}, {"eval__every": 1}, {"log__every": 2}, {"checkpoint__keep": 1},
    {"checkpoint__every": 5}, {"train__activation_checkpointing": "full"},
    {"train__max_skipped_steps": 3}], ids=lambda keys: next(iter(keys)))
def test_keys_that_may_change_on_resuming_change(finished, keys):
    assert_done(pretrain(finished, "mha", "--resume", **{"train__steps": 8, **keys}))
    assert losses(finished / "mha")[-1][0] == keys.get("train__steps", 8)


@pytest.mark.parametrize("name, keys", [
    ("model", {"model__d_ff": 64}), ("model", {"model__n_kv_head": 2}),
    ("model", {"model__max_seq_len": 64}), ("lr", {"optim__lr": 0.02}),
    ("warmup_steps", {"optim__warmup_steps": 1}), ("schedule", {"optim__schedule": "linear"}),
    ("weight_decay", {"optim__weight_decay": 0}), ("seed", {"train__seed": 1}),
    ("shuffle_seed", {"data__shuffle_seed": 1}), ("seq_len", {"data__seq_len": 32}),
    ("batch_tokens", {"train__batch_tokens": 64}), ("dtype", {"train__dtype": "bf16"})],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "")
def test_keys_that_must_stay_are_refused_by_name_on_resuming(finished, name, keys):
    before = everything_in(finished / "mha")
    assert_refused(pretrain(finished, "mha", "--resume", **keys), 2, name)
    assert everything_in(finished / "mha") == before


def test_other_training_data_is_refused_on_resuming(finished):
    write_tokens(finished / "tokens.h5", seed=1)
    before = everything_in(finished / "mha")
    assert_refused(pretrain(finished, "mha", "--resume"), 2, "data.train")
    assert everything_in(finished / "mha") == before


def test_an_uptraining_run_resumes_bit_identically(shared, tmp_path):
    keys = {"convert__from": "mha", "convert__n_kv_head": 2}
    assert_done(uptrain(shared, tmp_path / "run", uptrain__alpha=0.5, checkpoint__every=1, **keys))
    shutil.rmtree(tmp_path / "run/checkpoints/step_00000003")
    shutil.rmtree(tmp_path / "run/final")
    assert_done(uptrain(shared, tmp_path / "run", "--resume", uptrain__alpha=0.5, **keys))
    assert_same_training(tmp_path / "run", shared / "gqa")


# Output folders

def test_a_folder_that_is_not_empty_is_refused(finished):
    before = everything_in(finished / "mha")
    assert_refused(pretrain(finished, "mha"), 2, "mha", "--resume", "--force")
    assert everything_in(finished / "mha") == before


def test_force_replaces_a_run(finished):
    assert_done(pretrain(finished, "mha", "--force", train__steps=2))
    assert [step for step, _ in losses(finished / "mha")] == [1, 2]
    assert sorted(path.name for path in finished.iterdir()) == ["mha", "run.ini", "tokens.h5"]


@pytest.mark.parametrize("flag", ["--force", "--resume"])
def test_a_folder_of_someone_else_is_never_touched(workplace, flag):
    (workplace / "notes").mkdir()
    (workplace / "notes/thesis.txt").write_text("years of work")
    assert_refused(pretrain(workplace, "notes", flag), 2, "notes")
    assert everything_in(workplace / "notes") == {"thesis.txt": b"years of work"}


# Failures

def test_steps_that_are_not_finite_are_skipped_and_end_the_run(workplace):
    result = pretrain(workplace, "run", optim__lr=1e30, optim__warmup_steps=0, train__steps=50,
                      optim__grad_clip=0, train__max_skipped_steps=4)
    assert_refused(result, 1, "step 5", "4 steps in a row", "step_00000004")
    lines = metrics(workplace / "run")
    assert [line.get("skipped_steps") for line in lines] == [None, 1, 2, 3, 4]
    assert all(np.isfinite(tensor).all() for tensor in
               load_file(workplace / "run/checkpoints/latest/model.safetensors").values())


def save_only_small_files():
    """No file may grow beyond 100,000 bytes: enough for metrics, too little for a checkpoint."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing fails, as on a full disk


def test_a_full_disk_leaves_the_last_checkpoint_good(workplace, shared):
    assert_done(pretrain(workplace, "run", train__steps=2, optim__schedule="constant"))
    good = everything_in(workplace / "run/checkpoints")
    words = words_of("pretrain", "run", "--resume", optim__schedule="constant")
    failed = regroup(*words, cwd=workplace, preexec_fn=save_only_small_files, restore_signals=False)
    assert_refused(failed, 1, "checkpoints")
    assert everything_in(workplace / "run/checkpoints") == good
    assert_done(regroup(*words, cwd=workplace))
    assert_done(pretrain(workplace, "whole", optim__schedule="constant"))
    assert_same_training(workplace / "run", workplace / "whole")


# Uptraining and evaluation

def test_an_uptraining_run_holds_its_evaluation(shared):
    run = shared / "gqa"
    assert {path.name for path in run.iterdir()} == {
        "checkpoints", "config.ini", "converted", "evaluation.json", "final", "metrics.jsonl"}
    models = {row["name"]: row for row in
              json.loads((run / "evaluation.json").read_text())["models"]}
    assert {"original", "converted", "uptrained"} <= set(models)
    assert models["original"]["n_kv_head"] == [4, 4]
    assert models["uptrained"]["n_kv_head"] == models["converted"]["n_kv_head"] == [2, 2]
    assert models["original"]["agreement"] == 1
    assert models["original"]["kl"] == pytest.approx(0, abs=1e-6)
    ours = json.loads((run / "final/config.json").read_text())["regroup"]
    assert (ours["pretrain_steps"], ours["uptrain_steps"], ours["method"]) == (6, 3, "mean")
    assert ours["n_kv_head"] == [2, 2] and ours["original"]["n_kv_head"] == [4, 4]


def test_alpha_0_converts_and_evaluates(shared, tmp_path):
    assert_done(uptrain(shared, tmp_path / "run", convert__from="mha", convert__n_kv_head=1,
                        uptrain__alpha=0))
    converted, final = (load_file(tmp_path / "run" / name / "model.safetensors")
                        for name in ("converted", "final"))
    assert all(np.array_equal(converted[name], final[name]) for name in converted)
    assert losses(tmp_path / "run") == []
    assert json.loads((tmp_path / "run/evaluation.json").read_text())["models"]


def test_a_converted_model_is_uptrained_as_if_converted_now(shared, tmp_path):
    assert_done(regroup("convert", "--from", shared / "mha", "--to", tmp_path / "converted",
                        "--kv-heads", 2))
    result = uptrain(shared, tmp_path / "run", uptrain__from=tmp_path / "converted",
                     uptrain__original="mha", uptrain__alpha=0.5)
    assert_done(result)
    assert_same_training(tmp_path / "run", shared / "gqa")


def test_steps_that_do_not_count_are_named(shared, tmp_path):
    make_workplace(tmp_path)  # its config says 6 steps, which the original knows itself
    keys = dict(convert__from=shared / "mha", convert__n_kv_head=1, uptrain__alpha=0.5)
    done = assert_done(uptrain(tmp_path, "known", **keys))
    assert "trains 3 steps, 0.5 of the original's 6: [train] steps and tokens count only" in done.stderr
    done = assert_done(uptrain(tmp_path, "alone", train__steps="", **keys))
    assert "[train] steps" not in done.stderr


def test_uptraining_starts_from_exactly_one_model(shared, tmp_path):
    both = {"convert__from": "mha", "convert__n_kv_head": 2, "uptrain__from": "mha"}
    for keys in ({}, both):
        assert_refused(uptrain(shared, tmp_path / "run", **keys), 2, "[convert] from",
                       "[uptrain] from")
        assert not (tmp_path / "run").exists()


def test_the_original_s_length_may_come_from_the_config(shared, tmp_path):
    assert_done(uptrain(shared, tmp_path / "run", convert__from="mha", convert__n_kv_head=2,
                        uptrain__original_steps=100))
    assert len(losses(tmp_path / "run")) == 5


def transformers_log_probabilities(folder, data):
    """log p over the vocabulary at every token of /val but a document's first: [n, vocab], and the tokens."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows, targets = [], []
    with h5py.File(data) as file:
        tokens = file["val/tokens"][:].astype(np.int64)
        offsets = file["val/offsets"][:].astype(np.int64)
    for begin, end in zip(offsets[:-1], offsets[1:]):
        document = torch.from_numpy(tokens[begin:end])
        with torch.no_grad():
            logits = model(document[None]).logits[0, :-1].double()
        rows.append(torch.log_softmax(logits, -1).numpy())
        targets.append(document[1:].numpy())
    return np.concatenate(rows), np.concatenate(targets)


def test_evaluation_equals_what_transformers_gives(shared, tmp_path):
    result = regroup("eval", "--model", shared / "mha", "--model", shared / "gqa/final",
                     "--reference", shared / "mha", "--data", shared / "tokens.h5", "--json",
                     tmp_path / "eval.json")
    assert_done(result)
    original, uptrained = json.loads((tmp_path / "eval.json").read_text())["models"]
    log_p, targets = transformers_log_probabilities(shared / "mha/final", shared / "tokens.h5")
    log_q, _ = transformers_log_probabilities(shared / "gqa/final", shared / "tokens.h5")
    row = np.arange(len(targets))
    assert original["tokens"] == uptrained["tokens"] == len(targets)
    assert original["loss"] == pytest.approx(-log_p[row, targets].mean(), abs=1e-5)
    assert uptrained["loss"] == pytest.approx(-log_q[row, targets].mean(), abs=1e-5)
    assert uptrained["perplexity"] == pytest.approx(np.exp(uptrained["loss"]))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
    assert uptrained["kl"] == pytest.approx(kl, abs=1e-6)
    agreement = (log_p.argmax(-1) == log_q.argmax(-1)).mean()
    assert uptrained["agreement"] == pytest.approx(agreement, abs=1.5 / len(targets))
    n_bytes = 3 * (len(targets) + 8)  # of 8 documents, 3 bytes a token
    bits = uptrained["loss"] * len(targets) / np.log(2)
    assert uptrained["bits_per_byte"] == pytest.approx(bits / n_bytes)


@pytest.mark.parametrize("dtype, bytes_per_number", [("fp32", 4), ("bf16", 2)])
def test_kv_bytes_are_those_of_the_evaluation_s_dtype(shared, tmp_path, dtype, bytes_per_number):
    assert_done(regroup("eval", "--model", shared / "mha", "--model", shared / "gqa", "--data",
                        shared / "tokens.h5", "--dtype", dtype, "--json", tmp_path / "eval.json"))
    models = json.loads((tmp_path / "eval.json").read_text())["models"]
    n_layer, head_dim = 2, 8
    expected = [2 * n_layer * n_kv_head * head_dim * bytes_per_number for n_kv_head in (4, 2)]
    assert [model["kv_bytes_per_token"] for model in models] == expected


def test_the_compute_fraction_is_uptraining_over_pretraining(shared):
    models = json.loads((shared / "gqa/evaluation.json").read_text())["models"]
    uptrained = next(row for row in models if row["name"] == "uptrained")

    def flops_per_token(n_kv_head):
        attention = 2 * 32 * 32 + 2 * 32 * 8 * n_kv_head
        weights = 2 * (attention + 3 * 32 * 48) + 64 * 32
        return 2 * weights + 2 * 2 * 4 * 8 * 16
    expected = 0.5 * flops_per_token(2) / flops_per_token(4)
    assert uptrained["compute_fraction"] == pytest.approx(expected, rel=0.01)
