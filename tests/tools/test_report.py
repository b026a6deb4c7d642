"""tools/report.py: the page and what it says, from run folders as `regroup` writes them."""

import html
import json
import re
from html.parser import HTMLParser

import pytest
import report
from report_runs import evaluation, model, rows_of, together, write_run, write_runs
from reporting import evaluation_table, run_folder
from reporting import plots as report_plots
from script_runner import assert_refused, run
from script_support import Problem


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
        "Validation loss on up to the first 40 sequences of val",
        "Loss against decoding speed",
        "Loss against size of the K/V cache",
    ):
        assert f"<h2>{title}</h2>" in text


def test_the_page_states_loss_cache_and_speed_of_each_uptrained_model(runs):
    text = report.findings(rows_of(*runs, together=together()))
    paragraphs = re.findall("<p class=finding>(.*?)</p>", text)
    assert len(paragraphs) == 2
    for paragraph, parts in zip(paragraphs, (
        ("<b>gqa2</b> has <b>2 K/V heads</b>, pretrain has 8.",
         "The loss of gqa2 is <b>2.9780</b> nats/token, that of pretrain 2.9510.",
         "The K/V cache of gqa2 is <b>4 times</b> smaller: 2,048 bytes/token, that of pretrain 8,192.",
         "gqa2 decodes at <b>0.25 times</b> the speed of pretrain at batch 1 and "
         "<b>4.00 times</b> the speed of pretrain at batch 16."),
        ("<b>mqa</b> has <b>1 K/V head</b>, pretrain has 8.",
         "The loss of mqa is <b>3.0510</b> nats/token, that of pretrain 2.9510.",
         "The K/V cache of mqa is <b>8 times</b> smaller: 1,024 bytes/token, that of pretrain 8,192.",
         "<b>8.00 times</b> the speed of pretrain at batch 16."),
    )):
        assert all(part in paragraph for part in parts)


def test_every_sentence_of_a_finding_names_its_run(runs):
    for paragraph in re.findall("<p class=finding>(.*?)</p>", report.findings(rows_of(runs[1]))):
        sentences = re.split(r"(?<=\.) (?=[A-Z<a-z])", paragraph)
        assert len(sentences) == 4 and all("gqa2" in sentence for sentence in sentences)


def test_the_page_says_what_the_evaluation_is_measured_on(runs):
    assert run("report.py", runs[1]).returncode == 0
    assert "Measured on all of val in data/python.h5." in (runs[1] / "report.html").read_text(encoding="utf-8")


def test_one_run_s_own_evaluation_is_one_measurement(runs):
    for speed in (report.findings(rows_of(runs[1])), report.findings(rows_of(*runs[:2]))):
        assert f"<b>{(5000 - 600) / (5000 - 2400):.2f} times</b> the speed of pretrain at batch 16" in speed
    times = f"<b>{(5000 - 300) / (5000 - 2400):.2f} times</b> the speed of pretrain at batch 16"
    assert times in report.findings(rows_of(runs[2]))


def test_speeds_of_separate_runs_are_not_compared(runs, tmp_path):
    rows = rows_of(*runs)
    assert "decodes" not in report.findings(rows)
    assert not any("tokens/s" in column.title for column in evaluation_table.columns_for(rows))
    assert [plot.name for plot in report_plots.plots_for([], rows, {})] == ["quality_against_cache"]
    assert run("report.py", *runs, "--out", tmp_path / "r.html").returncode == 0
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Decode speeds of separate runs are not compared" in text and "--evaluation FILE.json" in text


def test_choices_that_a_run_did_not_ask_are_those_of_the_joint_evaluation(tmp_path):
    models = [model("original", 8, 2.9, model="/runs/mha/final", choice_accuracy=None),
              model("uptrained", 2, 3.1, model="/runs/gqa2/final", choice_accuracy=0.5)]
    write_run(tmp_path / "gqa2", models={"models": models})
    joint = {"models": [model("mha", 8, 2.9, model="/runs/mha/final", choice_accuracy=0.75),
                        model("gqa2", 2, 3.1, model="/runs/gqa2/final", choice_accuracy=0.25)]}
    rows = rows_of(tmp_path / "gqa2", together=joint)
    assert [row.model["choice_accuracy"] for row in rows] == [0.75, 0.5]


def test_noisy_speeds_are_marked(runs):
    rows = rows_of(*runs, together=together(decode_spread={"1": 0.31, "16": 0.15}))
    table = evaluation_table.markdown_table(rows)
    assert "80 (31 %, noisy)" in table and table.count("noisy") == 3 and "10 (15 %)" in table
    assert "80 (31 %, noisy)" in evaluation_table.html_table(rows)
    text = report.findings(rows)
    assert text.count("speed at batch 1 is too noisy to compare") == 2 and text.count("noisy") == 2


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


def test_a_training_loss_with_distillation_is_labelled_as_a_mixture(tmp_path):
    for name, weight in (("plain", "0"), ("distilled", "0.3")):
        config = write_run(tmp_path / name) / "config.ini"
        config.write_text(f"[distill]\nweight = {weight}\n")
    done = run("report.py", tmp_path / "plain", tmp_path / "distilled")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "plain/report.html").read_text()
    training, validation, details = re.findall(r"<figure>.*?</figure>", text, re.S)
    assert re.search(r">\s*distilled \(text \+ teacher\)\s*<", training) and "plain (" not in training
    assert "The training loss of distilled is a mixture, 0.7 times the loss on the text and 0.3 times" in training
    assert "text + teacher" not in validation + details
    assert text.count("the teacher&#x27;s predictions have weight 0.3") + text.count(
        "the teacher's predictions have weight 0.3") == 1


def test_a_validation_loss_during_training_says_how_much_of_val_it_is_over(tmp_path):
    folders = [write_run(tmp_path / name) for name in ("a", "b", "c")]
    sizes = folders[1] / "config.ini"
    sizes.write_text(sizes.read_text().replace("batches = 5", "batches = 200"))
    (folders[2] / "config.ini").unlink()
    assert run("report.py", *folders).returncode == 0
    text = html.unescape((tmp_path / "a/report.html").read_text())
    assert "<h2>Validation loss on part of val</h2>" in text
    assert "a: up to the first 40 sequences of val, 256 tokens each ([eval] batches times [train] micro_batch)" in text
    assert "b: up to the first 1,600 sequences of val" in text and "c: up to" not in text
    assert "The evaluation's loss is over all of val" in text
    assert run("report.py", folders[2]).returncode == 0
    assert "<h2>Validation loss on part of val</h2>" in (tmp_path / "c/report.html").read_text()


@pytest.mark.parametrize("option, target, words", [
    ("--out", ".", "is a folder. Name a file with --out."),
    ("--out", "file/r.html", "file: is not a folder. Name another place with --out."),
    ("--plots", "file", "file: is not a folder. Name another place with --plots."),
    ("--out", "b.json", "b.json: is read by this job, which would replace it."),
])
def test_outputs_that_cannot_be_written_are_refused_before_the_work(tmp_path, option, target, words):
    folder = write_run(tmp_path / "run", steps=10)
    (tmp_path / "file").write_text("")
    (tmp_path / "b.json").write_text('{"unigram": {"loss": 6.5}, "bigram": {"loss": 4.25}}')
    before = sorted(tmp_path.rglob("*"))
    refused = run("report.py", folder, "--baselines", tmp_path / "b.json", option, tmp_path / target)
    assert_refused(refused, 2, words)
    assert sorted(tmp_path.rglob("*")) == before


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
