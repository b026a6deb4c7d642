"""One write, flush, rename, map, file, folder or allocation fails: every output is absent or whole, the message names
the file, and a run that is resumed ends with the bytes of an undisturbed one. REGROUP_EVERY_FAULT=1 tries every call
(an hour); without it a few of each kind."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from injected_faults import ALLOCATION, assert_failed_clearly, count_calls, places_to_fail, run_watched
from tiny_runs import REGROUP, assert_done, everything_in, losses, make_workplace, pretrain, words_of

SHORT = {"model__n_layer": 1, "train__steps": 2, "checkpoint__every": 1}
PREPARE_DATA = Path(__file__).parents[2] / "tools" / "prepare_data.py"


class Job:
    """One command that writes `out` in a workplace."""

    def __init__(self, words, is_run=False):
        self.words = words
        self.is_run = is_run

    def command(self, workplace):
        return [word.format(out=workplace / "out", model=workplace / "model" / "final") for word in self.words]


def training(verb, **keys):
    return Job([REGROUP, *words_of(verb, "{out}", **SHORT, **keys)], is_run=True)


JOBS = {
    "pretrain": training("pretrain"),
    "uptrain": training("uptrain", convert__from="{model}", convert__n_kv_head=2, uptrain__alpha=1),
    "convert": Job([REGROUP, "convert", "--from", "{model}", "--to", "{out}/m", "--kv-heads", "2", "--method", "pca",
                    "--calibration", "tokens.h5", "--calibration-tokens", "200", "--json", "{out}/result.json"]),
    "export": Job([REGROUP, "export", "--model", "{model}", "--to", "{out}/m", "--layout", "expanded",
                   "--max-shard-size", "10KB"]),
    "prepare_data": Job([sys.executable, str(PREPARE_DATA), "--input", "text.jsonl", "--out", "{out}/data.h5",
                         "--vocab-size", "300", "--val-fraction", "0.2"]),
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = make_workplace(tmp_path_factory.mktemp("faults").resolve())
    assert_done(pretrain(folder, folder / "model", **SHORT))
    lines = [json.dumps({"text": f"document {n} counts {' '.join(map(str, range(n)))}"}) for n in range(40)]
    (folder / "text.jsonl").write_text("\n".join(lines))
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_after_a_fault_outputs_are_absent_or_whole(name, workplace, tmp_path):
    job, out = JOBS[name], workplace / "out"
    shutil.rmtree(out, ignore_errors=True)
    counts = count_calls(job.command(workplace), workplace, tmp_path / "report")
    print(name, counts)
    whole = Output(out)
    inputs = everything_in(workplace / "model")
    problems = []
    for kind, at in places_to_fail(counts):
        shutil.rmtree(out)
        out.mkdir()
        try:
            check_fault(job, workplace, kind, at, whole)
        except AssertionError as error:
            problems.append(f"{name}: {kind} {at} of {counts[kind]}: {error}")
    assert not problems, "\n\n".join(problems)
    assert everything_in(workplace / "model") == inputs


def check_fault(job, workplace, kind, at, whole):
    out = workplace / "out"
    result = run_watched(job.command(workplace), workplace, kind, at)
    Output(out).assert_part_of(whole, is_complete=result.returncode == 0, may_round=kind == ALLOCATION)
    if not is_abort_of_a_library(job, kind, result):
        if result.returncode != 0:
            assert_failed_clearly(result, kind, workplace)
        assert job.is_run or not leftovers(out), result.stderr
    if job.is_run:
        assert_done(run_watched([*job.command(workplace), "--resume"], workplace))
        Output(out).assert_part_of(whole, is_complete=True)
        assert not leftovers(out)


def is_abort_of_a_library(job, kind, result):
    """The tokenizers package, which is written in Rust, aborts the process where memory runs out."""
    return job is JOBS["prepare_data"] and kind == ALLOCATION and result.returncode < 0


def is_temporary(name):
    return any(part.startswith((".regroup-tmp", ".data", ".tokenizer")) for part in Path(name).parts)


def leftovers(folder):
    return [path for path in Path(folder).rglob("*") if is_temporary(path.relative_to(folder))]


def assert_same_contents(name, found, expected, may_round):
    if not (may_round and name.endswith(".safetensors")):
        assert found == expected, name
        return
    found, expected = safetensors.numpy.load(found), safetensors.numpy.load(expected)
    assert found.keys() == expected.keys(), name
    for tensor in expected:
        np.testing.assert_allclose(found[tensor], expected[tensor], rtol=0, atol=1e-6, err_msg=f"{name}: {tensor}")


class Output:
    """What a job wrote: files by name, and a run's losses. Of files with timings, only the rest."""

    TIMED = ("metrics.jsonl", "evaluation.json", "result.json")

    def __init__(self, folder):
        files = {name: contents for name, contents in everything_in(folder).items() if not is_temporary(name)}
        self.timed = {name: contents for name, contents in files.items() if name in self.TIMED}
        self.files = {name: contents for name, contents in files.items() if name not in self.TIMED}
        self.units = {self.unit(name) for name in self.files}
        self.losses = losses(folder) if "metrics.jsonl" in self.timed else []

    @staticmethod
    def unit(name):
        """Outputs that must be absent or whole as one: a file, or a model folder with all its files."""
        parts = Path(name).parts
        return "/".join(parts[:2] if parts[0] == "checkpoints" else parts[:1])

    def assert_part_of(self, whole, is_complete, may_round=False):
        """may_round: the weights may differ by rounding, as MKL multiplies without its buffers where memory is short."""
        expected = {name: contents for name, contents in whole.files.items()
                    if is_complete or self.unit(name) in self.units}
        assert self.files.keys() == expected.keys()
        for name in expected:
            assert_same_contents(name, self.files[name], expected[name], may_round)
        assert self.losses == (whole.losses if is_complete else whole.losses[:len(self.losses)])
        for name in ("evaluation.json", "result.json"):
            if name in self.timed:
                json.loads(self.timed[name])
        if is_complete:
            assert self.timed.keys() == whole.timed.keys()
