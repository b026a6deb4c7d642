#!/usr/bin/env python3
"""Training divided over two processes of one thread each: Regroup beside PyTorch's own DDP and FSDP2, alternating.

Prints medians and ratios of tokens/s of both processes together and of the larger one's peak memory: `replicate` beside
DistributedDataParallel, `shard` beside fully_shard with recomputed blocks, all over Gloo, on the same Llama, and
Regroup in one process of two threads.

    tools/bench_processes.py --size 27m --dtype fp32 --rounds 3
"""

import argparse
import functools
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.support import SIZES, check_json, compare, last_json, parser_of, peer_model, processor, write_config
from script_support import Problem, run_script, write_text

PROCESSES = 2
KV_HEADS = 8


def parse_arguments(words):
    parser = parser_of(__doc__, size="27m")
    parser.add_argument("--sequences", type=int, help="sequences of a step on both processes (default: as --size has)")
    parser.add_argument("--peer", choices=("ddp", "fsdp"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(words)
    if arguments.sequences is None:
        arguments.sequences = SIZES[arguments.size]["batch"]
    if arguments.sequences < 1 or arguments.sequences % PROCESSES:
        parser.error(f"--sequences {arguments.sequences} cannot be divided evenly among {PROCESSES} processes")
    return arguments


# The peers: each call runs one process of the group.


def recomputed(layer):
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    return checkpoint_wrapper(layer)


def divided(torch, model, arguments):
    if arguments.peer == "ddp":
        return torch.nn.parallel.DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (PROCESSES,))
    layers = model.model.layers
    for index in range(len(layers)):
        layers[index] = recomputed(layers[index])
        fully_shard(layers[index], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def run_peer(arguments):
    torch, model = peer_model(arguments.size, KV_HEADS, threads=1)
    torch.distributed.init_process_group("gloo")
    model = divided(torch, model, arguments)
    shape = SIZES[arguments.size]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=arguments.peer == "ddp")
    batch = arguments.sequences // PROCESSES
    tokens = torch.randint(shape["vocab_size"], (batch, shape["seq_len"]))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=arguments.dtype == "bf16"):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(2):
        step()
    seconds = []
    going_on = torch.ones(1)
    end = time.perf_counter() + arguments.seconds
    while going_on.item() > 0:
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
        going_on.fill_(float(time.perf_counter() < end or len(seconds) < 3))
        torch.distributed.all_reduce(going_on, torch.distributed.ReduceOp.MIN)
    result = {"tokens_per_s": PROCESSES * batch * shape["seq_len"] / statistics.median(seconds)}
    print(json.dumps(result), flush=True)
    time.sleep(1)  # the first process that leaves may close connections that the other still waits for
    torch.distributed.destroy_process_group()


# The comparison.


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run_together(command, processes, threads):
    """Runs a command as a group of processes; returns rank 0's stdout."""
    common = os.environ | {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
                           "OMP_NUM_THREADS": str(threads)}
    started = [subprocess.Popen([str(word) for word in command], text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
               for rank in range(processes)]
    outputs = [process.communicate() for process in started]
    for process, (_, errors) in zip(started, outputs):
        if process.returncode != 0:
            raise Problem(" ".join(map(str, command)), "failed", errors.strip()[-2000:])
    return outputs[0][0]


def peak_of_children(work):
    """Runs work() in a child; returns its result with the peak memory of the largest process that it started."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        result = work()
        result["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        os.write(writing, json.dumps(result).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        text = pipe.read()
    if os.waitpid(child, 0)[1] != 0 or not text:
        raise Problem("a measurement", "failed", "Its message is above.")
    return json.loads(text)


def our_result(arguments, processes, *more):
    with tempfile.TemporaryDirectory() as folder:
        result, config = Path(folder) / "bench.json", Path(folder) / "bench.ini"
        write_config(config, arguments.size, KV_HEADS)
        threads, seq_len = PROCESSES // processes, SIZES[arguments.size]["seq_len"]
        run_together([arguments.binary, "bench", "train", "--config", config, "--dtype", arguments.dtype, "--threads",
                      threads, "--batch", arguments.sequences // processes, "--seq-len", seq_len, "--seconds",
                      arguments.seconds, "--json", result, "--quiet", *more], processes, threads)
        return json.loads(result.read_text())


def peer_result(arguments, peer):
    command = [sys.executable, __file__, "--peer", peer, "--size", arguments.size, "--dtype", arguments.dtype,
               "--seconds", arguments.seconds, "--sequences", arguments.sequences]
    return last_json(run_together(command, PROCESSES, 1))


def contestants(arguments):
    shard = ["--dist.strategy=shard", "--train.activation_checkpointing=full"]
    runs = {
        "regroup replicate": lambda: our_result(arguments, PROCESSES),
        "DDP": lambda: peer_result(arguments, "ddp"),
        "regroup shard": lambda: our_result(arguments, PROCESSES, *shard),
        "FSDP2": lambda: peer_result(arguments, "fsdp"),
        "regroup one process": lambda: our_result(arguments, 1),
    }
    return {name: functools.partial(peak_of_children, run) for name, run in runs.items()}


BESIDE = {"DDP": "regroup replicate", "FSDP2": "regroup shard", "regroup one process": "regroup replicate"}


def main(words):
    arguments = parse_arguments(words)
    if arguments.peer:
        return run_peer(arguments)
    check_json(arguments)
    title = (f"{arguments.size}, {arguments.dtype}, {arguments.sequences} sequences a step;"
             f" {PROCESSES} processes of 1 thread, {processor()}")
    results = compare(title, contestants(arguments), arguments.rounds, beside=BESIDE)
    if arguments.json:
        write_text(arguments.json, json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    run_script(main)
