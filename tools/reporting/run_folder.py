"""Reads what a run left in its folder: metrics.jsonl, config.ini and evaluation.json."""

import json
import math
from configparser import ConfigParser
from configparser import Error as NoIni
from dataclasses import dataclass
from pathlib import Path

from script_support import Problem, bad_request


@dataclass
class Run:
    name: str
    folder: Path
    training: list  # metrics lines with "loss", by step
    validation: list  # metrics lines with "val_loss", by step
    config: str  # text of config.ini, empty where there is none
    evaluation: dict  # evaluation.json, None where there is none

    def series(self, lines, field, x="tokens"):
        """(xs, ys) of one field; values that are missing or not finite leave a gap (NaN)."""
        numbers = [(_number(line.get(x)), _number(line.get(field))) for line in lines]
        return [x for x, _ in numbers], [y for _, y in numbers]

    @property
    def tokens(self):
        """Tokens seen by the last logged step."""
        return max((line.get("tokens") or 0 for line in self.training), default=0)

    @property
    def distill_weight(self):
        """Weight of the teacher's predictions in the training loss; 0 without distillation."""
        return self._setting("distill", "weight", float) or 0.0

    @property
    def val_windows(self):
        """(most sequences, tokens of each) that a validation loss during training is over; None if unknown."""
        keys = (("eval", "batches"), ("train", "micro_batch"), ("data", "seq_len"))
        n_batches, n_sequences, n_tokens = (self._setting(*key, int) for key in keys)
        return (n_batches * n_sequences, n_tokens) if n_batches and n_sequences and n_tokens else None

    def _setting(self, section, key, kind):
        """A number in config.ini; None where there is none."""
        config = ConfigParser(interpolation=None)
        try:
            config.read_string(self.config)
            return kind(config.get(section, key))
        except (NoIni, ValueError):
            return None


def load_runs(folders):
    """Reads run folders; each gets the shortest name that no other run has.

    Throws Problem for a missing folder, one with neither metrics nor evaluation, unreadable files.
    """
    folders = [Path(folder) for folder in folders]
    return [_load_run(folder, name) for folder, name in zip(folders, _short_names(folders))]


def _load_run(folder, name):
    if not folder.is_dir():
        raise bad_request(folder, "is not a folder", "Give the folder of a run (what --run named).")
    lines = read_metrics(folder / "metrics.jsonl")
    evaluation = read_evaluation(folder / "evaluation.json")
    if not lines and evaluation is None:
        raise Problem(
            folder,
            "has neither metrics.jsonl nor evaluation.json with anything in it",
            "Give the folder of a run that has logged a step, or was evaluated.",
        )
    config = folder / "config.ini"
    return Run(
        name,
        folder,
        training=[line for line in lines if "loss" in line],
        validation=[line for line in lines if "val_loss" in line],
        config=config.read_text(encoding="utf-8", errors="replace") if config.is_file() else "",
        evaluation=evaluation,
    )


def read_metrics(path):
    """The lines of metrics.jsonl, without a torn last line, which a crash may leave."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or "step" not in record:
                raise ValueError('an object with "step" is expected')
            records.append(record)
        except ValueError as error:
            if number < len(lines):
                raise Problem(
                    f"{path}:{number}",
                    f"is not a metrics line ({error})",
                    "Fix or delete the line.",
                ) from error
    return records


def read_evaluation(path):
    """evaluation.json, or None where there is none; each model has at least "name", "n_kv_head", "loss" and "dtype"."""
    if not path.is_file():
        return None
    advice = "Write it again with `regroup eval --json`."
    try:
        evaluation = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise Problem(path, f"is not JSON ({error})", advice) from error
    models = evaluation.get("models") if isinstance(evaluation, dict) else None
    if not isinstance(models, list) or not models:
        raise Problem(path, 'has no list "models" with an entry', advice)
    for number, model in enumerate(models):
        missing = [
            key
            for key in ("name", "n_kv_head", "loss")
            if not isinstance(model, dict) or key not in model
        ]
        if missing:
            raise Problem(path, f"models[{number}] lacks {', '.join(missing)}", advice)
        model["dtype"] = evaluation.get("dtype")  # a report may show models of several evaluations
    return evaluation


def read_speeds(path):
    """The evaluation of all runs' models by one process, with their decode speeds."""
    advice = "Write it with `regroup eval --speed --json`, with a --model for each run."
    evaluation = read_evaluation(Path(path))
    if evaluation is None:
        raise bad_request(path, "does not exist", advice)
    if not any(model.get("decode_tokens_per_s") for model in evaluation["models"]):
        raise Problem(path, "has no decode speeds", advice)
    return evaluation


def read_baselines(path):
    """{"unigram": loss, "bigram": loss} as tools/ngram_baseline.py --json wrote them."""
    try:
        written = json.loads(Path(path).read_text(encoding="utf-8"))
        return {name: float(written[name]["loss"]) for name in ("unigram", "bigram")}
    except FileNotFoundError as error:
        raise bad_request(
            path, "does not exist", "Make it with tools/ngram_baseline.py --json."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise Problem(
            path,
            f"is not a file of baselines ({error!r})",
            "Make it with tools/ngram_baseline.py --json.",
        ) from error


def _number(value):
    is_number = isinstance(value, (int, float)) and math.isfinite(value)
    return value if is_number else math.nan


def _short_names(folders):
    resolved = [folder.resolve() for folder in folders]
    if len(set(resolved)) < len(resolved):
        raise bad_request("RUN", "a run is given twice", "Name each run once.")
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            break
    return names
