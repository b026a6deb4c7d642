"""tools/data/held_out_overlap.py: which held-out documents count as near-duplicates."""

import random

from data import held_out_overlap
from data.held_out_overlap import HeldOutIndex, shingles_of


def sentence(seed, n_words):
    source = random.Random(seed)
    return " ".join(f"word{source.randrange(500)}" for _ in range(n_words))


def test_overlap_counts_text_from_several_train_documents():
    one, two, fresh = (sentence(seed, 400) for seed in (1, 2, 3))
    mostly_copied = one[:1000] + two[:1000] + fresh[:1000]
    held_out = [mostly_copied, fresh, "short"]
    index = HeldOutIndex([shingles_of(text) for text in held_out])
    index.mark_train(one)
    assert index.near_duplicates() == [False, False, False]
    index.mark_train(two)
    assert index.near_duplicates() == [True, False, False]


def test_shingles_do_not_depend_on_where_a_passage_stands():
    text = sentence(5, 600)
    moved = "Something before it. \n\n " + text.replace(" ", "  ") + " And after."
    assert set(shingles_of(moved)) > set(shingles_of(text))
    assert len(shingles_of(text)) > len(text) / held_out_overlap.SAMPLED / 2


def test_shingles_do_not_depend_on_the_block_size(monkeypatch):
    whole = shingles_of(sentence(5, 600))
    monkeypatch.setattr(held_out_overlap, "BLOCK_BYTES", 100)
    assert (shingles_of(sentence(5, 600)) == whole).all()


def test_a_text_shorter_than_a_shingle_has_none():
    assert len(shingles_of("x" * (held_out_overlap.SHINGLE_BYTES - 1))) == 0
    assert len(shingles_of("")) == 0
