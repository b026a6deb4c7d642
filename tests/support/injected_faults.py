"""Programs of which one system call or allocation fails, by the library of fault_injection.c."""

import math
import os
import subprocess

LIBRARY = os.environ["REGROUP_FAULT_LIBRARY"]
EVERY_FAULT = os.environ.get("REGROUP_EVERY_FAULT") == "1"
PLACES_PER_KIND = 1  # of a short run, beside the first
MOST_ALLOCATIONS = 100  # of a run of every fault: decoding for speed alone makes thousands
ALLOCATION = "alloc"


def run_watched(words, folder, kind=None, at=None, report=None):
    """Runs a program; with kind and at, that call on files below the folder fails."""
    env = {**os.environ, "LD_PRELOAD": LIBRARY, "FAULT_FOLDER": str(folder.resolve())}
    if kind is not None:
        env.update(FAULT_KIND=kind, FAULT_AT=str(at))
    if report is not None:
        env.update(FAULT_REPORT=str(report))
    return subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=300, check=False, cwd=folder,
                          env=env)


def count_calls(words, folder, report):
    """Runs a program to its end -> the number of its calls by kind."""
    result = run_watched(words, folder, report=report)
    assert result.returncode == 0, result.stderr
    return {kind: int(count) for kind, count in map(str.split, report.read_text().splitlines())}


def places_of_kind(kind, count):
    if not EVERY_FAULT:
        return PLACES_PER_KIND
    return MOST_ALLOCATIONS if kind == ALLOCATION else max(1, count)


def places_to_fail(counts):
    """(kind, number of the call): every one where REGROUP_EVERY_FAULT=1 asks for that, else the first and some more,
    spread evenly."""
    for kind, count in counts.items():
        step = max(1, math.ceil(count / places_of_kind(kind, count)))
        yield from ((kind, at) for at in sorted({1, *range(1 + (step - 1) // 2, count + 1, step)}) if at <= count)


def assert_failed_clearly(result, kind, folder):
    """One error that names a file below the folder, or says that memory ran out; never a crash."""
    assert result.returncode == 1, (result.returncode, result.stderr)
    assert "error: " in result.stderr
    for never in ("defect", "frame #", "Traceback", "terminate called"):
        assert never not in result.stderr, result.stderr
    expected = "memory" if kind == ALLOCATION else str(folder)
    assert expected in result.stderr[result.stderr.index("error: "):], result.stderr
