"""A document, and what the readers of all formats share."""

from typing import NamedTuple


class Document(NamedTuple):
    text: str  # None: the bytes are not UTF-8
    disk_bytes: float  # its share of the input files, for progress


def some_names(names):
    """The first eight names in quotes, and how many more there are."""
    names = [f'"{name}"' for name in names]
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return (", ".join(names[:8]) or "no field at all") + more
