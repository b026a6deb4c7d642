"""The plots of a report: as SVG that follows the page's colours, and as PNG for a README."""

import io
import math
import re
from dataclasses import dataclass, field
from typing import Callable

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from reporting.evaluation_table import kv_heads, source_of

N_COLOURS = 6
PNG_COLOURS = {
    "ink": "#1d2329",
    "muted": "#66707a",
    "rule": "#e3e6ea",
    "surface": "#ffffff",
    "series-1": "#2a6fb0",
    "series-2": "#c8661b",
    "series-3": "#2d8659",
    "series-4": "#7a55b5",
    "series-5": "#b8457a",
    "series-6": "#8a6d1f",
}
# In SVG each colour is first drawn as a distinct number, which the page's CSS variable then replaces.
SVG_COLOURS = {name: f"#0a0b{number:02x}" for number, name in enumerate(PNG_COLOURS)}
MARKERS = "osD^vP"
FAR_WORSE_NATS = 1.0  # losses further than this above the best are drawn at the plot's upper edge
SMOOTHED_POINTS = 60  # curves with more points get a moving average
LABEL_SIZE = 8.5  # points, of the labels beside a panel
LABEL_PITCH = 1.35 * LABEL_SIZE / 72  # inches from one label to the next


@dataclass
class Plot:
    name: str  # of its PNG file
    title: str
    caption: str
    width: float  # inches
    height: float
    draw: Callable = field(repr=False)  # (figure, colours) -> None

    def svg(self):
        """The plot as an <svg> element that takes its colours from the page."""
        figure = self._drawn(SVG_COLOURS, "none")
        text = io.StringIO()
        with matplotlib.rc_context({"svg.hashsalt": self.name, "svg.fonttype": "none"}):
            figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
        return _themed(text.getvalue(), self.title)

    def save_png(self, path):
        figure = self._drawn(PNG_COLOURS, PNG_COLOURS["surface"])
        figure.savefig(path, format="png", dpi=160, metadata={"Software": None})
        plt.close(figure)

    def _drawn(self, colours, background):
        with matplotlib.rc_context(_style(colours)):
            figure = plt.figure(
                figsize=(self.width, self.height), layout="constrained", facecolor=background
            )
            self.draw(figure, colours)
        return figure


def plots_for(runs, rows, baselines):
    """The plots that the runs have data for. baselines: {name: validation loss}."""
    trained = [run for run in runs if len(run.training) > 1]
    validated = [run for run in runs if run.validation]
    plots = []
    if trained:
        plots.append(
            _curves_plot(
                "training_loss",
                "Training loss",
                trained,
                "training",
                "loss",
                "training loss, nats/token",
                "Mean over each step's global batch; the strong line is a moving average."
                + "".join(map(_about_distillation, trained)),
            )
        )
    if validated:
        plots.append(
            _curves_plot(
                "validation_loss",
                f"Validation loss on {_val_part(validated)}",
                validated,
                "validation",
                "val_loss",
                "validation loss, nats/token",
                _about_validation(validated) + _about_baselines(baselines),
                baselines,
            )
        )
    plots += [plot for plot in (_speed_plot(rows), _cache_plot(rows)) if plot]
    if trained:
        plots.append(_details_plot(trained))
    return plots


def _val_part(runs):
    windows = {run.val_windows for run in runs}
    if len(windows) > 1 or None in windows:
        return "part of val"
    return _first_sequences(windows.pop()[0])


def _first_sequences(n):
    return f"up to the first {n:,} sequence{'' if n == 1 else 's'} of val"


def _about_validation(runs):
    """How much of val each run's curve is over, and why the table has another loss."""
    names = {}
    for run in runs:
        names.setdefault(run.val_windows, []).append(run.name)
    parts = [
        f"{', '.join(group)}: {_first_sequences(windows[0])}, {windows[1]:,} tokens each ([eval] batches times [train] "
        "micro_batch), or all of a shorter val. "
        for windows, group in names.items()
        if windows
    ]
    return (
        f"Losses during training. {''.join(parts)}The evaluation's loss is over all of val, document by document, so "
        "it is another number."
    )


def _about_baselines(baselines):
    return " Dashed: what n-gram models of the same tokens reach on all of val." if baselines else ""


def _about_distillation(run):
    weight = run.distill_weight
    if not weight:
        return ""
    return (
        f" The training loss of {run.name} is a mixture, {1 - weight:g} times the loss on the text and {weight:g} "
        f"times the divergence from the teacher's predictions: compare {run.name} with other runs by its validation "
        "loss."
    )


def _training_label(run):
    return f"{run.name} (text + teacher)" if run.distill_weight else run.name


# --- Curves over training ---


def _curves_plot(name, title, runs, lines, value, y_label, caption, baselines=None):
    groups = _similar_length(runs)
    share = " Runs of very different length have separate panels." if len(groups) > 1 else ""

    def draw(figure, colours):
        axes = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
        for axis, group in zip(axes, groups):
            for run in group:
                colour = colours[f"series-{1 + runs.index(run) % N_COLOURS}"]
                label = _training_label(run) if lines == "training" else run.name
                _curve(axis, *run.series(getattr(run, lines), value), colour, label)
            for label, loss in (baselines or {}).items():
                axis.axhline(loss, color=colours["muted"], linewidth=1, linestyle=(0, (4, 3)))
                axis.annotate(
                    label,
                    (1, loss),
                    xycoords=("axes fraction", "data"),
                    xytext=(-4, 3),
                    textcoords="offset points",
                    ha="right",
                    color=colours["muted"],
                )
            draw_legend(axis, n_columns=max(1, 4 // len(groups)))
            _tokens_axis(axis)
        axes[0].set_ylabel(y_label)
        axes[0].margins(y=0.12 if baselines else 0.05)  # room for their names
        _limit_to_settled(axes[0], runs, lines, value, baselines)

    return Plot(name, title, caption + share, 8.6, 3.3, draw)


def _curve(axis, xs, ys, colour, label):
    if len(xs) > SMOOTHED_POINTS:
        axis.plot(xs, ys, color=colour, linewidth=0.7, alpha=0.3)
        axis.plot(xs, _moving_average(ys, len(xs) // 30), color=colour, linewidth=1.8, label=label)
    else:
        axis.plot(xs, ys, color=colour, linewidth=1.8, marker="o", markersize=3.5, label=label)


def _moving_average(values, width):
    """Mean over a centred window, which is narrower at the ends; it leaves gaps out."""
    averages = []
    for centre in range(len(values)):
        reach = min(width, centre, len(values) - 1 - centre)
        window = [
            value for value in values[centre - reach : centre + reach + 1] if math.isfinite(value)
        ]
        averages.append(sum(window) / len(window) if window else math.nan)
    return averages


def _similar_length(runs):
    """Groups runs whose token counts are within a factor of three, longest first."""
    groups = []
    for run in sorted(runs, key=lambda run: -run.tokens):
        if groups and run.tokens * 3 >= groups[-1][0].tokens:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def _limit_to_settled(axis, runs, lines, value, baselines):
    """Cuts off the first steps' very high losses where they would flatten all other losses."""
    losses = sorted(
        loss
        for run in runs
        for loss in run.series(getattr(run, lines), value)[1]
        if math.isfinite(loss)
    )
    if len(losses) > SMOOTHED_POINTS:
        top = max([losses[int(0.98 * len(losses))], *(baselines or {}).values()])
        axis.set_ylim(losses[0] - 0.05 * (top - losses[0]), top + 0.05 * (top - losses[0]))


def _details_plot(runs):
    fields = [("lr", "learning rate"), ("grad_norm", "gradient norm"), ("tokens_per_s", "training tokens/s")]
    fields = [
        (key, title)
        for key, title in fields
        if any(key in line for run in runs for line in run.training)
    ]

    def draw(figure, colours):
        for axis, (key, title) in zip(figure.subplots(1, len(fields), squeeze=False)[0], fields):
            for number, run in enumerate(runs):
                tokens, values = run.series(run.training, key)
                share = [count / max(1, run.tokens) * 100 for count in tokens]
                axis.plot(
                    share,
                    values,
                    color=colours[f"series-{1 + number % N_COLOURS}"],
                    linewidth=1.2,
                    label=run.name,
                )
            axis.set_title(title, loc="left", color=colours["muted"], fontsize=10)
            axis.set_xlabel("% of the run's tokens")
            axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter("{x:g}")
        figure.legend(
            *figure.axes[0].get_legend_handles_labels(),
            loc="outside lower left",
            ncols=4,
            handlelength=1.2,
        )

    return Plot(
        "training_details",
        "Learning rate, gradient norm and training speed",
        "Over the share of each run's tokens, so that long and short runs can be compared.",
        8.6,
        2.5,
        draw,
    )


# --- Quality against cost ---


def _speed_plot(rows):
    batches = sorted(
        {batch for row in rows for batch in row.model.get("decode_tokens_per_s") or {}}, key=int
    )
    panels = [
        (
            f"batch {batch}",
            lambda model, batch=batch: (model.get("decode_tokens_per_s") or {}).get(batch),
        )
        for batch in batches
    ]
    return _cost_plot(
        "quality_against_speed",
        "Loss against decoding speed",
        rows,
        panels,
        "decoding speed, tokens/s (more is better)",
        "Better models lie lower, faster ones further to the right. One process measured all speeds, and the models "
        "took turns.",
        False,
    )


def _cache_plot(rows):
    return _cost_plot(
        "quality_against_cache",
        "Loss against size of the K/V cache",
        rows,
        [("", lambda model: model.get("kv_bytes_per_token"))],
        "K/V bytes/token (fewer is better)",
        "Better models lie lower, those with a smaller cache further to the left.",
        True,
    )


def _cost_plot(name, title, rows, panels, x_label, caption, is_log):
    """Loss against a cost, a panel for each cost; None where nothing was measured."""
    shown = [
        (panel, [row for row in rows if row.model["loss"] is not None and value(row.model)], value)
        for panel, value in panels
    ]
    shown = [(panel, chosen, value) for panel, chosen, value in shown if chosen]
    if not shown:
        return None
    names = list(dict.fromkeys(row.model["name"] for row in rows))
    heads = list(dict.fromkeys(kv_heads(row.model) for row in rows))
    labels = _point_labels(rows)
    edge = _edge([row.model["loss"] for row in rows if row.model["loss"] is not None])
    if edge:
        caption += " Triangles at the upper edge are models whose loss, in brackets, is far above it."

    def draw(figure, colours):
        axes = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        for axis, (panel, chosen, value) in zip(axes, shown):
            points = []
            for row in chosen:
                x, loss = value(row.model), row.model["loss"]
                is_far = edge is not None and loss > edge
                marker = "^" if is_far else MARKERS[heads.index(kv_heads(row.model)) % len(MARKERS)]
                colour = colours[f"series-{1 + names.index(row.model['name']) % N_COLOURS}"]
                y = edge if is_far else loss
                axis.plot(x, y, linestyle="", markersize=8, marker=marker, color=colour, markeredgewidth=0)
                points.append((x, y, labels[id(row)] + (f" ({loss:.2f})" if is_far else ""), colour))
            _widen(axis, is_log, [point[0] for point in points], [point[1] for point in points])
            axis.set_title(panel, loc="left", color=colours["muted"], fontsize=10)
            axis.set_ylabel("loss, nats/token")
            _label_points(figure, axis, points, colours)
        axes[-1].set_xlabel(x_label)

    heights = [max(2.6, 0.5 + LABEL_PITCH * len(chosen)) for _, chosen, _ in shown]
    return Plot(name, title, caption, 8.6, 0.6 + sum(heights), draw)


def _point_labels(rows):
    """id of a row -> what stands beside its point: the model, its run where there are several, its K/V heads."""
    labels = {}
    has_several_runs = len({row.run for row in rows}) > 1
    for row in rows:
        source = source_of(row.model)
        is_named = not has_several_runs or row.label != row.model["name"] or source in ("", row.label)
        labels[id(row)] = f"{row.label if is_named else f'{row.label} · {source}'}, {kv_heads(row.model)} K/V"
    return labels


def _edge(losses):
    """Where losses are cut off: a little above the ones near the best; None where all are near."""
    near = [loss for loss in losses if loss <= min(losses) + FAR_WORSE_NATS]
    if len(near) == len(losses) or len(near) < 2:
        return None
    return max(near) + max(0.3 * (max(near) - min(near)), 0.02)


def _widen(axis, is_log, xs, ys):
    if is_log:
        axis.set_xscale("log", base=2)
        axis.set_xlim(min(xs) / 1.6, max(xs) * 2.4)
        axis.set_xticks(sorted(set(xs)), labels=[f"{x:,}" for x in sorted(set(xs))])
        axis.xaxis.set_minor_locator(NullLocator())
    else:
        axis.set_xlim(0, 1.12 * max(xs))
    spread = max(ys) - min(ys) or 0.1
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, min(ys) - 0.12 * spread), max(high, max(ys) + 0.12 * spread))


def _label_points(figure, axis, points, colours):
    """Writes the points' labels in a column beside the axes, in the order of their heights, with a line to each."""
    figure.draw_without_rendering()  # fixes the layout, so that heights on paper are known
    pitch = LABEL_PITCH * figure.dpi / axis.get_window_extent().height

    def height(point):
        return axis.transAxes.inverted().transform(axis.transData.transform(point[:2]))[1]

    # Where points are about equally high, the outermost comes first: lines to its left pass above it.
    points = sorted(points, key=lambda point: (round(height(point) / pitch), -point[0]))
    for (x, y, label, colour), at in zip(points, spread_out(list(map(height, points)), pitch)):
        axis.annotate(
            label,
            (x, y),
            xytext=(1.04, at),
            textcoords="axes fraction",
            va="center",
            color=colours["ink"],
            fontsize=LABEL_SIZE,
            zorder=1.5,  # the line lies below the points
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "alpha": 0.6, "shrinkA": 1, "shrinkB": 4,
                        "relpos": (0, 0.5)},
        )


def spread_out(wanted, pitch):
    """Heights in [0, 1], each at least pitch above the one before it and near the wanted one.

    Where they need more than 1 together they are evenly spread over it.
    """
    pitch = min(pitch, 1 / max(1, len(wanted) - 1))
    placed = []
    for height in wanted:
        placed.append(max(height, placed[-1] + pitch if placed else 0.0))
    limit = 1.0
    for number in reversed(range(len(placed))):
        placed[number] = limit = min(placed[number], limit)
        limit -= pitch
    return placed


# --- Looks ---


def _style(colours):
    return {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": colours["ink"],
        "axes.edgecolor": colours["muted"],
        "axes.labelcolor": colours["muted"],
        "axes.facecolor": "none",
        "axes.linewidth": 0.8,
        "axes.grid": True,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": colours["rule"],
        "grid.linewidth": 0.8,
        "xtick.color": colours["muted"],
        "ytick.color": colours["muted"],
        "legend.frameon": False,
        "lines.solid_capstyle": "round",
    }


def draw_legend(axis, n_columns):
    """Above the axes, where it covers nothing. A legend wider than its axes would take width from all panels."""
    axis.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        handlelength=1.2,
        ncols=n_columns,
        columnspacing=1.5,
    )


def _tokens_axis(axis):
    axis.set_xlabel("training tokens")
    axis.set_xlim(left=0)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(_short_count))


def _short_count(value, _position):
    for unit, name in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def _themed(svg, title):
    for name, number in SVG_COLOURS.items():
        svg = svg.replace(number, f"var(--{name})")
    svg = svg[svg.index("<svg") :].replace("'DejaVu Sans'", "var(--font)")
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.S)
    return re.sub(
        r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
        rf'<svg role="img" aria-label="{title}" xmlns="http://www.w3.org/2000/svg" '
        r'xmlns:xlink="http://www.w3.org/1999/xlink" \1>',
        svg,
        count=1,
    )
