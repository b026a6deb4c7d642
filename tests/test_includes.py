"""Includes run one way: framework <- models <- trainers <- tools, and in no circles."""

import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("framework", "models", "trainers", "tools")  # each may include itself and those before it
ROOM_DEPTH = 2  # framework/files is a room, framework/kernels/cpu a part of framework/kernels


def included(text):
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.MULTILINE)


def read_includes(root):
    """[(file, included file)] of all C++ sources and headers, as paths from the root."""
    files = [path for layer in LAYERS for path in sorted((root / layer).rglob("*")) if path.suffix in (".cpp", ".h")]
    return [(str(path.relative_to(root)), target) for path in files for target in included(path.read_text())]


def upward(includes):
    """The includes of a file that is in a later layer than its includer, or in none."""
    def level(name):
        top = name.split("/")[0]
        return LAYERS.index(top) if top in LAYERS else len(LAYERS)
    return [(source, target) for source, target in includes if level(target) > level(source)]


def room(name):
    return "/".join(name.split("/")[:-1][:ROOM_DEPTH])


def component(name):
    """A header and the source behind it are one."""
    return name.rsplit(".", 1)[0]


def circle(includes, unit):
    """One circle of units that include each other, or None."""
    graph = {}
    for source, target in includes:
        graph.setdefault(unit(source), set())
        if unit(source) != unit(target):
            graph[unit(source)].add(unit(target))
    try:
        TopologicalSorter(graph).prepare()
        return None
    except CycleError as error:
        return error.args[1]


@pytest.fixture(scope="module")
def includes():
    found = read_includes(ROOT)
    assert len(found) > 500
    return found


def test_no_include_runs_up(includes):
    assert upward(includes) == []


def test_the_rooms_of_framework_are_in_no_circle(includes):
    within = [pair for pair in includes if pair[0].startswith("framework/")]
    assert circle(within, room) is None


def test_no_files_include_each_other_in_a_circle(includes):
    assert circle(includes, component) is None


def test_what_breaks_the_rules_is_found(tmp_path):
    sources = {
        "framework/files/json.h": '#include "framework/text/human.h"\n#include <vector>\n',
        "framework/text/human.cpp": '#include "framework/text/human.h"\n  #include "framework/files/json.h"\n',
        "framework/text/human.h": "// nothing\n",
        "models/decoder.h": '#include "framework/files/json.h"\n#include "trainers/trainer.h"\n',
        "trainers/trainer.cpp": '#include "models/decoder.h"\n#include "tests/support/main.h"\n',
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    includes = read_includes(tmp_path)
    assert upward(includes) == [("models/decoder.h", "trainers/trainer.h"),
                                ("trainers/trainer.cpp", "tests/support/main.h")]
    assert set(circle(includes[:3], room)) == {"framework/files", "framework/text"}
    assert set(circle(includes[:3], component)) == {"framework/files/json", "framework/text/human"}
    assert circle(includes[:2], component) is None
