"""The launcher `regroup`: how it finds the program, and what it passes on to it."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tiny_runs import PROGRAM, REGROUP, assert_refused, make_workplace, words_of

STAND_IN = """\
#!/bin/sh
echo "$$ $*"
echo "${GOMP_SPINCOUNT-unset} ${OMP_WAIT_POLICY-unset}"
exit 42
"""


def put(folder, place):
    """A copy of the launcher in folder/bin, with a program at place that prints its arguments and variables."""
    launcher, program = folder / "bin/regroup", folder / place
    for path in (launcher, program):
        path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(REGROUP, launcher)
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return launcher


def start(launcher, *words, **variables):
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    return subprocess.Popen([launcher, *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env=environment | variables)


def said(launcher, *words, **variables):
    """(whether the program has the launcher's process id, its words, its variables), as the stand-in saw them."""
    process = start(launcher, *words, **variables)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (42, "")
    first, second = out.splitlines()
    process_id, _, passed_on = first.partition(" ")
    return int(process_id) == process.pid, passed_on, second


@pytest.mark.parametrize("place", ["bin/libexec/regroup", "libexec/regroup"])
def test_it_becomes_the_program_of_a_build_folder_or_an_installation(tmp_path, place):
    assert said(put(tmp_path, place), "eval", "--x=1 2") == (True, "eval --x=1 2", "1000 unset")


def test_it_may_be_started_through_a_link(tmp_path):
    put(tmp_path, "libexec/regroup")
    (tmp_path / "regroup").symlink_to("bin/regroup")
    assert said(tmp_path / "regroup", "plan") == (True, "plan", "1000 unset")


@pytest.mark.parametrize("variables, seen", [
    ({"GOMP_SPINCOUNT": "7"}, "7 unset"),
    ({"OMP_WAIT_POLICY": "active"}, "unset active"),
    ({"GOMP_SPINCOUNT": "7", "OMP_WAIT_POLICY": "passive"}, "7 passive"),
])
def test_what_the_user_chose_for_waiting_threads_stays(tmp_path, variables, seen):
    assert said(put(tmp_path, "libexec/regroup"), **variables) == (True, "", seen)


def test_without_its_program_it_says_what_is_missing(tmp_path):
    launcher = put(tmp_path, "libexec/regroup")
    (tmp_path / "libexec/regroup").unlink()
    done = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False)
    assert_refused(done, 1, launcher, "libexec/regroup", "install")


def test_help_needs_no_program(tmp_path):
    launcher = put(tmp_path, "libexec/regroup")
    (tmp_path / "libexec/regroup").unlink()
    for spelling in ("--help", "-h"):
        done = subprocess.run([launcher, spelling], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("regroup VERB [options]") and done.stderr == ""


def test_help_that_cannot_be_written_is_a_failure():
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([REGROUP, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and "stdout" in done.stderr


def variables_of(process):
    """The environment that a process was started with, once it is the program."""
    until = time.monotonic() + 60
    while Path(f"/proc/{process.pid}/exe").resolve() != PROGRAM:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    return dict(entry.split("=", 1) for entry in Path(f"/proc/{process.pid}/environ").read_text().split("\0") if entry)


def test_a_run_has_threads_that_spin_briefly(tmp_path):
    make_workplace(tmp_path)
    words = words_of("pretrain", "run", train__steps=100_000)
    process = subprocess.Popen([REGROUP, *words], cwd=tmp_path, stderr=subprocess.DEVNULL,
                               env={name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"})
    try:
        assert variables_of(process)["GOMP_SPINCOUNT"] == "1000"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
