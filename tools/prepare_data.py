"""Turns text into token data: an HDF5 file that Regroup trains on and evaluates with.

Input is read as a stream and more than once, so a corpus may be larger than memory. A document is a
text file, a JSON object or a row of a Parquet or Arrow file; formats are recognised by content, and
any file may be compressed (data/README.md). Then:

1. Exact duplicates are dropped. A document belongs to `val` when the hash of seed and text falls
   below --val-fraction, so the split does not depend on the order of the input.
2. Without --tokenizer, a byte-level BPE is trained on the `train` documents and saved as
   tokenizer.json beside the output.
3. Each document becomes its tokens and one end-of-text token. It gets BOS, and special tokens for
   those that its text spells, as a prompt does (data/document_encoder.py; --bos, --special-tokens).
4. `val` loses documents of which at least half also stands in `train` documents
   (held_out_overlap.py).
5. `val` gives the text of the choice questions (choice_questions.py).

The file, all of it little-endian:

    attributes      vocab_size, eos_id, format_version (1), source,
                    tokenizer (text of tokenizer.json), special_tokens, bos (as the options)
    /train, /val    attribute bytes: size of the split's text in UTF-8
        tokens      uint16 where vocab_size <= 65536, else uint32: [tokens]
        offsets     uint64 [documents + 1]: document i is tokens[offsets[i] : offsets[i + 1]],
                    its last token is eos_id
    /choices        attribute n_options; absent with --choices 0 or where `val` is too small
        tokens      as above: all contexts, then all options
        context_offsets  uint64 [questions + 1]: context i is
                         tokens[context_offsets[i] : context_offsets[i + 1]]
        option_offsets   uint64 [questions, n_options + 1]: option j of question i is
                         tokens[option_offsets[i, j] : option_offsets[i, j + 1]], and all options of
                         a question are equally long
        gold        int64 [questions]: the true continuation's index

The bytes of the file depend on nothing but the text, its order, the options and the seed.
"""

import argparse
import hashlib
import math
import sys
from array import array
from collections import Counter
from pathlib import Path

import numpy as np
from data.choice_questions import draw_questions, write_questions
from data.document_encoder import DocumentEncoder
from data.hdf5_output import written_hdf5
from data.held_out_overlap import HeldOutIndex, shingles_of
from data.input_files import FOLDER_SUFFIXES
from data.text_sources import TextSources
from data.text_tokenizer import (
    END_OF_TEXT,
    SMALLEST_BPE,
    configured_token,
    end_token,
    load_tokenizer,
    tokenizer_file,
    tokens_outside,
    train_tokenizer,
    vocab_size_of,
)
from script_support import (
    Problem,
    bad_request,
    check_is_no_input,
    check_output_file,
    progress,
    run_script,
    warn,
    write_text,
    written_atomically,
)

FORMAT_VERSION = 1
BATCH_CHARACTERS = 1 << 22  # text tokenized at once
CHUNK_TOKENS = 1 << 17  # tokens in one HDF5 chunk
DROPPED, TRAIN, VAL = range(3)
FEW_VAL_DOCUMENTS, FEW_VAL_TOKENS = 10, 10_000  # a val with fewer brings a warning


def main(arguments):
    options = parse_arguments(arguments)
    own_tokenizer = None if options.tokenizer else options.out.parent / "tokenizer.json"
    outputs = [path for path in (options.out, own_tokenizer) if path]
    for path in outputs:
        check_output_file("--out", path, may_replace=options.force)
    tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
    encoder = encoder_of(tokenizer, options) if tokenizer else None
    sources = TextSources(options.input, options.suffixes, options.text_field)
    for path in outputs:
        check_is_no_input("--out", path, [*sources.paths, *filter(None, [options.tokenizer])])
    corpus = Corpus(sources)

    corpus.assign_splits(options.seed, options.val_fraction)
    if tokenizer is None:
        tokenizer = train_tokenizer(
            corpus.texts(TRAIN, "training the tokenizer"), options.vocab_size
        )
        encoder = encoder_of(tokenizer, options)
    tokenizer_text = tokenizer.to_str(pretty=own_tokenizer is not None)
    with written_atomically(options.out) as temporary:
        with written_hdf5(temporary) as (file, check_written):
            write_attributes(file, tokenizer, tokenizer_text, encoder.eos_id, options)
            summary = write_splits(file, check_written, corpus, encoder, token_dtype(tokenizer))
            file.flush()
            check_written()  # the choices are drawn from what was written
            summary["choices"] = write_choices(file, options.choices, options.seed, encoder.prefix)
        if own_tokenizer:
            write_text(own_tokenizer, tokenizer_text)
    print_summary(options.out, own_tokenizer, tokenizer, summary, corpus)
    print_marks(encoder, options.special_tokens)
    warn_of_small_val(*summary["val"])


def parse_arguments(arguments):
    parser = argparse.ArgumentParser(
        description="Turns text, JSON, JSONL, Parquet or Arrow into token data (HDF5).",
        epilog="example: tools/prepare_data.py --input texts/ notes.jsonl --out data.h5",
    )
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="PATH",
        help="files of text, JSON, JSONL, Parquet or Arrow, also .gz, .zst, .bz2 or .xz; or folders "
        "(searched recursively)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE.h5", help="the token data to write"
    )
    vocabulary = parser.add_mutually_exclusive_group()
    vocabulary.add_argument(
        "--tokenizer",
        type=Path,
        metavar="PATH",
        help="use this tokenizer: a tokenizer.json, or the folder of a model that has one",
    )
    vocabulary.add_argument(
        "--vocab-size",
        type=int,
        default=8192,
        metavar="N",
        help="train a byte-level BPE of this size and save it beside the output (default 8192)",
    )
    parser.add_argument(
        "--eos-token",
        metavar="TOKEN",
        help="the tokenizer's end-of-text token (default: from tokenizer_config.json, or a common one)",
    )
    parser.add_argument(
        "--val-fraction",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="share of the documents held out as val (default 0.02)",
    )
    parser.add_argument(
        "--choices",
        type=int,
        default=500,
        metavar="N",
        help="choice questions made from val (default 500; 0 for none)",
    )
    parser.add_argument(
        "--special-tokens",
        choices=("text", "parse"),
        default="parse",
        help="how special tokens that a text spells are read: as the tokens, like in prompts (parse, the "
        "default), or as plain text",
    )
    parser.add_argument(
        "--bos",
        choices=("auto", "yes", "no"),
        default="auto",
        help="begin documents with a BOS token: as the tokenizer does for prompts (auto, the "
        "default), always, or never",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the split and the choices (default 0)"
    )
    parser.add_argument(
        "--text-field",
        default="text",
        metavar="NAME",
        help="JSON field or Parquet or Arrow column that holds the text (default text)",
    )
    parser.add_argument(
        "--suffixes",
        default=",".join(FOLDER_SUFFIXES),
        metavar=".A,.B",
        help="read files with these endings in folders, also where .gz or another compression's ending follows "
        "(default %(default)s)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    options = parser.parse_args(arguments)
    options.suffixes = tuple(
        suffix.strip().lower() for suffix in options.suffixes.split(",") if suffix.strip()
    )
    check_options(options)
    if options.tokenizer:
        options.tokenizer = tokenizer_file(options.tokenizer)
    return options


def check_options(options):
    if not 0 < options.val_fraction < 1:
        raise bad_request(
            "--val-fraction",
            f"{options.val_fraction} leaves a split empty",
            "Give a share between 0 and 1, such as 0.02.",
        )
    if options.vocab_size < SMALLEST_BPE:
        raise bad_request(
            "--vocab-size",
            f"{options.vocab_size} is too small for a byte-level BPE",
            f"It needs {SMALLEST_BPE}: 256 bytes and the end of text.",
        )
    if options.eos_token and not options.tokenizer:
        raise bad_request(
            "--eos-token",
            f"goes with --tokenizer; the trained BPE ends texts with {END_OF_TEXT}",
            "Leave it out.",
        )
    if options.bos == "yes" and not options.tokenizer:
        raise bad_request("--bos yes", "the trained BPE has no BOS token", "Leave it out.")
    for name in ("choices", "seed"):
        if getattr(options, name) < 0:
            raise bad_request(
                f"--{name}", f"{getattr(options, name)} is negative", "Give 0 or more."
            )
    if not options.suffixes:
        raise bad_request("--suffixes", "is empty", "Give endings such as .txt,.md.")


def encoder_of(tokenizer, options):
    """The encoder of the given or the trained tokenizer, with the options' marks and BOS."""
    eos_token, bos_token = END_OF_TEXT, None
    if options.tokenizer:
        warn_of_tokens_outside(tokenizer, options.tokenizer)
        eos_token = end_token(tokenizer, options.tokenizer, options.eos_token)
        bos_token = configured_token(options.tokenizer, "bos_token")
    return DocumentEncoder(
        tokenizer,
        tokenizer.token_to_id(eos_token),
        options.special_tokens,
        options.bos,
        bos_token,
    )


def warn_of_tokens_outside(tokenizer, path):
    outside = tokens_outside(tokenizer, path)
    if outside:
        warn(
            f'{path}: lacks {len(outside)} of the tokens that other files beside it name, such as "{outside[0]}": here they'
            " are plain text, and transformers gives them new ids. Saving the tokenizer with transformers writes them"
            " into tokenizer.json."
        )


# --- Documents ---


class Corpus:
    """The input documents with the split that each belongs to."""

    def __init__(self, sources):
        self._sources = sources
        self._roles = bytearray()  # by position in the input: DROPPED, TRAIN or VAL
        self.held_out = HeldOutIndex([])
        self.dropped = Counter()  # reason -> documents

    def assign_splits(self, seed, val_fraction):
        """Reads everything once: drops exact duplicates and chooses the split of each document."""
        seen, held_out_shingles = set(), []
        first_place, last_place = 2**64, 0
        for text in self._read("reading"):
            digest = hashlib.blake2b(f"{seed}\n{text}".encode("utf-8"), digest_size=16).digest()
            if digest in seen:
                self._roles.append(DROPPED)
                self.dropped["exact duplicates"] += 1
                continue
            seen.add(digest)
            place = int.from_bytes(digest[:8], "big")
            first_place, last_place = min(first_place, place), max(last_place, place)
            is_val = place < val_fraction * 2**64
            self._roles.append(VAL if is_val else TRAIN)
            if is_val:
                held_out_shingles.append(shingles_of(text))
        self.dropped.update(self._sources.left_out)
        self.held_out = HeldOutIndex(held_out_shingles)
        self._check_splits(val_fraction, first_place / 2**64, last_place / 2**64)

    def _check_splits(self, val_fraction, first_place, last_place):
        """val has the documents whose place is below val_fraction, so it needs the first place and train the last."""
        n_train, n_val = self._roles.count(TRAIN), self._roles.count(VAL)
        if n_train + n_val == 0:
            raise Problem(
                "--input",
                f"holds no text ({_counts(self._sources.left_out) or 'no document'})",
                "Give UTF-8 text, one document or more for each split.",
            )
        if n_train + n_val == 1:
            raise Problem(
                "--val-fraction",
                "the only document cannot be divided into train and val",
                "Give its text as several documents: files of a folder, or JSON lines.",
            )
        if n_train == 0 or n_val == 0:
            least, most = _decimals_between(first_place, last_place)
            raise Problem(
                "--val-fraction",
                f"{val_fraction} of {n_train + n_val} documents leaves {'val' if n_val == 0 else 'train'} empty",
                f"Give a fraction from {least} to {most}, or more documents.",
            )

    def drop_near_duplicates(self):
        """Removes from val what train mostly contains; every training document must be marked before."""
        near = iter(self.held_out.near_duplicates())
        for position, role in enumerate(self._roles):
            if role == VAL and next(near):
                self._roles[position] = DROPPED
                self.dropped["near-duplicates of train in val"] += 1
        if self._roles.count(VAL) == 0:
            raise Problem(
                "--input",
                "every val document is a near-duplicate of train documents, so val would be empty",
                "Give more different documents, or a larger --val-fraction.",
            )

    def texts(self, role, label):
        """Yields the texts of one split; throws Problem if the input has changed since the first reading."""
        position = 0
        for text in self._read(label):
            if position < len(self._roles) and self._roles[position] == role:
                yield text
            position += 1
        if position != len(self._roles):
            raise Problem(
                "--input",
                f"changed while it was read: {len(self._roles)} documents became {position}",
                "Run again when nothing writes there.",
            )

    def _read(self, label):
        with progress(label, total=self._sources.disk_bytes, unit="B", unit_scale=True) as bar:
            for document in self._sources.documents():
                bar.update(document.disk_bytes)
                yield document.text


def _decimals_between(low, high):
    """The smallest and the largest number of [low, high] that have as few decimals as possible, at least two."""
    for n_decimals in range(2, 20):
        least, most = math.ceil(low * 10**n_decimals), math.floor(high * 10**n_decimals)
        if least <= most:
            break
    return least / 10**n_decimals, most / 10**n_decimals


# --- The file ---


def token_dtype(tokenizer):
    return np.uint16 if vocab_size_of(tokenizer) <= 1 << 16 else np.uint32


def write_attributes(file, tokenizer, tokenizer_text, eos_id, options):
    file.attrs["format_version"] = FORMAT_VERSION
    file.attrs["vocab_size"] = vocab_size_of(tokenizer)
    file.attrs["eos_id"] = eos_id
    file.attrs["tokenizer"] = tokenizer_text
    file.attrs["source"] = " ".join(options.input)
    file.attrs["special_tokens"] = options.special_tokens
    file.attrs["bos"] = options.bos


def write_splits(file, check_written, corpus, encoder, dtype):
    """Writes /train and /val; returns {split: (documents, tokens, bytes)}."""
    train = SplitWriter(file.create_group("train"), check_written, encoder, dtype)
    for text in corpus.texts(TRAIN, "tokenizing train"):
        corpus.held_out.mark_train(text)
        train.add(text)
    corpus.drop_near_duplicates()
    val = SplitWriter(file.create_group("val"), check_written, encoder, dtype)
    for text in corpus.texts(VAL, "tokenizing val"):
        val.add(text)
    return {"train": train.finish(), "val": val.finish()}


class SplitWriter:
    """Tokenizes documents in batches and appends them to one split's group."""

    def __init__(self, group, check_written, encoder, dtype):
        self._group, self._check_written = group, check_written
        self._encoder, self._dtype = encoder, dtype
        self._tokens = group.create_dataset(
            "tokens", shape=(0,), maxshape=(None,), dtype=dtype, chunks=(CHUNK_TOKENS,)
        )
        self._offsets = array("Q", [0])
        self._batch, self._batch_characters, self._bytes = [], 0, 0

    def add(self, text):
        self._batch.append(text)
        self._batch_characters += len(text)
        if self._batch_characters >= BATCH_CHARACTERS:
            self._write_batch()

    def finish(self):
        """Writes what is left; returns (documents, tokens, bytes)."""
        self._write_batch()
        self._group.create_dataset("offsets", data=np.array(self._offsets, np.uint64))
        self._group.attrs["bytes"] = self._bytes
        return len(self._offsets) - 1, self._offsets[-1], self._bytes

    def _write_batch(self):
        documents = [np.array(ids, self._dtype) for ids in self._encoder.encode(self._batch)]
        for text, document in zip(self._batch, documents):
            self._offsets.append(self._offsets[-1] + len(document))
            self._bytes += len(text.encode("utf-8"))
        if documents:
            self._append(np.concatenate(documents))
        self._batch, self._batch_characters = [], 0

    def _append(self, tokens):
        begin = len(self._tokens)
        self._tokens.resize((begin + len(tokens),))
        self._tokens[begin:] = tokens
        self._check_written()


def write_choices(file, n_questions, seed, prefix):
    """Writes /choices; returns the number of questions, fewer than asked for where val is small."""
    tokens = file["val/tokens"]
    questions = draw_questions(tokens, file["val/offsets"][:], n_questions, seed, prefix)
    if questions:
        write_questions(file.create_group("choices"), questions, tokens.dtype)
    if len(questions) < n_questions:
        print(
            f"note: val has text for {len(questions)} choice questions, not for {n_questions}.",
            file=sys.stderr,
        )
    return len(questions)


def print_summary(out, own_tokenizer, tokenizer, summary, corpus):
    print(f"{out}")
    print(f"  {'':8}{'documents':>12}{'tokens':>16}{'text bytes':>16}")
    for split in ("train", "val"):
        documents, tokens, text_bytes = summary[split]
        print(f"  {split:8}{documents:>12,}{tokens:>16,}{text_bytes:>16,}")
    print(
        f"  vocabulary {vocab_size_of(tokenizer):,} tokens"
        + (f", saved as {own_tokenizer}" if own_tokenizer else "")
    )
    print(f"  choice questions {summary['choices']:,}")
    print(f"  left out: {_counts(corpus.dropped) or 'nothing'}")


def print_marks(encoder, special_tokens):
    met = encoder.marks.most_common()
    names = ", ".join(f"{count:,} {mark}" for mark, count in met[:8])
    more = f" and {len(met) - 8} more" if len(met) > 8 else ""
    become = ", read as tokens" if special_tokens == "parse" else ", kept as plain text"
    print(f"  special tokens in the text: {names + more + become if met else 'none'}")
    if encoder.n_twice_begun:
        print(
            f"note: {encoder.n_twice_begun:,} documents begin with a BOS token in their text and get "
            "another before it, as prompts do. --bos no keeps only the text's.",
            file=sys.stderr,
        )


def warn_of_small_val(n_documents, n_tokens, _bytes):
    """Differences below the noise of such a val look like differences of models."""
    if n_documents < FEW_VAL_DOCUMENTS or n_tokens < FEW_VAL_TOKENS:
        warn(
            f"val is too small to compare models reliably (documents: {n_documents:,}, tokens: {n_tokens:,}). Give a "
            f"larger --val-fraction or more text, for {FEW_VAL_DOCUMENTS:,} documents and {FEW_VAL_TOKENS:,} tokens or "
            "more."
        )


def _counts(counter):
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(counter.items()))


if __name__ == "__main__":
    run_script(main)
