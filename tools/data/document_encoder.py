"""Turns documents into token ids as prompts become ids, so that training and prompting agree.

A mark is a special token that a text spells, such as <|im_start|>. With special_tokens "parse" it
becomes the token, as in transformers' tokenizer(text) and in `regroup generate --prompt`; with
"text" it is spelled in ordinary tokens.

The tokenizer's rule is what its post-processor in tokenizer.json puts around a text. transformers
ignores add_bos_token of tokenizer_config.json where there is a tokenizer.json, and so does this.
With bos "auto" a document begins as the rule says. With "no" it begins with its text, and with "yes"
with the BOS token even where the rule has none.
"""

import re
from collections import Counter

from script_support import Problem, bad_request


class DocumentEncoder:
    """Encodes documents; counts the marks in their texts."""

    def __init__(self, tokenizer, eos_id, special_tokens="parse", bos="auto", bos_token=None):
        """bos_token: its name, for bos "yes" where the tokenizer's rule has none."""
        self.eos_id, self.marks = eos_id, Counter()  # mark -> times met
        self.n_twice_begun = 0  # documents whose text spells the prefix that they get anyway
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = special_tokens == "text"
        prefix, self._suffix = _rule(tokenizer)
        self.prefix = _prefix(prefix, tokenizer, bos, bos_token)
        names = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
        longest_first = sorted(filter(None, names), key=len, reverse=True)
        self._mark = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def encode(self, texts):
        """A list of id lists. Each ends with one eos_id, also where the text or the rule ends so."""
        for text in texts:
            self.marks.update(self._mark.findall(text))
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [self._document(encoding.ids) for encoding in encodings]

    def _document(self, ids):
        ids = ids + self._suffix
        while ids and ids[-1] == self.eos_id:
            ids.pop()
        if self.prefix and ids[: len(self.prefix)] == self.prefix:
            self.n_twice_begun += 1
        return self.prefix + ids + [self.eos_id]


def _prefix(rule, tokenizer, bos, bos_token):
    if bos == "no":
        return []
    if bos == "auto" or rule:
        return rule
    bos_id = tokenizer.token_to_id(bos_token) if bos_token else None
    if bos_id is None:
        raise bad_request(
            "--bos yes",
            "the tokenizer has no BOS token: its post-processor adds none, and bos_token of "
            "tokenizer_config.json beside it is missing or not in the vocabulary",
            "Give --bos auto.",
        )
    return [bos_id]


def _rule(tokenizer):
    """The ids that the tokenizer puts before and after any text."""
    for probe in ("a", *sorted(tokenizer.get_vocab(), key=len)[:1000]):
        text = tokenizer.encode(probe, add_special_tokens=False).ids
        if text:
            break
    else:
        raise Problem("--tokenizer", "makes no token of any text", "Give the tokenizer.json of a model.")
    whole = tokenizer.encode(probe, add_special_tokens=True).ids
    for begin in range(len(whole) - len(text) + 1):
        if whole[begin : begin + len(text)] == text:
            return whole[:begin], whole[begin + len(text) :]
    raise Problem(
        "--tokenizer",
        "its post-processor changes the text's own tokens, which is not supported",
        "Give the tokenizer.json of a decoder.",
    )
