"""Reads JSON lines, a JSON array of objects, or one JSON object; each object is a document."""

import codecs
import json

from script_support import Problem

from data.documents import Document, some_names

READ_CHARACTERS = 1 << 20  # of a JSON array, at once
WHITE_SPACE = " \t\r\n"


def read_lines(path, stream, text_field):
    for number, line in enumerate(stream.bytes, 1):
        if line.strip():
            where = f"{path}:{number}"
            yield Document(_text_of(_parsed_line(line, where), text_field, where), stream.consumed())


def read_array(path, stream, text_field):
    for number, record in enumerate(array_items(path, stream.bytes), 1):
        where = f"{path}, item {number}"
        yield Document(_text_of(record, text_field, where), stream.consumed())


def read_object(path, stream, text_field):
    yield Document(_text_of(parsed_object(path, stream.bytes), text_field, path), stream.consumed())


def parsed_object(path, stream):
    """The one JSON value that a file holds."""
    try:
        return json.loads(stream.read().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Problem(
            path,
            f"is neither JSON nor JSON lines ({error})",
            "Write one object a line, or an array of objects.",
        ) from error


def array_items(path, stream):
    """Yields the items of a JSON array, with one item and one piece of text in memory at a time."""
    text = _PendingText(codecs.getreader("utf-8-sig")(stream))
    decoder = json.JSONDecoder()
    try:
        text.skip("[")
        while not text.starts_with("]"):
            yield text.take(decoder)
            if not text.starts_with("]"):
                text.skip(",")
        text.skip("]")
        if text.next_character():
            raise ValueError("more text follows the array")
    except (ValueError, RecursionError) as error:
        raise Problem(
            path, f"is a damaged or truncated JSON array ({error})", "Fix the file."
        ) from error


class _PendingText:
    """Text that is read piece by piece and parsed from its beginning."""

    def __init__(self, characters):
        self._characters, self._text, self._begin = characters, "", 0

    def next_character(self):
        """The next one that is not white space; empty at the end of the file."""
        while True:
            while self._begin < len(self._text):
                if self._text[self._begin] not in WHITE_SPACE:
                    return self._text[self._begin]
                self._begin += 1
            if not self._read_more(READ_CHARACTERS):
                return ""

    def starts_with(self, character):
        return self.next_character() == character

    def skip(self, character):
        if not self.starts_with(character):
            found = self.next_character()
            raise ValueError(f"expected {character}, found {found or 'the end of the file'}")
        self._begin += 1

    def take(self, decoder):
        """The JSON value that comes next, parsed again with twice the text while it is incomplete."""
        self.next_character()
        while True:
            try:
                value, self._begin = decoder.raw_decode(self._text, self._begin)
                return value
            except ValueError:
                if not self._read_more(max(READ_CHARACTERS, len(self._text) - self._begin)):
                    raise

    def _read_more(self, n_characters):
        more = self._characters.read(n_characters)
        self._text, self._begin = self._text[self._begin :] + more, 0
        return bool(more)


def _parsed_line(line, where):
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise Problem(where, f"is not a JSON line ({error})", "Fix or delete the line.") from error


def _text_of(record, text_field, where):
    if not isinstance(record, dict):
        raise Problem(
            where,
            f"holds a {type(record).__name__}, not an object",
            f'Write objects such as {{"{text_field}": "…"}}, one a line or in one array.',
        )
    if text_field not in record:
        raise Problem(
            where,
            f'has no field "{text_field}", only {some_names(record)}',
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
    except UnicodeEncodeError:  # JSON can spell half a surrogate pair, which UTF-8 cannot
        return False
    return True
