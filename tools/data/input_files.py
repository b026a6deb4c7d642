"""Finds the input files: files as given, folders recursively, links followed, nothing read twice."""

import os
from collections import Counter
from pathlib import Path
from typing import Callable, NamedTuple

from script_support import bad_request

from data import folder_layouts
from data.compression import name_without_compression, open_input
from data.json_records import parsed_object, read_object
from data.text_formats import NotText, reader_of

FOLDER_SUFFIXES = (".txt", ".md", ".rst", ".py", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow")


class InputFile(NamedTuple):
    path: Path
    read: Callable  # its reader, of text_formats.py


class InputFiles:
    """The input files in reading order, and the files of the input folders that are not read."""

    def __init__(self, inputs, suffixes=FOLDER_SUFFIXES, text_field="text"):
        """Throws Problem where an input is missing, holds no text, or is a folder without such files."""
        self.files = []
        self._suffixes, self._text_field = suffixes, text_field
        self._taken = set()  # (device, inode) of files that are read and folders that were searched
        self._left_out = {}  # (device, inode) of other files -> why; a link may still lead to them
        for path in map(Path, inputs):
            if path.is_dir():
                self._take_folder(path)
            elif path.is_file():
                self._take(path, reader_of(path))
            elif path.exists():
                raise bad_request(
                    path,
                    "is neither a file nor a folder",
                    "Give text, JSON, JSONL, Parquet or Arrow files, or folders.",
                )
            else:
                raise bad_request(path, "does not exist", "Check the path given to --input.")

    def left_out(self):
        """Counter of file name endings and other reasons: files in the input folders, not read."""
        return Counter(why for file, why in self._left_out.items() if file not in self._taken)

    def _take_folder(self, folder):
        n_files, n_taken = len(self.files), len(self._taken)
        self._search(folder)
        if len(self.files) == n_files and len(self._taken) > n_taken:
            found = ", ".join(f"{count:,} {why}" for why, count in sorted(self.left_out().items()))
            raise bad_request(
                folder,
                f"has no text in files that end in {', '.join(self._suffixes)}; "
                f"it has {found or 'no file'}",
                "Name the endings of your files with --suffixes.",
            )

    def _search(self, folder):
        if not self._is_new(folder):
            return
        names = sorted(os.listdir(folder))
        snapshot = folder_layouts.main_snapshot(folder, names)
        if snapshot:
            self._search(snapshot)
            return
        listed = folder_layouts.listed_files(folder, names)
        subfolders = []
        for name in names:
            path = Path(folder, name)
            if name.startswith("."):
                self._leave_out(path, "hidden")
            elif path.is_dir():
                subfolders.append(path)
            elif not path.is_file():
                self._leave_out(path, "broken links" if path.is_symlink() else "special files")
            elif not folder_layouts.is_metadata(name, names):
                self._consider(path, folder_layouts.is_data_file(name, names, listed))
        for path in subfolders:
            self._search(path)

    def _consider(self, path, is_data):
        if not is_data or not self._has_suffix(path):
            self._leave_out(path, _ending(path) or "without an ending")
            return
        try:
            reader = reader_of(path)
        except NotText:
            self._leave_out(path, f"{_ending(path)} without text")
            return
        if reader is read_object and not self._has_text_field(path):
            self._leave_out(path, f'{_ending(path)} without "{self._text_field}"')
        else:
            self._take(path, reader)

    def _has_suffix(self, path):
        return any(name.endswith(self._suffixes) for name in (path.name.lower(), name_without_compression(path)))

    def _has_text_field(self, path):
        """False for a JSON object such as a configuration file, which may lie beside the documents."""
        with open_input(path) as stream:
            return self._text_field in parsed_object(path, stream.bytes)

    def _take(self, path, reader):
        if self._is_new(path):
            self.files.append(InputFile(path, reader))

    def _is_new(self, path):
        identity = _identity(path)
        is_new = identity not in self._taken
        self._taken.add(identity)
        return is_new

    def _leave_out(self, path, why):
        self._left_out.setdefault(_identity(path), why)


def _ending(path):
    """The ending of a file name in lower case, such as .txt or .txt.gz."""
    name = name_without_compression(path)
    return Path(name).suffix + path.name.lower().removeprefix(name)


def _identity(path):
    """(device, inode), which all names and links of a file share."""
    status = path.stat() if path.exists() else path.lstat()
    return status.st_dev, status.st_ino
