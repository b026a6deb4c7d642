"""Opens files that may be compressed; their first bytes decide, not their names."""

import bz2
import gzip
import io
import lzma
import shutil
import tempfile
import zlib
from contextlib import contextmanager

from script_support import Problem

ENDINGS = (".gz", ".zst", ".bz2", ".xz")


def _open_zstd(raw):
    import pyarrow  # only here, so that other formats do not need the package

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")


CODECS = {  # first bytes -> name, function that wraps a file
    b"\x1f\x8b": ("gzip", lambda raw: gzip.GzipFile(fileobj=raw)),
    b"\x28\xb5\x2f\xfd": ("zstd", _open_zstd),
    b"BZh": ("bzip2", bz2.BZ2File),
    b"\xfd7zXZ\x00": ("xz", lzma.LZMAFile),
}


class InputStream:
    """A file's decompressed bytes, and how much of the file on disk they took."""

    def __init__(self, raw, stream):
        self.bytes = stream  # a binary file object to read from, in order
        self._raw, self._position = raw, 0

    def consumed(self):
        """Bytes of the file on disk that were read since the last call, for progress."""
        before, self._position = self._position, self._raw.tell()
        return self._position - before

    @contextmanager
    def seekable(self):
        """A binary file object with random access; a compressed file is unpacked to a temporary file."""
        if self.bytes is self._raw:
            yield self._raw
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(self.bytes, unpacked, 1 << 20)
            unpacked.seek(0)
            yield unpacked


@contextmanager
def open_input(path):
    """Gives the InputStream of a file. Throws Problem where compressed data is damaged or cut short."""
    with open(path, "rb") as raw:
        first_bytes = raw.peek(8)
        codec = next((CODECS[magic] for magic in CODECS if first_bytes.startswith(magic)), None)
        if codec is None:
            yield InputStream(raw, raw)
            return
        name, unpack = codec
        try:
            yield InputStream(raw, io.BufferedReader(unpack(raw), 1 << 16))
        except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            if getattr(error, "errno", None) is not None:  # the disk failed, not the data
                raise
            if "too much memory" in str(error):
                raise Problem(
                    path,
                    "needs more memory to unpack than zstd uses by default",
                    "Unpack it with zstd --decompress --long=31.",
                ) from error
            raise Problem(
                path,
                f"is a damaged or truncated {name} file ({error})",
                "Download or compress it again.",
            ) from error


def name_without_compression(path):
    """The lower-case file name without an ending such as .gz."""
    name = path.name.lower()
    return next((name.removesuffix(ending) for ending in ENDINGS if name.endswith(ending)), name)
