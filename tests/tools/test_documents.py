"""What the documents show is what a user can type: their commands run, their settings and links hold.

Each document's commands run in order, as typed, in a folder that looks like a clone after the build, and has
what CONTRIBUTING.md promises: my-model/, my_text/, data.h5 and gqa.ini, and the files of the README's first job.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from documents import ROOT, blocks_of, broken_links_of, documents, inline_code_of, shell_commands_of
from prepared_data import prepare, sentence
from tiny_runs import REGROUP
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# Commands that run here, by how they begin.
RUN = (
    "build/release/regroup ",
    ".venv/bin/python tools/prepare_data.py",
    ".venv/bin/python tools/report.py",
    ".venv/bin/python -c ",
    ".venv/bin/torchrun --no-python --nproc-per-node 2 ",
)

# Commands that do not run here, by how they begin, and why. Their programs, options and files must exist.
NOT_RUN = {
    "tools/setup.sh": "needs root and a network",
    "tools/quickstart.sh": "takes a quarter of an hour",
    "tools/test.sh": "runs this test",
    "tools/soak.sh": "takes minutes; tests/trainers/test_soak.py runs it",
    "sudo apt-get": "needs root",
    ".venv/bin/python -m pip": "needs a network",
    ".venv/bin/hf": "needs a network",
    ".venv/bin/python tools/import_gguf.py": "reads a download; test_import_gguf.py runs it",
    ".venv/bin/python tools/study.py": "takes hours; test_study.py runs it",
    ".venv/bin/python tools/bench_": "measures for minutes; test_benchmarks.py runs it",
    ".venv/bin/python -m pytest": "runs tests",
    "build/release/regroup_tests": "runs tests",
    "cmake": "builds",
    "ctest": "runs tests",
    ".venv/bin/torchrun": "needs many processors or nodes",
    "mpirun": "needs many processors or nodes",
    "srun": "needs a cluster",
    "sbatch": "needs a cluster",
    "kubectl": "needs a cluster",
}

# What makes the runs of the documents small: keys for `regroup pretrain` and `uptrain` where the command has none.
SMALL_RUN = {
    "train.device": "cpu", "train.batch_tokens": 64, "train.micro_batch": 2, "train.threads": 1, "data.seq_len": 32,
    "eval.every": 0, "eval.batches": 1, "checkpoint.every": 1, "optim.warmup_steps": 0, "log.every": 1,
}
SMALL_PRETRAIN = {"train.steps": 2, "model.n_layer": 1, "model.d_model": 32, "model.d_ff": 32, "model.max_seq_len": 256}
SMALL_UPTRAIN = {"uptrain.original_steps": 20, "uptrain.alpha": 0.1}
TEXTS = [sentence(seed) for seed in range(60)]
KNOWN_LANGUAGES = ("sh", "ini", "cpp", "text", "python", "yaml", "json", "cmake")


# --- A folder that looks like a clone after the build ---


def write_tokenizer(folder):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet,
                                  show_progress=False)
    bpe.train_from_iterator(TEXTS, trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>").save_pretrained(folder)
    return bpe.get_vocab_size()


def write_llama(folder):
    """A small random Llama with a tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=write_tokenizer(folder), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, eos_token_id=0,
                         bos_token_id=0)
    LlamaForCausalLM(config).save_pretrained(folder)


def write_pythia(folder):
    """A Pythia-410M with an eighth of its heads' dims and two layers, random, with a tokenizer. Its config says what
    the Hub's says: the vocabulary is padded, and no key of a newer transformers is there."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(vocab_size=write_tokenizer(folder) + 20, hidden_size=128, intermediate_size=512,
                           num_hidden_layers=2, num_attention_heads=16, max_position_embeddings=2048, bos_token_id=0,
                           eos_token_id=0, rotary_pct=0.25, rotary_emb_base=10000)
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    hub = {"architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
           "hidden_size": 128, "initializer_range": 0.02, "intermediate_size": 512, "layer_norm_eps": 1e-05,
           "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 16,
           "num_hidden_layers": 2, "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False,
           "torch_dtype": "float16", "transformers_version": "4.24.0", "use_cache": True,
           "use_parallel_residual": True, "vocab_size": config.vocab_size}
    (folder / "config.json").write_text(json.dumps(hub))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """my-model/, my_text/, data.h5, gqa.ini, and what hf downloads to pythia/."""
    folder = tmp_path_factory.mktemp("prepared")
    write_llama(folder / "my-model")
    write_pythia(folder / "pythia")
    (folder / "my_text").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"my_text/{number}.txt").write_text(text)
    prepare(folder / "data.h5", folder / "my_text", tokenizer=folder / "my-model/tokenizer.json", choices=4).close()
    (folder / "gqa.ini").write_text(next(b.text for b in blocks_of("trainers/README.md") if b.language == "ini"))
    return folder


@pytest.fixture
def clone(prepared, tmp_path):
    for path in [*prepared.iterdir(), *(ROOT / name for name in os.listdir(ROOT) if name not in ("build", "runs"))]:
        if path.name not in (".venv", ".git"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "build/release").mkdir(parents=True)
    (tmp_path / "build/release/regroup").symlink_to(REGROUP)
    (tmp_path / "runs/quickstart/mha").mkdir(parents=True)
    for model in ("smollm2", "quickstart/mha/final"):  # what the import of the first job and the quickstart write
        (tmp_path / "runs" / model).symlink_to(prepared / "my-model")
    (tmp_path / "runs/pythia").symlink_to(prepared / "pythia")
    (tmp_path / "runs/quickstart/data.h5").symlink_to(prepared / "data.h5")
    return tmp_path


def regroup_words(command):
    """The words of its call of `regroup`, after the program; empty for another command."""
    words = shlex.split(command, comments=True)
    places = [place for place, word in enumerate(words) if Path(word).name == "regroup"]
    return words[places[0] + 1:] if places else []


def made_small(command):
    """The command with a few keys more, so that a run ends in a second."""
    words = regroup_words(command)
    if not words or words[0] not in ("pretrain", "uptrain"):
        return command
    keys = {**SMALL_RUN, **(SMALL_PRETRAIN if words[0] == "pretrain" else SMALL_UPTRAIN)}
    missing = [f"--{key}={value}" for key, value in keys.items() if not any(w.startswith(f"--{key}=") for w in words)]
    return " ".join([command.split(" #")[0], *missing])


def run_in(clone, command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(["bash", "-euc", command], cwd=clone, env=environment, capture_output=True, text=True,
                            timeout=120)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"


def begins_with_one_of(command, beginnings):
    """Whether it does after the variables that it sets."""
    return re.sub(r"^([A-Z_]+=\S* +)*", "", command).startswith(tuple(beginnings))


@pytest.mark.parametrize("document", documents())
def test_commands_run_as_typed(document, clone):
    for command in shell_commands_of(document):
        if begins_with_one_of(command, RUN):
            run_in(clone, made_small(command))
        else:
            assert begins_with_one_of(command, NOT_RUN), f"{document}: list this in RUN or NOT_RUN: {command}"
            assert not what_is_missing(command), f"{document}: {command}"


# --- What a command names exists ---


@cache
def help_of(*program):
    result = subprocess.run([*program, "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    return result.stdout + result.stderr


def options_of(*program):
    return re.findall(r"--[\w-]+", help_of(*program))


@cache
def config_keys():
    """Every section.key that a config may have."""
    keys, section = set(), ""
    for line in help_of(REGROUP, "uptrain").splitlines():
        if heading := re.fullmatch(r"  \[(\w+)\]", line):
            section = heading[1]
        elif key := re.match(r"    (\w+) =", line):
            keys.add(f"{section}.{key[1]}")
    return keys


def programs_of(words):
    """The words that follow each of our programs in a command, with the call that prints that program's help."""
    for place, word in enumerate(words):
        rest = words[place + 1:]
        if Path(word).name == "regroup" and rest:
            n_verb_words = 2 if rest[0] == "bench" else 1
            yield (REGROUP, *rest[:n_verb_words]), rest[n_verb_words:]
        elif re.fullmatch(r"tools/\w+\.py", word):
            yield (sys.executable, word), rest
        elif re.fullmatch(r"tools/\w+\.sh", word) and rest:
            yield ("bash", word), rest
        else:
            continue
        return


def what_is_missing(command):
    """Files, options and keys in a command that the project does not have; words in capitals are placeholders."""
    words = shlex.split(command, comments=True)
    names = {path.name for path in ROOT.iterdir()} - {"build", "runs", ".venv"}
    missing = [word for word in words if word.split("/")[0] in names and not list(ROOT.glob(word))]
    for program, rest in programs_of(words):
        for option in (word.split("=")[0] for word in rest if re.match(r"--[a-z]", word)):
            known = option[2:] in config_keys() if "." in option else option in options_of(*program)
            missing += [] if known else [option]
    if words[0] in ("cmake", "ctest") and "--preset" in words:
        preset = f'"name": "{words[words.index("--preset") + 1]}"'
        missing += [] if preset in (ROOT / "CMakePresets.json").read_text() else [preset]
    return missing


COMMAND = re.compile(r"(build/release/)?regroup [a-z]|\.venv/bin/|tools/\w+\.(py|sh) |(torchrun|mpirun|sbatch|ctest) ")


@pytest.mark.parametrize("document", documents())
def test_commands_in_the_text_name_what_exists(document):
    for command in filter(COMMAND.match, inline_code_of(document)):
        assert not what_is_missing(command.replace("…", "")), f"{document}: {command}"


def test_a_command_that_names_what_does_not_exist_is_found():
    assert what_is_missing("build/release/regroup eval --modell x") == ["--modell"]
    assert what_is_missing("regroup uptrain --config FILE --optim.rl=1") == ["--optim.rl"]
    assert what_is_missing(".venv/bin/python tools/report.py --output x") == ["--output"]
    assert what_is_missing("sbatch configs/slurm/none.sbatch") == ["configs/slurm/none.sbatch"]
    assert what_is_missing("ctest --preset fast") == ['"name": "fast"']
    assert not what_is_missing(".venv/bin/torchrun --nnodes 2 -- build/release/regroup eval --model DIR")


# --- Settings, the example, links ---


@pytest.mark.parametrize("document", documents())
def test_code_blocks_say_their_language(document):
    for block in blocks_of(document):
        assert block.language in KNOWN_LANGUAGES, block


def ini_blocks():
    return [block for document in documents() for block in blocks_of(document) if block.language == "ini"]


@pytest.mark.parametrize("block", ini_blocks(), ids=lambda block: block.document)
def test_settings_are_understood(block, clone):
    (clone / "block.ini").write_text(block.text)
    places = ["--data.train=data.h5", "--data.val=data.h5"]
    if "[uptrain]\nfrom" not in block.text:
        places += ["--convert.from=my-model"]
        places += [] if "kv_budget" in block.text else ["--convert.n_kv_head=2"]
    run_in(clone, made_small(f"build/release/regroup uptrain --config block.ini --run runs/block {' '.join(places)}"))


def test_the_readme_s_library_example_is_the_file_that_is_compiled():
    example = (ROOT / "tests/library/example.cpp").read_text()
    assert f"```cpp\n{example}```" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("argument, exit_code", [("--help", 0), ("--fast", 2)])
def test_the_quickstart_does_nothing_but_explain_itself_when_given_arguments(argument, exit_code):
    done = subprocess.run([ROOT / "tools/quickstart.sh", argument], capture_output=True, text=True, check=False, timeout=10)
    assert done.returncode == exit_code
    assert "Takes no arguments" in done.stdout and "set -euo" not in done.stdout


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


@pytest.mark.parametrize("document", documents())
def test_links_resolve(document):
    assert not broken_links_of(document)
