"""tools/report.py: the page, the plots and the table, from run folders as `regroup` writes them."""

import json
import math
import re
from html.parser import HTMLParser

import pytest
import report
from matplotlib.text import Text
from reporting import evaluation_table, run_folder
from reporting import plots as report_plots
from script_runner import assert_refused, run
from script_support import Problem


def model(name, n_kv_head, loss, **more):
    """An entry of evaluation.json with 4 layers and plausible costs."""
    entry = {
        "model": f"/runs/{name}",
        "name": name,
        "n_kv_head": [n_kv_head] * 4,
        "parameters": 5_300_000 - 40_000 * (8 - n_kv_head),
        "tokens": 275_000,
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": 0.45 * loss,
        "choice_accuracy": 1 - loss / 20,
        "agreement": 0.9,
        "kl": 0.1,
        "kv_bytes_per_token": 1024 * n_kv_head,
        "decode_tokens_per_s": {"1": 500.0 - 10 * n_kv_head, "16": 5000.0 - 300 * n_kv_head},
        "compute_fraction": 0.05,
    }
    return {**entry, **more}


ORIGINAL = model("original", 8, 2.951, model="/runs/pretrain/final", agreement=1.0, kl=0.0, compute_fraction=0.0)
RUNS = {2: "gqa2", 1: "mqa"}


def evaluation(n_kv_head, uptrained_loss):
    run = f"/runs/{RUNS[n_kv_head]}"
    pooled = model("pooled", n_kv_head, 4.31, model=f"{run}/converted", compute_fraction=0.0004)
    return {
        "data": "data/python.h5",
        "models": [
            ORIGINAL,
            pooled,
            model("uptrained", n_kv_head, uptrained_loss, model=f"{run}/final"),
            model("control", 8, 2.934),
        ],
    }


def write_run(folder, steps=100, models=None, tokens_a_step=4096):
    folder.mkdir(parents=True)
    with open(folder / "metrics.jsonl", "w") as lines:
        for step in range(1, steps + 1):
            loss = 3 + 5 * math.exp(-7 * step / steps)
            line = {
                "step": step,
                "tokens": step * tokens_a_step,
                "loss": loss,
                "lr": 1e-3,
                "grad_norm": 0.5,
                "tokens_per_s": 8000.0 + step,
                "mfu": 0.3,
                "rss_bytes": 2**30,
            }
            lines.write(json.dumps(line) + "\n")
            if step % (steps // 5) == 0:
                lines.write(
                    json.dumps({"step": step, "tokens": step * tokens_a_step, "val_loss": loss})
                    + "\n"
                )
    (folder / "config.ini").write_text("[optim]\nlr = 0.001  # <b>not markup</b>\n")
    if models:
        (folder / "evaluation.json").write_text(json.dumps(models))
    return folder


@pytest.fixture
def runs(tmp_path):
    """A pretraining run and two uptraining runs."""
    return write_runs(tmp_path)


def together(**more):
    """The evaluation of the runs that write_runs makes, as `regroup eval --speed` measures their models in turns."""
    entries = [("pretrain", 8, 2.951), ("gqa2", 2, 2.978), ("mqa", 1, 3.051)]
    speeds = {name: {"1": 10.0 * n_kv_head, "16": 80.0 / n_kv_head} for name, n_kv_head, _ in entries}
    models = [
        model(name, n_kv_head, loss, model=f"/runs/{name}/final", decode_tokens_per_s=speeds[name], **more)
        for name, n_kv_head, loss in entries
    ]
    return {"data": "data/python.h5", "models": models}


def write_runs(folder):
    return [
        write_run(folder / "pretrain", steps=500),
        write_run(folder / "gqa2", models=evaluation(2, 2.978)),
        write_run(folder / "mqa", models=evaluation(1, 3.051)),
    ]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """What the script does with three runs: its process, report.html, PNG folder."""
    folder = tmp_path_factory.mktemp("drawn")
    (folder / "b.json").write_text('{"unigram": {"loss": 6.5}, "bigram": {"loss": 4.25}}')
    (folder / "together.json").write_text(json.dumps(together()))
    runs = write_runs(folder)
    done = run("report.py", *runs, "--evaluation", folder / "together.json", "--baselines", folder / "b.json",
               "--plots", folder / "plots")
    assert done.returncode == 0, done.stderr
    return done, runs[0] / "report.html", folder / "plots"


def rows_of(*folders, **options):
    return evaluation_table.rows_of(run_folder.load_runs(folders), **options)


class Page(HTMLParser):
    """Tags that are open at the end, and everything that a browser would fetch."""

    VOID = {"meta", "br", "link", "img", "hr", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.fetched = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.fetched += [
            value
            for name, value in attributes
            if name in ("src", "href", "xlink:href") and not value.startswith("#")
        ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# --- The page ---


def test_the_report_is_one_file_that_fetches_nothing(drawn):
    done, out, _ = drawn
    assert done.stdout == f"{out}\n"
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and page.fetched == []
    assert "@import" not in text and "url(http" not in text
    assert text.count("<svg") == 5
    for title in (
        "Training loss",
        "Validation loss",
        "Quality against decode speed",
        "Quality against K/V bytes",
    ):
        assert f"<h2>{title}</h2>" in text


def test_the_page_states_loss_cache_and_speed_of_each_uptrained_model(runs):
    text = report.findings(rows_of(*runs, together=together()))
    assert text.count("<p") == 2
    assert (
        "With <b>2 K/V heads</b> instead of 8" in text
        and "With <b>1 K/V head</b> instead of 8" in text
    )
    assert "<b>2.978</b> where the original has 2.951" in text
    assert "<b>4 times</b> smaller" in text and "<b>8 times</b> smaller" in text
    assert "<b>4.00 times</b> at batch 16" in text and "<b>8.00 times</b> at batch 16" in text


def test_one_run_s_own_evaluation_is_one_measurement(runs):
    for speed in (report.findings(rows_of(runs[1])), report.findings(rows_of(*runs[:2]))):
        assert f"<b>{(5000 - 600) / (5000 - 2400):.2f} times</b> at batch 16" in speed
    assert f"<b>{(5000 - 300) / (5000 - 2400):.2f} times</b> at batch 16" in report.findings(rows_of(runs[2]))


def test_speeds_of_separate_runs_are_not_compared(runs, tmp_path):
    rows = rows_of(*runs)
    assert "decode speed" not in report.findings(rows)
    assert not any("Decode" in column.title for column in evaluation_table.columns_for(rows))
    assert [plot.name for plot in report_plots.plots_for([], rows, {})] == ["quality_against_cache"]
    assert run("report.py", *runs, "--out", tmp_path / "r.html").returncode == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Decode speeds of separate runs are not compared" in text and "--evaluation FILE.json" in text


def test_speeds_come_from_the_measurement_of_all_models_together(runs):
    measured = together(decode_spread={"1": 0.31, "16": 0.02})
    rows = rows_of(*runs, together=measured)
    speeds = {row.label: row.model["decode_tokens_per_s"] for row in rows}
    assert speeds == {
        "original": {"1": 80.0, "16": 10.0},
        "pooled · gqa2": None,
        "uptrained · gqa2": {"1": 20.0, "16": 40.0},
        "control": None,
        "pooled · mqa": None,
        "uptrained · mqa": {"1": 10.0, "16": 80.0},
    }
    assert rows[0].model["loss"] == ORIGINAL["loss"]  # everything else is the run's own


def test_models_that_only_the_common_measurement_has_are_shown_too(tmp_path):
    folders = [write_run(tmp_path / name, steps=10) for name in ("a", "b")]
    rows = rows_of(*folders, together=together())
    assert [(row.label, row.original) for row in rows] == [("pretrain", None), ("gqa2", None), ("mqa", None)]


def test_noisy_speeds_are_marked(runs):
    rows = rows_of(*runs, together=together(decode_spread={"1": 0.31, "16": 0.15}))
    table = evaluation_table.markdown_table(rows)
    assert "80.0 (noisy: 31%)" in table and table.count("noisy") == 3
    assert "80.0 (noisy: 31%)" in evaluation_table.html_table(rows)
    text = report.findings(rows)
    assert text.count("</b> at batch 1 (noisy)") == 2 and text.count("noisy") == 2


@pytest.mark.parametrize("text, exit_code, words", [
    (None, 2, "does not exist"),
    ("{", 1, "is not JSON"),
    (json.dumps({"models": [model("x", 2, 3.0, decode_tokens_per_s=None)]}), 1, "has no decode speeds"),
])
def test_a_measurement_that_cannot_be_used_is_named(runs, tmp_path, text, exit_code, words):
    if text:
        (tmp_path / "e.json").write_text(text)
    assert_refused(run("report.py", *runs, "--evaluation", tmp_path / "e.json"), exit_code, "e.json", words)


def test_colours_follow_the_page_in_light_and_dark(drawn):
    text = drawn[1].read_text(encoding="utf-8")
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.S))
    assert "var(--series-1)" in drawings and "var(--ink)" in drawings
    assert not re.search(r"#[0-9a-f]{6}", re.sub(r'"#[^"]*"|url\(#[^)]*\)', "", drawings))
    used = set(re.findall(r"var\(--([a-z0-9-]+)\)", text)) - {"font"}
    assert used <= set(report.DARK_COLOURS) == set(report_plots.PNG_COLOURS)


def test_text_from_files_is_escaped(tmp_path):
    folder = write_run(
        tmp_path / "a<b>", models={"data": "<script>", "models": [model("<i>x</i>", 2, 3.0)]}
    )
    assert run("report.py", folder).returncode == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert Page(text).open == []
    for word in ("<i>x", "a<b>", "<script>", "<b>not markup"):
        assert word not in text


def test_the_same_run_gives_the_same_report(tmp_path):
    folder = write_run(tmp_path / "run", steps=10)
    for name in ("one", "two"):
        run("report.py", folder, "--out", tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_plots_are_written_as_png_too(drawn):
    plots = drawn[2]
    names = sorted(path.name for path in plots.iterdir())
    assert names == [
        "quality_against_cache.png",
        "quality_against_speed.png",
        "training_details.png",
        "training_loss.png",
        "validation_loss.png",
    ]
    assert all((plots / name).read_bytes().startswith(b"\x89PNG") for name in names)


def test_baselines_are_drawn_beside_the_validation_loss(drawn):
    text = drawn[1].read_text(encoding="utf-8")
    assert (
        len(re.findall(r">\s*unigram\s*<", text)) == 2 and "n-gram models" in text
    )  # once a panel


def test_a_training_loss_with_distillation_is_said_to_be_a_mixture(tmp_path):
    for name, weight in (("plain", "0"), ("distilled", "0.5")):
        config = write_run(tmp_path / name) / "config.ini"
        config.write_text(f"[distill]\nweight = {weight}\n")
    done = run("report.py", tmp_path / "plain", tmp_path / "distilled")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "plain/report.html").read_text()
    assert "Of distilled it is mixed with the divergence from the original" in text


def test_a_run_without_evaluation_says_how_to_make_one(tmp_path):
    folder = write_run(tmp_path / "pretrain")
    assert run("report.py", folder).returncode == 0
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "There is no evaluation yet" in text and "<table" not in text
    assert_refused(run("report.py", folder, "--markdown"), 1, "has no evaluation.json")


def test_an_evaluation_without_metrics_is_enough(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(evaluation(2, 3.0)))
    assert run("report.py", tmp_path / "run").returncode == 0
    text = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert text.count("<svg") == 2 and "no training logged" in text


# --- The table ---


def test_the_table_marks_the_best_and_lets_the_original_not_compete_with_itself(runs):
    done = run("report.py", runs[1], "--markdown")
    head, _, *rows = done.stdout.strip().splitlines()
    titles = [cell.strip() for cell in head.strip("|").split("|")]
    table = {
        cells[0]: dict(zip(titles, cells))
        for cells in ([cell.strip() for cell in row.strip("|").split("|")] for row in rows)
    }
    assert list(table) == ["original", "pooled", "uptrained", "control"]
    assert table["control"]["Loss (nats/token)"] == "**2.934**"
    assert table["original"]["Loss (nats/token)"] == "2.951"
    assert table["original"]["Agreement (% of tokens)"] == "100.0"
    assert table["uptrained"]["K/V cache (bytes/token)"] == "**2,048**"
    assert table["uptrained"]["Decode, batch 16 (tokens/s)"] == "**4,400**"
    assert table["pooled"]["Compute (% of original)"] == "0.04"
    assert table["uptrained"]["K/V heads"] == "2"


def test_a_model_that_several_runs_evaluated_alike_stands_once(runs):
    labels = [row.label for row in rows_of(*runs)]
    assert labels == [
        "original",
        "pooled · gqa2",
        "uptrained · gqa2",
        "control",
        "pooled · mqa",
        "uptrained · mqa",
    ]


def test_unmeasured_values_have_no_column_and_gaps_are_dashes(tmp_path):
    models = [
        model("original", 8, 2.9, bits_per_byte=None, decode_tokens_per_s=None, kl=None),
        model("uptrained", 2, 3.0, bits_per_byte=None, decode_tokens_per_s=None, kl=0.2),
    ]
    folder = write_run(tmp_path / "run", models={"data": "d", "models": models})
    rows = rows_of(folder)
    assert [column.title for column in evaluation_table.columns_for(rows)] == [
        "Parameters",
        "Loss",
        "Perplexity",
        "Choices",
        "Agreement",
        "KL",
        "K/V cache",
        "Compute",
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
        "<small>+0.027</small>" in table
        and "<small>−0.017</small>" in table
        and "<small>× 0.25</small>" in table
    )


# --- Plots ---


def test_losses_far_above_the_best_are_drawn_at_the_edge():
    assert report_plots._edge([2.9, 3.0, 9.0]) == pytest.approx(3.03)
    assert report_plots._edge([2.9, 3.0, 3.8]) is None


def test_runs_of_very_different_length_get_separate_panels(runs):
    groups = report_plots._similar_length(run_folder.load_runs(runs))
    assert [[run.name for run in group] for group in groups] == [["pretrain"], ["gqa2", "mqa"]]


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
    assert set(named) < set(texts) and "pooled · gqa2, 2 K/V (4.31)" in texts and "control, 8 K/V" in texts


def test_heights_are_spread_out_near_where_they_are_wanted():
    assert report_plots.spread_out([0.1, 0.5, 0.9], 0.1) == pytest.approx([0.1, 0.5, 0.9])
    assert report_plots.spread_out([0.1, 0.1, 0.1], 0.1) == pytest.approx([0.1, 0.2, 0.3])
    assert report_plots.spread_out([0.95, 0.95, 1.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])
    assert report_plots.spread_out([0.5] * 3, 0.9) == pytest.approx([0, 0.5, 1])
    assert report_plots.spread_out([], 0.1) == []


# --- Run folders that cannot be read ---


def test_a_torn_last_line_is_passed_over_and_another_broken_line_named(tmp_path):
    folder = write_run(tmp_path / "run", steps=10)
    with open(folder / "metrics.jsonl", "a") as lines:
        lines.write('{"step": 11, "lo')
    (loaded,) = run_folder.load_runs([folder])
    assert loaded.training[-1]["step"] == 10
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 2}\nbroken\n{"step": 2, "loss": 1}\n'
    )
    assert_refused(run("report.py", folder), 1, "metrics.jsonl:2: is not a metrics line")


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    assert_refused(run("report.py", tmp_path / "none"), 2, "none: is not a folder")
    (tmp_path / "empty").mkdir()
    assert_refused(
        run("report.py", tmp_path / "empty"), 1, "neither metrics.jsonl nor evaluation.json"
    )
    assert list((tmp_path / "empty").iterdir()) == []


@pytest.mark.parametrize(
    "text, words",
    [
        ("{", "is not JSON"),
        ("[]", 'has no list "models"'),
        ('{"models": []}', 'has no list "models"'),
        ('{"models": [{"name": "x"}]}', "models[0] lacks n_kv_head, loss"),
    ],
)
def test_a_broken_evaluation_is_named(tmp_path, text, words):
    folder = write_run(tmp_path / "run", steps=10)
    (folder / "evaluation.json").write_text(text)
    with pytest.raises(Problem) as caught:
        run_folder.load_runs([folder])
    assert words in str(caught.value) and "evaluation.json" in str(caught.value)


def test_a_broken_baselines_file_is_named(runs, tmp_path):
    assert_refused(
        run("report.py", runs[0], "--baselines", tmp_path / "no.json"), 2, "no.json: does not exist"
    )
    (tmp_path / "b.json").write_text('{"unigram": 3}')
    assert_refused(
        run("report.py", runs[0], "--baselines", tmp_path / "b.json"),
        1,
        "is not a file of baselines",
    )


def test_runs_of_the_same_name_are_distinguished(tmp_path):
    folders = [write_run(tmp_path / name / "run", steps=10) for name in ("a", "b")]
    assert [run.name for run in run_folder.load_runs(folders)] == ["a/run", "b/run"]
    assert_refused(run("report.py", folders[0], folders[0]), 2, "given twice")
