"""The benchmarks run to the end and write what they measured; the speeds are not tested."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.support import peer_config
from hf_families import FAMILIES
from script_runner import assert_refused, run
from tiny_runs import assert_done, regroup

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def measurements(script, folder, *words, shared_options=("--size", "5m", "--seconds", 1)):
    out = folder / "measured.json"
    command = [sys.executable, TOOLS / script, "--binary", os.environ["REGROUP_BINARY"], "--rounds", 1, "--json", out,
               *shared_options, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def n_ratios(text):
    return len(re.findall(r"x\d+\.\d\d tokens/s, x\d+\.\d\d memory", text))


def test_processes_beside_ddp_and_fsdp2(tmp_path):
    results, text = measurements("bench_processes.py", tmp_path)
    assert list(results) == ["regroup replicate", "DDP", "regroup shard", "FSDP2", "regroup one process"]
    for rounds in results.values():
        assert len(rounds) == 1 and rounds[0]["tokens_per_s"] > 0
    memory = {name: rounds[0]["peak_rss_bytes"] for name, rounds in results.items()}
    assert memory["regroup shard"] < memory["regroup replicate"] < memory["regroup one process"]
    assert n_ratios(text) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_the_peers_shape(family):
    config = peer_config("5m", kv_heads=8, family=family)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (256, 4, 8)
    assert config.vocab_size == 4096


def test_decoding_beside_generate(tmp_path):
    results, text = measurements("bench_peers.py", tmp_path, "--only", "decode")
    assert list(results) == ["decode 1", "decode 16"]
    for contestants in results.values():
        assert list(contestants) == ["regroup", "transformers generate"]
        assert all(rounds[0]["decode_tokens_per_s"] > 0 for rounds in contestants.values())
    assert n_ratios(text) == 2


def test_scoring_documents_beside_transformers(tmp_path):
    results, text = measurements("bench_peers.py", tmp_path, "--only", "eval")
    assert list(results) == ["eval"]
    assert list(results["eval"]) == ["regroup", "transformers eager"]
    assert all(rounds[0]["tokens_per_s"] > 0 for rounds in results["eval"].values())
    assert n_ratios(text) == 1


def swept(folder, *words):
    """The JSON and the table of a sweep over a model of 4 query heads."""
    (folder / "model.ini").write_text("[model]\nn_layer = 2\nd_model = 32\nn_head = 4\nn_kv_head = 4\nd_ff = 64\n"
                                      "vocab_size = 64\nmax_seq_len = 640\n")
    out = folder / "sweep.json"
    done = regroup("bench", "decode", "--config", "model.ini", "--sweep", "--threads", 1, "--json", out, *words,
                   cwd=folder)
    return json.loads(assert_done(done) and out.read_text()), done.stdout


def test_a_sweep_compares_k_v_heads_with_what_their_bytes_predict(tmp_path):
    sweep, table = swept(tmp_path)
    points = sweep["points"]
    assert [(point["n_kv_head"], point["batch"], point["prompt"]) for point in points] == [
        (heads, batch, prompt) for heads in (4, 2, 1) for batch in (1, 16) for prompt in (512, 623)]
    assert all(point["gain"] == point["predicted_gain"] == 1 for point in points[:4])
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [f"| {point['n_kv_head']}" for point in points]

    def bytes_of_step(point, heads):
        matrices = 2 * (2 * 32 * 32 + 2 * 32 * 8 * heads + 3 * 32 * 64) + 64 * 32
        return 4 * (matrices + point["batch"] * (point["prompt"] + 8) * 2 * 2 * heads * 8)

    for point in points:
        predicted = bytes_of_step(point, 4) / bytes_of_step(point, point["n_kv_head"])
        assert point["predicted_gain"] == pytest.approx(predicted)
        baseline = next(other for other in points if (other["batch"], other["prompt"]) == (point["batch"], point["prompt"]))
        assert point["gain"] == pytest.approx(point["decode_tokens_per_s"] / baseline["decode_tokens_per_s"])


def test_a_sweep_is_drawn(tmp_path):
    sweep, _ = swept(tmp_path, "--batch", 2, "--prompt", 8, "--new", 3)
    assert [point["n_kv_head"] for point in sweep["points"]] == [4, 2, 1]
    done = run("draw_sweep.py", tmp_path / "sweep.json", "--out", tmp_path / "sweep.png")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", ["{}", "[]", "no json", '{"points": []}', '{"points": [{"batch": 1}]}'])
def test_what_is_no_sweep_is_not_drawn(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    assert_refused(run("draw_sweep.py", tmp_path / "x.json", "--out", tmp_path / "x.png"), 1, "x.json", "is no sweep")


def test_a_sweep_refuses_what_contradicts_it(tmp_path):
    (tmp_path / "model.ini").write_text("[model]\nvocab_size = 64\nmax_seq_len = 64\n[data]\nseq_len = 32\n")
    for words, part in ((("--kv-heads", 1), "--kv-heads"), (("--prompt", 60), "64")):
        done = regroup("bench", "decode", "--config", "model.ini", "--sweep", *words, cwd=tmp_path)
        assert_refused(done, 2, part)


def test_a_busy_machine_beside_an_idle_one(tmp_path):
    results, text = measurements("bench_busy.py", tmp_path)
    assert list(results) == ["train", "decode"]
    for rounds in results.values():
        assert list(rounds[0]) == ["alone", "beside busy loops", "two jobs, each"]
        assert all(speed > 0 for speed in rounds[0].values())
    assert len(re.findall(r"tokens/s   \d\.\d\d of alone", text)) == 6


@pytest.mark.parametrize("shard_gigabytes", [0.3, 2])
def test_the_streaming_verbs_hold_two_tensors_of_a_checkpoint(tmp_path, shard_gigabytes):
    found, text = measurements("bench_streaming.py", tmp_path, "--gigabytes", 0.8, "--d-model", 1024, "--folder",
                               tmp_path, "--shard-gigabytes", shard_gigabytes, shared_options=())
    assert found["bytes"] > 0.8e9
    for name, runs in found["runs"].items():
        assert runs[0]["peak_rss_bytes"] <= 2 * found["largest_tensor_bytes"] + 300e6, name
        assert name in text


@pytest.mark.parametrize("script", ["bench_busy.py", "bench_peers.py", "bench_processes.py", "bench_streaming.py"])
def test_a_json_file_that_cannot_be_written_is_refused_before_the_measurements(tmp_path, script):
    refused = run(script, "--json", tmp_path, "--binary", tmp_path / "none")
    assert_refused(refused, 2, f"{tmp_path}: is a folder. Name a file with --json.")
