"""HDF5 files whose failed writes are errors. The HDF5 library retries, crashes, or goes on when the system refuses a
write, so it never sees one: what it writes goes through an object that keeps the first error and drops the rest."""

import os
from contextlib import contextmanager

import h5py

# Its structure has checksums, so that damage is found. HDF5 1.10 of 2016 reads it.
FORMAT = "v110"


class _Bytes:
    """A file for h5py that never fails."""

    def __init__(self, path):
        self._descriptor = os.open(path, os.O_RDWR)
        self._path = path
        self._position = 0
        self.error = None

    def seek(self, offset, whence=os.SEEK_SET):
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: os.fstat(self._descriptor).st_size}
        self._position = start[whence] + offset
        return self._position

    def tell(self):
        return self._position

    def read(self, size=-1):
        data = os.pread(self._descriptor, size, self._position)
        self._position += len(data)
        return data

    def write(self, data):
        view = memoryview(data)
        self._attempt(self._write_all, view)
        self._position += len(view)
        return len(view)

    def truncate(self, size=None):
        self._attempt(os.ftruncate, self._descriptor, self._position if size is None else size)
        return size

    def flush(self):
        pass

    def close(self):
        os.close(self._descriptor)

    def _write_all(self, view):
        position = self._position
        while view:
            count = os.pwrite(self._descriptor, view, position)
            view, position = view[count:], position + count

    def _attempt(self, call, *arguments):
        if self.error is None:
            try:
                call(*arguments)
            except OSError as error:
                self.error = OSError(error.errno, error.strerror, str(self._path))


@contextmanager
def written_hdf5(path):
    """Yields (h5py.File, check) for an existing, empty file. check() raises the OSError of a write that failed so far;
    after the last one it is called here."""
    data = _Bytes(path)

    def check():
        if data.error:
            raise data.error

    try:
        with h5py.File(data, "w", libver=(FORMAT, FORMAT)) as file:
            yield file, check
        check()
    finally:
        data.close()
