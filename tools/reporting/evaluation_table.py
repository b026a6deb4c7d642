"""The table of an evaluation: its columns, how a number is written, and which one is best."""

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
    unit: str
    explanation: str
    value: Callable  # model entry -> number, or None where it was not measured
    write: Callable  # number -> text
    best: Callable = None  # min or max; None where no number is better than another
    against_original: Callable = None  # (number, the original's) -> text
    remark: Callable = None  # model entry -> text behind the number


def rows_of(runs, together=None):
    """A Row for every evaluated model; one that several runs evaluated alike stands once.

    Speeds of separate runs were measured under different conditions, so those of several runs come from `together`
    alone, the evaluation of their models by one process; without it there are none. Its models that no run evaluated
    have rows too.
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
    return rows


def has_comparable_speeds(rows):
    """Whether more than one model has a decode speed."""
    return sum(bool(row.model.get("decode_tokens_per_s")) for row in rows) > 1


def source_of(model):
    """The folder that a model's path is named after: of .../gqa2/final it is gqa2."""
    path = Path(str(model.get("model", "")))
    return path.parent.name if path.name in ("final", "converted") else path.name


def _path(model):
    return Path(str(model.get("model", ""))).resolve()


def _with_speeds(model, measured):
    return {**model, **{field: measured.get(field) for field in ("decode_tokens_per_s", "decode_spread")}}


def is_noisy(model, batch):
    """Whether the rounds in which a decode speed was measured were far apart."""
    return ((model.get("decode_spread") or {}).get(batch) or 0) > NOISY_SPREAD


def kv_heads(model):
    """K/V heads for people: "8", or "8, 4, 2" where layers differ, or "1 to 8" for many layers."""
    heads = model["n_kv_head"] if isinstance(model["n_kv_head"], list) else [model["n_kv_head"]]
    if len(set(heads)) == 1:
        return str(heads[0])
    return ", ".join(map(str, heads)) if len(heads) <= 8 else f"{min(heads)} to {max(heads)}"


def columns_for(rows):
    """The columns that at least one row has a number for."""
    batches = sorted(
        {batch for row in rows for batch in row.model.get("decode_tokens_per_s") or {}}, key=int
    )
    columns = _FIRST_COLUMNS + [_decode_column(batch) for batch in batches] + [_COMPUTE_COLUMN]
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
        "| model | K/V heads | " + " | ".join(_heading(column) for column in columns) + " |",
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
        f'<th scope="col">{html.escape(column.title)}<small>{html.escape(column.unit)}</small></th>'
        for column in columns
    )
    body = "".join(_html_row(row, columns, best) for row in rows)
    notes = "".join(
        f"<dt>{html.escape(column.title)}</dt><dd>{html.escape(column.explanation)}</dd>"
        for column in columns
    )
    return (
        '<div class="scroll"><table><thead><tr><th scope="col">Model</th>'
        f'<th scope="col">K/V heads</th>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>\n"
        '<p class="note">The best of each column is <b class="best">marked</b>; '
        "small print compares with the original.</p>\n"
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


def _heading(column):
    return f"{column.title} ({column.unit})" if column.unit else column.title


def _field(name):
    return lambda model: model.get(name)


def _decode_column(batch):
    return Column(
        f"Decode, batch {batch}",
        "tokens/s",
        f"Tokens generated a second with {batch} sequence{'' if batch == '1' else 's'} in the "
        "batch, all together, prompts not counted; the median of rounds in which the models took turns. Higher is "
        f"better. Noisy: the rounds are more than {NOISY_SPREAD:.0%} of the median apart.",
        lambda model: (model.get("decode_tokens_per_s") or {}).get(batch),
        lambda value: f"{value:,.0f}" if value >= 100 else f"{value:.1f}",
        max,
        _times,
        lambda model: f" (noisy: {model['decode_spread'][batch]:.0%})" if is_noisy(model, batch) else "",
    )


def _times(value, original):
    return f"× {value / original:.3g}"


def _plus_minus(value, original):
    return f"{value - original:+.3f}".replace("-", "−")


def _count(value):
    for unit, name in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:g}"


def _percent(value):
    return f"{100 * value:.1f}"


def _perplexity(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


_VS_ORIGINAL = [
    Column(
        "Agreement",
        "% of tokens",
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
        lambda value: f"{value:.3f}",
        min,
    ),
]
_FIRST_COLUMNS = [
    Column(
        "Parameters",
        "",
        "Weights of the model; fewer K/V heads have smaller K and V projections.",
        _field("parameters"),
        _count,
    ),
    Column(
        "Loss",
        "nats/token",
        "Mean negative log-likelihood on held-out text, documents' first tokens left out. "
        "Lower is better.",
        _field("loss"),
        lambda value: f"{value:.3f}",
        min,
        _plus_minus,
    ),
    Column(
        "Perplexity",
        "",
        "e to the loss: among how many equally likely tokens the model is left to guess. "
        "Lower is better.",
        _field("perplexity"),
        _perplexity,
        min,
    ),
    Column(
        "Bits/byte",
        "",
        "The loss for each byte of text instead of each token, so that tokenizers do not matter. "
        "Lower is better.",
        _field("bits_per_byte"),
        lambda value: f"{value:.3f}",
        min,
    ),
    Column(
        "Choices",
        "% right",
        "How often the true continuation is found among four. Higher is better; 25 is chance.",
        _field("choice_accuracy"),
        _percent,
        max,
    ),
    *_VS_ORIGINAL,
    Column(
        "K/V cache",
        "bytes/token",
        "Keys and values that decoding keeps for each token of each sequence. " "Lower is better.",
        _field("kv_bytes_per_token"),
        lambda value: f"{value:,}",
        min,
        _times,
    ),
]
_COMPUTE_COLUMN = Column(
    "Compute",
    "% of original",
    "Arithmetic spent on conversion, calibration, teacher and uptraining, "
    "as a share of the original's pretraining.",
    _field("compute_fraction"),
    lambda value: f"{100 * value:.2g}",
)
