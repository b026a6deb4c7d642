"""What the scripts share: errors that a user can fix, progress, and files that appear whole or not at all."""

import os
import sys
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

FAILED = 1  # the work failed: bad file, disk full
BAD_REQUEST = 2  # the request was wrong: bad value, output exists
INTERRUPTED = 130


class Problem(Exception):
    """An error that a user can cause and fix: where it is, what it is, what to do."""

    def __init__(self, where, what, what_to_do, exit_code=FAILED):
        super().__init__(f"{where}: {what}. {what_to_do}")
        self.exit_code = exit_code


def bad_request(where, what, what_to_do):
    return Problem(where, what, what_to_do, BAD_REQUEST)


def run_script(main):
    """Runs main(arguments). An error becomes one block on stderr and the exit code."""
    name = Path(sys.argv[0]).name
    sys.stderr = _Messages(sys.stderr)
    try:
        main(sys.argv[1:])
    except Problem as problem:
        sys.exit(_complain(name, str(problem), problem.exit_code))
    except OSError as error:
        where = error.filename or name
        sys.exit(
            _complain(
                name,
                f"{where}: {error.strerror or ' '.join(str(error).split())}. "
                "Check that it can be read or written and that the disk is not full.",
                FAILED,
            )
        )
    except MemoryError:
        sys.exit(
            _complain(
                name, "out of memory. Close other programs or give less input at a time.", FAILED
            )
        )
    except KeyboardInterrupt:
        sys.exit(_complain(name, "interrupted; nothing was written.", INTERRUPTED))


class _Messages:
    """stderr as a place for messages: a reader that leaves, or a stream that was closed, must not end the work."""

    def __init__(self, stream):
        self._stream = stream or open(os.devnull, "w")

    def write(self, text):
        with suppress(OSError):
            return self._stream.write(text)
        return len(text)

    def flush(self):
        with suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name):
        return getattr(self._stream, name)


def _complain(name, message, exit_code):
    if os.environ.get("REGROUP_DEBUG") == "1":
        raise  # the exception that run_script is handling, with its trace
    print(f"{name}: error: {message[:2500]}", file=sys.stderr)
    return exit_code


def warn(text):
    """One line on stderr, as `regroup` warns."""
    print(f"warning: {text}", file=sys.stderr)


def progress(label, **options):
    """A tqdm bar on a terminal; elsewhere one line with the label, because a file or a pipe cannot redraw a bar."""
    if not sys.stderr.isatty():
        print(label, file=sys.stderr)
    return tqdm(desc=label, disable=None, **options)


def check_output_file(option, path, may_replace=True):
    """Throws Problem where the file that an option names cannot be written: called before hours of work, not after."""
    path = Path(path)
    if path.is_dir():
        raise bad_request(path, "is a folder", f"Name a file with {option}.")
    if os.path.lexists(path) and not path.is_file():
        raise bad_request(path, "is not a regular file", f"Name another file with {option}.")
    if path.exists() and not may_replace:
        raise bad_request(path, "exists", f"Name another file with {option}, or replace this one with --force.")
    check_output_folder(option, path.parent)


def check_output_folder(option, folder):
    """Throws Problem where no file can be made in a folder, or a missing folder cannot be made. Leaves no trace."""
    folder = Path(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not existing.is_dir():
        raise bad_request(existing, "is not a folder", f"Name another place with {option}.")
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        what = f"no file can be made in this folder ({error.strerror})"
        raise Problem(existing, what, f"Make it writable, or name another place with {option}.") from error


def check_is_no_input(option, path, inputs):
    """Throws Problem where an output would replace a file that the job reads."""
    if any(Path(path).exists() and os.path.samefile(path, file) for file in inputs):
        raise bad_request(path, "is read by this job, which would replace it", f"Name another file with {option}.")


@contextmanager
def written_atomically(target):
    """Yields a temporary path beside `target` and renames the file there to target on success."""
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(
        prefix=f".{target.name}.", suffix=".tmp", dir=target.parent
    )
    os.close(handle)
    try:
        yield Path(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        _sync(temporary)
        os.replace(temporary, target)
        _sync(target.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            raise OSError(error.errno, error.strerror, str(target)) from error
        raise


def write_text(target, text):
    """Writes a UTF-8 text file atomically."""
    with written_atomically(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
