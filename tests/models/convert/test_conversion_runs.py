"""Uptraining from a calibrated and refit conversion, with and without distillation."""

import json
import re
import signal
import subprocess
import time

import numpy as np
import pytest
from hf_models import load_there
from small_models import convert, weights_of
from tiny_runs import (
    REGROUP,
    assert_done,
    assert_refused,
    everything_in,
    losses,
    make_workplace,
    pretrain,
    uptrain,
    weights_bytes,
    words_of,
)

LONG_STEPS = 150  # enough for a signal after the first steps to arrive before the end
CONVERT = {"convert__from": "mha", "convert__n_kv_head": 2, "convert__method": "pca", "convert__refit": "output",
           "convert__grouping": "similar"}
DISTILL = {"distill__weight": 0.5, "distill__temperature": 2}
SHORT = {**CONVERT, "uptrain__alpha": 0.5}  # of 6 steps
LONG = {**CONVERT, **DISTILL, "uptrain__alpha": LONG_STEPS / 6, "data__val": ""}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """mha, and runs of 3 steps from it with and without distillation; tests add more runs."""
    folder = make_workplace(tmp_path_factory.mktemp("uptraining"))
    assert_done(pretrain(folder, "mha"))
    for run, keys in (("plain", {}), ("distilled", DISTILL)):
        (folder / f"{run}.log").write_text(assert_done(uptrain(folder, run, **SHORT, **keys)).stderr)
    return folder


def compute_fraction(run):
    rows = json.loads((run / "evaluation.json").read_text())["models"]
    return next(row["compute_fraction"] for row in rows if row["name"] == "uptrained")


def test_distillation_counts_the_teacher_s_work(workplace):
    plain, distilled = (compute_fraction(workplace / run) for run in ("plain", "distilled"))
    # half of the original's steps, each with its forward pass: a third of what training one took
    assert distilled - plain == pytest.approx(0.5 / 3, rel=1e-6)


def test_progress_says_which_loss_it_shows(workplace):
    plain, distilled = ((workplace / f"{run}.log").read_text() for run in ("plain", "distilled"))
    assert " · loss " in plain and "distillation loss" not in plain
    assert " · distillation loss " in distilled and " · loss " not in distilled
    for text in (plain, distilled):
        assert re.search(r"validation loss \d\.\d{4} on all 13 sequences of val\n", text), text


def test_a_validation_loss_on_a_part_of_val_says_so(workplace):
    done = assert_done(uptrain(workplace, "part", **SHORT, eval__batches=2))
    assert "on the first 6 of 13 sequences of val\n" in done.stderr  # 2 batches of 3


def test_distillation_trains_another_model_from_the_same_conversion(workplace):
    plain, distilled = workplace / "plain", workplace / "distilled"
    assert weights_bytes(plain / "converted") == weights_bytes(distilled / "converted")
    assert weights_bytes(plain / "final") != weights_bytes(distilled / "final")
    assert [step for step, _ in losses(distilled)] == [1, 2, 3]
    assert np.isfinite([loss for _, loss in losses(distilled)]).all()
    ours = json.loads((distilled / "final/config.json").read_text())["regroup"]
    assert (ours["method"], ours["grouping"], ours["refit"]) == ("pca", "similar", "output")
    assert load_there(distilled / "final").config.num_key_value_heads == 2


def test_a_run_converts_as_the_verb_does_from_its_training_text(workplace, tmp_path):
    convert(workplace / "mha", tmp_path / "out", "--kv-heads", 2, "--method", "pca", "--refit", "output", "--grouping",
            "similar", "--calibration", workplace / "tokens.h5")
    found, expected = weights_of(workplace / "plain/converted"), weights_of(tmp_path / "out")
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("name, keys", [
    ("distill.weight", {"distill__weight": 0.25}), ("distill.weight", {"distill__weight": 0}),
    ("distill.temperature", {"distill__temperature": 1}), ("convert", {"convert__refit": "none"}),
    ("convert", {"convert__method": "align"}), ("convert", {"convert__grouping": "neighbours"})],
    ids=lambda value: "".join(f"{key}={number}" for key, number in value.items()) if isinstance(value, dict) else "")
def test_another_distillation_or_conversion_is_refused_on_resuming(workplace, name, keys):
    before = everything_in(workplace / "distilled")
    assert_refused(uptrain(workplace, "distilled", "--resume", **{**SHORT, **DISTILL, **keys}), 2, name)
    assert everything_in(workplace / "distilled") == before


@pytest.fixture(scope="module")
def long_run(workplace):
    assert_done(uptrain(workplace, "long", **LONG))
    return workplace / "long"


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_distillation_resumes_bit_identically(workplace, long_run, signal_number):
    name = f"interrupted_{signal_number.name}"
    run = workplace / name
    process = subprocess.Popen([REGROUP, *words_of("uptrain", name, **LONG)], cwd=workplace, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (run / "checkpoints/latest").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal_number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (130 if signal_number == signal.SIGINT else -signal_number), stderr
    assert losses(run)[-1][0] < LONG_STEPS and not (run / "final").exists()
    assert_done(uptrain(workplace, name, "--resume", **LONG))
    assert losses(run) == losses(long_run)
    assert weights_bytes(run / "final") == weights_bytes(long_run / "final")
    assert (run / "final/config.json").read_text() == (long_run / "final/config.json").read_text()
