#!/usr/bin/env python3
"""Regroup beside transformers on the same random Llama, alternating, several rounds.

Prints medians and ratios for training tokens/s and peak memory (eager and compiled peer) and for
decoding at batch 1 and 16. Each measurement is a process of its own, so that peak memory is that of
one program.

    tools/bench_peers.py --size 27m --dtype bf16 --rounds 3
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from script_support import Problem, run_script, write_text

SIZES = {
    "5m": dict(n_layer=4, d_model=256, n_head=8, d_ff=688, vocab_size=4096, seq_len=256, batch=16),
    "27m": dict(n_layer=6, d_model=512, n_head=8, d_ff=1376, vocab_size=8192, seq_len=512, batch=8),
}
PROMPT, NEW = 512, 64
BATCHES = (1, 16)


def parse_arguments(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=Path("build/release/regroup"))
    parser.add_argument("--size", choices=SIZES, default="5m")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--kv-heads", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=20, help="of one training measurement")
    parser.add_argument("--only", choices=("train", "decode"), help="one of the two benchmarks")
    parser.add_argument("--json", type=Path, help="writes every measurement")
    parser.add_argument("--peer", choices=("train", "decode"), help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    return parser.parse_args(words)


# The peer: runs in a process of its own and prints one JSON line.


def peer_model(arguments):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    shape = SIZES[arguments.size]
    config = LlamaConfig(
        hidden_size=shape["d_model"],
        intermediate_size=shape["d_ff"],
        num_hidden_layers=shape["n_layer"],
        num_attention_heads=shape["n_head"],
        num_key_value_heads=arguments.kv_heads,
        vocab_size=shape["vocab_size"],
        max_position_embeddings=2048,
    )
    return torch, LlamaForCausalLM(config)


def peer_train(arguments):
    torch, model = peer_model(arguments)
    shape = SIZES[arguments.size]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    forward = torch.compile(model) if arguments.compiled else model
    tokens = torch.randint(shape["vocab_size"], (shape["batch"], shape["seq_len"]))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.dtype == "bf16"):
            loss = forward(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()  # compiles
    seconds = []
    end = time.perf_counter() + arguments.seconds
    while time.perf_counter() < end or len(seconds) < 3:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {"tokens_per_s": shape["batch"] * shape["seq_len"] / statistics.median(seconds)}


def peer_decode(arguments):
    torch, model = peer_model(arguments)
    model = model.to(torch.bfloat16 if arguments.dtype == "bf16" else torch.float32).eval()
    prompt = torch.randint(SIZES[arguments.size]["vocab_size"], (arguments.batch, PROMPT))
    options = dict(attention_mask=torch.ones_like(prompt), do_sample=False, pad_token_id=0, eos_token_id=None)

    def timed(n_new):
        start = time.perf_counter()
        model.generate(prompt, max_new_tokens=n_new, min_new_tokens=n_new, **options)
        return time.perf_counter() - start

    with torch.no_grad():
        timed(2)
        whole = statistics.median(timed(NEW) for _ in range(3))
        first = statistics.median(timed(1) for _ in range(3))
    return {"decode_tokens_per_s": arguments.batch * (NEW - 1) / (whole - first)}


def run_peer(arguments):
    result = peer_train(arguments) if arguments.peer == "train" else peer_decode(arguments)
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


# The comparison.


def measured(command):
    """The JSON that a command prints on its last line of stdout."""
    return json.loads(output_of(command).strip().splitlines()[-1])


def output_of(command):
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Problem(" ".join(words), "failed", done.stderr.strip()[-2000:])
    return done.stdout


def peer_command(arguments, benchmark, *more):
    same = ["--size", arguments.size, "--dtype", arguments.dtype, "--kv-heads", arguments.kv_heads]
    same += ["--threads", arguments.threads, "--seconds", arguments.seconds]
    return [sys.executable, __file__, "--peer", benchmark, *map(str, same), *map(str, more)]


def our_result(arguments, benchmark, *more):
    shape = SIZES[arguments.size]
    keys = [
        f"{key} = {shape[key]}" for key in ("n_layer", "d_model", "n_head", "d_ff", "vocab_size")
    ]
    keys += [f"n_kv_head = {arguments.kv_heads}", "max_seq_len = 2048"]
    with tempfile.TemporaryDirectory() as folder:
        result, config = Path(folder) / "bench.json", Path(folder) / "bench.ini"
        config.write_text("[model]\n" + "\n".join(keys) + "\n")
        command = [arguments.binary, "bench", benchmark, "--config", config]
        command += ["--dtype", arguments.dtype, "--threads", arguments.threads]
        output_of([*command, "--json", result, "--quiet", *more])
        return json.loads(result.read_text())


def train_contestants(arguments):
    shape = SIZES[arguments.size]
    ours = ["--batch", shape["batch"], "--seq-len", shape["seq_len"], "--seconds", arguments.seconds]
    return {
        "regroup": lambda: our_result(arguments, "train", *ours),
        "transformers eager": lambda: measured(peer_command(arguments, "train")),
        "transformers compiled": lambda: measured(peer_command(arguments, "train", "--compiled")),
    }


def decode_contestants(arguments, batch):
    ours = ["--batch", batch, "--prompt", PROMPT, "--new", NEW]
    return {
        "regroup": lambda: our_result(arguments, "decode", *ours),
        "transformers generate": lambda: measured(peer_command(arguments, "decode", "--batch", batch)),
    }


def compare(title, contestants, key, rounds):
    results = {name: [] for name in contestants}
    for number in range(rounds):  # alternating, so that a slow minute of the machine hits all
        for name, run in contestants.items():
            print(f"{title}: round {number + 1} of {rounds}, {name}", file=sys.stderr)
            results[name].append(run())
    medians = {
        name: {field: statistics.median(r[field] for r in runs) for field in (key, "peak_rss_bytes")}
        for name, runs in results.items()
    }
    ours = medians["regroup"]
    print(f"\n{title} (medians of {rounds} rounds; ratio: Regroup / other)")
    for name, median in medians.items():
        print(
            f"  {name:24}{median[key]:10.1f} tokens/s  x{ours[key] / median[key]:6.2f}"
            f"{median['peak_rss_bytes'] / 2**20:10.0f} MiB  x{ours['peak_rss_bytes'] / median['peak_rss_bytes']:5.2f}",
            flush=True,
        )
    return results


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def main(words):
    arguments = parse_arguments(words)
    if arguments.peer:
        return run_peer(arguments)
    print(f"{processor()}, {arguments.threads} threads, {arguments.size}, {arguments.dtype}, {arguments.kv_heads} K/V heads")
    everything = {}
    if arguments.only != "decode":
        everything["train"] = compare("training", train_contestants(arguments), "tokens_per_s", arguments.rounds)
    if arguments.only != "train":
        for batch in BATCHES:
            title = f"decoding, batch {batch}, prompt {PROMPT}, {NEW} new"
            contestants = decode_contestants(arguments, batch)
            everything[f"decode {batch}"] = compare(title, contestants, "decode_tokens_per_s", arguments.rounds)
    if arguments.json:
        write_text(arguments.json, json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
