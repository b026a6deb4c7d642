#!/usr/bin/env python3
"""Memory and speed of the verbs that stream a checkpoint, beside `cp` of the same files.

Generates a Llama checkpoint of random bf16 weights in a temporary folder under --folder, which needs three times the
checkpoint's size. Prints for each command its time, its speed as a share of `cp`'s, and its peak resident memory. All end
with their files on the disk (`cp` is followed by a sync). The page cache is as the commands before left it.

    tools/bench_streaming.py --gigabytes 8 --folder /var/tmp
"""

import argparse
import json
import math
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.support import check_json, processor
from script_support import Problem, run_script, write_text


def parse_arguments(words):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=Path("build/release/regroup"))
    parser.add_argument("--gigabytes", type=float, default=8)
    parser.add_argument("--d-model", type=int, default=4096, help="width of the model, a multiple of 64 (default 4096)")
    parser.add_argument("--shard-gigabytes", type=float, default=2, help="size of a shard; above --gigabytes: one file")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="writes every measurement")
    return parser.parse_args(words)


# The checkpoint.


def sizes_of(d_model):
    """Llama 2 7B's, narrower or wider."""
    return dict(hidden_size=d_model, intermediate_size=11008 * d_model // 4096, num_attention_heads=32,
                num_key_value_heads=32, vocab_size=32000 * d_model // 4096, max_position_embeddings=2048)


def shapes_of_layer(sizes):
    d_model, d_ff = sizes["hidden_size"], sizes["intermediate_size"]
    shapes = {f"self_attn.{name}_proj": (d_model, d_model) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (d_ff, d_model), "mlp.up_proj": (d_ff, d_model), "mlp.down_proj": (d_model, d_ff)}
    return shapes | {"input_layernorm": (d_model,), "post_attention_layernorm": (d_model,)}


def bytes_of(shapes):
    return sum(2 * math.prod(shape) for shape in shapes.values())


def shapes_of_model(sizes, gigabytes):
    """As many layers as make a model of about that size, at least one."""
    embedding = (sizes["vocab_size"], sizes["hidden_size"])
    shapes = {"model.embed_tokens.weight": embedding, "lm_head.weight": embedding,
              "model.norm.weight": (sizes["hidden_size"],)}
    layer = 0
    while layer == 0 or bytes_of(shapes) < gigabytes * 1e9:
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes_of_layer(sizes).items()}
        layer += 1
    return shapes, layer


def shards_of(shapes, most_bytes):
    shards, filled = [{}], 0
    for name, shape in shapes.items():
        size = bytes_of({name: shape})
        if shards[-1] and filled + size > most_bytes:
            shards.append({})
            filled = 0
        filled += size
        shards[-1][name] = shape
    return shards


def write_checkpoint(folder, sizes, gigabytes, shard_gigabytes):
    """In a separate process: the commands, forked from this one, would inherit the memory that it takes."""
    import torch
    from safetensors.torch import save_file

    shapes, n_layer = shapes_of_model(sizes, gigabytes)
    noise = 0.02 * torch.randn(max(map(math.prod, shapes.values())), dtype=torch.bfloat16)
    shards = shards_of(shapes, shard_gigabytes * 1e9)
    index = {"metadata": {"total_size": bytes_of(shapes)}, "weight_map": {}}
    folder.mkdir()
    for number, shard in enumerate(shards, 1):
        part = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        file = f"model{part}.safetensors"
        print(f"writing {file}", file=sys.stderr)
        save_file({name: noise[:math.prod(shape)].view(shape).clone() for name, shape in shard.items()},
                  folder / file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(
        {**sizes, "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": n_layer,
         "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16"}))


def write_in_a_process(*arguments):
    writer = multiprocessing.get_context("spawn").Process(target=write_checkpoint, args=arguments)
    writer.start()
    writer.join()
    if writer.exitcode != 0:
        raise Problem(arguments[0], "could not be written", "Is the disk full?")


# The commands.


def measured(command, folder, target):
    """Seconds and peak memory of a command that may write target, which is removed again."""
    start = time.perf_counter()
    words = [str(word) for word in command]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise Problem(" ".join(words), "failed", errors[-2000:])
    if command[0] == "cp":
        subprocess.run(["sync", "--file-system", folder], check=True)
    seconds = time.perf_counter() - start
    if target.exists():
        shutil.rmtree(target)
    return {"seconds": seconds, "peak_rss_bytes": usage.ru_maxrss * 1024}


def commands(binary, source, target):
    return {
        "cp": ["cp", "-r", source, target],
        "inspect": [binary, "inspect", source],
        "convert to 8": [binary, "convert", "--from", source, "--to", target, "--kv-heads", "8", "--quiet"],
        "export": [binary, "export", "--model", source, "--to", target, "--quiet"],
        "export --dtype fp16": [binary, "export", "--model", source, "--to", target, "--dtype", "fp16", "--quiet"],
        "export --format hdf5": [binary, "export", "--model", source, "--to", target, "--format", "hdf5", "--quiet"],
    }


def main(words):
    arguments = parse_arguments(words)
    check_json(arguments)
    sizes = sizes_of(arguments.d_model)
    largest = max(2 * math.prod(shape) for shape in shapes_of_model(sizes, arguments.gigabytes)[0].values())
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        source, target = Path(place) / "model", Path(place) / "out"
        write_in_a_process(source, sizes, arguments.gigabytes, arguments.shard_gigabytes)
        size = sum(file.stat().st_size for file in source.iterdir())
        runs = {name: [] for name in commands(arguments.binary, source, target)}
        for number in range(arguments.rounds):
            for name, command in commands(arguments.binary, source, target).items():
                print(f"round {number + 1} of {arguments.rounds}: {name}", file=sys.stderr)
                runs[name].append(measured(command, place, target))
    print(f"{processor()}; {size / 1e9:.1f} GB, largest tensor {largest / 2**20:.0f} MiB; medians of"
          f" {arguments.rounds} rounds")
    copying = statistics.median(run["seconds"] for run in runs["cp"])
    for name, measurements in runs.items():
        seconds = statistics.median(run["seconds"] for run in measurements)
        peak = max(run["peak_rss_bytes"] for run in measurements)
        print(f"  {name:22}{seconds:8.1f} s{size / seconds / 1e9:8.2f} GB/s   x{copying / seconds:.2f} of cp"
              f"{peak / 2**20:8.0f} MiB")
    if arguments.json:
        write_text(arguments.json, json.dumps({"bytes": size, "largest_tensor_bytes": largest, "runs": runs}, indent=2)
                   + "\n")


if __name__ == "__main__":
    run_script(main)
