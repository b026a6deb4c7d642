"""tools/prepare_data.py: what it writes, what it leaves out, what it refuses."""

import errno
import os
import re

import h5py
import numpy as np
import prepare_data
import pytest
from data.choice_questions import MIN_CONTEXT_TOKENS, N_OPTIONS, OPTION_TOKENS
from prepared_data import all_texts, prepare, problem, sentence, texts_of, write_jsonl
from script_runner import assert_refused, run
from tokenizers import Tokenizer

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
    assert "val has text for 0 choice questions, not for 9" in capsys.readouterr().err


@pytest.mark.parametrize("n_documents, n_words, is_small", [(40, 300, False), (40, 20, True), (15, 900, True)])
def test_a_val_that_is_too_small_to_compare_models_brings_a_warning(tmp_path, capsys, n_documents, n_words, is_small):
    texts = [sentence(seed, n_words) for seed in range(n_documents)]
    file = prepare(tmp_path / "data.h5", write_jsonl(tmp_path / "c.jsonl", texts), choices=0)
    documents, tokens = len(file["val/offsets"]) - 1, len(file["val/tokens"])
    assert (documents < 10 or tokens < 10_000) == is_small
    warning = f"warning: val is too small to compare models reliably (documents: {documents}, tokens: {tokens:,})."
    printed = capsys.readouterr().err
    assert (warning in printed) == is_small
    assert ("larger --val-fraction or more text, for 10 documents and 10,000 tokens" in printed) == is_small


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


@pytest.mark.parametrize("fraction, empty", [(1e-9, "val"), (1 - 1e-9, "train")])
@pytest.mark.parametrize("n_documents", [2, 3, 60])
def test_a_fraction_that_leaves_a_split_empty_is_refused_with_the_fractions_that_work(
    tmp_path, n_documents, fraction, empty
):
    texts = write_jsonl(tmp_path / "c.jsonl", [sentence(seed) for seed in range(n_documents)])
    wrong = problem(tmp_path / "data.h5", texts, val_fraction=fraction)
    assert f"--val-fraction: {fraction} of {n_documents} documents leaves {empty} empty" in str(wrong)
    assert wrong.exit_code == 1 and not (tmp_path / "data.h5").exists()
    least, most = map(float, re.search(r"Give a fraction from (0\.\d+) to (0\.\d+),", str(wrong)).groups())
    sizes = {
        split: [
            len(texts_of(prepare(tmp_path / f"{works}.h5", texts, val_fraction=works, force=True), split))
            for works in (least, most)
        ]
        for split in ("train", "val")
    }
    assert sizes == {"train": [n_documents - 1, 1], "val": [1, n_documents - 1]}


def test_the_only_document_cannot_be_divided(tmp_path):
    (tmp_path / "all.txt").write_text(sentence(1))
    for fraction in (0.02, 0.5, 0.98):
        wrong = problem(tmp_path / "data.h5", tmp_path / "all.txt", val_fraction=fraction)
        assert "--val-fraction: the only document cannot be divided" in str(wrong) and wrong.exit_code == 1
        assert "files of a folder, or JSON lines" in str(wrong)


def test_fractions_between_two_places_have_as_few_decimals_as_possible():
    assert prepare_data._decimals_between(0.0312, 0.987) == (0.04, 0.98)
    assert prepare_data._decimals_between(0.50011, 0.50049) == (0.5002, 0.5004)


def test_a_val_of_near_duplicates_only_is_refused(tmp_path):
    text = sentence(1, 400)
    near = write_jsonl(tmp_path / "c.jsonl", [text + f" {number}" for number in range(30)])
    assert "near-duplicate of train" in str(problem(tmp_path / "data.h5", near))
    assert not (tmp_path / "data.h5").exists()


@pytest.mark.parametrize("out, exit_code, words", [
    ("file/data.h5", 2, "file: is not a folder. Name another place with --out."),
    ("/proc/data.h5", 1, "/proc: no file can be made in this folder"),
    (".", 2, "is a folder. Name a file with --out."),
    ("/dev/null", 2, "/dev/null: is not a regular file. Name another file with --out."),
])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(tmp_path, corpus, out, exit_code, words):
    (tmp_path / "file").write_text("")
    done = run("prepare_data.py", "--input", corpus, "--out", tmp_path / out, "--val-fraction", 0.3, "--force")
    assert_refused(done, exit_code, words)
    assert done.stderr.count("\n") == 1  # nothing was read
    assert sorted(path.name for path in tmp_path.iterdir()) == [corpus.name, "file"]


def test_an_output_is_no_file_that_is_read(tmp_path):
    (tmp_path / "texts").mkdir()
    texts = write_jsonl(tmp_path / "texts/c.jsonl", [sentence(seed) for seed in range(40)])
    before = texts.read_bytes()
    for given in (texts, texts.parent):
        wrong = problem(tmp_path / "texts" / ".." / "texts/c.jsonl", given, force=True)
        assert "c.jsonl: is read by this job" in str(wrong) and wrong.exit_code == 2
    prepare(tmp_path / "data.h5", texts).close()
    tokenizer = tmp_path / "tokenizer.json"
    assert "tokenizer.json: is read" in str(problem(tokenizer, texts, tokenizer=tokenizer, force=True))
    assert texts.read_bytes() == before and tokenizer.read_text().startswith("{")


@pytest.mark.parametrize("n_writes", [0, 5, 12])
def test_a_failed_write_is_an_error_that_names_the_file(tmp_path, corpus, monkeypatch, n_writes):
    written = []

    def write_until_the_disk_is_full(descriptor, data, position, write=os.pwrite):
        written.append(len(data))
        if len(written) > n_writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", write_until_the_disk_is_full)
    with pytest.raises(OSError, match="No space left") as problem:
        prepare(tmp_path / "data.h5", corpus)
    assert problem.value.filename == str(tmp_path / "data.h5")
    assert [path.name for path in tmp_path.iterdir()] == [corpus.name]
