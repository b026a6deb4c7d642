"""Folders of runs as `regroup` leaves them, with plausible numbers, for the tests of tools/report.py."""

import json
import math

from reporting import evaluation_table, run_folder


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


CONFIG = """\
[data]
seq_len = 256
[optim]
lr = 0.001  # <b>not markup</b>
[train]
micro_batch = 8
[eval]
batches = 5
"""
ORIGINAL = model("original", 8, 2.951, model="/runs/pretrain/final", agreement=1.0, kl=0.0, compute_fraction=0.0)
RUNS = {2: "gqa2", 1: "mqa"}


def evaluation(n_kv_head, uptrained_loss):
    run = f"/runs/{RUNS[n_kv_head]}"
    converted = model("converted", n_kv_head, 4.31, model=f"{run}/converted", compute_fraction=0.0004)
    return {
        "data": "data/python.h5",
        "split": "val",
        "dtype": "fp32",
        "models": [
            ORIGINAL,
            converted,
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
    (folder / "config.ini").write_text(CONFIG)
    if models:
        (folder / "evaluation.json").write_text(json.dumps(models))
    return folder


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


def rows_of(*folders, **options):
    return evaluation_table.rows_of(run_folder.load_runs(folders), **options)
