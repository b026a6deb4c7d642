"""Reads the documents of all input files, always in the same order."""

from collections import Counter

from data.compression import open_input
from data.input_files import FOLDER_SUFFIXES, InputFiles


class TextSources:
    """The documents of files and folders; documents() may be called many times."""

    def __init__(self, inputs, suffixes=FOLDER_SUFFIXES, text_field="text"):
        """Throws Problem where an input cannot be read (InputFiles)."""
        self._input_files, self._text_field = InputFiles(inputs, suffixes, text_field), text_field
        self._skipped = Counter()  # reason -> documents, of the latest reading

    @property
    def paths(self):
        return [file.path for file in self._input_files.files]

    @property
    def disk_bytes(self):
        return sum(path.stat().st_size for path in self.paths)

    @property
    def left_out(self):
        """Counter of reasons: files that are not read, documents without text in the latest reading."""
        return self._skipped + self._input_files.left_out()

    def documents(self):
        """Yields every Document that has text; counts those without in left_out."""
        self._skipped.clear()
        for file in self._input_files.files:
            with open_input(file.path) as stream:
                for document in file.read(file.path, stream, self._text_field):
                    reason = _unusable(document.text)
                    if reason:
                        self._skipped[reason] += 1
                    else:
                        yield document


def _unusable(text):
    if text is None:
        return "not UTF-8"
    return None if text.strip() else "empty"
