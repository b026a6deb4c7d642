"""tools/prepare_data.py: what it writes, what it leaves out, what it refuses."""

import json
import random
import shutil
from types import SimpleNamespace

import h5py
import numpy as np
import prepare_data
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from data.choice_questions import MIN_CONTEXT_TOKENS, N_OPTIONS, OPTION_TOKENS
from script_runner import assert_refused, run
from script_support import Problem
from tokenizers import Tokenizer, models, pre_tokenizers

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


@pytest.fixture
def corpus(tmp_path):
    """Sixty different documents."""
    return write_jsonl(tmp_path / "corpus.jsonl", [sentence(seed) for seed in range(60)])


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


# --- What is written ---


def test_every_document_comes_back_from_exactly_one_split(tmp_path, corpus):
    file = prepare(tmp_path / "data.h5", corpus)
    assert sorted(all_texts(file)) == sorted(sentence(seed) for seed in range(60))
    assert len(texts_of(file, "val")) > 5 and len(texts_of(file, "train")) > 20


def test_attributes_describe_the_tokens(tmp_path, corpus):
    file = prepare(tmp_path / "data.h5", corpus)
    assert file.attrs["format_version"] == 1
    assert file.attrs["vocab_size"] == 300
    assert file.attrs["source"] == str(corpus)
    assert (tmp_path / "tokenizer.json").read_text() == file.attrs["tokenizer"]
    assert (
        Tokenizer.from_str(file.attrs["tokenizer"]).token_to_id("<|endoftext|>")
        == file.attrs["eos_id"]
    )
    for split in ("train", "val"):
        assert file[split].attrs["bytes"] == sum(
            len(text.encode()) for text in texts_of(file, split)
        )
        assert (
            file[split]["tokens"].dtype == np.uint16 and file[split]["offsets"].dtype == np.uint64
        )
        assert file[split]["tokens"][:].max() < 300


def test_bytes_count_utf8_and_not_characters(tmp_path):
    texts = [f"Größe {seed} äöü €\n" for seed in range(40)]
    file = prepare(tmp_path / "data.h5", write_jsonl(tmp_path / "c.jsonl", texts), choices=0)
    assert sorted(all_texts(file)) == sorted(texts)
    total = file["train"].attrs["bytes"] + file["val"].attrs["bytes"]
    assert total == sum(len(text.encode("utf-8")) for text in texts)


def test_the_same_input_and_seed_give_the_same_file(tmp_path, corpus):
    for folder in ("one", "two"):
        prepare(tmp_path / folder / "data.h5", corpus).close()
    assert (tmp_path / "one/data.h5").read_bytes() == (tmp_path / "two/data.h5").read_bytes()
    assert (tmp_path / "one/tokenizer.json").read_bytes() == (
        tmp_path / "two/tokenizer.json"
    ).read_bytes()


def test_the_split_depends_on_the_seed_and_not_on_the_order(tmp_path, corpus):
    backwards = write_jsonl(
        tmp_path / "backwards.jsonl", [sentence(seed) for seed in reversed(range(60))]
    )
    val = set(texts_of(prepare(tmp_path / "a" / "data.h5", corpus), "val"))
    assert set(texts_of(prepare(tmp_path / "b" / "data.h5", backwards), "val")) == val
    assert set(texts_of(prepare(tmp_path / "c" / "data.h5", corpus, seed=1), "val")) != val


def test_documents_larger_than_a_batch_are_written_whole(tmp_path, corpus, monkeypatch):
    monkeypatch.setattr(prepare_data, "BATCH_CHARACTERS", 1)
    monkeypatch.setattr(prepare_data, "CHUNK_TOKENS", 7)
    file = prepare(tmp_path / "data.h5", corpus)
    assert sorted(all_texts(file)) == sorted(sentence(seed) for seed in range(60))


def test_a_text_that_spells_the_end_of_text_stays_text(tmp_path):
    texts = [sentence(seed) + "<|endoftext|> more" for seed in range(40)]
    file = prepare(tmp_path / "data.h5", write_jsonl(tmp_path / "c.jsonl", texts))
    assert sorted(all_texts(file)) == sorted(
        texts
    )  # texts_of checks that there is one end a document


# --- Inputs ---


def test_folders_are_read_recursively_by_suffix_without_hidden_files(tmp_path):
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    for seed in range(40):
        (folder / ("deep" if seed % 2 else ".") / f"{seed}.txt").write_text(sentence(seed))
    (folder / "deep" / "image.png").write_bytes(b"\x89PNG")
    (folder / ".git" / "hidden.txt").write_text("hidden")
    file = prepare(tmp_path / "data.h5", folder)
    assert sorted(all_texts(file)) == sorted(sentence(seed) for seed in range(40))
    wrong = problem(tmp_path / "other.h5", folder, suffixes=".rst", force=True)
    assert ".rst" in str(wrong) and wrong.exit_code == 2


def test_parquet_rows_are_documents(tmp_path):
    texts = [sentence(seed) for seed in range(40)] + [None]
    parquet.write_table(arrow.table({"body": texts, "id": list(range(41))}), tmp_path / "c.parquet")
    file = prepare(tmp_path / "data.h5", tmp_path / "c.parquet", text_field="body")
    assert sorted(all_texts(file)) == sorted(texts[:-1])
    missing = problem(tmp_path / "b.h5", tmp_path / "c.parquet", force=True)
    assert '"text"' in str(missing) and '"body", "id"' in str(missing)
    not_text = problem(tmp_path / "b.h5", tmp_path / "c.parquet", text_field="id", force=True)
    assert "int64" in str(not_text)


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not really")
    assert "c.parquet: is not a readable Parquet file" in str(
        problem(tmp_path / "data.h5", tmp_path / "c.parquet")
    )


def test_files_that_are_not_utf8_are_skipped_and_counted(tmp_path, corpus):
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    done = run(
        "prepare_data.py",
        "--input",
        corpus,
        tmp_path / "latin.txt",
        "--out",
        tmp_path / "data.h5",
        "--vocab-size",
        300,
        "--val-fraction",
        0.3,
        "--choices",
        4,
    )
    assert done.returncode == 0, done.stderr
    assert "1 not UTF-8" in done.stdout
    assert "Größe" not in all_texts(h5py.File(tmp_path / "data.h5"))


def test_half_a_surrogate_pair_is_skipped_and_counted(tmp_path, corpus, capsys):
    with open(corpus, "a", encoding="utf-8") as lines:
        lines.write('{"text": "\\ud800"}\n')
    prepare(tmp_path / "data.h5", corpus)
    assert "1 not UTF-8" in capsys.readouterr().out


def test_a_broken_jsonl_line_is_named_and_nothing_is_written(tmp_path, corpus):
    with open(corpus, "a", encoding="utf-8") as lines:
        lines.write('{"text": "cut sho')
    wrong = problem(tmp_path / "data.h5", corpus)
    assert f"{corpus}:61" in str(wrong) and wrong.exit_code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl"]


@pytest.mark.parametrize(
    "line, words",
    [
        ('{"body": "x", "id": 1}', 'has no field "text", only "body", "id"'),
        ('{"text": 7}', "is a int, not a string"),
        ('["text"]', "holds a list, not an object"),
        ("[" * 100000, "is not a JSON line"),
    ],
)
def test_a_jsonl_line_without_text_is_named(tmp_path, line, words):
    (tmp_path / "c.jsonl").write_text('{"text": "fine"}\n\n' + line + "\n")
    wrong = str(problem(tmp_path / "data.h5", tmp_path / "c.jsonl"))
    assert "c.jsonl:3" in wrong and words in wrong


def test_input_that_changes_between_readings_is_noticed(tmp_path, corpus, monkeypatch):
    train = prepare_data.train_tokenizer

    def train_while_input_shrinks(texts, vocab_size):
        tokenizer = train(texts, vocab_size)
        write_jsonl(corpus, [sentence(seed) for seed in range(59)])
        return tokenizer

    monkeypatch.setattr(prepare_data, "train_tokenizer", train_while_input_shrinks)
    assert "60 documents became 59" in str(problem(tmp_path / "data.h5", corpus))
    assert not (tmp_path / "data.h5").exists()


# --- Duplicates ---


def test_exact_duplicates_stand_once(tmp_path, capsys):
    texts = [sentence(seed) for seed in range(40)]
    file = prepare(tmp_path / "data.h5", write_jsonl(tmp_path / "c.jsonl", texts + texts[:7]))
    assert sorted(all_texts(file)) == sorted(texts)
    assert "7 exact duplicates" in capsys.readouterr().out


def test_near_duplicates_of_train_leave_val(tmp_path, capsys):
    originals = [sentence(seed, n_words=400) for seed in range(30)]
    edited = [text.replace("head1 ", "HEAD ", 1) + "An afterthought." for text in originals]
    file = prepare(
        tmp_path / "data.h5", write_jsonl(tmp_path / "c.jsonl", originals + edited), choices=0
    )
    train, val = texts_of(file, "train"), texts_of(file, "val")
    twin = dict(zip(originals + edited, edited + originals))
    assert not any(twin[text] in train for text in val)
    assert len(val) > 0 and len(train) + len(val) < 60
    assert (
        f"{60 - len(train) - len(val)} near-duplicates of train in val" in capsys.readouterr().out
    )


# --- Choices ---


def test_choices_hold_true_continuations_of_equal_length(tmp_path, corpus):
    file = prepare(tmp_path / "data.h5", corpus, choices=25)
    choices, tokens = file["choices"], file["choices/tokens"][:]
    contexts, options, gold = (
        choices[name][:] for name in ("context_offsets", "option_offsets", "gold")
    )
    assert choices.attrs["n_options"] == N_OPTIONS
    assert contexts.shape == (26,) and options.shape == (25, N_OPTIONS + 1) and gold.shape == (25,)
    assert contexts[0] == 0 and options[0, 0] == contexts[-1] and options[-1, -1] == len(tokens)
    assert (np.diff(options.astype(int)) == OPTION_TOKENS).all()
    assert set(gold) == set(range(N_OPTIONS))

    val = " ".join(map(str, file["val/tokens"][:])) + " "
    for question in range(25):
        context = tokens[contexts[question] : contexts[question + 1]]
        assert len(context) >= MIN_CONTEXT_TOKENS and file.attrs["eos_id"] not in context
        for option in range(N_OPTIONS):
            run_of_tokens = tokens[options[question, option] : options[question, option + 1]]
            assert " ".join(map(str, run_of_tokens)) in val
            continued = " ".join(map(str, np.concatenate([context, run_of_tokens]))) + " "
            assert (continued in val) == (option == gold[question])


def test_no_choices_when_none_are_asked_for(tmp_path, corpus):
    assert "choices" not in prepare(tmp_path / "data.h5", corpus, choices=0)


def test_a_small_val_gives_fewer_choices_and_says_so(tmp_path, capsys):
    texts = [f"a b c {seed}" for seed in range(30)]
    file = prepare(tmp_path / "data.h5", write_jsonl(tmp_path / "c.jsonl", texts), choices=9)
    assert "choices" not in file
    assert "0 choice questions instead of 9" in capsys.readouterr().err


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
    (tmp_path / "bad.json").write_text("{}")
    wrong = problem(tmp_path / "data.h5", corpus, tokenizer=tmp_path / "bad.json")
    assert "bad.json: is not a tokenizer.json" in str(wrong) and wrong.exit_code == 1


# --- Requests that are refused ---


@pytest.mark.parametrize(
    "options, words",
    [
        ({"vocab_size": 256}, "256 is too small"),
        ({"val_fraction": 0}, "0.0 leaves a split empty"),
        ({"val_fraction": 1}, "1.0 leaves a split empty"),
        ({"choices": -1}, "-1 is negative"),
        ({"seed": -4}, "-4 is negative"),
        ({"suffixes": ","}, "--suffixes: is empty"),
        ({"eos_token": "</s>"}, "goes with --tokenizer"),
    ],
)
def test_a_value_out_of_range_is_refused(tmp_path, corpus, options, words):
    wrong = problem(tmp_path / "data.h5", corpus, **options)
    assert words in str(wrong) and wrong.exit_code == 2


def test_an_existing_output_is_refused_unless_forced(tmp_path, corpus):
    (tmp_path / "data.h5").write_text("mine")
    arguments = [
        "--input",
        corpus,
        "--out",
        tmp_path / "data.h5",
        "--vocab-size",
        300,
        "--val-fraction",
        0.3,
    ]
    assert_refused(run("prepare_data.py", *arguments), 2, "data.h5: exists", "--force")
    assert (tmp_path / "data.h5").read_text() == "mine"
    assert run("prepare_data.py", *arguments, "--force").returncode == 0
    assert h5py.is_hdf5(tmp_path / "data.h5")


def test_a_tokenizer_that_lies_beside_the_output_is_not_overwritten(tmp_path, corpus):
    (tmp_path / "tokenizer.json").write_text("mine")
    wrong = problem(tmp_path / "data.h5", corpus)
    assert "tokenizer.json: exists" in str(wrong) and wrong.exit_code == 2
    assert (tmp_path / "tokenizer.json").read_text() == "mine"


def test_empty_input_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text(" \n")
    done = run("prepare_data.py", "--input", tmp_path / "empty.txt", "--out", tmp_path / "data.h5")
    assert done.returncode == 1
    assert "holds no text (1 empty)" in done.stderr and done.stdout == ""
    assert not (tmp_path / "data.h5").exists()


def test_a_missing_input_is_refused(tmp_path):
    assert_refused(
        run("prepare_data.py", "--input", tmp_path / "no.txt", "--out", tmp_path / "data.h5"),
        2,
        "no.txt: does not exist",
    )


def test_a_fraction_that_leaves_val_empty_is_refused(tmp_path, corpus):
    wrong = problem(tmp_path / "data.h5", corpus, val_fraction=1e-9)
    assert "of 60 documents leaves val empty" in str(wrong) and wrong.exit_code == 1


def test_a_val_of_near_duplicates_only_is_refused(tmp_path):
    text = sentence(1, 400)
    near = write_jsonl(tmp_path / "c.jsonl", [text + f" {number}" for number in range(30)])
    assert "near-duplicate of train" in str(problem(tmp_path / "data.h5", near))
    assert not (tmp_path / "data.h5").exists()


def test_an_unwritable_folder_is_named(tmp_path, corpus):
    (tmp_path / "file").write_text("")
    done = run(
        "prepare_data.py",
        "--input",
        corpus,
        "--out",
        tmp_path / "file" / "data.h5",
        "--val-fraction",
        0.3,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr


@pytest.mark.parametrize("free_bytes", [0, prepare_data.SPARE_BYTES + 25_000])
def test_a_full_disk_is_noticed_before_it_is_written_to(tmp_path, corpus, monkeypatch, free_bytes):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free_bytes))
    wrong = problem(tmp_path / "data.h5", corpus)
    assert f"{tmp_path}: the disk is full: {free_bytes:,} bytes" in str(wrong)
    assert wrong.exit_code == 1
    assert [path.name for path in tmp_path.iterdir()] == [corpus.name]
