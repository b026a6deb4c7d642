"""An option with an empty value counts as given: the value is used where it can be one, else refused by name."""

import shutil

import pytest
from tiny_runs import assert_done, assert_refused, make_workplace, pretrain, regroup
from tokenizers import Tokenizer, models, pre_tokenizers, processors


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    workplace = make_workplace(tmp_path_factory.mktemp("trained"))
    assert_done(pretrain(workplace, "run", train__steps=1))
    shutil.copytree(workplace / "run/final", workplace / "model")
    return workplace


def write_tokenizer(workplace, bos):
    """One token a letter, A to Z from id 2; id 1 begins every text if bos."""
    vocab = {"[UNK]": 0, "[BOS]": 1, **{chr(ord("A") + i): 2 + i for i in range(26)}, " ": 30}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[BOS] $A", special_tokens=[("[BOS]", 1)])
    tokenizer.save(str(workplace / "model/tokenizer.json"))


def generate(workplace, *words):
    return regroup("generate", "--model", "model", "--max-new-tokens", "2", "--json", *words, cwd=workplace)


@pytest.mark.parametrize("words", [["--prompt", ""], ["--prompt="]])
def test_an_empty_prompt_is_what_the_tokenizer_makes_of_it(workplace, words):
    write_tokenizer(workplace, bos=True)
    assert '"prompt_tokens": [\n    1\n  ]' in assert_done(generate(workplace, *words)).stdout
    write_tokenizer(workplace, bos=False)
    assert_refused(generate(workplace, *words), 2, "the prompt has no tokens")


def test_blanks_of_a_prompt_count(workplace):
    write_tokenizer(workplace, bos=False)
    result = assert_done(generate(workplace, "--prompt", " A "))
    assert '"prompt_tokens": [\n    30,\n    2,\n    30\n  ]' in result.stdout


def test_a_prompt_is_neither_truncated_nor_padded(workplace):
    """transformers too ignores truncation and padding of tokenizer.json."""
    write_tokenizer(workplace, bos=False)
    path = str(workplace / "model/tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=5, pad_id=9, pad_token="H")
    tokenizer.save(path)
    result = assert_done(generate(workplace, "--prompt", "ABC"))
    assert '"prompt_tokens": [\n    2,\n    3,\n    4\n  ]' in result.stdout


@pytest.mark.parametrize("verb, option", [
    ("generate", "--tokens"), ("generate", "--top-k"), ("generate", "--threads"), ("generate", "--model"),
    ("eval", "--json"), ("eval", "--reference"), ("eval", "--choices"), ("eval", "--split"),
    ("score", "--window"), ("convert", "--kv-heads"), ("convert", "--calibration"), ("export", "--dtype"),
    ("pretrain", "--config"), ("pretrain", "--resume"), ("pretrain", "--run")])
def test_any_other_option_needs_a_value(workplace, verb, option):
    needs = "expected" if option != "--resume" else "--resume"
    assert_refused(regroup(verb, f"{option}=", cwd=workplace), 2, option, needs)


def test_an_empty_path_is_a_mistake(workplace):
    assert_refused(regroup("inspect", "", cwd=workplace), 2, "PATH", "found nothing")


def test_an_empty_config_key_is_not_given(workplace):
    """Every key of a resolved config may be empty, and then has its default."""
    assert_done(pretrain(workplace, "keys", train__steps=1, data__val="", model__head_dim="",
                         train__activation_checkpointing="", eval__choices=""))
