"""Fixtures that several test files share."""

import pytest
from small_models import make_every_second_alike, small_llama
from tiny_runs import write_tokens


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Originals by name, and text.h5; no test changes them."""
    folder = tmp_path_factory.mktemp("conversion")
    small_llama().save_pretrained(folder / "mha")
    small_llama(n_kv_head=2).save_pretrained(folder / "gqa")
    make_every_second_alike(small_llama(), noise=0.2).save_pretrained(folder / "alike")
    write_tokens(folder / "text.h5")
    return folder
