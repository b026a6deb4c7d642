"""Reads a text column of Parquet and Arrow files."""

from contextlib import contextmanager

from script_support import Problem

from data.documents import Document, some_names

PARQUET_ROWS = 1024  # rows of a Parquet file in memory at once


def read_parquet(path, stream, text_field):
    with _readable(path, "Parquet") as arrow, stream.seekable() as file:
        import pyarrow.parquet as parquet

        with parquet.ParquetFile(file) as table:
            _check_column(path, table.schema_arrow, text_field, arrow.types)
            disk_bytes = path.stat().st_size / max(1, table.metadata.num_rows)
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=[text_field]):
                for text in batch.column(0):
                    yield Document(text.as_py() or "", disk_bytes)


def read_arrow_file(path, stream, text_field):
    with _readable(path, "Arrow") as arrow, stream.seekable() as file:
        table = arrow.ipc.open_file(file)
        _check_column(path, table.schema, text_field, arrow.types)
        disk_bytes = path.stat().st_size / max(1, table.num_record_batches)
        for number in range(table.num_record_batches):
            batch = table.get_batch(number)
            batch.validate(full=True)  # otherwise damaged offsets would crash the process
            for text in batch.column(text_field):
                yield Document(text.as_py() or "", disk_bytes / len(batch))


def read_arrow_stream(path, stream, text_field):
    with _readable(path, "Arrow") as arrow:
        table = arrow.ipc.open_stream(stream.bytes)
        _check_column(path, table.schema, text_field, arrow.types)
        for batch in table:
            batch.validate(full=True)
            for text in batch.column(text_field):
                yield Document(text.as_py() or "", stream.consumed())


@contextmanager
def _readable(path, kind):
    """Gives pyarrow; what it throws while it reads the file becomes a Problem of that file."""
    try:
        import pyarrow as arrow
        import pyarrow.ipc
    except ImportError as error:
        raise Problem(
            path,
            f"reading {kind} needs the Python package pyarrow",
            "Run tools/setup.sh, or pip install pyarrow, or convert the file to JSONL.",
        ) from error
    try:
        yield arrow
    except (arrow.ArrowException, OSError, UnicodeDecodeError, MemoryError) as error:
        if getattr(error, "errno", None) is not None:  # the disk failed, not the data
            raise
        raise Problem(
            path,
            f"is not a readable {kind} file ({(str(error).splitlines() or [type(error).__name__])[0]})",
            "Was the download cut short?",
        ) from error


def _check_column(path, schema, text_field, types):
    if text_field not in schema.names:
        raise Problem(
            path,
            f'has no column "{text_field}", only {some_names(schema.names)}',
            "Name the column with --text-field.",
        )
    if schema.names.count(text_field) > 1:
        raise Problem(path, f'has several columns "{text_field}"', "Rename all but one.")
    kind = schema.field(text_field).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)):
        raise Problem(
            path,
            f'the column "{text_field}" holds {kind}, not strings',
            "Name the column that holds the text with --text-field.",
        )
