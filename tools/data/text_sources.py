"""Reads documents from text files, folders, JSONL and Parquet, always in the same order."""

import json
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from script_support import Problem, bad_request

FOLDER_SUFFIXES = (".txt", ".md", ".rst", ".py", ".jsonl", ".ndjson", ".parquet")
PARQUET_ROWS = 1024  # rows of a Parquet file in memory at once


class Document(NamedTuple):
    text: str
    disk_bytes: float  # its share of the input files, for progress


@dataclass
class TextSources:
    """Input files and how to read them; documents() may be called many times."""

    files: list
    text_field: str = "text"
    skipped: Counter = field(default_factory=Counter)  # reason -> documents, of the latest reading

    @property
    def disk_bytes(self):
        return sum(path.stat().st_size for path in self.files)

    def documents(self):
        """Yields every Document that has text; counts the others in `skipped`."""
        self.skipped.clear()
        for path in self.files:
            for document in _reader_of(path)(path, self.text_field):
                reason = _unusable(document.text)
                if reason:
                    self.skipped[reason] += 1
                else:
                    yield document


def find_files(inputs, suffixes=FOLDER_SUFFIXES):
    """Lists the input files: files as given, folders recursively and sorted, hidden names left out.

    Throws Problem when an input is missing, is neither file nor folder, or has no file with one
    of the suffixes.
    """
    files = []
    for path in map(Path, inputs):
        if path.is_dir():
            files += _files_below(path, suffixes)
        elif path.is_file():
            files.append(path)
        elif path.exists():
            raise bad_request(
                path,
                "is neither a file nor a folder",
                "Give text files, JSONL, Parquet or folders.",
            )
        else:
            raise bad_request(path, "does not exist", "Check the path given to --input.")
    return list(dict.fromkeys(files))


def _files_below(folder, suffixes):
    found = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            Path(parent, name)
            for name in sorted(names)
            if not name.startswith(".") and name.lower().endswith(suffixes)
        ]
    if not found:
        raise bad_request(
            folder,
            f"has no file that ends in {', '.join(suffixes)}",
            "Name the endings of your files with --suffixes.",
        )
    return found


def _unusable(text):
    if text is None:
        return "not UTF-8"
    return None if text.strip() else "empty"


def _reader_of(path):
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        return _read_jsonl
    return _read_parquet if suffix == ".parquet" else _read_text


def _read_text(path, _text_field):
    raw = path.read_bytes()
    try:
        yield Document(raw.decode("utf-8-sig"), len(raw))
    except UnicodeDecodeError:
        yield Document(None, len(raw))


def _read_jsonl(path, text_field):
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield Document(_text_of_line(line, text_field, f"{path}:{number}"), len(line))


def _text_of_line(line, text_field, where):
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Problem(where, f"is not a JSON line ({error})", "Mend or delete the line.") from error
    if not isinstance(record, dict):
        raise Problem(
            where,
            f"holds a {type(record).__name__}, not an object",
            f'Write one object a line, such as {{"{text_field}": "…"}}.',
        )
    if text_field not in record:
        raise Problem(
            where,
            f'has no field "{text_field}", only {_some_names(record)}',
            "Name the field with --text-field.",
        )
    text = record[text_field]
    if text is None:
        return ""
    if not isinstance(text, str):
        raise Problem(
            where,
            f'the field "{text_field}" is a {type(text).__name__}, not a string',
            "Name the field that holds the text with --text-field.",
        )
    return text if _is_encodable(text) else None


def _is_encodable(text):
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which is no text
        return False
    return True


def _read_parquet(path, text_field):
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise Problem(
            path,
            "reading Parquet needs the Python package pyarrow",
            "Run tools/setup.sh, or pip install pyarrow, or convert the file to JSONL.",
        ) from error
    try:
        with parquet.ParquetFile(path) as table:
            _check_column(path, table.schema_arrow, text_field, arrow.types)
            disk_bytes = path.stat().st_size / max(1, table.metadata.num_rows)
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=[text_field]):
                for text in batch.column(0):
                    yield Document(text.as_py() or "", disk_bytes)
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise Problem(
            path,
            f"is not a readable Parquet file ({str(error).splitlines()[0]})",
            "Was the download cut short?",
        ) from error


def _check_column(path, schema, text_field, types):
    if text_field not in schema.names:
        raise Problem(
            path,
            f'has no column "{text_field}", only {_some_names(schema.names)}',
            "Name the column with --text-field.",
        )
    kind = schema.field(text_field).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise Problem(
            path,
            f'the column "{text_field}" holds {kind}, not strings',
            "Name the column that holds the text with --text-field.",
        )


def _some_names(names):
    names = [f'"{name}"' for name in names]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "no field at all") + more
