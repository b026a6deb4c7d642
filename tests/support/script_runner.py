"""Runs the Python scripts of tools/ as a user does, and lets tests import their modules."""

import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parents[2] / "tools"

def run(script, *arguments):
    """The finished process of tools/<script>, its output as text."""
    command = [sys.executable, str(TOOLS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def assert_refused(process, exit_code, *words):
    """One block on stderr that has all words, nothing on stdout, no trace."""
    assert process.returncode == exit_code, process.stderr
    assert process.stdout == ""
    assert "Traceback" not in process.stderr
    assert len(process.stderr) < 3000
    for word in words:
        assert word in process.stderr
