"""tools/study.py: a tiny study, end to end; what it measures again and what it refuses."""

import contextlib
import itertools
import json
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import study
from reporting.plots import PNG_COLOURS
from script_runner import assert_refused, run
from script_support import Problem
from studies import report as study_report
from tiny_runs import REGROUP, assert_done, make_workplace, regroup

CONFIG = """\
[conversion]
variants =
    mean
    pca calibration=none
    pca refit=output
[model tiny]
path = runs/tiny/final
pretrain = run.ini
data = tokens.h5
kv_heads = 2, 1
more_variants = pca refit=output kv_budget=0.5
needs = tokens.h5: Write it.
[uptrain]
model = tiny
config = run.ini
kv_heads = 1
variants =
    mean
    pca refit=output
distill = 0, 0.5
alphas = 0, 0.02, 0.05
baseline_alpha = 0.05
lr = 0.01
warmup_steps = 1
overrides = uptrain.original_steps=100 optim.weight_decay=0
"""
VARIANTS = ["mean", "pca calibration=none", "pca refit=output", "pca refit=output kv_budget=0.5"]


def run_study(folder, *words):
    with contextlib.chdir(folder):
        return run("study.py", "--config", "study.ini", "--out", "out", "--binary", REGROUP, *words)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with a finished study in out/, and its process."""
    folder = make_workplace(tmp_path_factory.mktemp("study"))
    (folder / "study.ini").write_text(CONFIG)
    process = assert_done(run_study(folder))
    return folder, process


def table_rows(text, title):
    """The cells of each row below the heading that starts with title."""
    lines = text.split(f"## {title}")[1].split("\n\n")[1].splitlines()[2:]
    return [[cell.strip(" `*") for cell in line.strip("|").split("|")] for line in lines]


def times(folder):
    files = [path for path in (folder / "out").rglob("*") if path.parent != folder / "out"]
    return {path: path.stat().st_mtime_ns for path in files}


def test_every_measurement_leaves_its_result_and_its_command(done):
    folder, process = done
    results = {path.with_suffix("") for path in (folder / "out").rglob("*/*.json")}
    assert len(results) == 1 + 1 + 7 * 2 + 12 * 2  # pretraining, original, conversion, uptraining
    for name in results:
        program, *_, json_file = shlex.split(Path(f"{name}.command").read_text())
        assert program == REGROUP and json_file == f"{name.relative_to(folder)}.json"
        assert Path(f"{name}.log").exists()
    assert not list((folder / "out" / "scratch").iterdir())
    assert "study: 20 of 20, 0:00:0" in process.stderr


def test_tables_and_plots_hold_what_was_measured(done):
    folder, process = done
    out = folder / "out"
    assert (out / "study.md").read_text() == process.stdout
    for plot in ("conversion.png", "uptraining.png"):
        assert (out / plot).read_bytes().startswith(b"\x89PNG")
    rows = table_rows(process.stdout, "Conversion of tiny")
    assert rows[0][:2] == ["original", "4"]
    # the budget is compared with two K/V heads, which take as many bytes
    assert [row[0] for row in rows[1:]] == [*VARIANTS[:3], VARIANTS[3], *VARIANTS[:3]]
    assert [row[2] for row in rows[1:]] == ["256"] * 4 + ["128"] * 3
    numbers = json.loads((out / "study.json").read_text())
    converted = json.loads((out / "conversion/tiny.kv2.mean.eval.json").read_text())["models"][0]
    assert numbers["conversion"][0]["loss"] == converted["loss"]
    assert rows[1][3] == f"{converted['loss']:.3f}"
    rows = table_rows(process.stdout, "Uptraining of tiny")
    combinations = itertools.product(("mean", "pca refit=output"), "1", ("0", "0.5"))
    assert [row[:3] for row in rows] == list(map(list, combinations))
    assert len(table_rows(process.stdout, "Share that reaches")) == 4


def test_a_model_with_one_number_of_heads_is_drawn_as_bars():
    rows = [
        {"model": model, "variant": variant, "n_kv_head": [heads], "loss": loss + heads}
        for model, counts in (("one", (1,)), ("several", (2, 1)))
        for variant, loss in (("mean", 3.0), ("pca", 2.0))
        for heads in counts
    ]
    study = {"original": {"one": {"loss": 1.5}, "several": {"loss": 1.5}}, "conversion": rows}
    figure = plt.figure()
    study_report.plots_for(study)[0].draw(figure, PNG_COLOURS)
    bars, lines = figure.axes
    assert [bar.get_width() for bar in bars.patches] == [4.0, 3.0]  # the best at the top
    assert [label.get_text() for label in bars.get_yticklabels()] == ["mean", "pca"]
    assert [list(line.get_ydata()) for line in lines.lines[:2]] == [[4.0, 5.0], [3.0, 4.0]]
    plt.close(figure)


def test_shares_are_trained_and_measured_like_runs_of_that_length(done):
    folder, _ = done
    numbers = json.loads((folder / "out/study.json").read_text())
    mean, distilled, *_ = numbers["uptraining"]["runs"]
    assert [point["steps"] for point in mean["points"]] == [0, 2, 5]
    losses = [point["loss"] for point in mean["points"]]
    assert losses[0] == distilled["points"][0]["loss"]
    assert losses[2] != distilled["points"][2]["loss"]
    name = mean["points"][2]["measured_by"].replace(".eval", ".train.command")
    command = shlex.split((folder / "out" / name).read_text())
    with contextlib.chdir(folder):
        command[command.index("--run") + 1] = "alone"
        command[command.index("--json") + 1] = "alone.json"
        assert_done(regroup(*command[1:]))
        words = ["--model", "alone/final", "--data", "tokens.h5", "--json", "alone.json"]
        assert_done(regroup("eval", *words))
    alone = json.loads((folder / "alone.json").read_text())["models"][0]["loss"]
    assert alone == losses[2]


def test_existing_results_are_not_measured_again(done):
    folder, _ = done
    before = times(folder)
    again = assert_done(run_study(folder))
    assert times(folder) == before and again.stderr == ""
    one = folder / "out/uptraining/tiny.kv1.mean.distill-0.alpha-0.02.eval.json"
    value = one.read_bytes()
    one.unlink()
    again = assert_done(run_study(folder, "--only", "uptraining"))
    assert again.stderr.count("\n") == 1 and one.read_bytes() == value
    changed = {path for path, time in times(folder).items() if before[path] != time}
    changed.discard(folder / "out/scratch")
    assert {path.name.split(".alpha-")[1][:4] for path in changed} == {"0.02"}
    assert "Conversion of tiny" in again.stdout


def test_a_stopped_study_goes_on(tmp_path):
    folder = make_workplace(tmp_path)
    (folder / "study.ini").write_text(CONFIG.replace("kv_heads = 2, 1", "kv_heads = 3"))
    assert_refused(run_study_of(folder), 2, "log", "3 does not divide", "goes on from here")
    (folder / "study.ini").write_text(CONFIG)
    finished = assert_done(run_study(folder, "--only", "conversion"))
    assert "pretraining" not in finished.stderr and "1 of 8" not in finished.stderr
    assert len(table_rows(finished.stdout, "Conversion of tiny")) == 8


def test_a_study_of_conversion_alone_needs_no_uptraining(tmp_path):
    folder = make_workplace(tmp_path)
    config = CONFIG[: CONFIG.index("[uptrain]")].replace("    pca calibration=none\n    pca refit=output\n", "")
    (folder / "study.ini").write_text(config)
    assert_refused(run_study(folder, "--only", "uptraining"), 2, "--only=uptraining", "no [uptrain]")
    finished = assert_done(run_study(folder))
    assert "Conversion of tiny" in finished.stdout and "Uptraining" not in finished.stdout


def run_study_of(folder, *words):
    """The process, without the progress lines that come before a refusal."""
    process = run_study(folder, *words)
    lines = process.stderr.splitlines(keepends=True)
    process.stderr = "".join(line for line in lines if not line.startswith("study: "))
    return process


def test_numbers_of_another_config_are_not_mixed_in(done):
    folder, _ = done
    before = times(folder)
    config = folder / "study.ini"
    config.write_text(CONFIG.replace("lr = 0.01", "lr = 0.02"))
    refused = run_study(folder, "--only", "uptraining")
    config.write_text(CONFIG)
    assert_refused(refused, 2, "train.command: is not the command", "another --out")
    assert times(folder) == before


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("[uptrain]", "[uptraining]", ["[uptraining] is not a section"]),
        ("lr = 0.01", "learning = 1", ["[uptrain] learning is not a key"]),
        ("path = runs/tiny/final\n", "", ["[model tiny] path is missing"]),
        ("tiny/final", "tiny", ["[model tiny] path is not RUN/final"]),
        ("    mean\n    pca cal", "    median\n    pca cal", ["[conversion]", '"method=median"']),
        ("[model tiny]", "likeness = maybe\n[model tiny]", ['[conversion] likeness: is "maybe"']),
        ("pca calibration=none", "pca refit=all", ['"pca refit=all" has "refit=all"']),
        ("kv_budget=0.5", "kv_budget=2", ['"kv_budget=2"']),
        ("output\ndistill", "output kv_budget=0.5\ndistill", ["[uptrain]", '"kv_budget=0.5"']),
        ("alphas = 0,", "alphas = none,", ["[uptrain] alphas", "is not a list of numbers"]),
        ("baseline_alpha = 0.05", "baseline_alpha = 0.03", ["Everything is compared with that"]),
        ("model = tiny\n", "model = huge\n", ['"huge" has no section']),
        ("[conversion]", "conversion", ["is not an INI file"]),
    ],
)
def test_a_config_with_a_mistake_is_refused_before_anything_runs(tmp_path, old, new, words):
    assert old in CONFIG
    (tmp_path / "study.ini").write_text(CONFIG.replace(old, new))
    assert_refused(run_study(tmp_path), 2, "study.py: error: ", *words)
    assert [path.name for path in tmp_path.iterdir()] == ["study.ini"]


def test_missing_files_of_a_model_and_a_missing_program_are_named(tmp_path):
    (tmp_path / "study.ini").write_text(CONFIG)
    assert_refused(run_study(tmp_path), 2, "tokens.h5: is missing, and tiny", "Write it.")
    assert_refused(run_study(tmp_path, "--binary", "none"), 2, "none: is not a program")
    assert_refused(run_study(tmp_path, "--out", "study.ini"), 2, "study.ini: is not a folder", "--out")


def test_missing_files_are_made_by_their_lines_alone(tmp_path):
    class Runner:
        out = tmp_path

    made, there = tmp_path / "made", tmp_path / "there"
    there.write_text("kept")
    lines = [f"{file}: python -c \"open('{file}', 'w')\"" for file in (there, made)]
    model = {"path": str(there), "data": str(made), "prepare": "\n".join(lines)}
    study.prepare("tiny", model, Runner)
    assert made.exists() and there.read_text() == "kept"
    with pytest.raises(Problem, match='has no ": "'):
        study.prepare("tiny", {"path": "none", "data": "none", "prepare": "make"}, Runner)


def test_the_config_of_the_study_is_valid():
    config = study.read_config(study.Path(__file__).parents[2] / "configs" / "study.ini")
    assert len(study.conversion_plan(config, Path("out"))) == 14 + 38
    assert len(study.uptraining_plan(config, Path("out"))) == 2 * 3 * 2 * 7


def test_a_share_is_found_on_the_line_between_measurements():
    points = [(0, 4.0), (0.01, 3.0), (0.05, 2.0), (0.1, 2.5)]
    reaching = study_report.alpha_reaching
    assert reaching(points, 4.5) == 0 and reaching(points, 4.0) == 0
    assert reaching(points, 3.5) == pytest.approx(0.005)
    assert reaching(points, 2.25) == pytest.approx(0.04)
    assert reaching(points, 2.0) == pytest.approx(0.05)
    assert reaching(points, 1.9) is None
    assert study_report.value_at(points, 0.03) == pytest.approx(2.5)
    assert study_report.value_at(points, 0.01) == 3.0
    assert study_report.value_at(points, 0.2) is None
    assert study_report.value_at(points, None) is None


def test_shares_are_relative_to_mean_without_distillation():
    def line(variant, distill, losses):
        points = [
            {"alpha": alpha, "loss": loss, "compute_fraction": 2 * alpha}
            for alpha, loss in zip((0, 0.05, 0.1), losses)
        ]
        return {"kv_heads": 1, "variant": variant, "distill": distill, "points": points}

    runs = [
        line("mean", 0, [4, 3, 2.8]),
        line("pca", 0, [3.5, 2.5, 2.4]),
        line("first", 0, [9, 8, 7]),
        line("pca", 0.5, [3, None, 2]),
    ]
    rows = study_report.shares_needed(runs, 0.05)
    assert [row["ratio"] for row in rows] == pytest.approx([1, 0.5, None, 0])
    assert rows[1]["compute_fraction"] == pytest.approx(0.05)
    assert {row["target"] for row in rows} == {3}
