"""Runs prepare_data.py in this process and reads back what it wrote."""

import json
import random

import h5py
import numpy as np
import prepare_data
import pytest
from script_support import Problem
from tokenizers import Tokenizer

WORDS = (
    "layer head query key value cache token model train loss group pool mean step norm rope".split()
)


def sentence(seed, n_words=120):
    source = random.Random(seed)
    return (
        " ".join(source.choice(WORDS) + str(source.randrange(30)) for _ in range(n_words))
        + f" {seed}.\n"
    )


def write_jsonl(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def prepare(out, *inputs, vocab_size=300, val_fraction=0.3, choices=8, **more):
    """Runs the script in this process; returns the open file."""
    arguments = [
        "--input",
        *inputs,
        "--out",
        out,
        "--val-fraction",
        val_fraction,
        "--choices",
        choices,
    ]
    if "tokenizer" not in more:
        arguments += ["--vocab-size", vocab_size]
    for name, value in more.items():
        arguments += [f"--{name.replace('_', '-')}"] + ([] if value is True else [value])
    prepare_data.main([str(argument) for argument in arguments])
    return h5py.File(out, "r")


def texts_of(file, split):
    """The documents of a split, decoded; checks that each has one end of text, at its end."""
    tokenizer = Tokenizer.from_str(file.attrs["tokenizer"])
    tokens, offsets = file[split]["tokens"][:], file[split]["offsets"][:].astype(int)
    assert offsets[0] == 0 and offsets[-1] == len(tokens) and (np.diff(offsets) > 0).all()
    documents = [tokens[begin:end] for begin, end in zip(offsets, offsets[1:])]
    assert all(
        np.flatnonzero(document == file.attrs["eos_id"]).tolist() == [len(document) - 1]
        for document in documents
    )
    return [
        tokenizer.decode(document[:-1].tolist(), skip_special_tokens=False)
        for document in documents
    ]


def all_texts(file):
    return texts_of(file, "train") + texts_of(file, "val")


def problem(*arguments, **options):
    with pytest.raises(Problem) as caught:
        prepare(*arguments, **options)
    return caught.value


def sixty_documents(folder):
    return write_jsonl(folder / "corpus.jsonl", [sentence(seed) for seed in range(60)])
