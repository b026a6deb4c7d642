"""Writes a corpus that any machine can make again: the Python sources of pinned packages, as JSONL.

Each line is {"path", "text"}. Packages and paths are sorted, so equal pins give equal files on every
machine. The script reads only .py files that a package's installation record lists.
"""

import argparse
import json
import re
from importlib import metadata
from pathlib import Path, PurePosixPath

from script_support import Problem, bad_request, check_output_file, run_script, written_atomically


def main(arguments):
    options = parse_arguments(arguments)
    check_output_file("--out", options.out, may_replace=options.force)
    pins = read_pins(options.requirements)
    distributions = [
        installed(name, version, options.requirements) for name, version in sorted(pins.items())
    ]
    n_files = n_bytes = 0
    with written_atomically(options.out) as temporary:
        with open(temporary, "w", encoding="utf-8") as lines:
            for path, text in python_sources(distributions):
                lines.write(json.dumps({"path": path, "text": text}, ensure_ascii=False) + "\n")
                n_files, n_bytes = n_files + 1, n_bytes + len(text.encode("utf-8"))
    print(f"{options.out}: {n_files:,} files of {len(pins)} packages, {n_bytes:,} bytes of text")


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description="Writes the Python sources of pinned, installed packages as JSONL."
    )
    parser.add_argument(
        "--requirements", type=Path, required=True, metavar="FILE", help="lines of NAME==VERSION"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    return parser.parse_args(arguments)


def read_pins(path):
    """{normalised package name: version} of a requirements file; each line must be an exact pin."""
    if not path.is_file():
        raise bad_request(path, "does not exist", "Give a file of NAME==VERSION lines.")
    pins = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        line = line.split("#")[0].strip()
        if not line:
            continue
        pin = re.fullmatch(r"([A-Za-z0-9._-]+)\s*==\s*([A-Za-z0-9.+!_-]+)", line)
        if pin is None:
            raise Problem(
                f"{path}:{number}", f'"{line}" is not an exact pin', "Write NAME==VERSION."
            )
        pins[_normalised(pin[1])] = pin[2]
    if not pins:
        raise Problem(path, "names no package", "Write NAME==VERSION lines.")
    return pins


def installed(name, version, requirements):
    """The installed distribution, which must be the pinned version."""
    advice = f"Run tools/setup.sh, or pip install -r {requirements}."
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise Problem(name, "is not installed in this Python", advice) from error
    if distribution.version != version:
        raise Problem(
            name, f"version {distribution.version} is installed, {version} is pinned", advice
        )
    return distribution


def python_sources(distributions):
    """Yields (installed path, text) of the distributions' .py files, sorted within each."""
    for distribution in distributions:
        files = distribution.files
        if files is None:
            raise Problem(distribution.name, "has no installation record", "Reinstall it with pip.")
        for file in sorted(files, key=str):
            text = _text_of(file)
            if text is not None:
                yield str(file), text


def _text_of(file):
    """The text of a Python source; None for other files, scripts outside the package, and not UTF-8."""
    if file.suffix != ".py" or PurePosixPath(file).parts[0] == "..":
        return None
    try:
        return file.locate().read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None


def _normalised(name):
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    run_script(main)
