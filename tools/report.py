"""Draws report.html from the folders of one or more runs: one file that needs no network."""

import argparse
import html
import statistics
from pathlib import Path

from reporting.evaluation_table import (
    has_comparable_speeds,
    html_table,
    is_noisy,
    kv_heads,
    markdown_table,
    rows_of,
    source_of,
)
from reporting.plots import PNG_COLOURS, plots_for
from reporting.run_folder import load_runs, read_baselines, read_speeds
from script_support import (
    Problem,
    check_is_no_input,
    check_output_file,
    check_output_folder,
    run_script,
    write_text,
    written_atomically,
)

DARK_COLOURS = {
    "ink": "#e4e8ec",
    "muted": "#98a3ad",
    "rule": "#2b3239",
    "surface": "#14181c",
    "series-1": "#6fb1ee",
    "series-2": "#f0a05a",
    "series-3": "#5fc493",
    "series-4": "#b497ea",
    "series-5": "#ee86b4",
    "series-6": "#d2b45c",
}


def main(arguments):
    options = parse_arguments(arguments)
    runs = load_runs(options.run)
    out = options.out or runs[0].folder / "report.html"
    check_output_file("--out", out)
    check_is_no_input("--out", out, filter(None, [options.evaluation, options.baselines]))
    if options.plots:
        check_output_folder("--plots", options.plots)
    together = read_speeds(options.evaluation) if options.evaluation else None
    rows = rows_of(runs, together)
    if options.markdown:
        if not rows:
            raise Problem(
                options.run[0],
                "has no evaluation.json, so there is no table",
                "Let `regroup uptrain` finish, or write one with `regroup eval --json`.",
            )
        print(markdown_table(rows))
    plots = plots_for(runs, rows, read_baselines(options.baselines) if options.baselines else {})
    for plot in plots if options.plots else []:
        with written_atomically(options.plots / f"{plot.name}.png") as temporary:
            plot.save_png(temporary)
    write_text(out, page(runs, rows, plots, together))
    if not options.markdown:
        print(out)


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description="Draws report.html from runs' metrics, configs and evaluations.",
        epilog="example: tools/report.py runs/gqa2 runs/mqa --plots docs/plots",
    )
    parser.add_argument(
        "run", nargs="+", metavar="RUN", help="the folder of a run; the report draws several side by side"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="default: report.html in the first run's folder"
    )
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="FILE.json",
        help="what `regroup eval --speed --json` measured of all runs' models together; the report compares speeds of "
        "several runs only with it",
    )
    parser.add_argument(
        "--baselines",
        type=Path,
        metavar="FILE.json",
        help="what tools/ngram_baseline.py --json wrote",
    )
    parser.add_argument(
        "--plots", type=Path, metavar="DIR", help="write each plot as a PNG file here too"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print the evaluation's table as Markdown"
    )
    return parser.parse_args(arguments)


def page(runs, rows, plots, together=None):
    """The whole report as HTML."""
    title = "Regroup report: " + ", ".join(run.name for run in runs)
    figures = "".join(
        f'<figure><h2>{html.escape(plot.title)}</h2><div class="scroll">{plot.svg()}</div>'
        f"<figcaption>{html.escape(plot.caption)}</figcaption></figure>\n"
        for plot in plots
    )
    return PAGE.format(
        title=html.escape(title),
        css=style_sheet(),
        findings=findings(rows),
        evaluation=evaluation(runs, rows, together),
        figures=figures,
        runs="".join(map(run_details, runs)),
    )


def findings(rows):
    """A paragraph for each uptrained model: what it lost and what it gained against its original."""
    paragraphs = [
        finding(row)
        for row in rows
        if row.model["name"] == "uptrained" and row.original and kv_heads(row.model) != kv_heads(row.original)
    ]
    return "".join(f"<p class=finding>{paragraph}</p>" for paragraph in paragraphs if paragraph)


def finding(row):
    """Sentences that each name the run, so that one can be quoted alone."""
    new, old = row.model, row.original
    if new["loss"] is None or old["loss"] is None:
        return ""
    run = html.escape(row.run)
    original = html.escape(source_of(old) or "the original")
    heads = kv_heads(new)
    sentences = [
        f"<b>{run}</b> has <b>{heads} K/V head{'' if heads == '1' else 's'}</b>, {original} has {kv_heads(old)}.",
        f"The loss of {run} is <b>{new['loss']:.4f}</b> nats/token, that of {original} {old['loss']:.4f}.",
    ]
    cache, old_cache = new.get("kv_bytes_per_token"), old.get("kv_bytes_per_token")
    if cache and old_cache:
        sentences.append(
            f"The K/V cache of {run} is <b>{old_cache / cache:.3g} times</b> smaller: {cache:,} bytes/token, that of "
            f"{original} {old_cache:,}."
        )
    speeds, old_speeds = new.get("decode_tokens_per_s") or {}, old.get("decode_tokens_per_s") or {}
    measured = [batch for batch in speeds if speeds[batch] and old_speeds.get(batch)]
    noisy = [batch for batch in measured if is_noisy(new, batch) or is_noisy(old, batch)]
    gains = [
        f"<b>{speeds[batch] / old_speeds[batch]:.2f} times</b> the speed of {original} at batch {html.escape(batch)}"
        for batch in measured
        if batch not in noisy
    ]
    if gains:
        sentences.append(f"{run} decodes at {' and '.join(gains)}.")
    if noisy:
        sentences.append(f"Its speed at batch {' and '.join(map(html.escape, noisy))} is too noisy to compare.")
    return " ".join(sentences)


def evaluation(runs, rows, together):
    if not rows:
        return (
            '<p class="note">There is no evaluation yet: <code>regroup uptrain</code> writes one '
            "when it ends, <code>regroup eval --json</code> at any time.</p>"
        )
    evaluations = [found for found in (together, *(run.evaluation for run in runs)) if found]
    data = sorted({f"all of {found.get('split', 'val')} in {found.get('data')}" for found in evaluations})
    note = f'<p class="note">Measured on {html.escape(", ".join(data))}.{_about_speeds(runs, rows)}</p>'
    return f"<h2>Evaluation</h2>\n{note}\n{html_table(rows)}"


def _about_speeds(runs, rows):
    if has_comparable_speeds(rows) or len(runs) == 1:
        return ""
    return (
        " Decode speeds of separate runs are not compared: measure them together with <code>regroup eval --speed "
        "--json FILE.json</code>, with a <code>--model</code> for each run, and give "
        "<code>--evaluation FILE.json</code>."
    )


def run_details(run):
    facts = (
        [f"{run.training[-1]['step']:,} steps", f"{run.tokens:,} training tokens"]
        if run.training
        else ["no training logged"]
    )
    speeds = [line["tokens_per_s"] for line in run.training if line.get("tokens_per_s")]
    if speeds:
        facts.append(f"training at {statistics.median(speeds):,.0f} tokens/s (median)")
    memory = max((line.get("rss_bytes") or 0 for line in run.training), default=0)
    if memory:
        facts.append(f"at most {memory / 2**30:.2f} GiB of memory")
    if run.distill_weight:
        facts.append(f"distilled: the teacher's predictions have weight {run.distill_weight:g} in the training loss")
    config = (
        f"<details><summary>config.ini</summary><pre>{html.escape(run.config)}</pre></details>"
        if run.config
        else ""
    )
    note = f'<p class="note">{" · ".join(facts)}</p>'
    return f"<section><h3>{html.escape(run.name)}</h3>{note}{config}</section>\n"


def style_sheet():
    """report.css after the colours that it names, for light and dark."""
    return (
        f":root {{ color-scheme: light dark; {_variables(PNG_COLOURS)} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK_COLOURS)} }} }}\n"
        + Path(__file__).with_name("reporting").joinpath("report.css").read_text(encoding="utf-8")
    )


def _variables(colours):
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{css}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{findings}
{evaluation}
{figures}
<h2>Runs</h2>
{runs}
</main>
</body>
</html>
"""

if __name__ == "__main__":
    run_script(main)
