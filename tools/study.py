"""Measures what conversion methods and uptraining are worth, and reports it.

An INI file says what to measure; configs/study.ini shows all sections and keys. Run the script in the
repository's root, where the file's paths start. The script keeps every result and does not measure it
again, so you can stop a study and start it again (studies/runner.py).
"""

import argparse
import json
import os
import re
import shlex
import shutil
import sys
from configparser import ConfigParser
from configparser import Error as NoIni
from pathlib import Path

from script_support import (
    INTERRUPTED,
    Problem,
    bad_request,
    check_output_folder,
    run_script,
    write_text,
    written_atomically,
)
from studies.report import markdown, plots_for, shares_needed
from studies.runner import Point, Runner, run_command

PARTS = ("conversion", "uptraining")
REQUIRED = {  # keys by kind of section
    "conversion": {"variants"},
    "model": {"path", "data", "kv_heads"},
    "uptrain": {"model", "config", "kv_heads", "variants", "distill", "alphas", "baseline_alpha"},
}
OPTIONAL = {
    "conversion": {"calibration_tokens", "likeness"},
    "model": {"pretrain", "more_variants", "needs", "prepare"},
    "uptrain": {"lr", "warmup_steps", "overrides"},
}
VARIANT = {  # a variant's keys, and regular expressions for their values
    "method": "mean|first|random|align|pca",
    "grouping": "neighbours|similar",
    "refit": "none|output|block",
    "kv_budget": r"1|0?\.\d+",
    "calibration": "none",  # the weights alone
}


def main(arguments):
    options = parse_arguments(arguments)
    config = read_config(options.config)
    check_output_folder("--out", options.out)
    out = Path(os.path.relpath(options.out))  # so that commands do not depend on how it is written
    plans = plans_of(config, options.only, out)
    models = models_of(config)
    if options.only == "uptraining":
        models = {config["uptrain"]["model"]: models[config["uptrain"]["model"]]}
    originals = [original_point(*model) for model in models.items()]
    runner = Runner(out, options.binary)
    try:
        for name, model in models.items():
            prepare(name, model, runner)
        runner.make([*originals, *(point for plan in plans.values() for point in plan)])
    except KeyboardInterrupt as error:
        raise Problem("study", "interrupted", "Start it again to go on.", INTERRUPTED) from error
    report(gathered(originals, plans, config, runner), out)


def plans_of(config, only, out):
    """The points of each requested part; a config without [uptrain] has one part."""
    if "uptrain" in config:
        plans = {"conversion": conversion_plan(config, out), "uptraining": uptraining_plan(config, out)}
    elif only == "uptraining":
        raise bad_request("--only=uptraining", "the config has no [uptrain]", "configs/study.ini shows what there is.")
    else:
        plans = {"conversion": conversion_plan(config, out)}
    return {part: plan for part, plan in plans.items() if only in (None, part)}


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description="Measures what conversion methods and uptraining are worth.",
        epilog="example: tools/study.py --config configs/study.ini --out runs/study",
    )
    parser.add_argument("--config", type=Path, default="configs/study.ini", metavar="FILE.ini")
    parser.add_argument("--out", type=Path, default="runs/study", metavar="DIR")
    parser.add_argument("--only", choices=PARTS, help="one part (default: both)")
    parser.add_argument("--binary", default="build/release/regroup", metavar="FILE")
    options = parser.parse_args(arguments)
    if shutil.which(options.binary) is None:
        raise bad_request(options.binary, "is not a program", "Build it, or name it with --binary.")
    return options


# --- The config ---


def read_config(path):
    config = ConfigParser(interpolation=None)
    try:
        if not config.read(path, encoding="utf-8"):
            raise bad_request(path, "does not exist", "Give a file like configs/study.ini.")
    except (NoIni, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise bad_request(path, f"is not an INI file ({why})", "Fix it, as in configs/study.ini.") from error
    mistakes = [] if "conversion" in config else ["[conversion] is missing"]
    for section in config.sections():
        kind, keys = section.split(" ")[0], set(config[section])
        if kind not in REQUIRED or not re.fullmatch(r"model [\w.-]+|conversion|uptrain", section):
            mistakes.append(f"[{section}] is not a section")
            continue
        for key in sorted(keys - REQUIRED[kind] - OPTIONAL[kind]):
            mistakes.append(f"[{section}] {key} is not a key")
        for key in sorted(REQUIRED[kind] - keys):
            mistakes.append(f"[{section}] {key} is missing")
        if "pretrain" in keys and Path(config[section].get("path", "final")).name != "final":
            mistakes.append(f"[{section}] path is not RUN/final, where pretraining writes")
    if mistakes:
        raise bad_request(path, "; ".join(mistakes), "configs/study.ini shows what there is.")
    return {section: dict(config[section]) for section in config.sections()}


def models_of(config):
    """{name: its keys}"""
    return {s.split(" ")[1]: keys for s, keys in config.items() if s.startswith("model ")}


def numbers(where, text, kind=float):
    try:
        return [kind(word) for word in text.split(",")]
    except ValueError as error:
        what = f'"{text}" is not a list of numbers'
        raise bad_request(where, what, "Write numbers with commas between them.") from error


def variants(where, text, refused=()):
    """{"method": "pca", "refit": "output"} for each line "pca refit=output"."""
    parsed = []
    for line in filter(None, text.splitlines()):
        variant = {}
        for word in f"method={line}".split():
            key, _, value = word.partition("=")
            if key in refused or not re.fullmatch(VARIANT.get(key, "(?!)"), value):
                known = "; ".join(f"{k}={v}" for k, v in VARIANT.items() if k not in refused)
                what = f'the variant "{line}" has "{word}"'
                raise bad_request(where, what, f"Write METHOD KEY=VALUE ..., of {known}.")
            variant[key] = value
        parsed.append(variant)
    return parsed


def written(variant):
    """A variant as a line of the config."""
    method, *rest = variant.items()
    return " ".join([method[1], *(f"{key}={value}" for key, value in rest)])


# --- The plan: which commands ---


def evaluation(model, data, reference=None):
    words = ["eval", "--model", str(model), "--data", data, "--split", "val"]
    return words + (["--reference", reference] if reference else [])


def original_point(name, model):
    words = evaluation(model["path"], model["data"])
    return Point({"model": name}, {f"original/{name}.eval": words})


def file_name(part, model, heads, variant):
    heads = f".kv{heads}" if heads else ""
    return f"{part}/{model}{heads}.{re.sub('[ =]', '-', written(variant))}"


def conversion_plan(config, out):
    """A point for each variant, model and number of heads; a variant with a budget has one point a model."""
    common = variants("[conversion] variants", config["conversion"]["variants"])
    tokens = config["conversion"].get("calibration_tokens")
    likeness = config["conversion"].get("likeness", "yes")
    if likeness not in ("yes", "no"):
        raise bad_request("[conversion] likeness", f'is "{likeness}"', "Write yes or no.")
    points = []
    for name, model in models_of(config).items():
        where = f"[model {name}]"
        more = variants(f"{where} more_variants", model.get("more_variants", ""))
        all_heads = numbers(f"{where} kv_heads", model["kv_heads"], int)
        reference = model["path"] if likeness == "yes" else None
        for variant in common + more:
            for heads in [None] if "kv_budget" in variant else all_heads:
                file = file_name("conversion", name, heads, variant)
                folder = out / "scratch" / Path(file).name
                commands = {
                    f"{file}.convert": conversion(model, variant, heads, folder, tokens),
                    f"{file}.eval": evaluation(folder, model["data"], reference),
                }
                facts = {"model": name, "variant": written(variant)}
                points.append(Point(facts, commands, folder))
    return points


def conversion(model, variant, heads, folder, calibration_tokens):
    words = ["convert", "--from", model["path"], "--to", str(folder), "--force"]
    words += ["--kv-heads", str(heads)] if heads else ["--kv-budget", variant["kv_budget"]]
    for key in ("method", "grouping", "refit"):
        words += [f"--{key}", variant[key]] if key in variant else []
    if variant.get("calibration") != "none":  # regroup does not read text that would change nothing
        words += ["--calibration", model["data"]]
        words += ["--calibration-tokens", calibration_tokens] if calibration_tokens else []
    return words


def uptraining_plan(config, out):
    """A point for each share alpha of each run. The run is resumed from one share to the next: with
    a constant learning rate, each equals a run of that length."""
    keys, where = config["uptrain"], "[uptrain]"
    models, name = models_of(config), keys["model"]
    if name not in models:
        raise bad_request(f"{where} model", f'"{name}" has no section', f"Write [model {name}].")
    alphas = sorted(numbers(f"{where} alphas", keys["alphas"]))
    weights = numbers(f"{where} distill", keys["distill"])
    chosen = variants(f"{where} variants", keys["variants"], ("kv_budget", "calibration"))
    baseline = numbers(f"{where} baseline_alpha", keys["baseline_alpha"])
    if not set(baseline) <= set(alphas) or 0 not in weights or {"method": "mean"} not in chosen:
        what = "lacks mean, or distill 0, or the baseline_alpha among its alphas"
        raise bad_request(where, what, "Everything is compared with that: add it.")
    points = []
    for heads in numbers(f"{where} kv_heads", keys["kv_heads"], int):
        for variant in chosen:
            for weight in weights:
                file = f"{file_name('uptraining', name, heads, variant)}.distill-{weight:g}"
                run = out / "scratch" / Path(file).name
                words = ["uptrain", "--config", keys["config"], "--run", str(run), "--resume"]
                words += uptraining_keys(config, models[name], variant, heads, weight)
                facts = {"kv_heads": heads, "variant": written(variant), "distill": weight}
                for alpha in alphas:
                    at = f"{file}.alpha-{alpha:g}"
                    train = [*words, f"--uptrain.alpha={alpha:g}"]
                    final = evaluation(run / "final", models[name]["data"])
                    commands = {f"{at}.train": train, f"{at}.eval": final}
                    points.append(Point({**facts, "alpha": alpha}, commands, run))
    return points


def uptraining_keys(config, model, variant, heads, weight):
    section = config["uptrain"]
    keys = {
        "data.train": model["data"],
        "data.val": "",  # `regroup eval` measures every point, the converted model too
        "convert.from": model["path"],
        "convert.n_kv_head": heads,
        **{f"convert.{key}": value for key, value in variant.items()},
        "distill.weight": f"{weight:g}",
        "optim.schedule": "constant",
        "checkpoint.keep": 1,
        **{f"optim.{key}": section[key] for key in ("lr", "warmup_steps") if key in section},
    }
    if "calibration_tokens" in config["conversion"]:
        keys["convert.calibration_tokens"] = config["conversion"]["calibration_tokens"]
    overrides = section.get("overrides", "").split()
    return [f"--{word}" for word in [*(f"{k}={v}" for k, v in keys.items()), *overrides]]


# --- Models and data that the study makes first ---


def prepare(name, model, runner):
    """Runs the lines "FILE: COMMAND" of prepare whose file is missing, then pretrains."""
    path, data = Path(model["path"]), Path(model["data"])
    if not data.exists() or not (path.exists() or "pretrain" in model):
        for file, how in pairs(name, "needs", model):
            if not Path(file).exists():
                raise bad_request(file, f"is missing, and {name} is prepared from it", how)
        for file, command in pairs(name, "prepare", model):
            if not Path(file).exists():
                print(f"study: making {file}", file=sys.stderr, flush=True)
                words = [sys.executable if w == "python" else w for w in shlex.split(command)]
                run_command(words, runner.out / "original" / f"{Path(file).name}.log")
    if "pretrain" in model and not path.exists():
        print(f"study: pretraining {name}", file=sys.stderr, flush=True)
        words = ["pretrain", "--config", model["pretrain"], "--run", str(path.parent), "--resume"]
        words += [f"--data.train={data}", f"--data.val={data}"]
        runner.run(f"original/{name}.pretrain", words)


def pairs(name, key, model):
    """(FILE, what follows) of each line "FILE: what follows"."""
    lines = [line.partition(": ") for line in filter(None, model.get(key, "").splitlines())]
    for file, colon, _ in lines:
        if not colon:
            raise bad_request(f"[model {name}] {key}", f'"{file}" has no ": "', "Write FILE: ...")
    return [(file, rest) for file, _, rest in lines]


# --- Results ---


def gathered(originals, plans, config, runner):
    """Every number, as in study.json; a part that was not requested stays as it is there."""
    study = {"original": {}}
    if (runner.out / "study.json").exists():
        study = runner.result("study")
    for point in originals:
        study["original"][point.facts["model"]] = runner.results(point)[0]["models"][0]
    if "conversion" in plans:
        study["conversion"] = [conversion_row(point, runner) for point in plans["conversion"]]
    if "uptraining" in plans:
        runs = uptraining_runs(plans["uptraining"], runner)
        baseline = float(config["uptrain"]["baseline_alpha"])
        study["uptraining"] = {
            "model": config["uptrain"]["model"],
            "baseline_alpha": baseline,
            "runs": runs,
            "shares_needed": shares_needed(runs, baseline),
        }
    return study


def conversion_row(point, runner):
    convert, evaluated = runner.results(point)
    entry = evaluated["models"][0]
    return {
        **point.facts,
        "n_kv_head": entry["n_kv_head"],
        "kv_bytes_per_token": convert["kv_bytes_per_token"]["after"],
        **{key: entry[key] for key in ("loss", "kl", "agreement", "compute_fraction")},
        **{key: convert[key] for key in ("seconds", "peak_rss_bytes")},
        "measured_by": point.name,
    }


def uptraining_runs(points, runner):
    """A run for each number of K/V heads, variant and distillation, with a point for each share."""
    runs = {}
    for point in points:
        train, evaluated = runner.results(point)
        entry = evaluated["models"][0]
        run = {key: value for key, value in point.facts.items() if key != "alpha"}
        runs.setdefault(tuple(run.values()), {**run, "points": []})["points"].append(
            {
                "alpha": point.facts["alpha"],
                "steps": train["steps"],
                **{key: entry[key] for key in ("loss", "compute_fraction")},
                "measured_by": point.name,
            }
        )
    return list(runs.values())


def report(study, out):
    text = markdown(study)
    write_text(out / "study.json", json.dumps(study, indent=2) + "\n")
    write_text(out / "study.md", text)
    for plot in plots_for(study):
        with written_atomically(out / f"{plot.name}.png") as temporary:
            plot.save_png(temporary)
    print(text, end="")


if __name__ == "__main__":
    run_script(main)
