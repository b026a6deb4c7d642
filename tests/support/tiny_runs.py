"""Tiny token files and training runs of the program `regroup`, each a second or so."""

import json
import os
import subprocess
from pathlib import Path

import h5py
import numpy as np

REGROUP = os.environ["REGROUP_BINARY"]
PROGRAM = Path(REGROUP).resolve().parent / "libexec/regroup"  # the launcher REGROUP becomes it
VOCAB_SIZE = 64
MAX_SEQ_LEN = 48

CONFIG = """\
[model]
n_layer = 2
d_model = 32
n_head = 4
d_ff = 48
max_seq_len = 48
[data]
train = tokens.h5
val = tokens.h5
seq_len = 16
[optim]
lr = 0.01
min_lr = 0.001
warmup_steps = 2
[train]
steps = 6
batch_tokens = 128
micro_batch = 3
threads = 1
[checkpoint]
every = 2
keep = 2
"""


def regroup(*words, **options):
    return subprocess.run([REGROUP, *map(str, words)], capture_output=True, text=True, timeout=120,
                          check=False, **options)


def assert_refused(result, exit_code, *parts):
    """One short block on stderr with all parts, nothing on stdout, no trace, no crash."""
    assert result.returncode == exit_code, (result.returncode, result.stderr)
    assert result.stdout == ""
    assert "regroup: error: " in result.stderr
    assert len(result.stderr) < 3000
    assert "frame #" not in result.stderr
    assert "defect" not in result.stderr
    for part in parts:
        assert str(part) in result.stderr, result.stderr


def write_split(file, name, documents, dtype=np.uint16):
    group = file.create_group(name)
    group["tokens"] = np.concatenate(documents).astype(dtype)
    group["offsets"] = np.cumsum([0] + [len(document) for document in documents], dtype=np.uint64)
    group.attrs["bytes"] = 3 * sum(map(len, documents))


def write_tokens(path, vocab_size=VOCAB_SIZE, n_train=80, n_val=8, seed=0):
    """Documents that count upwards with a stride and some noise: learnable in a few steps."""
    random = np.random.default_rng(seed)

    def document():
        length = int(random.integers(12, 41))
        counting = random.integers(vocab_size) + random.integers(1, 4) * np.arange(length)
        noise = random.integers(vocab_size, size=length)
        return np.where(random.random(length) < 0.1, noise, counting % vocab_size)

    with h5py.File(path, "w") as file:
        file.attrs.update(vocab_size=vocab_size, eos_id=0, tokenizer="", source="a test",
                          format_version=1)
        write_split(file, "train", [document() for _ in range(n_train)])
        write_split(file, "val", [document() for _ in range(n_val)])


def make_workplace(folder):
    """A folder with tokens.h5 and run.ini, the working directory of runs."""
    write_tokens(folder / "tokens.h5")
    (folder / "run.ini").write_text(CONFIG)
    return folder


def words_of(verb, run, *flags, **keys):
    """The command line of a run in a workplace; keys are written section__key=value."""
    overrides = [f"--{name.replace('__', '.')}={value}" for name, value in keys.items()]
    return [verb, "--config", "run.ini", "--run", str(run), *flags, *overrides]


def pretrain(workplace, run, *flags, **keys):
    return regroup(*words_of("pretrain", run, *flags, **keys), cwd=workplace)


def uptrain(workplace, run, *flags, **keys):
    return regroup(*words_of("uptrain", run, *flags, **keys), cwd=workplace)


def assert_done(result):
    assert result.returncode == 0, result.stderr
    return result


def metrics(run):
    """The complete lines; in a run that is going on, the last line may be half written."""
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def losses(run):
    """(step, loss) of every training line, in the order of the file."""
    return [(line["step"], line["loss"]) for line in metrics(run) if "loss" in line]


def checkpoints(run):
    folders = (Path(run) / "checkpoints").iterdir()
    return sorted(folder.name for folder in folders if not folder.is_symlink())


def weights_bytes(model):
    return (Path(model) / "model.safetensors").read_bytes()


def everything_in(folder):
    """Every file below a folder with its contents, to check that nothing changed."""
    return {str(path.relative_to(folder)): path.read_bytes()
            for path in sorted(Path(folder).rglob("*")) if path.is_file()}
