"""tools/ngram_baseline.py: its two losses against plain loops, and what it refuses."""

import json
import math
from collections import Counter

import h5py
import ngram_baseline
import numpy as np
import pytest
from script_runner import assert_refused, run

VOCAB_SIZE = 11


def write_split(file, name, documents):
    group = file.create_group(name)
    group["tokens"] = np.array([token for document in documents for token in document], np.uint16)
    group["offsets"] = np.cumsum([0] + [len(document) for document in documents], dtype=np.uint64)


@pytest.fixture
def documents():
    """Train and val documents of lengths 1 to 40 with a skewed distribution, each ending with 0."""
    random = np.random.default_rng(3)
    lengths = {"train": [39, 1, 17, 25, 8], "val": [12, 1, 30]}

    def draw(length):
        return [*(random.integers(1, VOCAB_SIZE, length) // random.integers(1, 3, length)), 0]

    return {split: [draw(length) for length in many] for split, many in lengths.items()}


@pytest.fixture
def data(tmp_path, documents):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.attrs["vocab_size"] = VOCAB_SIZE
        for split, many in documents.items():
            write_split(file, split, many)
    return tmp_path / "data.h5"


def pairs(documents):
    return [pair for document in documents for pair in zip(document, document[1:])]


def plain_unigram(train, val):
    seen = Counter(after for _, after in pairs(train))
    n = sum(seen.values())
    return -np.mean([math.log((seen[w] + 1) / (n + VOCAB_SIZE)) for _, w in pairs(val)])


def plain_bigram(train, val):
    counts = Counter(pairs(train))
    once, twice = (sum(count == times for count in counts.values()) for times in (1, 2))
    discount = once / (once + 2 * twice)

    def probability(v, w):
        continuation = (sum(after == w for _, after in counts) + 1) / (len(counts) + VOCAB_SIZE)
        total = sum(count for (before, _), count in counts.items() if before == v)
        if total == 0:
            return continuation
        followers = sum(before == v for before, _ in counts)
        return (max(counts[v, w] - discount, 0) + discount * followers * continuation) / total

    assert math.isclose(sum(probability(3, w) for w in range(VOCAB_SIZE)), 1)
    return -np.mean([math.log(probability(v, w)) for v, w in pairs(val)])


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_losses_equal_plain_loops_whatever_the_chunk(data, documents, monkeypatch, chunk):
    monkeypatch.setattr(ngram_baseline, "CHUNK_TOKENS", chunk)
    with h5py.File(data) as file:
        result = ngram_baseline.baselines(file)
    assert result["tokens"] == 12 + 1 + 30  # every token but each document's first
    assert result["unigram"]["loss"] == pytest.approx(plain_unigram(**documents), rel=1e-12)
    assert result["bigram"]["loss"] == pytest.approx(plain_bigram(**documents), rel=1e-12)


def test_json_holds_what_is_printed(data, tmp_path):
    done = run("ngram_baseline.py", "--data", data, "--json", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert done.returncode == 0, done.stderr
    for name in ("unigram", "bigram"):
        assert f"{written[name]['loss']:.4f}" in done.stdout
        assert written[name]["perplexity"] == pytest.approx(math.exp(written[name]["loss"]))


def test_a_file_that_is_not_token_data_is_refused(tmp_path):
    assert_refused(
        run("ngram_baseline.py", "--data", tmp_path / "no.h5"), 2, "no.h5: does not exist"
    )
    (tmp_path / "text.h5").write_text("text")
    assert_refused(
        run("ngram_baseline.py", "--data", tmp_path / "text.h5"), 1, "text.h5: is not token data"
    )
    h5py.File(tmp_path / "empty.h5", "w").close()
    assert_refused(
        run("ngram_baseline.py", "--data", tmp_path / "empty.h5"), 1, "empty.h5: is not token data"
    )


def test_a_split_without_neighbours_is_refused(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.attrs["vocab_size"] = VOCAB_SIZE
        write_split(file, "train", [[1, 2, 0]])
        write_split(file, "val", [[0], [0]])
    assert_refused(
        run("ngram_baseline.py", "--data", tmp_path / "data.h5"), 1, "two tokens or more"
    )


def test_a_json_file_that_cannot_be_written_is_refused_before_the_work(data, tmp_path):
    for json_file, words in (
        (tmp_path, "is a folder. Name a file with --json."),
        (data / "out.json", "data.h5: is not a folder. Name another place with --json."),
        (data, "data.h5: is read by this job, which would replace it. Name another file with --json."),
    ):
        assert_refused(run("ngram_baseline.py", "--data", data, "--json", json_file), 2, words)
    assert h5py.is_hdf5(data)
