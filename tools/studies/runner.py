"""Runs a study's commands, each once, and keeps them beside their results.

A measurement NAME leaves NAME.json, the command's results, NAME.command, the command itself, and
NAME.log, what it printed. Delete NAME.json to measure it again.
"""

import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from script_support import BAD_REQUEST, FAILED, INTERRUPTED, Problem, bad_request, write_text


@dataclass
class Point:
    """A measurement: commands of `regroup` in their order, by name; the last one measures the loss."""

    facts: dict  # what the point is, for its line in a table
    commands: dict
    scratch: Path = None  # a folder that the commands write, deleted once no later point needs it

    @property
    def name(self):
        return list(self.commands)[-1]


class Runner:
    def __init__(self, out, binary):
        self.out, self.binary = out, binary

    def result(self, name):
        return json.loads(self._file(name, "json").read_text(encoding="utf-8"))

    def results(self, point):
        return [self.result(name) for name in point.commands]

    def is_made(self, point):
        """Throws Problem if a command made it that differs from what the config asks for now."""
        if not self._file(point.name, "json").exists():
            return False
        for name, words in point.commands.items():
            kept = self._file(name, "command")
            made_by = shlex.split(kept.read_text(encoding="utf-8")) if kept.exists() else []
            if made_by[1:] != self._command(name, words)[1:]:
                what = "is not the command that the config asks for now"
                advice = f"Delete {self._file(point.name, 'json')} to measure again, or give"
                raise bad_request(kept, what, f"{advice} another --out.")
        return True

    def make(self, points):
        """Makes the missing points, and reports progress on stderr."""
        missing = [place for place, point in enumerate(points) if not self.is_made(point)]
        began = time.monotonic()
        for number, place in enumerate(missing):
            point = points[place]
            pace = (time.monotonic() - began) / max(1, number)
            left = timedelta(seconds=round(pace * (len(missing) - number)))
            eta = f", {left} left" if number else ""
            count = f"{len(points) - len(missing) + number + 1} of {len(points)}"
            print(f"study: {count}{eta}: {point.name}", file=sys.stderr, flush=True)
            self._make_point(point, [p for p in points[place + 1 :] if p.scratch == point.scratch])

    def run(self, name, words):
        command = self._command(name, words)
        write_text(self._file(name, "command"), shlex.join(command) + "\n")
        run_command(command, self._file(name, "log"))

    def _make_point(self, point, later):
        if point.scratch and any(map(self.is_made, later)):
            shutil.rmtree(point.scratch, ignore_errors=True)  # the run is past this point
        for name, words in point.commands.items():
            self.run(name, words)
        if point.scratch and all(map(self.is_made, later)):
            shutil.rmtree(point.scratch)

    def _command(self, name, words):
        return [self.binary, *words, "--quiet", "--json", str(self._file(name, "json"))]

    def _file(self, name, suffix):
        return self.out / f"{name}.{suffix}"


def run_command(command, log):
    """Writes its output to the file log; throws Problem with its last line if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # the command got the signal too, and saves a checkpoint first
            raise
    if code != 0:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
        what = f"`{shlex.join(command)}` ended with exit code {code} and the line: {said[-1].rstrip('.')}"
        advice = "Correct that and start the study again: it goes on from here."
        raise Problem(log, what, advice, code if code in (BAD_REQUEST, INTERRUPTED) else FAILED)
