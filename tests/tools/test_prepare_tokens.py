"""tools/prepare_data.py: tokenizers, the tokens that begin and end a document, special tokens in a text."""

import json

import numpy as np
import pytest
from data.choice_questions import CONTEXT_TOKENS
from prepared_data import WORDS, all_texts, prepare, problem, sentence, texts_of, write_jsonl
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

# --- Tokenizers ---


def word_tokenizer(path, n_words, *special):
    words = [word + str(number) for word in WORDS for number in range(30)]
    fillers = [f"filler{number}" for number in range(n_words)]
    vocabulary = ["<unk>", *special, *words, *fillers][:n_words]
    vocabulary = {token: number for number, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(5)
    tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("vocab_size, dtype", [(1 << 16, np.uint16), ((1 << 16) + 1, np.uint32)])
def test_ids_are_as_wide_as_the_vocabulary_needs(tmp_path, corpus, vocab_size, dtype):
    tokenizer = word_tokenizer(tmp_path / "own.json", vocab_size, "</s>")
    file = prepare(tmp_path / "out" / "data.h5", corpus, tokenizer=tokenizer)
    assert file.attrs["vocab_size"] == vocab_size and file.attrs["eos_id"] == 1
    assert {file[name].dtype for name in ("train/tokens", "val/tokens", "choices/tokens")} == {
        np.dtype(dtype)
    }
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_a_given_tokenizer_does_not_truncate(tmp_path, corpus):
    file = prepare(
        tmp_path / "data.h5", corpus, tokenizer=word_tokenizer(tmp_path / "own.json", 50, "</s>")
    )
    assert np.diff(file["train/offsets"][:].astype(int)).min() > 100


def test_the_end_of_text_comes_from_the_tokenizers_config(tmp_path, corpus):
    tokenizer = word_tokenizer(tmp_path / "own.json", 50, "</s>", "<end>", "<stop>")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "<end>"}}')
    assert prepare(tmp_path / "a.h5", corpus, tokenizer=tokenizer).attrs["eos_id"] == 2
    assert (
        prepare(tmp_path / "b.h5", corpus, tokenizer=tokenizer, eos_token="<stop>").attrs["eos_id"]
        == 3
    )


def test_a_tokenizer_without_end_of_text_is_refused(tmp_path, corpus):
    tokenizer = word_tokenizer(tmp_path / "own.json", 50)
    wrong = problem(tmp_path / "data.h5", corpus, tokenizer=tokenizer)
    assert "--eos-token" in str(wrong) and wrong.exit_code == 2
    wrong = problem(tmp_path / "data.h5", corpus, tokenizer=tokenizer, eos_token="<nope>")
    assert '"<nope>"' in str(wrong) and wrong.exit_code == 2


def test_a_missing_or_broken_tokenizer_is_named(tmp_path, corpus):
    wrong = problem(tmp_path / "data.h5", corpus, tokenizer=tmp_path / "none.json")
    assert "none.json: does not exist" in str(wrong) and wrong.exit_code == 2
    assert "a model's folder that has one, or train one by leaving --tokenizer out" in str(wrong)
    (tmp_path / "bad.json").write_text("{}")
    wrong = problem(tmp_path / "data.h5", corpus, tokenizer=tmp_path / "bad.json")
    assert "bad.json: is not a tokenizer.json" in str(wrong) and wrong.exit_code == 1


def test_a_folder_stands_for_the_tokenizer_in_it(tmp_path, corpus):
    (tmp_path / "model").mkdir()
    wrong = problem(tmp_path / "a.h5", corpus, tokenizer=tmp_path / "model")
    assert "model: has no tokenizer.json. Give a tokenizer.json" in str(wrong) and wrong.exit_code == 2
    word_tokenizer(tmp_path / "model/tokenizer.json", 50, "</s>", "<end>")
    (tmp_path / "model/tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    for name, tokenizer in (("a.h5", tmp_path / "model"), ("b.h5", tmp_path / "model/tokenizer.json")):
        prepare(tmp_path / name, corpus, tokenizer=tokenizer).close()
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_tokens_that_only_other_files_name_bring_a_warning(tmp_path, corpus, capsys):
    tokenizer = word_tokenizer(tmp_path / "tokenizer.json", 50, "</s>")
    config = {"added_tokens_decoder": {"2": {"content": "</s>"}, "60": {"content": "<user>"}}, "pad_token": "<pad>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "added_tokens.json").write_text('{"<bot>": 61}')
    prepare(tmp_path / "a.h5", corpus, tokenizer=tokenizer).close()
    assert 'tokenizer.json: lacks 3 of the tokens that other files beside it name, such as "<bot>"' in (
        capsys.readouterr().err
    )
    for name in ("tokenizer_config.json", "added_tokens.json"):
        (tmp_path / name).unlink()
    prepare(tmp_path / "b.h5", corpus, tokenizer=tokenizer).close()
    assert "lacks" not in capsys.readouterr().err


def test_a_text_that_spells_the_end_of_text_can_stay_text(tmp_path):
    texts = [sentence(seed) + "<|endoftext|> more" for seed in range(40)]
    file = prepare(
        tmp_path / "data.h5", write_jsonl(tmp_path / "c.jsonl", texts), special_tokens="text"
    )
    assert sorted(all_texts(file)) == sorted(
        texts
    )  # texts_of checks that there is one end a document


# --- Special tokens and BOS ---


def chat_tokenizer(folder, single="<s> $A", config=None):
    """A byte-level tokenizer of 300 tokens with a BOS rule and chat marks; returns its path."""
    lines = write_jsonl(folder / "lines.jsonl", [sentence(seed) for seed in range(40)])
    prepare(folder / "trained" / "data.h5", lines, choices=0).close()
    tokenizer = Tokenizer.from_file(str(folder / "trained" / "tokenizer.json"))
    marks = ["<s>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    if single:
        ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "<|endoftext|>")]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    tokenizer.save(str(folder / "chat.json"))
    config = config or {"bos_token": "<s>", "eos_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder / "chat.json"


def chats(folder, template="<|im_start|>user\n{}<|im_end|>\n"):
    return write_jsonl(folder / "chats.jsonl", [template.format(sentence(seed)) for seed in range(40)])


def documents_of(file):
    for split in ("train", "val"):
        tokens, offsets = file[split]["tokens"][:], file[split]["offsets"][:].astype(int)
        yield from (tokens[begin:end].tolist() for begin, end in zip(offsets, offsets[1:]))


@pytest.mark.parametrize("single", [None, "<s> $A", "$A <|endoftext|>", "<s> $A <|endoftext|>"])
def test_documents_are_tokenized_as_prompts_are(tmp_path, single, capsys):
    path = chat_tokenizer(tmp_path, single)
    file = prepare(tmp_path / "data.h5", chats(tmp_path), tokenizer=path)
    tokenizer, eos_id = Tokenizer.from_file(str(path)), file.attrs["eos_id"]
    texts = [f"<|im_start|>user\n{sentence(seed)}<|im_end|>\n" for seed in range(40)]
    prompts = [tokenizer.encode(text).ids for text in texts]
    whole = [prompt if prompt[-1] == eos_id else [*prompt, eos_id] for prompt in prompts]
    assert sorted(documents_of(file)) == sorted(whole)
    assert file.attrs["special_tokens"] == "parse" and file.attrs["bos"] == "auto"
    printed = capsys.readouterr().out
    assert "special tokens in the text: 40 <|im_start|>, 40 <|im_end|>, read as tokens" in printed


def test_special_tokens_can_stay_text(tmp_path, capsys):
    path = chat_tokenizer(tmp_path)
    file = prepare(tmp_path / "data.h5", chats(tmp_path), tokenizer=path, special_tokens="text")
    tokenizer = Tokenizer.from_file(str(path))
    marks = {tokenizer.token_to_id(mark) for mark in ("<|im_start|>", "<|im_end|>")}
    bos_id = tokenizer.token_to_id("<s>")
    assert all(document[0] == bos_id and not marks & set(document) for document in documents_of(file))
    assert file.attrs["special_tokens"] == "text"
    assert "40 <|im_start|>, 40 <|im_end|>, kept as plain text" in capsys.readouterr().out


def test_the_user_can_leave_bos_out_or_add_it(tmp_path):
    with_rule = prepare(tmp_path / "a.h5", chats(tmp_path), tokenizer=chat_tokenizer(tmp_path), bos="no")
    assert all(document[0] != 300 for document in documents_of(with_rule))
    assert with_rule.attrs["bos"] == "no"
    (tmp_path / "b").mkdir()
    without_rule = chat_tokenizer(tmp_path / "b", None)
    file = prepare(tmp_path / "b.h5", chats(tmp_path), tokenizer=without_rule, bos="yes")
    assert all(document[0] == 300 and document[1] != 300 for document in documents_of(file))
    assert file.attrs["bos"] == "yes"


def test_a_tokenizer_without_bos_cannot_begin_documents_with_it(tmp_path, corpus):
    wrong = problem(tmp_path / "data.h5", corpus, bos="yes")
    assert "--bos yes: the trained BPE has no BOS token" in str(wrong) and wrong.exit_code == 2
    given = word_tokenizer(tmp_path / "own.json", 50, "</s>")
    wrong = problem(tmp_path / "data.h5", corpus, bos="yes", tokenizer=given)
    assert "--bos yes: the tokenizer has no BOS token" in str(wrong) and wrong.exit_code == 2


def test_a_bos_that_the_text_spells_too_is_noted(tmp_path, capsys):
    path = chat_tokenizer(tmp_path)
    file = prepare(tmp_path / "data.h5", chats(tmp_path, "<s>{}"), tokenizer=path)
    assert all(document[:2] == [300, 300] for document in documents_of(file))
    assert "40 documents begin with a BOS token in their text" in capsys.readouterr().err


def test_a_text_that_spells_the_end_of_text_at_its_end_ends_once(tmp_path):
    path = chat_tokenizer(tmp_path, "$A <|endoftext|>")
    file = prepare(tmp_path / "data.h5", chats(tmp_path, "{}<|endoftext|>"), tokenizer=path)
    assert sorted(texts_of(file, "train") + texts_of(file, "val")) == sorted(map(sentence, range(40)))


def test_contexts_of_choices_begin_as_documents_do(tmp_path):
    path = chat_tokenizer(tmp_path)
    file = prepare(tmp_path / "data.h5", chats(tmp_path), tokenizer=path, choices=20)
    tokens, offsets = file["choices/tokens"][:], file["choices/context_offsets"][:].astype(int)
    contexts = [tokens[begin:end].tolist() for begin, end in zip(offsets, offsets[1:])]
    assert len(contexts) == 20
    assert all(context[0] == 300 and 300 not in context[1:] for context in contexts)
    assert max(map(len, contexts)) == CONTEXT_TOKENS


def test_no_choice_crosses_an_end_of_text_that_the_text_spells(tmp_path):
    path = chat_tokenizer(tmp_path)
    texts = chats(tmp_path, sentence(99, 20) + "<|endoftext|>{}")
    file = prepare(tmp_path / "data.h5", texts, tokenizer=path, choices=20)
    assert len(file["choices/gold"]) == 20
    assert file.attrs["eos_id"] not in file["choices/tokens"][:]
    assert all(document.count(file.attrs["eos_id"]) == 2 for document in documents_of(file))
