#!/usr/bin/env python3
"""Draws what fewer K/V heads gain in decoding, from the JSON of `regroup bench decode --sweep`.

    tools/draw_sweep.py sweep.json --out sweep.png
"""

import argparse
import json
from pathlib import Path

from reporting.plots import N_COLOURS, Plot, draw_legend
from script_support import Problem, check_is_no_input, check_output_file, run_script, written_atomically

FIELDS = ("n_kv_head", "batch", "prompt", "gain", "predicted_gain")


def parse_arguments(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, metavar="SWEEP.json", help="what bench decode --sweep --json wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    return parser.parse_args(words)


def read_points(path):
    try:
        points = json.loads(path.read_bytes())["points"]
        if points and all(isinstance(point[field], (int, float)) for point in points for field in FIELDS):
            return points
    except (ValueError, KeyError, TypeError):
        pass
    raise Problem(path, "is no sweep", "Make one with `regroup bench decode --sweep --json FILE`.")


def distinct(points, field):
    return list(dict.fromkeys(point[field] for point in points))


def sweep_plot(points):
    batches, prompts = distinct(points, "batch"), distinct(points, "prompt")

    def draw(figure, colours):
        axes = figure.subplots(1, len(batches), sharey=True, squeeze=False)[0]
        for axis, batch in zip(axes, batches):
            for number, prompt in enumerate(prompts):
                line = [point for point in points if (point["batch"], point["prompt"]) == (batch, prompt)]
                heads = [str(point["n_kv_head"]) for point in line]
                colour = colours[f"series-{1 + number % N_COLOURS}"]
                axis.plot(heads, [point["gain"] for point in line], color=colour, marker="o",
                          label=f"after {prompt:,} tokens")
                axis.plot(heads, [point["predicted_gain"] for point in line], color=colour, linestyle=(0, (4, 3)),
                          linewidth=1)
            axis.set_title(f"batch {batch}", loc="right", color=colours["muted"], fontsize=10)
            axis.set_xlabel("K/V heads")
            axis.margins(y=0.1)
        axes[0].set_ylabel("tokens/s over MHA's; dashed: predicted")
        draw_legend(axes[0], n_columns=1)

    title = "Decoding speed by K/V heads"
    return Plot("decoding_by_kv_heads", title, "", 8.6, 3.6, draw)


def main(words):
    arguments = parse_arguments(words)
    check_output_file("--out", arguments.out)
    check_is_no_input("--out", arguments.out, [arguments.sweep])
    plot = sweep_plot(read_points(arguments.sweep))
    with written_atomically(arguments.out) as temporary:
        plot.save_png(temporary)
    print(arguments.out)


if __name__ == "__main__":
    run_script(main)
