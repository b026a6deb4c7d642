"""Turns text into token ids and back for `regroup`: answers requests on stdin until it ends.

Argument: a model's folder. A request is a line `ACTION N` and N bytes, the answer a line `STATUS N` and N bytes.
"""

import functools
import json
import os
import sys
from pathlib import Path


class NoTemplate(Exception):
    pass


@functools.cache
def tokenizer():
    from tokenizers import Tokenizer

    loaded = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    loaded.no_truncation()
    loaded.no_padding()
    return loaded


@functools.cache
def chat_tokenizer():
    """What renders the folder's chat template. The class is fixed, so that no code of the folder runs."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(FOLDER)


def encode(text, add_special_tokens=True):
    return " ".join(map(str, tokenizer().encode(text, add_special_tokens=add_special_tokens).ids))


def encode_chat(messages):
    """The template writes the special tokens itself."""
    if not chat_tokenizer().chat_template:
        raise NoTemplate
    text = chat_tokenizer().apply_chat_template(json.loads(messages), tokenize=False, add_generation_prompt=True)
    return encode(text, add_special_tokens=False)


def decode(ids):
    return tokenizer().decode([int(word) for word in ids.split()])


def answer(action, given):
    try:
        return "done", {"encode": encode, "encode_chat": encode_chat, "decode": decode}[action](given.decode())
    except NoTemplate:
        return "no_template", ""
    except ImportError as error:
        return "no_package", first_line(error)
    except BaseException as error:  # a panic inside tokenizers is not an Exception
        return "refused", first_line(error)


def first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def main():
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a package prints is not an answer
    while header := requests.readline():
        action, size = header.decode().split()
        status, result = answer(action, requests.read(int(size)))
        body = result.encode(errors="replace")
        answers.write(f"{status} {len(body)}\n".encode() + body)
        answers.flush()


FOLDER = Path(sys.argv[1])
main()
