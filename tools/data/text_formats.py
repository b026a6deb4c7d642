"""Recognises a file's format by its content and gives the function that reads it.

A reader is called with (path, InputStream, text_field) and yields a Document for each document.
"""

import json

from script_support import Problem

from data import json_records
from data.arrow_tables import read_arrow_file, read_arrow_stream, read_parquet
from data.compression import name_without_compression, open_input
from data.documents import Document

HEAD_BYTES = 1 << 16
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
TABLES = {  # first bytes -> reader
    b"PAR1": read_parquet,
    b"ARROW1": read_arrow_file,
    b"\xff\xff\xff\xff": read_arrow_stream,
}
UNPACK = "Unpack it and give the folder."
GIVE_TEXT = "Token files of other programs are not read: give the text that they were made from."
REFUSED = {  # first bytes -> what it is, what to do
    b"PK\x03\x04": ("a zip archive", UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", UNPACK),
    b"\x04\x22\x4d\x18": ("compressed with lz4", "Unpack it, or compress it with gzip or zstd."),
    b"\x89HDF": ("HDF5", "Token data is ready for regroup; here give the text."),
    b"\x93NUMPY": ("a NumPy array (.npy)", GIVE_TEXT),
    b"MMIDIDX": ("a Megatron index (.idx)", GIVE_TEXT),
    (20240520).to_bytes(4, "little"): ("a token file of llm.c (.bin)", GIVE_TEXT),
    b"\xff\xfe": ("UTF-16 text", "Convert it to UTF-8, with iconv for instance."),
    b"\xfe\xff": ("UTF-16 text", "Convert it to UTF-8, with iconv for instance."),
}


class NotText(Problem):
    """The file does not hold documents."""


def reader_of(path):
    """The reader for a file. Throws NotText where its content is of no format that has one."""
    with open_input(path) as stream:
        head = stream.bytes.read(HEAD_BYTES)
        for first_bytes, reader in TABLES.items():
            if head.startswith(first_bytes):
                return reader
        _refuse_other_formats(path, head)
        is_named_json = name_without_compression(path).endswith(JSON_ENDINGS)
        begin = head.removeprefix(BYTE_ORDER_MARK).lstrip()[:1]
        if begin not in (b"{", b"["):
            return json_records.read_lines if is_named_json and begin else read_text
        if begin == b"[":
            return json_records.read_array if is_named_json or _is_array_of_objects(path) else read_text
    return _reader_of_objects(path, is_named_json)


def _refuse_other_formats(path, head):
    for first_bytes, (what, advice) in REFUSED.items():
        if head.startswith(first_bytes):
            raise NotText(path, f"is {what}", advice)
    if head[257:262] == b"ustar":
        raise NotText(path, "is a tar archive", UNPACK)
    if b"\0" in head and path.suffix.lower() == ".bin":
        raise NotText(path, "is binary; nanoGPT and Megatron keep token ids in .bin", GIVE_TEXT)
    if b"\0" in head:
        raise NotText(path, "is binary data", "Give text, JSON, JSONL, Parquet or Arrow files.")


def _is_array_of_objects(path):
    with open_input(path) as stream:
        try:
            return isinstance(next(json_records.array_items(path, stream.bytes), None), dict)
        except Problem:
            return False


def _reader_of_objects(path, is_named_json):
    """The reader of a file that begins with {: JSON lines, one object, or text such as a template.

    An object in the first line makes JSON lines where the second is one too. A file that is named as
    JSON is never text: its reader reports what is wrong.
    """
    is_named_lines = is_named_json and not name_without_compression(path).endswith(".json")
    with open_input(path) as stream:
        lines = (line for line in stream.bytes if line.strip())
        first_lines = [line for line, _ in zip(lines, range(2))]
    are_objects = list(map(_is_object, first_lines))
    if are_objects[0] and (is_named_json or all(are_objects)):
        is_lines = is_named_lines or len(first_lines) == 2
        return json_records.read_lines if is_lines else json_records.read_object
    with open_input(path) as stream:
        if not are_objects[0] and _is_object(stream.bytes.read()):
            return json_records.read_object
    if not is_named_json:
        return read_text
    return json_records.read_lines if is_named_lines else json_records.read_object


def _is_object(raw):
    try:
        return isinstance(json.loads(raw.decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def read_text(_path, stream, _text_field):
    raw = stream.bytes.read()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = None
    yield Document(text, stream.consumed())
