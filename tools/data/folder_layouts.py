"""Folders of Hugging Face's libraries: which of their files hold the documents.

- `datasets.save_to_disk` lists a data set's files in state.json and a dictionary's splits, a folder
  each, in dataset_dict.json.
- The `datasets` cache keeps results of map() and filter() as cache-*.arrow beside the data.
- A repository in the hub's cache (datasets--OWNER--NAME) has each file in `blobs` and, linked, in `snapshots/REVISION`.
"""

import json
from pathlib import Path

from script_support import Problem

COPY_AGAIN = "Copy or download the folder again."
HUB_REPOSITORIES = ("datasets--", "models--", "spaces--")
METADATA = {"dataset_info.json", "state.json", "dataset_dict.json"}


def main_snapshot(folder, names):
    """The folder of the `main` revision, or of the only one, in a hub repository; None elsewhere."""
    if not folder.resolve().name.startswith(HUB_REPOSITORIES) or "snapshots" not in names:
        return None
    try:
        revision = Path(folder, "refs", "main").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
        revision = ""
    snapshots = [path for path in Path(folder, "snapshots").iterdir() if path.is_dir()]
    for snapshot in snapshots:
        if snapshot.name == revision or len(snapshots) == 1:
            return snapshot
    raise Problem(
        folder,
        f"has {len(snapshots)} snapshots and none of them is {revision or 'named in refs/main'}",
        "Give the folder of one snapshot.",
    )


def is_metadata(name, names):
    """True for what describes a data set in a folder that `datasets` wrote."""
    return name in METADATA and bool({"dataset_info.json", "dataset_dict.json"} & set(names))


def is_data_file(name, names, listed):
    """False for files in a folder of `datasets` that are not its data. listed: what listed_files gave."""
    if listed is not None:
        return name in listed
    return not ("dataset_info.json" in names and name.startswith("cache-"))


def listed_files(folder, names):
    """The data files that a folder of save_to_disk lists; None for other folders.

    Throws Problem where a listed file or split is missing.
    """
    if "dataset_dict.json" in names:
        _check_all_there(folder, "dataset_dict.json", _field(folder, "dataset_dict.json", "splits"), names)
    if not {"state.json", "dataset_info.json"} <= set(names):
        return None
    if _field(folder, "state.json", "_indices_files", []):
        raise Problem(
            folder,
            "selects rows by an index, which is not read",
            "Save it again after flatten_indices().",
        )
    data_files = _field(folder, "state.json", "_data_files")
    listed = [file.get("filename") if isinstance(file, dict) else file for file in data_files]
    _check_all_there(folder, "state.json", listed, names)
    return listed


def _field(folder, file_name, field, default=None):
    """The list that a metadata file has under a name."""
    path = Path(folder, file_name)
    try:
        value = json.loads(path.read_text(encoding="utf-8")).get(field, default)
    except (ValueError, AttributeError, RecursionError) as error:
        raise Problem(path, f"is not a JSON object ({error})", COPY_AGAIN) from error
    if default is not None and not value:
        return default
    if not isinstance(value, list):
        raise Problem(path, f'has no list "{field}"', COPY_AGAIN)
    return value


def _check_all_there(folder, file_name, wanted, names):
    missing = [str(name) for name in wanted if name not in names]
    if missing:
        raise Problem(
            Path(folder, file_name), f"names {missing[0]}, which is missing in the folder", COPY_AGAIN
        )
