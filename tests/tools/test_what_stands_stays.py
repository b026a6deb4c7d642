"""Neither closed streams, nor a name given twice, nor a second job harm what stands on the disk."""

import json
import shutil
import subprocess
import sys

import pytest
from script_runner import TOOLS
from tiny_runs import REGROUP, assert_done, assert_refused, everything_in, regroup, weights_bytes

CONVERT = ["convert", "--from", "model", "--kv-heads", "2"]


def in_shell(workplace, command):
    return subprocess.run(["bash", "-c", command.replace("REGROUP", REGROUP)], cwd=workplace, capture_output=True,
                          text=True, timeout=120, check=False)


@pytest.mark.parametrize("closed", ["2>&-", "<&- >&- 2>&-", "<&- 2>&-"])
def test_messages_for_a_closed_stream_go_into_no_file(workplace, closed):
    assert_done(regroup(*CONVERT, "--to", "expected", cwd=workplace))
    in_shell(workplace, f"REGROUP {' '.join(CONVERT)} --to found {closed}")
    assert weights_bytes(workplace / "found") == weights_bytes(workplace / "expected")


def test_intact_data_is_read_with_stdin_and_stdout_closed(workplace):
    words = "eval --model model --data tokens.h5 --json found.json"
    result = in_shell(workplace, f"REGROUP {words} <&- >&-")
    assert "damaged" not in result.stderr
    assert "stdout: the results could not be written" in result.stderr
    assert json.loads((workplace / "found.json").read_text())["models"][0]["loss"] > 0


@pytest.mark.parametrize("words, file", [
    (["eval", "--model", "model", "--data", "tokens.h5"], "tokens.h5"),
    (["bench", "decode", "--config", "run.ini", "--prompt", "2", "--new", "2"], "run.ini"),
    (["plan", "--config", "run.ini"], "run.ini"),
    ([*CONVERT, "--to", "new"], "model/config.json"),
    ([*CONVERT, "--to", "new"], "model/model.safetensors"),
])
def test_results_replace_no_input(workplace, words, file):
    before = everything_in(workplace)
    assert_refused(regroup(*words, "--json", file, cwd=workplace), 2, file, "exists")
    assert everything_in(workplace) == before


def test_results_replace_no_output_of_the_same_job(workplace):
    result = regroup(*CONVERT, "--to", "new", "--json", "new/config.json", cwd=workplace)
    assert result.returncode == 2
    assert "new/config.json: exists in a model's folder" in result.stderr
    assert_done(regroup("inspect", "new", cwd=workplace))


def test_results_are_replaced_by_results(workplace):
    for _ in range(2):
        assert_done(regroup("plan", "--config", "run.ini", "--json", "plan.json", cwd=workplace))


def test_two_jobs_with_one_output_do_not_both_report_success(workplace):
    words = [REGROUP, *CONVERT, "--to", "same"]
    jobs = [subprocess.Popen([*words[:-3], heads, *words[-2:]], cwd=workplace, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True) for heads in ("1", "2")]
    ends = [(job.communicate(timeout=120)[1], job.returncode) for job in jobs]
    assert sorted(code == 0 for _, code in ends) == [False, True], ends
    failure = next(message for message, code in ends if code != 0)
    assert "same" in failure
    assert not list(workplace.glob(".regroup-tmp-*"))


def test_data_is_prepared_although_the_reader_of_its_messages_leaves(workplace, corpus):
    script = f"{sys.executable} {TOOLS / 'prepare_data.py'} --input {corpus} --out found.h5 --vocab-size 300"
    script += " --val-fraction 0.3 --choices 8"
    in_shell(workplace, f"{script} 2>&1 | true")
    assert (workplace / "found.h5").exists()


def test_an_uptraining_run_saves_the_keys_that_it_read(workplace):
    shutil.copytree(workplace / "model", workplace / "mha")
    words = ["uptrain", "--config", "run.ini", "--uptrain.original_steps=10", "--uptrain.alpha=0.1", "--run"]
    assert_done(regroup(*words, "converting", "--convert.from=mha", "--convert.n_kv_head=1", cwd=workplace))
    assert_done(regroup(*words, "converted", "--uptrain.from=mha", "--uptrain.original=mha", cwd=workplace))
    saved = {run: (workplace / run / "config.ini").read_text() for run in ("converting", "converted")}
    assert all("[model]" not in text for text in saved.values())
    assert "[convert]" in saved["converting"] and "[convert]" not in saved["converted"]
    again = regroup("uptrain", "--config", "converted/config.ini", "--run", "again", cwd=workplace)
    assert_done(again)
