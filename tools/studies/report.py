"""Tables and plots of a study, from the numbers of its study.json."""

import re

from reporting.evaluation_table import kv_heads
from reporting.plots import FAR_WORSE_NATS, MARKERS, N_COLOURS, Plot

LINE_STYLES = ("-", "--", ":")  # distinguish more lines than there are colours


def markdown(study):
    """The tables. All losses come from `regroup eval` on /val, in nats a token."""
    sections = []
    if "conversion" in study:
        for model in _distinct(study["conversion"], "model"):
            sections += [f"## Conversion of {model}, without training", _conversion(study, model)]
    if "uptraining" in study:
        baseline = _percent(study["uptraining"]["baseline_alpha"])
        sections += [
            f"## Uptraining of {study['uptraining']['model']}: loss by share of pretraining",
            _losses(study["uptraining"]["runs"]),
            f"## Share that reaches the loss of `mean` without distillation at {baseline}",
            _shares(study["uptraining"]),
        ]
    return "\n\n".join(sections) + "\n"


def _conversion(study, model):
    original = study["original"][model]
    rows = sorted(_where(study["conversion"], model=model), key=lambda r: -r["kv_bytes_per_token"])
    lines = [["original", kv_heads(original), "", _fixed(original["loss"]), *[""] * 5]]
    for row in rows:
        rivals = _where(rows, kv_bytes_per_token=row["kv_bytes_per_token"])
        lines.append(
            [
                f"`{row['variant']}`",
                kv_heads(row),
                f"{row['kv_bytes_per_token']:,}",
                _marked(_fixed(row["loss"]), row["loss"], [rival["loss"] for rival in rivals]),
                _fixed(_difference(row["loss"], original["loss"])),
                _fixed(row["kl"]),
                _fixed(row["agreement"], 1, 100),
                _fixed(row["seconds"], 2),
                _fixed(row["peak_rss_bytes"], 0, 2**-20),
            ]
        )
    titles = ["variant", "K/V heads", "K/V bytes/token", "loss", "above the original", "KL"]
    return _table([*titles, "agreement %", "seconds", "peak MiB"], lines)


def _losses(runs):
    alphas = [_percent(point["alpha"]) for point in runs[0]["points"]]
    lines = []
    for run in runs:
        rivals = [rival["points"] for rival in _where(runs, kv_heads=run["kv_heads"])]
        losses = [
            _marked(_fixed(point["loss"]), point["loss"], [points[i]["loss"] for points in rivals])
            for i, point in enumerate(run["points"])
        ]
        lines.append([*_names(run), *losses])
    return _table(["variant", "K/V heads", "distillation", *alphas], lines)


def _shares(uptraining):
    lines = []
    for row in uptraining["shares_needed"]:
        cells = ["not reached", "", ""]
        if row["alpha"] is not None:
            rivals = _where(uptraining["shares_needed"], kv_heads=row["kv_heads"])
            share = _marked(_percent(row["alpha"]), row["alpha"], [r["alpha"] for r in rivals])
            cells = [share, _fixed(row["ratio"], 2), _fixed(row["compute_fraction"], 2, 100)]
        lines.append([*_names(row), _fixed(row["target"]), *cells])
    of = f"of {_percent(uptraining['baseline_alpha'])}"
    titles = ["variant", "K/V heads", "distillation", "loss to reach", "share", of]
    return _table([*titles, "compute, % of the original's"], lines)


def shares_needed(runs, baseline_alpha):
    """For each run, the share alpha at which it is as good as mean without distillation at baseline_alpha."""
    rows = []
    for run in runs:
        (baseline,) = _where(runs, kv_heads=run["kv_heads"], variant="mean", distill=0)
        (goal,) = _where(baseline["points"], alpha=baseline_alpha)
        alpha = alpha_reaching(_line(run, "loss"), goal["loss"])
        rows.append(
            {
                **{key: run[key] for key in ("kv_heads", "variant", "distill")},
                "target": goal["loss"],
                "alpha": alpha,
                "ratio": None if alpha is None else alpha / baseline_alpha,
                "compute_fraction": value_at(_line(run, "compute_fraction"), alpha),
            }
        )
    return rows


def alpha_reaching(points, target):
    """Where the line through (alpha, loss) points first reaches target; None if nowhere."""
    for i, (alpha, loss) in enumerate(points):
        if loss <= target:
            if i == 0:
                return alpha
            before, higher = points[i - 1]
            return before + (alpha - before) * (higher - target) / (higher - loss)
    return None


def value_at(points, alpha):
    """The line through (alpha, value) points at alpha; None outside them."""
    if alpha is None or not points or not points[0][0] <= alpha <= points[-1][0]:
        return None
    left = max((point for point in points if point[0] <= alpha))
    right = min((point for point in points if point[0] >= alpha))
    if left == right:
        return left[1]
    return left[1] + (right[1] - left[1]) * (alpha - left[0]) / (right[0] - left[0])


# --- Plots ---


def plots_for(study):
    plots = [_conversion_plot(study)] if "conversion" in study else []
    return plots + ([_uptraining_plot(study)] if "uptraining" in study else [])


def _conversion_plot(study):
    """A line for each variant over the number of K/V heads; bars if each variant has one number."""
    rows, models = study["conversion"], _distinct(study["conversion"], "model")
    variants = list(dict.fromkeys(map(_without_budget, rows)))

    def draw(figure, colours):
        for axis, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models):
            shown, original = _where(rows, model=model), study["original"][model]["loss"]
            if len(set(map(_without_budget, shown))) == len(shown):
                _bars(axis, colours, shown, model, original)
            else:
                _lines_over_heads(axis, colours, shown, variants, model, original)
        _legend_below(figure)

    title = "Loss after conversion"
    caption = "Grey: the original. Lines leave out losses far above the best; the table has them."
    return Plot("conversion", title, caption, 10.6, 4.6, draw)


def _bars(axis, colours, rows, model, original):
    """A bar for each variant, the best at the top. Names have the number of K/V heads if it is above the least."""
    rows = sorted(rows, key=lambda row: -row["loss"])
    least = min(map(_mean_heads, rows))
    heads = [f", {n:.3g} K/V heads" if n > least else "" for n in map(_mean_heads, rows)]
    names = [row["variant"] + more for row, more in zip(rows, heads)]
    bars = axis.barh(names, [row["loss"] for row in rows], color=colours["series-1"], height=0.6)
    axis.bar_label(bars, fmt="%.2f", padding=3, fontsize=8, color=colours["muted"])
    axis.axvline(original, color=colours["muted"], linewidth=1)
    axis.tick_params(axis="y", labelsize=8)
    axis.margins(x=0.12)
    axis.set_xlabel("loss, nats/token")
    axis.set_title(model, loc="left", color=colours["muted"], fontsize=10)


def _lines_over_heads(axis, colours, rows, variants, model, original):
    for number, variant in enumerate(variants):
        of_line = [row for row in rows if _without_budget(row) == variant]
        points = sorted((_mean_heads(row), row["loss"]) for row in of_line)
        style = _line_style(colours, number, number // N_COLOURS)
        axis.plot(*zip(*points or [(None, None)]), label=variant, **style)
    axis.set_xscale("log", base=2)
    heads = sorted({_mean_heads(row) for row in rows})
    _ticks(axis, heads, [f"{n:.3g}" for n in heads])
    axis.set_xlabel("K/V heads, mean of layers")
    _finish(axis, colours, model, original)


def _uptraining_plot(study):
    runs = study["uptraining"]["runs"]
    original = study["original"][study["uptraining"]["model"]]["loss"]
    panels, variants = _distinct(runs, "kv_heads"), _distinct(runs, "variant")
    weights = _distinct(runs, "distill")
    alphas = [point["alpha"] for point in runs[0]["points"]]

    def draw(figure, colours):
        for axis, heads in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            for run in _where(runs, kv_heads=heads):
                style = weights.index(run["distill"])
                label = run["variant"] + (f", distill {run['distill']:g}" if run["distill"] else "")
                style = _line_style(colours, variants.index(run["variant"]), style)
                axis.plot(*zip(*_line(run, "loss")), label=label, **style)
            axis.set_xscale("symlog", linthresh=min(filter(None, alphas)), linscale=0.5)
            _ticks(axis, alphas, [f"{100 * alpha:g}" for alpha in alphas])
            axis.set_xlabel("uptraining, % of the original's steps")
            _finish(axis, colours, f"{heads} K/V head{'' if heads == 1 else 's'}", original)
        _legend_below(figure)

    caption = "Grey: the original. The axis of shares is logarithmic from its second share on."
    return Plot("uptraining", "Loss against uptraining", caption, 8.6, 4.2, draw)


def _line_style(colours, colour, style):
    return {
        "color": colours[f"series-{1 + colour % N_COLOURS}"],
        "linestyle": LINE_STYLES[style % len(LINE_STYLES)],
        "marker": MARKERS[colour % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.4,
    }


def _ticks(axis, places, labels):
    axis.set_xticks(places, labels=labels)
    axis.set_xticks([], minor=True)


def _finish(axis, colours, title, original):
    axis.axhline(original, color=colours["muted"], linewidth=1)
    axis.set_ylabel("loss, nats/token")
    axis.set_title(title, loc="left", color=colours["muted"], fontsize=10)
    low, high = axis.dataLim.intervaly
    high = min(high, low + 2 * FAR_WORSE_NATS)
    margin = 0.05 * (high - low) or 0.05
    axis.set_ylim(low - margin, high + margin)


def _legend_below(figure):
    """One legend for the figure: all axes with lines have the same names."""
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower left", ncols=3, handlelength=2.2)
            return


# --- Rows and cells ---


def _where(rows, **values):
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def _distinct(rows, key):
    return list(dict.fromkeys(row[key] for row in rows))


def _line(run, value):
    """(alpha, value) of a run's points that have one."""
    return [(p["alpha"], p[value]) for p in run["points"] if p[value] is not None]


def _mean_heads(row):
    return sum(row["n_kv_head"]) / len(row["n_kv_head"])


def _without_budget(row):
    """The variant without its budget's number: the points of one line of the plot share it."""
    return re.sub(r"kv_budget=\S+", "kv_budget", row["variant"])


def _names(run):
    return [f"`{run['variant']}`", str(run["kv_heads"]), f"{run['distill']:g}"]


def _percent(share):
    return f"{100 * share:.3g} %"


def _fixed(value, digits=3, factor=1):
    return "–" if value is None else f"{value * factor:,.{digits}f}"


def _difference(value, original):
    return None if value is None or original is None else value - original


def _marked(text, value, rivals):
    """The text, in bold if its value is the least."""
    measured = [rival for rival in rivals if rival is not None]
    return f"**{text}**" if len(measured) > 1 and value == min(measured) else text


def _table(titles, rows):
    head = ["| " + " | ".join(titles) + " |", "|---|" + "---:|" * (len(titles) - 1)]
    return "\n".join(head + ["| " + " | ".join(row) + " |" for row in rows])
