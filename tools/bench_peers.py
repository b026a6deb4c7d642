#!/usr/bin/env python3
"""Regroup beside transformers, and litgpt where it is given, on the same random model, alternating, several rounds.

Prints medians and ratios for training tokens/s and peak memory (eager and compiled peer), for
decoding at batch 1 and 16, and for scoring documents (eval). Each measurement has a separate
process, so that its peak memory is that of one program.

    tools/bench_peers.py --size 27m --dtype bf16
    tools/bench_peers.py --family gpt_neox
    tools/bench_peers.py --litgpt LITGPT_VENV/bin/python

litgpt needs an environment of its own (pip install litgpt): it does not go with this version of transformers.
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
from functools import partial
from pathlib import Path

from benchmarks import evaluation
from benchmarks.support import SIZES, check_json, compare, last_json, machine, parser_of, peer_model
from script_support import Problem, run_script, write_text

PROMPT, NEW = 512, 64
BATCHES = (1, 16)


def parse_arguments(words):
    parser = parser_of(__doc__, size="5m")
    parser.add_argument("--family", default="llama", help="model_type of transformers (default llama)")
    parser.add_argument("--kv-heads", type=int, help="where the family's class has a field for them (default MHA)")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--litgpt", type=Path, metavar="PYTHON", help="a Python with litgpt, which trains beside")
    parser.add_argument("--only", choices=("train", "decode", "eval"), help="one of the benchmarks")
    parser.add_argument("--peer", choices=("train", "decode", "eval", "save"), help=argparse.SUPPRESS)
    parser.add_argument("--library", choices=TRAINED, default="transformers", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--to", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--text", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    arguments.kv_heads = arguments.kv_heads or SIZES[arguments.size]["n_head"]
    return arguments


# The peer: runs in a separate process and prints one JSON line.


def model_of(arguments):
    return peer_model(arguments.size, arguments.kv_heads, arguments.threads, arguments.family)


def peer_save(arguments):
    """Regroup measures the model that its peers make."""
    _, model = model_of(arguments)
    model.save_pretrained(arguments.to)
    return {}


def transformers_loss(arguments):
    torch, model = model_of(arguments)
    forward = torch.compile(model) if arguments.compiled else model
    return torch, model, lambda tokens: forward(input_ids=tokens, labels=tokens).loss


def litgpt_loss(arguments):
    import torch
    from litgpt import GPT, Config
    from litgpt.utils import chunked_cross_entropy

    torch.set_num_threads(arguments.threads)
    shape = SIZES[arguments.size]
    model = GPT(Config(
        n_layer=shape["n_layer"], n_embd=shape["d_model"], n_head=shape["n_head"], n_query_groups=arguments.kv_heads,
        intermediate_size=shape["d_ff"], padded_vocab_size=shape["vocab_size"], block_size=shape["seq_len"], bias=False,
        rotary_percentage=1.0, parallel_residual=False, norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP"))
    forward = torch.compile(model) if arguments.compiled else model
    return torch, model, lambda tokens: chunked_cross_entropy(forward(tokens)[:, :-1], tokens[:, 1:], chunk_size=0)


TRAINED = {"transformers": transformers_loss, "litgpt": litgpt_loss}


def peer_train(arguments):
    torch, model, loss_of = TRAINED[arguments.library](arguments)
    shape = SIZES[arguments.size]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(shape["vocab_size"], (shape["batch"], shape["seq_len"]))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.dtype == "bf16"):
            loss = loss_of(tokens)
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


def inference_model(arguments):
    torch, model = model_of(arguments)
    return torch, model.to(torch.bfloat16 if arguments.dtype == "bf16" else torch.float32).eval()


def peer_eval(arguments):
    torch, model = inference_model(arguments)
    start = time.perf_counter()
    evaluation.score(torch, model, arguments.text)
    return {"tokens_per_s": evaluation.n_predicted(arguments.text) / (time.perf_counter() - start)}


def peer_decode(arguments):
    torch, model = inference_model(arguments)
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
    peers = {"train": peer_train, "decode": peer_decode, "eval": peer_eval, "save": peer_save}
    result = peers[arguments.peer](arguments)
    result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(result))


# The comparison.


def measured(command):
    """The JSON that a command prints on its last line of stdout."""
    return last_json(output_of(command))


def output_of(command):
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise Problem(" ".join(words), "failed", done.stderr.strip()[-2000:])
    return done.stdout


def peer_command(arguments, benchmark, *more, python=sys.executable):
    same = ["--family", arguments.family, "--size", arguments.size, "--dtype", arguments.dtype]
    same += ["--kv-heads", arguments.kv_heads, "--threads", arguments.threads, "--seconds", arguments.seconds]
    return [python, __file__, "--peer", benchmark, *map(str, same), *map(str, more)]


def our_result(arguments, benchmark, model, *more):
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "bench.json"
        command = [arguments.binary, "bench", benchmark, "--model", model]
        command += ["--dtype", arguments.dtype, "--threads", arguments.threads]
        output_of([*command, "--json", result, "--quiet", *more])
        return json.loads(result.read_text())


def train_contestants(arguments, model):
    shape = SIZES[arguments.size]
    ours = ["--batch", shape["batch"], "--seq-len", shape["seq_len"], "--seconds", arguments.seconds]
    contestants = {
        "regroup": lambda: our_result(arguments, "train", model, *ours),
        "transformers eager": lambda: measured(peer_command(arguments, "train")),
        "transformers compiled": lambda: measured(peer_command(arguments, "train", "--compiled")),
    }
    if arguments.litgpt:
        litgpt = partial(peer_command, arguments, "train", "--library", "litgpt", python=arguments.litgpt)
        contestants["litgpt eager"] = lambda: measured(litgpt())
        contestants["litgpt compiled"] = lambda: measured(litgpt("--compiled"))
    return contestants


def decode_contestants(arguments, model, batch):
    ours = ["--batch", batch, "--prompt", PROMPT, "--new", NEW]
    return {
        "regroup": lambda: our_result(arguments, "decode", model, *ours),
        "transformers generate": lambda: measured(peer_command(arguments, "decode", "--batch", batch)),
    }


def our_eval(arguments, model, text, shorter):
    """From the times of two texts, so that starting and reading the model do not count."""
    def seconds_of(data):
        command = [arguments.binary, "eval", "--model", model, "--data", data, "--dtype", arguments.dtype, "--quiet",
                   "--threads", arguments.threads]
        start = time.perf_counter()
        process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise Problem("regroup eval", "failed", "See above.")
        return time.perf_counter() - start, usage.ru_maxrss * 1024

    (seconds, peak), (of_shorter, _) = seconds_of(text), seconds_of(shorter)
    tokens = evaluation.n_predicted(text) - evaluation.n_predicted(shorter)
    return {"tokens_per_s": tokens / (seconds - of_shorter), "peak_rss_bytes": peak}


def eval_contestants(arguments, model, folder):
    text, shorter = Path(folder) / "text.h5", Path(folder) / "shorter.h5"
    evaluation.write_text(text, arguments.size, arguments.seconds)
    evaluation.write_text(shorter, arguments.size, arguments.seconds / 8)
    return {
        "regroup": lambda: our_eval(arguments, model, text, shorter),
        "transformers eager": lambda: measured(peer_command(arguments, "eval", "--text", text)),
    }


def compare_all(arguments, model):
    everything = {}
    if arguments.only in (None, "train"):
        everything["train"] = compare("training", train_contestants(arguments, model), arguments.rounds)
    if arguments.only in (None, "eval"):
        with tempfile.TemporaryDirectory() as folder:
            everything["eval"] = compare("scoring documents", eval_contestants(arguments, model, folder),
                                         arguments.rounds)
    if arguments.only in (None, "decode"):
        for batch in BATCHES:
            title = f"decoding, batch {batch}, prompt {PROMPT}, {NEW} new"
            everything[f"decode {batch}"] = compare(title, decode_contestants(arguments, model, batch),
                                                    arguments.rounds, "decode_tokens_per_s")
    return everything


def main(words):
    arguments = parse_arguments(words)
    if arguments.peer:
        return run_peer(arguments)
    check_json(arguments)
    print(machine(arguments.threads, "torch", "transformers"))
    print(f"{arguments.family} {arguments.size}, {arguments.dtype}, {arguments.kv_heads} K/V heads")
    with tempfile.TemporaryDirectory() as model:
        output_of(peer_command(arguments, "save", "--to", model))
        everything = compare_all(arguments, model)
    if arguments.json:
        write_text(arguments.json, json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
