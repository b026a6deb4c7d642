"""The table of an evaluation: its columns, how a number is written, and which one is best.

Columns have the names, order and digits of the table that `regroup eval` prints (trainers/evaluation.cpp).
"""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

NOISY_SPREAD = 0.15  # (largest - smallest) / median of the rounds; above it a speed is marked


@dataclass
class Row:
    """One evaluated model."""

    label: str  # its name, with the run's where the name alone would be ambiguous
    run: str
    model: dict  # its entry of evaluation.json
    original: dict  # the entry named "original" of the same evaluation, None where there is none


@dataclass
class Column:
    title: str
    small_print: str  # below the title: the unit, or what a share is of
    explanation: str
    value: Callable  # model entry -> number, or None where it was not measured
    write: Callable  # number -> text
    best: Callable = None  # min or max; None where no number is better than another
    against_original: Callable = None  # (number, the original's) -> text
    remark: Callable = None  # model entry -> text after the number


def rows_of(runs, together=None):
    """A Row for every evaluated model; a model that several runs evaluated alike has one row.

    Speeds of separate runs were measured under different conditions, so those of several runs come from `together`
    alone, the evaluation of their models by one process; without it there are none. Its models that no run evaluated
    have rows too, and the rows have its order.
    """
    is_one_measurement = together is None and sum(run.evaluation is not None for run in runs) == 1
    speeds = {_path(model): model for model in together["models"]} if together else {}
    rows, seen = [], set()
    for run in runs:
        models = run.evaluation["models"] if run.evaluation else []
        if not is_one_measurement:
            models = [_with_speeds(model, speeds.get(_path(model), {})) for model in models]
        original = next((model for model in models if model["name"] == "original"), None)
        for model in models:
            if model["name"] == "converted" and _is_the_same(model, original):
                continue
            identity = (model["name"], model.get("model"), kv_heads(model), model["loss"])
            if identity not in seen:
                seen.add(identity)
                rows.append(Row(model["name"], run.name, model, original))
    known = {_path(row.model) for row in rows}
    rows += [Row(model["name"], source_of(model), model, None) for path, model in speeds.items() if path not in known]
    names = [row.model["name"] for row in rows]
    for row in rows:
        if names.count(row.label) > 1:
            row.label = f"{row.label} · {row.run}"
    return _in_order_of(list(speeds), rows)


def _is_the_same(model, original):
    """Whether the conversion pooled nothing, as that of a control run."""
    return original is not None and (kv_heads(model), model["loss"]) == (kv_heads(original), original["loss"])


def _in_order_of(paths, rows):
    """Sorts rows by the places of their models' paths. A model without a place stays with the others of its run, but
    not with the original, which is another run's model."""

    def places(some_rows):
        return [paths.index(_path(row.model)) for row in some_rows if _path(row.model) in paths]

    def place(row):
        of_run = (other for other in rows if other.run == row.run and other.model is not other.original)
        return min(places([row]) or places(of_run), default=len(paths))

    return sorted(rows, key=place)


def has_comparable_speeds(rows):
    """Whether more than one model has a decode speed."""
    return sum(bool(row.model.get("decode_tokens_per_s")) for row in rows) > 1


def source_of(model):
    """The name of a model's folder, or of its run: gqa2 for .../gqa2/final."""
    path = Path(str(model.get("model", "")))
    return path.parent.name if path.name in ("final", "converted") else path.name


def _path(model):
    return Path(str(model.get("model", ""))).resolve()


def _with_speeds(model, measured):
    """The model with the speeds of the joint evaluation, and its choices where the run had none."""
    speeds = {field: measured.get(field) for field in ("decode_tokens_per_s", "decode_spread")}
    choices = model.get("choice_accuracy")
    return {**model, **speeds, "choice_accuracy": measured.get("choice_accuracy") if choices is None else choices}


def is_noisy(model, batch):
    """Whether the rounds in which a decode speed was measured were far apart."""
    return (_spread(model, batch) or 0) > NOISY_SPREAD


def _spread(model, batch):
    return (model.get("decode_spread") or {}).get(batch)


def kv_heads(model):
    """K/V heads as text: "8", or "8, 4, 2" where layers differ, or "1 to 8" for many layers."""
    heads = model["n_kv_head"] if isinstance(model["n_kv_head"], list) else [model["n_kv_head"]]
    if len(set(heads)) == 1:
        return str(heads[0])
    return ", ".join(map(str, heads)) if len(heads) <= 8 else f"{min(heads)} to {max(heads)}"


def columns_for(rows):
    """The columns that at least one row has a number for."""
    batches = sorted(
        {batch for row in rows for batch in row.model.get("decode_tokens_per_s") or {}}, key=int
    )
    columns = [*_QUALITY_COLUMNS, _kv_bytes_column(rows), *map(_decode_column, batches), *_LAST_COLUMNS]
    return [
        column for column in columns if any(column.value(row.model) is not None for row in rows)
    ]


def best_value(column, rows):
    """The best number of a column or None; the original does not compete with itself."""
    values = [
        column.value(row.model)
        for row in rows
        if not (column in _VS_ORIGINAL and row.model is row.original)
    ]
    values = [value for value in values if value is not None]
    return column.best(values) if column.best and len(values) > 1 and len(set(values)) > 1 else None


def markdown_table(rows):
    """The table as Markdown; the best of a column in bold."""
    columns = columns_for(rows)
    best = [best_value(column, rows) for column in columns]
    lines = [
        "| model | K/V heads | " + " | ".join(column.title for column in columns) + " |",
        "|---|---|" + "---:|" * len(columns),
    ]
    for row in rows:
        cells = [_written(column, row) for column in columns]
        cells = [
            f"**{cell}**" if _is(column, row, value) else cell
            for cell, column, value in zip(cells, columns, best)
        ]
        lines.append(f"| {row.label} | {kv_heads(row.model)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def html_table(rows):
    """The table as HTML; differences to the original in small print, columns explained below."""
    columns = columns_for(rows)
    best = [best_value(column, rows) for column in columns]
    head = "".join(
        f'<th scope="col">{html.escape(column.title)}<small>{html.escape(column.small_print)}</small></th>'
        for column in columns
    )
    body = "".join(_html_row(row, columns, best) for row in rows)
    notes = "".join(
        f"<dt>{html.escape(column.title)}</dt><dd>{html.escape(column.explanation)}</dd>"
        for column in columns
    )
    return (
        '<div class="scroll"><table><thead><tr><th scope="col">model</th>'
        f'<th scope="col">K/V heads</th>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>\n"
        '<p class="note">The best of each column is <b class="best">marked</b>; '
        "small print compares with the original of the same run.</p>\n"
        f"<details><summary>What the columns say</summary><dl>{notes}</dl></details>"
    )


def _html_row(row, columns, best):
    cells = []
    for column, value in zip(columns, best):
        text = html.escape(_written(column, row))
        text = f'<b class="best">{text}</b>' if _is(column, row, value) else text
        cells.append(f"<td>{text}<small>{html.escape(_difference(column, row))}</small></td>")
    return (
        f'<tr><th scope="row">{html.escape(row.label)}</th>'
        f"<td>{html.escape(kv_heads(row.model))}</td>" + "".join(cells) + "</tr>\n"
    )


def _written(column, row):
    value = column.value(row.model)
    if value is None:
        return "–"
    return column.write(value) + (column.remark(row.model) if column.remark else "")


def _is(column, row, best):
    is_reference = column in _VS_ORIGINAL and row.model is row.original
    return best is not None and column.value(row.model) == best and not is_reference


def _difference(column, row):
    if not column.against_original or row.original is None or row.model is row.original:
        return ""
    value, original = column.value(row.model), column.value(row.original)
    return "" if value is None or not original else column.against_original(value, original)


def _field(name):
    return lambda model: model.get(name)


def _kv_bytes_column(rows):
    """Its numbers are of a dtype: the title names it, or each number where evaluations had several."""
    dtypes = {row.model.get("dtype") for row in rows}
    has_one_dtype = len(dtypes) == 1 and None not in dtypes
    return Column(
        f"K/V bytes/token ({dtypes.pop()})" if has_one_dtype else "K/V bytes/token",
        "",
        "Size of the K/V cache: keys and values that decoding keeps for each token of each sequence. Lower is better.",
        _field("kv_bytes_per_token"),
        _whole,
        min,
        _times,
        lambda model: f" ({model['dtype']})" if model.get("dtype") and not has_one_dtype else "",
    )


def _decode_column(batch):
    return Column(
        f"tokens/s x{batch} (spread)",
        f"decoding, batch {batch}",
        f"Tokens generated per second with {batch} sequence{'' if batch == '1' else 's'} in the "
        "batch, all together, prompts not counted; the median of rounds in which the models took turns. Higher is "
        "better. The spread is from the slowest to the fastest round, in % of the median; a speed is noisy above "
        f"{100 * NOISY_SPREAD:.0f} %.",
        lambda model: (model.get("decode_tokens_per_s") or {}).get(batch),
        _whole,
        max,
        _times,
        lambda model: _written_spread(model, batch),
    )


def _written_spread(model, batch):
    spread = _spread(model, batch)
    if spread is None:
        return ""
    return f" ({100 * spread:.0f} %{', noisy' if is_noisy(model, batch) else ''})"


def _times(value, original):
    return f"× {value / original:.3g}"


def _plus_minus(value, original):
    return f"{value - original:+.4f}".replace("-", "−")


def _count(value):
    for unit, name in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:g}"


def _whole(value):
    return f"{value:,.0f}"


def _percent(value):
    return f"{100 * value:.1f}"


def _four_digits(value):
    return f"{value:.4f}"


_VS_ORIGINAL = [
    Column(
        "agreement %",
        "of tokens",
        "How often the model's most likely next token is the original's. Higher is closer.",
        _field("agreement"),
        _percent,
        max,
    ),
    Column(
        "KL",
        "nats/token",
        "Kullback-Leibler divergence of the model's predictions from the original's. "
        "Lower is closer; 0 is the same model.",
        _field("kl"),
        _four_digits,
        min,
    ),
]
_QUALITY_COLUMNS = [
    Column(
        "loss",
        "nats/token",
        "Mean negative log-likelihood on all of the held-out text, documents' first tokens left out. "
        "Lower is better.",
        _field("loss"),
        _four_digits,
        min,
        _plus_minus,
    ),
    Column(
        "perplexity",
        "",
        "e to the power of the loss: the model is as uncertain as among so many equally likely tokens. "
        "Lower is better.",
        _field("perplexity"),
        lambda value: f"{value:,.2f}",
        min,
    ),
    Column(
        "bits/byte",
        "",
        "The loss for each byte of text instead of each token, so that tokenizers do not matter. "
        "Lower is better.",
        _field("bits_per_byte"),
        _four_digits,
        min,
    ),
    Column(
        "choices %",
        "of questions",
        "How often the model finds the true continuation among four. Higher is better; 25 is chance.",
        _field("choice_accuracy"),
        _percent,
        max,
    ),
    *_VS_ORIGINAL,
]
_LAST_COLUMNS = [
    Column(
        "compute %",
        "of the original's",
        "Arithmetic spent on conversion, calibration, teacher and uptraining, "
        "as a share of the original's pretraining.",
        _field("compute_fraction"),
        lambda value: f"{100 * value:.2f}",
    ),
    Column(
        "parameters",
        "",
        "Weights of the model; fewer K/V heads have smaller K and V projections.",
        _field("parameters"),
        _count,
    ),
]
