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
