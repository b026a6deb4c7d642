"""Shared by the scripts: errors that a user can fix, and files that appear whole or not at all."""

import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

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


def _complain(name, message, exit_code):
    if os.environ.get("REGROUP_DEBUG") == "1":
        raise  # the exception that run_script is handling, with its trace
    print(f"{name}: error: {message[:2500]}", file=sys.stderr)
    return exit_code


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
