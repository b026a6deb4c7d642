"""tools/corpus.py: the sources of pinned packages, the same everywhere."""

import json
from importlib import metadata

import pytest
from script_runner import assert_refused, run

PACKAGES = ("tqdm", "iniconfig")


@pytest.fixture
def pins(tmp_path):
    path = tmp_path / "pins.txt"
    lines = [f"{name}=={metadata.version(name)}  # pinned" for name in PACKAGES]
    path.write_text("# packages\n\n" + "\n".join(lines) + "\n")
    return path


def corpus(pins, out, *more):
    return run("corpus.py", "--requirements", pins, "--out", out, *more)


def test_documents_are_the_python_files_of_the_packages_in_order(pins, tmp_path):
    done = corpus(pins, tmp_path / "corpus.jsonl")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in open(tmp_path / "corpus.jsonl", encoding="utf-8")]
    files = {
        str(file): file
        for name in PACKAGES
        for file in metadata.files(name)
        if file.suffix == ".py"
    }
    assert {line["path"] for line in lines} == set(files)
    assert all(line["text"] == files[line["path"]].locate().read_bytes().decode() for line in lines)
    assert [line["path"].split("/")[0] for line in lines] == sorted(
        line["path"].split("/")[0] for line in lines
    )
    total = sum(len(line["text"].encode()) for line in lines)
    assert f"{len(lines):,} files of 2 packages, {total:,} bytes" in done.stdout


def test_the_order_of_the_pins_does_not_matter(pins, tmp_path):
    corpus(pins, tmp_path / "one.jsonl")
    pins.write_text("\n".join(reversed(pins.read_text().splitlines())))
    corpus(pins, tmp_path / "two.jsonl")
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()


def test_another_version_than_the_pinned_one_is_refused(pins, tmp_path):
    pins.write_text("tqdm==0.0.1\n")
    refused = corpus(pins, tmp_path / "corpus.jsonl")
    assert_refused(
        refused, 1, f"version {metadata.version('tqdm')} is installed", "0.0.1 is pinned"
    )
    assert not (tmp_path / "corpus.jsonl").exists()


def test_a_package_that_is_not_installed_is_named(pins, tmp_path):
    pins.write_text("no-such-package-here==1.0\n")
    assert_refused(
        corpus(pins, tmp_path / "corpus.jsonl"), 1, "no-such-package-here: is not installed"
    )


def test_a_line_that_is_not_a_pin_is_named(pins, tmp_path):
    pins.write_text("tqdm>=4\n")
    assert_refused(corpus(pins, tmp_path / "corpus.jsonl"), 1, "pins.txt:1", "tqdm>=4")
    pins.write_text("# nothing\n")
    assert_refused(corpus(pins, tmp_path / "corpus.jsonl"), 1, "names no package")
    assert_refused(
        corpus(tmp_path / "no.txt", tmp_path / "corpus.jsonl"), 2, "no.txt: does not exist"
    )


def test_an_existing_output_is_refused_unless_forced(pins, tmp_path):
    (tmp_path / "corpus.jsonl").write_text("mine")
    assert_refused(corpus(pins, tmp_path / "corpus.jsonl"), 2, "corpus.jsonl: exists")
    assert (tmp_path / "corpus.jsonl").read_text() == "mine"
    assert corpus(pins, tmp_path / "corpus.jsonl", "--force").returncode == 0
    assert_refused(corpus(pins, pins / "corpus.jsonl"), 2, "pins.txt: is not a folder", "--out")
