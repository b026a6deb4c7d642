"""tools/report.py: the table and the plots, from run folders as `regroup` writes them."""

import json
import math
import re

import pytest
from matplotlib.text import Text
from report_runs import ORIGINAL, evaluation, model, rows_of, together, write_run
from reporting import evaluation_table, run_folder
from reporting import plots as report_plots
from script_runner import run
from tiny_runs import assert_done, regroup

# --- The table ---

def test_speeds_come_from_the_measurement_of_all_models_together(runs):
    measured = together(decode_spread={"1": 0.31, "16": 0.02})
    rows = rows_of(*runs, together=measured)
    speeds = {row.label: row.model["decode_tokens_per_s"] for row in rows}
    assert speeds == {
        "original": {"1": 80.0, "16": 10.0},
        "converted · gqa2": None,
        "uptrained · gqa2": {"1": 20.0, "16": 40.0},
        "control": None,
        "converted · mqa": None,
        "uptrained · mqa": {"1": 10.0, "16": 80.0},
    }
    assert rows[0].model["loss"] == ORIGINAL["loss"]  # everything else is the run's own


def test_rows_have_the_order_of_the_common_measurement(runs):
    measured = together()
    measured["models"] = measured["models"][::-1]  # mqa, gqa2, pretrain
    assert [row.label for row in rows_of(*runs, together=measured)] == [
        "converted · mqa",
        "uptrained · mqa",
        "converted · gqa2",
        "uptrained · gqa2",
        "control",
        "original",
    ]


def test_the_table_has_the_columns_of_regroup_eval(trained, tmp_path):
    words = ["--model", "run", "--reference", "run", "--data", "tokens.h5", "--speed", "--threads", "1"]
    printed = assert_done(regroup("eval", *words, "--json", tmp_path / "e.json", cwd=trained)).stdout
    folder = write_run(tmp_path / "run", models=json.loads((tmp_path / "e.json").read_text()))
    head, _, row = evaluation_table.markdown_table(rows_of(folder)).splitlines()
    titles, cells = ([cell.strip(" *") for cell in line.strip("|").split("|")] for line in (head, row))
    wanted_titles, wanted_cells = (re.split(r"  +", line.strip()) for line in printed.splitlines()[:2])
    table, wanted = dict(zip(titles, cells)), dict(zip(wanted_titles, wanted_cells))
    assert titles == [title for title in wanted_titles if title in table] + ["parameters"]
    assert all(wanted[title] == "-" for title in set(wanted) - set(table))  # nothing measured, no column
    assert all(table[title].replace(",", "") == wanted[title].replace(",", "") for title in titles[:-1])


def test_kv_bytes_of_several_dtypes_each_name_theirs(tmp_path):
    folders = []
    for dtype, n_kv_head in (("fp32", 8), ("bf16", 2)):
        models = {"data": "d", "dtype": dtype, "models": [model(dtype, n_kv_head, 3.0)]}
        folders.append(write_run(tmp_path / dtype, steps=10, models=models))
    table = evaluation_table.markdown_table(rows_of(*folders))
    assert "| K/V bytes/token |" in table and "| 8,192 (fp32) |" in table and "**2,048 (bf16)**" in table


def test_models_that_only_the_common_measurement_has_are_shown_too(tmp_path):
    folders = [write_run(tmp_path / name, steps=10) for name in ("a", "b")]
    rows = rows_of(*folders, together=together())
    assert [(row.label, row.original) for row in rows] == [("pretrain", None), ("gqa2", None), ("mqa", None)]


def test_the_table_marks_the_best_and_lets_the_original_not_compete_with_itself(runs):
    done = run("report.py", runs[1], "--markdown")
    head, _, *rows = done.stdout.strip().splitlines()
    titles = [cell.strip() for cell in head.strip("|").split("|")]
    table = {
        cells[0]: dict(zip(titles, cells))
        for cells in ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    }
    assert list(table) == ["original", "converted", "uptrained", "control"]
    assert table["control"]["loss"] == "**2.9340**"
    assert table["original"]["loss"] == "2.9510"
    assert table["original"]["agreement %"] == "100.0"
    assert table["uptrained"]["K/V bytes/token (fp32)"] == "**2,048**"
    assert table["uptrained"]["tokens/s x16 (spread)"] == "**4,400**"
    assert table["converted"]["compute %"] == "0.04"
    assert table["uptrained"]["K/V heads"] == "2"


def test_a_model_that_several_runs_evaluated_alike_stands_once(runs):
    labels = [row.label for row in rows_of(*runs)]
    assert labels == [
        "original",
        "converted · gqa2",
        "uptrained · gqa2",
        "control",
        "converted · mqa",
        "uptrained · mqa",
    ]


def test_a_conversion_that_pools_nothing_is_no_second_original(tmp_path):
    models = [ORIGINAL, {**ORIGINAL, "name": "converted", "model": "/runs/control/converted"},
              model("uptrained", 8, 2.93, model="/runs/control/final")]
    rows = rows_of(write_run(tmp_path / "control", models={**evaluation(2, 2.93), "models": models}))
    assert [row.label for row in rows] == ["original", "uptrained"]


def test_unmeasured_values_have_no_column_and_gaps_are_dashes(tmp_path):
    models = [
        model("original", 8, 2.9, bits_per_byte=None, decode_tokens_per_s=None, kl=None),
        model("uptrained", 2, 3.0, bits_per_byte=None, decode_tokens_per_s=None, kl=0.2),
    ]
    folder = write_run(tmp_path / "run", models={"data": "d", "models": models})
    rows = rows_of(folder)
    assert [column.title for column in evaluation_table.columns_for(rows)] == [
        "loss",
        "perplexity",
        "choices %",
        "agreement %",
        "KL",
        "K/V bytes/token",
        "compute %",
        "parameters",
    ]
    assert "| – |" in evaluation_table.markdown_table(rows)
    assert run("report.py", folder).returncode == 0


def test_an_evaluation_without_losses_is_drawn_all_the_same(tmp_path):
    models = [{**model(name, 2, 3.0), "loss": None} for name in ("original", "uptrained")]
    folder = write_run(tmp_path / "run", models={"data": "d", "models": models})
    done = run("report.py", folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "heads, text",
    [([8, 8, 8], "8"), ([8, 4, 4, 2], "8, 4, 4, 2"), ([1, 2] * 9, "1 to 2"), (4, "4")],
)
def test_kv_heads_are_written_for_people(heads, text):
    assert evaluation_table.kv_heads({"n_kv_head": heads}) == text


def test_differences_to_the_original_stand_in_small_print(runs):
    table = evaluation_table.html_table(rows_of(runs[1]))
    assert (
        "<small>+0.0270</small>" in table
        and "<small>−0.0170</small>" in table
        and "<small>× 0.25</small>" in table
    )


# --- Plots ---

def test_losses_far_above_the_best_are_drawn_at_the_edge():
    assert report_plots._edge([2.9, 3.0, 9.0]) == pytest.approx(3.03)
    assert report_plots._edge([2.9, 3.0, 3.8]) is None


def test_runs_of_very_different_length_get_separate_panels(runs):
    groups = report_plots._similar_length(run_folder.load_runs(runs))
    assert [[run.name for run in group] for group in groups] == [["pretrain"], ["gqa2", "mqa"]]


def test_legends_are_as_narrow_as_their_panels(tmp_path):
    lengths = {"pretrain": 500, **{f"uptrained-model-{number}": 100 for number in range(5)}}
    folders = [write_run(tmp_path / name, steps=steps) for name, steps in lengths.items()]
    for plot in report_plots.plots_for(run_folder.load_runs(folders), [], {})[:2]:
        figure = plot._drawn(report_plots.PNG_COLOURS, "none")
        figure.draw_without_rendering()
        assert len(figure.axes) == 2
        for axis in figure.axes:
            assert axis.get_legend().get_window_extent().x1 <= figure.bbox.x1
            assert axis.get_window_extent().width > 0.35 * figure.bbox.width


def test_the_moving_average_keeps_ends_and_leaves_gaps_out():
    assert report_plots._moving_average([1.0, 2.0, 6.0, math.nan, 4.0], 1) == [
        1.0,
        3.0,
        4.0,
        5.0,
        4.0,
    ]


def test_a_loss_that_is_not_finite_leaves_a_gap(tmp_path):
    folder = write_run(tmp_path / "run", steps=10)
    with open(folder / "metrics.jsonl", "a") as lines:
        lines.write('{"step": 11, "tokens": 45056, "loss": null}\n')
        lines.write('{"step": 12, "tokens": 49152, "loss": NaN}\n')
    (loaded,) = run_folder.load_runs([folder])
    losses = loaded.series(loaded.training, "loss")[1]
    assert [math.isnan(loss) for loss in losses[-3:]] == [False, True, True]
    assert run("report.py", folder).returncode == 0


def labels_in(plot):
    """(text, box on paper) of every label beside a panel, panel by panel, and the figure's box."""
    figure = plot._drawn(report_plots.PNG_COLOURS, "none")
    figure.draw_without_rendering()
    panels = [[(text.get_text(), Text.get_window_extent(text)) for text in axis.texts] for axis in figure.axes]
    return panels, figure.bbox


def crowded_rows(n):
    """Models of many runs that are hardly apart."""
    models = [model("uptrained", 1 + i % 3, 3 + i * 1e-4, model=f"/runs/run-{i}/final") for i in range(n)]
    rows = [evaluation_table.Row(f"uptrained · run-{i}", f"run-{i}", entry, None) for i, entry in enumerate(models)]
    return [*rows, evaluation_table.Row("original", "run-0", ORIGINAL, ORIGINAL)]


@pytest.mark.parametrize("n", [1, 6, 40])
def test_labels_of_points_do_not_overlap_and_stay_on_the_paper(n):
    for plot in report_plots.plots_for([], crowded_rows(n), {}):
        panels, paper = labels_in(plot)
        for labels in panels:
            assert len(labels) == n + 1
            boxes = sorted((box for _, box in labels), key=lambda box: box.y0)
            assert all(below.y1 <= above.y0 for below, above in zip(boxes, boxes[1:]))
            assert all(paper.x0 <= box.x0 and box.x1 <= paper.x1 for box in boxes)
            assert paper.y0 <= boxes[0].y0 and boxes[-1].y1 <= paper.y1


def test_every_point_says_which_run(runs):
    rows = rows_of(*runs, together=together())
    speed, cache = report_plots.plots_for([], rows, {})
    named = ["original · pretrain, 8 K/V", "uptrained · gqa2, 2 K/V", "uptrained · mqa, 1 K/V"]
    assert [sorted(text for text, _ in labels) for labels in labels_in(speed)[0]] == [named, named]
    texts = [text for text, _ in labels_in(cache)[0][0]]
    assert set(named) < set(texts) and "converted · gqa2, 2 K/V (4.31)" in texts and "control, 8 K/V" in texts


def test_heights_are_spread_out_near_where_they_are_wanted():
    assert report_plots.spread_out([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert report_plots.spread_out([0.1, 0.1, 0.1], 0.1) == pytest.approx([0.1, 0.2, 0.3])
    assert report_plots.spread_out([0.95, 0.95, 1.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])
    assert report_plots.spread_out([0.5] * 3, 0.9) == pytest.approx([0, 0.5, 1])
    assert report_plots.spread_out([], 0.1) == []
