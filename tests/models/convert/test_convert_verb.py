"""What the verb `convert` reports, and what it refuses."""

import json

import numpy as np
import pytest
from hf_models import ONE_THREAD
from small_models import (
    CONTEXT,
    HEAD_DIM,
    LEAST_TOKENS,
    VOCAB_SIZE,
    convert,
    convert_json,
    random_windows,
    small_llama,
    weights_of,
    write_text,
)
from tiny_runs import assert_refused, everything_in, regroup, write_tokens

FIELDS = {"from", "to", "method", "grouping", "refit", "calibration_tokens", "n_kv_head", "parameters",
          "kv_bytes_per_token", "layers", "seconds", "peak_rss_bytes"}


def test_the_account_of_a_conversion_without_text(shared, tmp_path):
    report = convert_json(shared / "mha", tmp_path / "out", "--kv-heads", "2,1")
    assert set(report) == FIELDS
    assert (report["from"], report["to"]) == (str(shared / "mha"), str(tmp_path / "out"))
    assert (report["method"], report["grouping"], report["refit"]) == ("mean", "neighbours", "none")
    assert report["calibration_tokens"] == 0
    assert report["n_kv_head"] == {"before": [4, 4], "after": [2, 1]}
    assert report["kv_bytes_per_token"] == {"before": 2 * 8 * HEAD_DIM * 4, "after": 2 * 3 * HEAD_DIM * 4}
    for when, folder in (("before", shared / "mha"), ("after", tmp_path / "out")):
        assert report["parameters"][when] == sum(values.size for values in weights_of(folder).values())
    assert report["layers"] == [{"groups": [[0, 1], [2, 3]]}, {"groups": [[0, 1, 2, 3]]}]
    assert report["seconds"] > 0 and report["peak_rss_bytes"] > 1e6


@pytest.mark.parametrize("refit", ["none", "output", "block"])
def test_the_account_of_a_verified_refit(shared, tmp_path, refit):
    words = ("--kv-heads", "2", "--method", "align", "--calibration", shared / "text.h5", "--refit", refit)
    report = convert_json(shared / "mha", tmp_path / "out", *words, "--verify")
    assert set(report) == FIELDS | {"held_out"}
    assert report["refit"] == refit
    assert set(report["held_out"]) == {"loss", "kl", "agreement"}
    assert set(report["held_out"]["loss"]) == {"before", "after"}
    for layer in report["layers"]:
        assert set(layer) == {"groups", "score_error", "output_error", "stream_error", "refit_strength"}
        pooled, mended = layer["stream_error"]["pooled"], layer["stream_error"]["refit"]
        assert 0 < mended < 0.9 * pooled if refit != "none" else mended == pooled > 0
        assert layer["refit_strength"] > 0 if refit != "none" else layer["refit_strength"] == 0
    if refit != "none":
        unmended = convert_json(shared / "mha", tmp_path / "unmended", *words[:-1], "none", "--verify")
        assert report["held_out"]["kl"] < unmended["held_out"]["kl"]


@pytest.mark.parametrize("refit", ["output", "block"])
def test_a_conversion_is_deterministic(shared, tmp_path, refit):
    words = ("--kv-budget", "0.75", "--method", "pca", "--calibration", shared / "text.h5", "--grouping", "similar",
             "--refit", refit, "--verify", "--force")
    reports = []
    for _ in range(2):
        report = convert_json(shared / "mha", tmp_path / "out", *words)
        del report["seconds"], report["peak_rss_bytes"]
        reports.append((report, everything_in(tmp_path / "out")))
    assert reports[0] == reports[1]


@pytest.mark.parametrize("words, is_noted", [
    (("--method", "mean"), False), (("--method", "first"), False), (("--method", "random"), False),
    (("--method", "align"), True), (("--method", "pca"), True),
    (("--method", "pca", "--calibration", "text.h5"), False), (("--method", "pca", "--quiet"), False)],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_methods_that_would_gain_from_text_say_so_once(shared, tmp_path, words, is_noted):
    result = convert(shared / "mha", tmp_path / "out", "--kv-heads", "2", *words, cwd=shared)
    notes = [line for line in result.stderr.splitlines() if "calibration" in line or "weights alone" in line]
    assert len(notes) == is_noted
    for note in notes:
        assert words[1] in note and "--calibration" in note and "weights alone" in note
    assert len(result.stdout.splitlines()) == 1


KEEP_2 = ("--kv-heads", "2")
REFUSED = {  # words, exit code, parts of the message
    "refit without text": ((*KEEP_2, "--refit", "output"), 2, ("refit", "--calibration")),
    "verify without text": ((*KEEP_2, "--verify"), 2, ("verify", "--calibration")),
    "heads and budget": ((*KEEP_2, "--kv-budget", "0.5"), 2, ("kv_budget", "exactly one")),
    "neither heads nor budget": ((), 2, ("kv_budget", "exactly one")),
    "a budget below one head a layer": (("--kv-budget", "0.2"), 2, ("0.2", "2 layers", "0.25")),
    "a budget above all": (("--kv-budget", "1.5"), 2, ("--kv-budget=1.5", "0 to 1")),
    "heads that do not divide": (("--kv-heads", "3"), 2, ("3", "4")),
    "an unknown grouping": ((*KEEP_2, "--grouping", "alike"), 2, ("alike", "similar")),
    "too few tokens asked for": ((*KEEP_2, "--calibration", "text.h5", "--calibration-tokens", "127"), 2,
                                 ("127", LEAST_TOKENS)),
    "more tokens asked for than there are": (
        (*KEEP_2, "--calibration", "text.h5", "--calibration-tokens", "1000000"), 1, ("text.h5", "1000000", "tokens")),
    "text of less than two windows": ((*KEEP_2, "--calibration", "short.h5"), 2, ("short.h5", LEAST_TOKENS)),
    "text of less than a window": ((*KEEP_2, "--calibration", "tiny.h5"), 2, ("tiny.h5", LEAST_TOKENS)),
    "text of another vocabulary": ((*KEEP_2, "--calibration", "wide.h5"), 1, ("wide.h5", "200", VOCAB_SIZE)),
    "ids beyond the vocabulary": ((*KEEP_2, "--calibration", "beyond.h5"), 1, ("beyond.h5", VOCAB_SIZE)),
    "text that is not there": ((*KEEP_2, "--calibration", "absent.h5"), 1, ("absent.h5",)),
    "text that is not a token file": ((*KEEP_2, "--calibration", "notes.txt"), 1, ("notes.txt", "HDF5")),
    "text without a training split": ((*KEEP_2, "--calibration", "val.h5"), 1, ("val.h5", "train")),
}


@pytest.fixture(scope="module")
def texts(shared, tmp_path_factory):
    """The folder of the token files that REFUSED names."""
    folder = tmp_path_factory.mktemp("texts")
    tokens = random_windows(40).flatten()
    write_text(folder / "text.h5", tokens)
    write_text(folder / "short.h5", tokens[: 2 * CONTEXT])
    write_text(folder / "tiny.h5", tokens[: CONTEXT // 2])
    write_text(folder / "beyond.h5", np.append(tokens, VOCAB_SIZE))
    write_text(folder / "val.h5", tokens, split="val")
    write_tokens(folder / "wide.h5", vocab_size=200)
    (folder / "notes.txt").write_text("no tokens")
    return folder


def assert_refused_without_a_trace(folder, source, words, exit_code, parts, cwd):
    """One short error block, and an output folder as empty as before."""
    folder.mkdir()
    result = regroup("convert", "--from", source, "--to", folder / "out", "--json", folder / "report.json", *words,
                     "--quiet", cwd=cwd, env=ONE_THREAD)
    assert_refused(result, exit_code, *parts)
    assert result.stderr.startswith("regroup: error: ") and len(result.stderr.splitlines()) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", ["mean", "pca"])
def test_a_request_that_cannot_be_met_is_refused_without_a_trace(shared, texts, tmp_path, method, name):
    words, exit_code, parts = REFUSED[name]
    assert_refused_without_a_trace(tmp_path / "outputs", shared / "mha", (*words, "--method", method), exit_code, parts,
                                   texts)


def test_activations_that_overflow_leave_no_trace(shared, tmp_path):
    model = small_llama()
    for name in ("up_proj", "down_proj"):
        getattr(model.model.layers[0].mlp, name).weight.data.fill_(1e30)
    model.save_pretrained(tmp_path / "original")
    words = (*KEEP_2, "--method", "pca", "--calibration", shared / "text.h5")
    assert_refused_without_a_trace(tmp_path / "outputs", tmp_path / "original", words, 1, ("layer 0", "not finite"),
                                   tmp_path)


@pytest.mark.parametrize("method", ["mean", "align", "pca"])
def test_similar_heads_are_found_on_text_with_fewer_distinct_tokens_than_dimensions(shared, tmp_path, method):
    write_text(tmp_path / "text.h5", np.arange(20 * CONTEXT) % 3)
    report = convert_json(shared / "alike", tmp_path / "out", "--kv-heads", "2", "--method", method,
                          "--grouping", "similar", "--calibration", tmp_path / "text.h5")
    assert sorted(sum(report["layers"][0]["groups"], [])) == [0, 1, 2, 3]


def test_what_an_original_of_unknown_cost_became_has_no_share_of_it(shared, tmp_path):
    words = ("--method", "pca", "--calibration", shared / "text.h5")
    convert(shared / "mha", tmp_path / "once", "--kv-heads", "2", *words)
    convert(tmp_path / "once", tmp_path / "twice", "--kv-heads", "1", *words)
    write_text(tmp_path / "val.h5", random_windows(2).flatten(), split="val")
    found = regroup("eval", "--model", tmp_path / "once", "--model", tmp_path / "twice", "--data",
                    tmp_path / "val.h5", "--json", tmp_path / "found.json", env=ONE_THREAD)
    assert found.returncode == 0, found.stderr
    models = json.loads((tmp_path / "found.json").read_text())["models"]
    assert [model["compute_fraction"] for model in models] == [None, None]
