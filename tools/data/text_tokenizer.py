"""Loads a tokenizer.json, or trains a byte-level BPE, and finds the tokens that begin and end a text."""

import json

from script_support import Problem, bad_request
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

END_OF_TEXT = "<|endoftext|>"
KNOWN_END_TOKENS = (
    END_OF_TEXT,
    "</s>",
    "<|end_of_text|>",
    "<eos>",
    "<|im_end|>",
    "<|end▁of▁sentence|>",
)
SMALLEST_BPE = 256 + 1  # every byte, and the end of text
TOKENIZER_TEXT_BYTES = 1 << 29  # text that a BPE is trained on, at most
GIVE_A_TOKENIZER = "Give a tokenizer.json or a model's folder that has one, or train one by leaving --tokenizer out."


def tokenizer_file(path):
    """The tokenizer.json that a path names, itself or by its folder. Throws Problem where there is none."""
    if path.is_dir():
        if not (path / "tokenizer.json").exists():
            raise bad_request(path, "has no tokenizer.json", GIVE_A_TOKENIZER)
        return path / "tokenizer.json"
    if not path.exists():
        raise bad_request(path, "does not exist", GIVE_A_TOKENIZER)
    return path


def load_tokenizer(path):
    """Reads a tokenizer.json without its truncation and padding; throws Problem where it cannot."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise Problem(path, "is not UTF-8 text", "Give the tokenizer.json of a model.") from error
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the tokenizers package raises plain Exception
        raise Problem(
            path, f"is not a tokenizer.json ({error})", "Give the tokenizer.json of a model."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None  # of training a tokenizer's model: the same text would give other tokens each time
    return tokenizer


def end_token(tokenizer, path, asked):
    """The token that ends a text: the one asked for, else the one that tokenizer_config.json beside
    the tokenizer names, else a common one. Throws Problem where the vocabulary does not have it."""
    vocabulary = tokenizer.get_vocab()
    wanted = asked or configured_token(path, "eos_token")
    if wanted is None:
        wanted = next((token for token in KNOWN_END_TOKENS if token in vocabulary), None)
    if wanted is None:
        raise bad_request(
            path,
            f"has none of {', '.join(KNOWN_END_TOKENS)}",
            "Name its end-of-text token with --eos-token.",
        )
    if wanted not in vocabulary:
        raise bad_request(
            path,
            f'has no token "{wanted}"',
            "Name its end-of-text token with --eos-token.",
        )
    return wanted


def configured_token(path, name):
    """The token that tokenizer_config.json beside the tokenizer has under a name, or None."""
    token = _beside(path, "tokenizer_config.json").get(name)
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else None


def tokens_outside(tokenizer, path):
    """Tokens that files beside a tokenizer.json name and it lacks, sorted. transformers gives them new ids; here they
    are plain text."""
    named = set(_beside(path, "added_tokens.json"))
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        for key, value in _beside(path, file).items():
            if key == "added_tokens_decoder" or key.endswith(("_token", "_special_tokens")):
                named |= _tokens_in(value)
    return sorted(named - set(tokenizer.get_vocab()))


def _beside(path, name):
    """The JSON object in a file beside the tokenizer; empty where there is none: the file is optional."""
    try:
        value = json.loads((path.parent / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _tokens_in(value):
    """A token, or the tokens of a list or object of them, in any of the forms of tokenizer_config.json."""
    if isinstance(value, dict) and "content" in value:
        value = value["content"]
    if isinstance(value, str):
        return {value}
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return set().union(*map(_tokens_in, inner))


def train_tokenizer(texts, vocab_size):
    """Trains a byte-level BPE (GPT-2's splitting rule) on at most TOKENIZER_TEXT_BYTES of texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_at_most(texts, TOKENIZER_TEXT_BYTES), trainer)
    return tokenizer


def _at_most(texts, max_bytes):
    for text in texts:
        if max_bytes <= 0:
            return
        max_bytes -= len(text.encode("utf-8"))
        yield text


def vocab_size_of(tokenizer):
    """One more than the largest id: ids may have holes."""
    return max(tokenizer.get_vocab().values()) + 1
