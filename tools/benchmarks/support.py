"""What the benchmarks beside peers share: the models, options, alternating rounds and their table."""

import argparse
import json
import statistics
import sys
from importlib.metadata import version
from pathlib import Path

from script_support import check_output_file

SIZES = {
    "5m": dict(n_layer=4, d_model=256, n_head=8, d_ff=688, vocab_size=4096, seq_len=256, batch=16),
    "27m": dict(n_layer=6, d_model=512, n_head=8, d_ff=1376, vocab_size=8192, seq_len=512, batch=8),
    "124m": dict(n_layer=12, d_model=768, n_head=12, d_ff=2048, vocab_size=32000, seq_len=1024, batch=2),
}
N_POSITIONS = 2048


def parser_of(description, size):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, default=Path("build/release/regroup"))
    parser.add_argument("--size", choices=SIZES, default=size)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=20, help="seconds of one training measurement (default 20)")
    parser.add_argument("--json", type=Path, help="writes every measurement")
    return parser


def check_json(arguments):
    """Throws Problem where --json cannot be written: called before hours of measuring, not after."""
    if arguments.json:
        check_output_file("--json", arguments.json)


def peer_config(size, kv_heads, family):
    """transformers' config of a family in this size; kv_heads counts where its class has a field for them."""
    from transformers import AutoConfig

    shape = SIZES[size]
    fields = dict(hidden_size=shape["d_model"], num_hidden_layers=shape["n_layer"], num_attention_heads=shape["n_head"],
                  num_key_value_heads=kv_heads, head_dim=shape["d_model"] // shape["n_head"],
                  intermediate_size=shape["d_ff"], vocab_size=shape["vocab_size"], max_position_embeddings=N_POSITIONS,
                  ffn_dim=4 * shape["d_model"], word_embed_proj_dim=shape["d_model"], rotary_dim=32,
                  max_seq_len=N_POSITIONS)
    default = AutoConfig.for_model(family)
    known = {name: value for name, value in fields.items()
             if hasattr(default, name) and not isinstance(getattr(type(default), name, None), property)}
    return AutoConfig.for_model(family, **known, bos_token_id=0, eos_token_id=0, pad_token_id=0)


def peer_model(size, kv_heads, threads, family="llama"):
    """torch, and transformers' model of this family and size with random weights."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return torch, AutoModelForCausalLM.from_config(peer_config(size, kv_heads, family))


def write_config(path, size, kv_heads):
    """Writes the model of peer_model as a config for `regroup bench`."""
    keys = [f"{key} = {SIZES[size][key]}" for key in ("n_layer", "d_model", "n_head", "d_ff", "vocab_size")]
    keys += [f"n_kv_head = {kv_heads}", f"max_seq_len = {N_POSITIONS}"]
    path.write_text("[model]\n" + "\n".join(keys) + "\n")


def last_json(text):
    """The JSON of a program's last line."""
    return json.loads(text.strip().splitlines()[-1])


def compare(title, contestants, rounds, key="tokens_per_s", beside=None):
    """Runs the contestants in turn, so that a slow minute of the machine hits all, and prints medians and ratios.

    contestants: {name: function that returns a measurement with `key` and `peak_rss_bytes`}. beside: {name: the
    contestant that is compared with it}; by default the first is compared with every other. Returns all measurements
    by name.
    """
    results = {name: [] for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            print(f"{title}: round {number + 1} of {rounds}, {name}", file=sys.stderr)
            results[name].append(run())
    speeds = {name: statistics.median(run[key] for run in runs) for name, runs in results.items()}
    memory = {name: statistics.median(run["peak_rss_bytes"] for run in runs) for name, runs in results.items()}
    first, *others = contestants
    beside = beside or {other: first for other in others}
    print(f"\n{title} (medians of {rounds} rounds, ± half of what lies between the slowest and the fastest)")
    for name, runs in results.items():
        line = (f"  {name:22}{speeds[name]:10.1f} ±{spread(run[key] for run in runs) / 2:4.0%} tokens/s"
                f"{memory[name] / 2**20:8.0f} MiB")
        if name in beside:
            ours = beside[name]
            line += (f"   {ours}: x{speeds[ours] / speeds[name]:.2f} tokens/s,"
                     f" x{memory[ours] / memory[name]:.2f} memory")
        print(line, flush=True)
    return results


def spread(values):
    """(largest - smallest) / median."""
    values = sorted(values)
    return (values[-1] - values[0]) / statistics.median(values)


def machine(threads, *packages):
    """One line for the head of a table: processor, threads and the versions of what is compared."""
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{processor()}, {threads} threads, {versions}"


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"
