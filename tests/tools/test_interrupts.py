"""Ctrl-C and SIGTERM outside of training: a word, exit code 130, and no half-written output."""

import signal
import subprocess
import time

import pytest
from tiny_runs import REGROUP, assert_done, make_workplace, regroup, words_of, write_tokens

# Calibration that takes longer than a test waits.
LONG = ["--method", "pca", "--refit", "block", "--calibration", "long.h5", "--calibration-tokens", 10**5]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    workplace = make_workplace(tmp_path_factory.mktemp("interrupts"))
    write_tokens(workplace / "long.h5", n_train=5000)
    assert_done(regroup(*words_of("pretrain", "mha"), cwd=workplace))
    return workplace


def interrupt_when(is_ready, signal_number, workplace, *words):
    """Starts the program, sends the signal as soon as is_ready() -> its exit code, stdout and stderr."""
    with subprocess.Popen([REGROUP, *map(str, words)], cwd=workplace, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True) as process:
        deadline = time.monotonic() + 60
        while not is_ready():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal_number)
        stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion_removes_what_it_wrote(workplace, signal_number):
    before = sorted(workplace.rglob("*"))
    code, stdout, stderr = interrupt_when(
        lambda: list(workplace.glob(".regroup-tmp-mqa-*")), signal_number, workplace,
        "convert", "--from", "mha", "--to", "mqa", "--kv-heads", 1, *LONG)
    assert code == 130, stderr
    assert "interrupted; the unfinished output was removed" in stderr
    assert "error" not in stderr and stdout == ""
    assert sorted(workplace.rglob("*")) == before


def test_an_interrupted_evaluation_of_a_run_is_made_by_resume(workplace):
    words = words_of("uptrain", "mqa-run", convert__from="mha", convert__n_kv_head=1, uptrain__alpha=1)
    code, stdout, stderr = interrupt_when((workplace / "mqa-run/final/config.json").exists, signal.SIGINT, workplace,
                                          *words)
    assert code == 130, stderr
    assert "interrupted; continue with --resume" in stderr
    assert stdout == ""
    resumed = assert_done(regroup(*words, "--resume", cwd=workplace))
    assert "uptrained" in resumed.stdout
    assert (workplace / "mqa-run/evaluation.json").exists()
