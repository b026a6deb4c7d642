#!/usr/bin/env python3
"""Measures how much speed training and decoding keep on a busy machine: beside busy loops, and beside a second job.

Each round measures in turn one job alone, one beside a busy loop on each processor, and two at once. The script prints
medians and shares.
Speeds of a busy machine are read from the JSON of `regroup bench`, whose rounds take wall-clock time.

    tools/bench_busy.py --size 5m --rounds 3 --seconds 8
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.support import SIZES, check_json, parser_of, processor, write_config
from script_support import Problem, run_script, write_text

KV_HEADS = 8
BUSY_LOOP = "while True: pass"


def started(arguments, benchmark, result):
    """Starts a `regroup bench` that writes its JSON to result; returns its process."""
    shape = SIZES[arguments.size]
    config = result.with_suffix(".ini")
    write_config(config, arguments.size, KV_HEADS)
    words = [arguments.binary, "bench", benchmark, "--config", config, "--dtype", arguments.dtype, "--json", result,
             "--quiet"]
    if benchmark == "train":
        words += ["--batch", shape["batch"], "--seq-len", shape["seq_len"], "--seconds", arguments.seconds]
    return subprocess.Popen([str(word) for word in words], text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def speed_of(process, result):
    errors = process.communicate()[1]
    if process.returncode != 0:
        raise Problem("regroup bench", "failed", errors.strip()[-2000:])
    measured = json.loads(result.read_text())
    return measured.get("tokens_per_s") or measured["decode_tokens_per_s"]


def speeds(arguments, benchmark, jobs):
    """tokens/s of each of several jobs that run at once."""
    with tempfile.TemporaryDirectory() as folder:
        results = [Path(folder) / f"{number}.json" for number in range(jobs)]
        processes = [started(arguments, benchmark, result) for result in results]
        return [speed_of(process, result) for process, result in zip(processes, results)]


@contextlib.contextmanager
def busy_loops():
    """Keeps every processor busy with a process that only computes."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def one_round(arguments, benchmark):
    """tokens/s alone, beside busy loops, and of the slower of two jobs at once."""
    found = {"alone": speeds(arguments, benchmark, 1)[0]}
    with busy_loops():
        found["beside busy loops"] = speeds(arguments, benchmark, 1)[0]
    found["two jobs, each"] = min(speeds(arguments, benchmark, 2))
    return found


def main(words):
    arguments = parser_of(__doc__, size="5m").parse_args(words)
    check_json(arguments)
    print(f"{processor()}, {len(os.sched_getaffinity(0))} processors, {arguments.size}, {arguments.dtype}")
    everything = {}
    for benchmark in ("train", "decode"):
        rounds = [one_round(arguments, benchmark) for _ in range(arguments.rounds)]
        everything[benchmark] = rounds
        print(f"{benchmark} (medians of {arguments.rounds} rounds)")
        for name in rounds[0]:
            median = statistics.median(found[name] for found in rounds)
            share = statistics.median(found[name] / found["alone"] for found in rounds)
            print(f"  {name:20}{median:10.1f} tokens/s   {share:.2f} of alone", flush=True)
    if arguments.json:
        write_text(arguments.json, json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
