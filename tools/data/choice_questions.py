"""Makes choice questions from a held-out split: which of four runs of tokens continues this text?

The right option is the true continuation; the wrong ones are runs of equal length from elsewhere in
the split, drawn as the right one is, so that neither length nor place gives the answer away.

The model reads a context like a prompt, so each context begins as every document begins (with a BOS
token, where the tokenizer's rule adds one), wherever in its document it was cut. Special tokens that
the text spells stay tokens in questions. No question crosses an end of text, because another text
follows it.
"""

import numpy as np

CONTEXT_TOKENS = 112  # at most: the tokens of the document just before the cut
MIN_CONTEXT_TOKENS = 16
OPTION_TOKENS = 16  # context and option together fit a model of 128 positions
N_OPTIONS = 4


def draw_questions(tokens, offsets, n_questions, seed, prefix=()):
    """Draws up to n_questions distinct questions; fewer where the split is too small.

    tokens: [n] ids of the split, sliceable (an HDF5 dataset will do); offsets: [documents + 1]; each
    document begins with the ids of prefix and ends with the end-of-text token. Returns a list of
    (context, options, gold): context an id array, options a list of N_OPTIONS id arrays, gold the
    index of the true continuation.
    """
    random = np.random.default_rng(seed)
    begins, first_cuts, n_cuts = _possible_cuts(offsets, len(prefix))
    cuts_so_far = np.cumsum(n_cuts)
    all_cuts = cuts_so_far[-1]
    eos_id = tokens[int(offsets[-1]) - 1]
    most_from_text = CONTEXT_TOKENS - len(prefix)
    questions, used = [], set()
    for _ in range(20 * n_questions if all_cuts > 0 else 0):
        if len(questions) == n_questions or len(used) == all_cuts:
            break
        places = random.integers(all_cuts, size=N_OPTIONS)  # every cut is as likely to be right as to be wrong
        documents = np.searchsorted(cuts_so_far, places, side="right")
        cuts = first_cuts[documents] + places - (cuts_so_far[documents] - n_cuts[documents])
        options = [tokens[cut : cut + OPTION_TOKENS] for cut in cuts]
        if cuts[0] in used or _too_close(cuts) or _any_equal(options):
            continue
        context = tokens[max(begins[documents[0]], cuts[0] - most_from_text) : cuts[0]]
        if any(eos_id in run for run in (context, *options)):
            continue
        used.add(cuts[0])
        gold = int(random.integers(N_OPTIONS))
        options[0], options[gold] = options[gold], options[0]
        context = np.concatenate([np.array(prefix, context.dtype), context])
        questions.append((context, options, gold))
    return questions


def _possible_cuts(offsets, n_prefix):
    """For each document: where its text begins, the first place where an option may begin, and the
    number of such places."""
    begins = np.asarray(offsets[:-1], np.int64) + n_prefix
    ends = np.asarray(offsets[1:], np.int64) - 1  # without the end of text
    first_cuts = begins + MIN_CONTEXT_TOKENS
    return begins, first_cuts, np.maximum(ends - OPTION_TOKENS - first_cuts + 1, 0)


def _too_close(cuts):
    return np.abs(cuts[1:] - cuts[0]).min() < CONTEXT_TOKENS + OPTION_TOKENS


def _any_equal(options):
    return len({option.tobytes() for option in options}) < len(options)


def write_questions(group, questions, dtype):
    """Writes questions into an HDF5 group; the layout is in prepare_data.py's docstring."""
    contexts = [context for context, _, _ in questions]
    options = [option for _, options, _ in questions for option in options]
    ends = np.cumsum([len(part) for part in contexts + options], dtype=np.uint64)
    context_offsets = np.concatenate([np.zeros(1, np.uint64), ends[: len(contexts)]])
    option_ends = ends[len(contexts) :].reshape(len(questions), N_OPTIONS)
    option_begins = np.concatenate([context_offsets[-1:], option_ends[:-1, -1]])
    group.create_dataset("tokens", data=np.concatenate(contexts + options).astype(dtype))
    group.create_dataset("context_offsets", data=context_offsets)
    group.create_dataset("option_offsets", data=np.column_stack([option_begins, option_ends]))
    group.create_dataset("gold", data=np.array([gold for _, _, gold in questions], np.int64))
    group.attrs["n_options"] = N_OPTIONS
