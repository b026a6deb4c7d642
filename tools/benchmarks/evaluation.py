"""Scoring documents of differing lengths: the text, and how transformers scores it."""

import numpy as np

from benchmarks.support import N_POSITIONS, SIZES

TOKENS_PER_SECOND = {"5m": 20_000, "27m": 6_000, "124m": 1_500}  # about
TOKENS_PER_BATCH = 8192


def opened(path, mode="r"):
    import h5py  # an environment of litgpt does not have it

    return h5py.File(path, mode)


def write_text(path, size, seconds):
    """A token file of random documents, log-normal in length (median 400 tokens), for about as many seconds."""
    n_tokens = int(TOKENS_PER_SECOND[size] * seconds)
    random = np.random.default_rng(0)
    lengths = []
    while sum(lengths) < n_tokens:
        lengths.append(int(np.clip(np.exp(random.normal(6, 1)), 20, 4 * N_POSITIONS)))
    offsets = np.cumsum([0, *lengths])
    with opened(path, "w") as file:
        file.attrs.update(vocab_size=SIZES[size]["vocab_size"], eos_id=0, tokenizer="", source="random", format_version=1)
        for split in ("train", "val"):
            group = file.create_group(split)
            group["tokens"] = random.integers(SIZES[size]["vocab_size"], size=offsets[-1]).astype(np.uint16)
            group["offsets"] = offsets.astype(np.uint64)


def n_predicted(path):
    with opened(path) as file:
        offsets = file["val/offsets"]
        return int(offsets[-1]) - (len(offsets) - 1)


def windows_of(path):
    """Every token but a document's first is once a target. Longest first."""
    with opened(path) as file:
        tokens, offsets = file["val/tokens"][:].astype(np.int64), file["val/offsets"][:].astype(np.int64)
    documents = [tokens[begin:end] for begin, end in zip(offsets[:-1], offsets[1:])]
    windows = [document[begin:begin + N_POSITIONS + 1]
               for document in documents for begin in range(0, len(document) - 1, N_POSITIONS)]
    return sorted(windows, key=len, reverse=True)


def batches_of(windows):
    while windows:
        count = max(1, TOKENS_PER_BATCH // (len(windows[0]) - 1))
        yield windows[:count]
        windows = windows[count:]


def score(torch, model, path):
    """The sum of the losses of a token file's targets, in padded batches of like lengths."""
    ignored, total = -100, 0.0
    with torch.inference_mode():
        for batch in batches_of(windows_of(path)):
            inputs = torch.zeros(len(batch), len(batch[0]) - 1, dtype=torch.int64)
            targets = torch.full_like(inputs, ignored)
            for row, window in enumerate(batch):
                inputs[row, :len(window) - 1] = torch.from_numpy(window[:-1])
                targets[row, :len(window) - 1] = torch.from_numpy(window[1:])
            logits = model(input_ids=inputs).logits
            for row in range(len(batch)):
                total += torch.nn.functional.cross_entropy(logits[row].float(), targets[row], ignore_index=ignored,
                                                           reduction="sum").item()
    return total
