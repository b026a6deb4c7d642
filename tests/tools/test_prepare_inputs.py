"""tools/prepare_data.py: the files that it finds, the formats that it reads, the damage that it reports."""

import bz2
import gzip
import json
import lzma
import os
import shutil

import h5py
import prepare_data
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from prepared_data import all_texts, prepare, problem, sentence, write_jsonl
from script_runner import run

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


# --- Compression ---


def pack_zstd(raw):
    return arrow.compress(raw, codec="zstd", asbytes=True)


PACK = {".gz": gzip.compress, ".zst": pack_zstd, ".bz2": bz2.compress, ".xz": lzma.compress}
TEXTS = [sentence(seed) for seed in range(40)]


def write_arrow(path, table, new_writer=arrow.ipc.new_stream):
    with new_writer(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    return path


def write_every_format(folder, texts):
    """One document as text, one as a JSON object, and a share of the rest in each other format."""
    folder.mkdir(exist_ok=True)
    (folder / "a.txt").write_text(texts[0])
    (folder / "b.json").write_text(json.dumps({"text": texts[1]}, indent=1))
    (folder / "c.json").write_text(json.dumps([{"text": text} for text in texts[2:9]]))
    write_jsonl(folder / "d.jsonl", texts[9:16])
    parquet.write_table(arrow.table({"text": texts[16:23]}), folder / "e.parquet")
    write_arrow(folder / "f.arrow", arrow.table({"text": texts[23:31]}))
    write_arrow(folder / "g.arrow", arrow.table({"text": texts[31:]}), arrow.ipc.new_file)


@pytest.mark.parametrize("ending", PACK)
def test_every_format_is_read_compressed(tmp_path, ending):
    folder = tmp_path / "texts"
    write_every_format(folder, TEXTS)
    for path in list(folder.iterdir()):
        path.with_name(path.name + ending).write_bytes(PACK[ending](path.read_bytes()))
        path.unlink()
    assert sorted(all_texts(prepare(tmp_path / "data.h5", folder))) == sorted(TEXTS)


def test_every_format_is_recognised_without_its_ending(tmp_path):
    write_every_format(tmp_path / "texts", TEXTS)
    (tmp_path / "bare").mkdir()
    for number, path in enumerate(sorted((tmp_path / "texts").iterdir())):
        path.rename(tmp_path / "bare" / f"part{number}")
    file = prepare(tmp_path / "data.h5", *(tmp_path / "bare").iterdir())
    assert sorted(all_texts(file)) == sorted(TEXTS)


def test_several_compressed_streams_in_one_file_are_read_to_the_end(tmp_path, corpus):
    lines = corpus.read_bytes().splitlines(keepends=True)
    for ending, pack in PACK.items():
        packed = tmp_path / f"corpus.jsonl{ending}"
        packed.write_bytes(pack(b"".join(lines[:30])) + pack(b"".join(lines[30:])))
        file = prepare(tmp_path / f"data{ending}.h5", packed, force=True)
        assert sorted(all_texts(file)) == sorted(sentence(seed) for seed in range(60))


def cut_short(raw):
    return raw[:-11]


def overwritten(raw):
    return raw[:10] + b"\xff" * 40 + raw[50:]


@pytest.mark.parametrize("damaged", [cut_short, overwritten])
@pytest.mark.parametrize("ending", PACK)
def test_damaged_compressed_files_are_named(tmp_path, corpus, ending, damaged):
    packed = tmp_path / f"corpus.jsonl{ending}"
    packed.write_bytes(damaged(PACK[ending](corpus.read_bytes())))
    wrong = problem(tmp_path / "data.h5", packed)
    assert f"{packed}: is a damaged or truncated" in str(wrong) and wrong.exit_code == 1


def test_a_zstd_file_of_a_long_window_says_how_to_unpack_it(tmp_path):
    window_of_2_gib, last_raw_block = b"\xa8", b"\x09\0\0x"
    (tmp_path / "long.zst").write_bytes(b"\x28\xb5\x2f\xfd\0" + window_of_2_gib + last_raw_block)
    assert "zstd --decompress --long=31" in str(problem(tmp_path / "data.h5", tmp_path / "long.zst"))


# --- Formats by content ---


@pytest.mark.parametrize("name", ["lines.json", "lines.txt", "lines", "lines.jsonl"])
def test_json_lines_are_recognised_whatever_the_name(tmp_path, name):
    file = prepare(tmp_path / "data.h5", write_jsonl(tmp_path / name, TEXTS))
    assert sorted(all_texts(file)) == sorted(TEXTS)


def test_a_json_array_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr("data.json_records.READ_CHARACTERS", 5)
    texts = [f"{text} ]}} \\ \" é {text}" for text in TEXTS]
    (tmp_path / "array.json").write_text(
        "\ufeff \n" + json.dumps([{"id": [1, {}], "text": text} for text in texts], indent=1) + "\n"
    )
    assert sorted(all_texts(prepare(tmp_path / "data.h5", tmp_path / "array.json"))) == sorted(texts)


@pytest.mark.parametrize(
    "text",
    ["{% extends 'base' %}\n", "[link]: http://x\n", "{}\nis an empty object\n", "[[wiki]]", "{", "[1, 2]", "[{"],
)
def test_text_that_begins_like_json_is_text(tmp_path, corpus, text):
    (tmp_path / "page.txt").write_text(text)
    assert text in all_texts(prepare(tmp_path / "data.h5", corpus, tmp_path / "page.txt"))


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.json", "not JSON at all", "a.json:1: is not a JSON line"),
        ("a.json", '{"text": "cut', "a.json: is neither JSON nor JSON lines"),
        ("a.json", '{"text": "x"}\n{"text": "cut', "a.json:2: is not a JSON line"),
        ("a.jsonl", '{"text": "cut', "a.jsonl:1: is not a JSON line"),
        ("a.json", '{"text": "x"}\nprose', "a.json:2: is not a JSON line"),
        ("a.json", '[{"text": "x"}, {"te', "a.json: is a damaged or truncated JSON array"),
        ("a.json", '[{"text": "x"} {"text": "y"}]', "expected ,, found {"),
        ("a.json", '[{"text": "x"}] more', "more text follows the array"),
        ("a.json", "[" * 100000, "a.json: is a damaged or truncated JSON array"),
        ("a.json", '["x"]', "a.json, item 1: holds a str, not an object"),
        ("a.txt", '[{"text": "x"}, {"body": "x"}]', 'a.txt, item 2: has no field "text", only "body"'),
        ("a.json", '{\n"body": "x"}', 'a.json: has no field "text", only "body"'),
        ("a.json", '{"text": ["x"]}', 'the field "text" is a list, not a string'),
    ],
)
def test_broken_json_is_refused_with_its_place(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    wrong = problem(tmp_path / "data.h5", tmp_path / name)
    assert words in str(wrong) and wrong.exit_code == 1


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("a.npy", b"\x93NUMPY\x01\x00", "is a NumPy array"),
        ("a.idx", b"MMIDIDX\x00\x00", "is a Megatron index"),
        ("a.bin", (20240520).to_bytes(4, "little") + bytes(9), "is a token file of llm.c"),
        ("a.bin", b"\x07\x00\x09\x01", "is binary; nanoGPT and Megatron keep token ids in .bin"),
        ("a.zip", b"PK\x03\x04", "is a zip archive"),
        ("a.tar", b"a.txt" + bytes(252) + b"ustar", "is a tar archive"),
        ("a.h5", b"\x89HDF\r\n", "is HDF5"),
        ("a.txt", "text".encode("utf-16"), "is UTF-16 text"),
        ("a.png", b"\x89PNG\r\n\x00", "is binary data"),
    ],
)
def test_other_formats_are_refused_by_name(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert f"{name}: {words}" in str(problem(tmp_path / "data.h5", tmp_path / name))
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
    assert f"{name}.gz: is" in str(problem(tmp_path / "data.h5", tmp_path / f"{name}.gz"))


@pytest.mark.parametrize(
    "kind",
    [
        arrow.string(),
        arrow.large_string(),
        arrow.string_view(),
        arrow.dictionary(arrow.int32(), arrow.string()),
    ],
    ids=str,
)
def test_arrow_columns_of_strings_of_every_kind(tmp_path, kind):
    column = arrow.array([*TEXTS, None]).cast(kind)
    table = arrow.table({"body": column, "id": list(range(41))})
    write_arrow(tmp_path / "stream.arrow", table)
    write_arrow(tmp_path / "file.arrow", table, arrow.ipc.new_file)
    parquet.write_table(table, tmp_path / "c.parquet")
    for name in ("stream.arrow", "file.arrow", "c.parquet"):
        file = prepare(tmp_path / f"{name}.h5", tmp_path / name, text_field="body", force=True)
        assert sorted(all_texts(file)) == sorted(TEXTS)
        wrong = problem(tmp_path / "no.h5", tmp_path / name, text_field="id", force=True)
        assert "int64, not strings" in str(wrong)


@pytest.mark.parametrize("new_writer", [arrow.ipc.new_stream, arrow.ipc.new_file])
def test_a_truncated_arrow_file_is_named(tmp_path, new_writer):
    path = write_arrow(tmp_path / "c.arrow", arrow.table({"text": TEXTS}), new_writer)
    path.write_bytes(path.read_bytes()[:-200])
    assert "c.arrow: is not a readable Arrow file" in str(problem(tmp_path / "data.h5", path))


def test_damaged_offsets_of_an_arrow_file_are_refused(tmp_path):
    raw = write_arrow(tmp_path / "c.arrow", arrow.table({"text": ["abc", "defg"]})).read_bytes()
    offsets = (0).to_bytes(4, "little") + (3).to_bytes(4, "little") + (7).to_bytes(4, "little")
    assert raw.count(offsets) == 1
    (tmp_path / "c.arrow").write_bytes(raw.replace(offsets, offsets[:8] + (1 << 30).to_bytes(4, "little")))
    assert "c.arrow: is not a readable Arrow file" in str(problem(tmp_path / "data.h5", tmp_path / "c.arrow"))


# --- Folders ---


def test_files_in_a_folder_that_are_not_read_are_counted(tmp_path, capsys):
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / ".git").mkdir()
    write_jsonl(folder / "a.jsonl", TEXTS)
    for name in ("a.png", "deep/b.PNG", "Makefile", "notes.csv.gz"):
        (folder / name).write_bytes(b"x")
    (folder / "binary.txt").write_bytes(b"\0\1")
    (folder / "package.json").write_text('{"name": "x"}')
    (folder / "gone.txt").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.txt")
    assert len(all_texts(prepare(tmp_path / "data.h5", folder))) == len(TEXTS)
    left_out = (
        "left out: 1 .csv.gz, 1 .json without \"text\", 2 .png, 1 .txt without text, 1 broken links, "
        "1 hidden, 1 special files, 1 without an ending\n"
    )
    assert left_out in capsys.readouterr().out


def test_suffixes_match_names_with_and_without_their_compression(tmp_path):
    folder = tmp_path / "texts"
    write_every_format(folder, TEXTS)
    (folder / "d.jsonl.gz").write_bytes(gzip.compress((folder / "d.jsonl").read_bytes()))
    (folder / "d.jsonl").unlink()
    for suffix in (".jsonl", ".jsonl.gz"):
        file = prepare(tmp_path / "data.h5", folder, suffixes=suffix, force=True)
        assert sorted(all_texts(file)) == sorted(TEXTS[9:16])
        file.close()


def test_links_are_followed_once(tmp_path, capsys):
    folder, elsewhere = tmp_path / "texts", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    write_jsonl(elsewhere / "s0.jsonl", TEXTS[:20])
    write_jsonl(tmp_path / "s1", TEXTS[20:])
    (folder / "more").symlink_to("../elsewhere")
    (folder / "again").symlink_to("../elsewhere")
    (folder / "s1.jsonl").symlink_to("../s1")
    os.link(elsewhere / "s0.jsonl", folder / "hard.jsonl")
    (elsewhere / "loop").symlink_to("../texts")
    (elsewhere / "self").symlink_to("self")
    file = prepare(tmp_path / "data.h5", folder, elsewhere, tmp_path / "s1")
    assert sorted(all_texts(file)) == sorted(TEXTS)
    assert "left out: 1 broken links\n" in capsys.readouterr().out


def save_to_disk(folder, texts, **state):
    """As datasets.Dataset.save_to_disk does, in two files."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-00002.arrow" for number in range(2)]
    for number, name in enumerate(names):
        write_arrow(folder / name, arrow.table({"text": texts[number::2]}))
    (folder / "dataset_info.json").write_text('{"features": {}}')
    state = {"_data_files": [{"filename": name} for name in names], "_split": None, **state}
    (folder / "state.json").write_text(json.dumps(state))
    return folder


def test_a_folder_that_datasets_saved_is_read(tmp_path, capsys):
    folder = save_to_disk(tmp_path / "set", TEXTS)
    shutil.copy(folder / "data-00000-of-00002.arrow", folder / "cache-1234.arrow")
    assert sorted(all_texts(prepare(tmp_path / "data.h5", folder))) == sorted(TEXTS)
    assert "left out: 1 .arrow\n" in capsys.readouterr().out
    (folder / "data-00001-of-00002.arrow").unlink()
    wrong = str(problem(tmp_path / "no.h5", folder, force=True))
    assert "state.json: names data-00001-of-00002.arrow, which is missing" in wrong


def test_a_dictionary_that_datasets_saved_is_read_with_all_its_splits(tmp_path, capsys):
    save_to_disk(tmp_path / "set" / "train", TEXTS[:30])
    save_to_disk(tmp_path / "set" / "test", TEXTS[30:])
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert sorted(all_texts(prepare(tmp_path / "data.h5", tmp_path / "set"))) == sorted(TEXTS)
    assert "left out: nothing\n" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "set" / "test")
    wrong = str(problem(tmp_path / "no.h5", tmp_path / "set", force=True))
    assert "dataset_dict.json: names test, which is missing" in wrong


@pytest.mark.parametrize(
    "state, words",
    [
        ({"_indices_files": [{"filename": "i.arrow"}]}, "selects rows by an index"),
        ({"_data_files": None}, 'state.json: has no list "_data_files"'),
        ({"_data_files": ["../a", 7]}, "names ../a, which is missing"),
    ],
)
def test_a_saved_folder_with_a_strange_state_is_refused(tmp_path, state, words):
    assert words in str(problem(tmp_path / "data.h5", save_to_disk(tmp_path / "set", TEXTS, **state)))


def hub_repository(folder, revisions):
    """As the Hugging Face hub caches a data set: blobs, and links to them by revision."""
    for revision, texts in revisions.items():
        blob = folder / "blobs" / f"{revision}-sha"
        blob.parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(blob, texts)
        (folder / "snapshots" / revision / "data").mkdir(parents=True)
        (folder / "snapshots" / revision / "data" / "train.jsonl").symlink_to(blob)
    (folder / "refs").mkdir()
    return folder


def test_a_hub_cache_is_read_by_the_links_of_main(tmp_path, capsys, monkeypatch):
    folder = hub_repository(tmp_path / "hub" / "datasets--a--b", {"old": TEXTS[:3], "new": TEXTS})
    (folder / "refs" / "main").write_text("new")
    assert sorted(all_texts(prepare(tmp_path / "data.h5", tmp_path / "hub"))) == sorted(TEXTS)
    assert "left out: nothing\n" in capsys.readouterr().out
    monkeypatch.chdir(folder)
    assert len(all_texts(prepare(tmp_path / "data.h5", ".", force=True))) == len(TEXTS)
    (folder / "refs" / "main").unlink()
    wrong = str(problem(tmp_path / "no.h5", folder, force=True))
    assert "has 2 snapshots and none of them is named in refs/main" in wrong
    single = hub_repository(tmp_path / "models--single", {"only": TEXTS})
    assert len(all_texts(prepare(tmp_path / "single.h5", single, force=True))) == len(TEXTS)
