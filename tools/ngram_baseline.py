"""Prints the validation loss of a unigram and a bigram model, which a trained model must beat.

Both count /train and score /val as `regroup eval` does: every token of a document except the first,
given the tokens before it in that document.

    unigram   (c(w) + 1) / (n + V), add-one smoothing
    bigram    max(c(v, w) - D, 0) / c(v) + D n(v, .) / c(v) * q(w); q(w) where v was never seen.
              Interpolated Kneser-Ney (Chen and Goodman 1999, section 2.7): n(v, .) distinct tokens
              follow v, q(w) = (distinct tokens before w + 1) / (distinct pairs + V),
              D = n1 / (n1 + 2 n2) from the numbers of pairs seen once and twice
"""

import argparse
import json
from pathlib import Path

import h5py
import numpy as np
from script_support import Problem, bad_request, check_is_no_input, check_output_file, run_script, write_text

CHUNK_TOKENS = 1 << 23


def main(arguments):
    options = parse_arguments(arguments)
    if not options.data.is_file():
        raise bad_request(options.data, "does not exist", "Make it with tools/prepare_data.py.")
    if options.json:
        check_output_file("--json", options.json)
        check_is_no_input("--json", options.json, [options.data])
    try:
        with h5py.File(options.data, "r") as file:
            result = baselines(file)
    except (OSError, KeyError) as error:  # h5py raises these built-in errors
        raise Problem(
            options.data, f"is not token data ({error})", "Make it with tools/prepare_data.py."
        ) from error
    print(f"validation loss of {result['tokens']:,} tokens in nats per token (perplexity)")
    for name in ("unigram", "bigram"):
        print(f"  {name:8} {result[name]['loss']:.4f} ({result[name]['perplexity']:,.1f})")
    if options.json:
        write_text(options.json, json.dumps({"data": str(options.data), **result}, indent=2) + "\n")


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description="Validation loss of a unigram and a bigram model of token data."
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="FILE.h5",
        help="token data with /train and /val",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    return parser.parse_args(arguments)


def baselines(file):
    """{"tokens": number of scored tokens, "unigram" and "bigram": {"loss" in nats, "perplexity"}} of a file."""
    vocab_size = int(file.attrs["vocab_size"])
    train_pairs, train_counts = count_pairs(file["train"], vocab_size)
    val_pairs, val_counts = count_pairs(file["val"], vocab_size)
    if len(train_pairs) == 0 or len(val_pairs) == 0:
        raise Problem(
            file.filename, "a split has no document of two tokens or more", "Give more text."
        )
    losses = {"unigram": unigram_loss, "bigram": bigram_loss}
    result = {"tokens": int(val_counts.sum())}
    for name, loss_of in losses.items():
        loss = float(loss_of(train_pairs, train_counts, val_pairs, val_counts, vocab_size))
        result[name] = {"loss": loss, "perplexity": float(np.exp(loss))}
    return result


def count_pairs(split, vocab_size):
    """Distinct pairs (v, w) of neighbours inside documents, as sorted keys v * vocab_size + w, and their counts."""
    tokens, starts = split["tokens"], split["offsets"][:-1].astype(np.int64)
    keys, counts = np.empty(0, np.int64), np.empty(0, np.int64)
    for begin in range(0, len(tokens) - 1, CHUNK_TOKENS):
        ids = tokens[begin : begin + CHUNK_TOKENS + 1].astype(np.int64)
        inside = np.ones(len(ids) - 1, dtype=bool)
        first_tokens = starts[(starts > begin) & (starts < begin + len(ids))] - begin
        inside[first_tokens - 1] = False  # a document's first token follows nothing
        keys, counts = _merged(
            keys, counts, *np.unique((ids[:-1] * vocab_size + ids[1:])[inside], return_counts=True)
        )
    return keys, counts


def _merged(keys, counts, more_keys, more_counts):
    merged, places = np.unique(np.concatenate([keys, more_keys]), return_inverse=True)
    return merged, np.bincount(places, np.concatenate([counts, more_counts]), len(merged)).astype(
        np.int64
    )


def unigram_loss(train_pairs, train_counts, val_pairs, val_counts, vocab_size):
    """Nats per token of the add-one unigram model; pairs and counts come from count_pairs."""
    seen = np.bincount(train_pairs % vocab_size, train_counts, vocab_size)
    probability = (seen + 1) / (seen.sum() + vocab_size)
    return _mean_loss(probability[val_pairs % vocab_size], val_counts)


def bigram_loss(train_pairs, train_counts, val_pairs, val_counts, vocab_size):
    """Nats per token of the interpolated Kneser-Ney bigram model; pairs and counts come from count_pairs."""
    discount = _discount(train_counts)
    before, after = train_pairs // vocab_size, train_pairs % vocab_size
    context_count = np.bincount(before, train_counts, vocab_size)
    followers = np.bincount(before, minlength=vocab_size)
    continuation = (np.bincount(after, minlength=vocab_size) + 1) / (len(train_pairs) + vocab_size)

    places = np.minimum(np.searchsorted(train_pairs, val_pairs), len(train_pairs) - 1)
    pair_count = np.where(train_pairs[places] == val_pairs, train_counts[places], 0)
    v, w = val_pairs // vocab_size, val_pairs % vocab_size
    n = np.maximum(context_count[v], 1)
    left_over = np.where(context_count[v] > 0, discount * followers[v] / n, 1.0)
    return _mean_loss(
        np.maximum(pair_count - discount, 0) / n + left_over * continuation[w], val_counts
    )


def _discount(counts):
    once, twice = np.count_nonzero(counts == 1), np.count_nonzero(counts == 2)
    return once / (once + 2 * twice) if once and twice else 0.5


def _mean_loss(probabilities, counts):
    return -(np.log(probabilities) * counts).sum() / counts.sum()


if __name__ == "__main__":
    run_script(main)
