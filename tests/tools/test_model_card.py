"""The README.md that export writes, as huggingface_hub reads it."""

import json
import shutil

import pytest
from huggingface_hub import ModelCard
from tiny_runs import assert_done, make_workplace, pretrain, regroup, uptrain
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """`original`: a model as the Hub's cache keeps it, with a licensed card; `up`: a run that started from it."""
    workplace = make_workplace(tmp_path_factory.mktemp("cards"))
    assert_done(pretrain(workplace, "run"))
    original = workplace / "hub/models--ai--tiny-1.0/snapshots/0123abc"
    shutil.copytree(workplace / "run/final", original)
    (original / "README.md").write_text("---\nlanguage:\n- en\nlicense: other\nlicense_name: 'ours'\n"
                                        "license_link: https://example.org/ours\n---\n\nlicense: not this one\n")
    (workplace / "original").symlink_to(original)
    assert_done(uptrain(workplace, "up", convert__from="original", convert__n_kv_head="2,1", uptrain__alpha=0.5))
    return workplace


def card_of(workplace, name, model, *words):
    assert_done(regroup("export", "--model", model, "--to", name, *words, cwd=workplace))
    return ModelCard((workplace / name / "README.md").read_text())


def test_a_card_names_the_original_and_its_license(workplace):
    card = card_of(workplace, "deployed", "up")
    assert card.data.base_model == "ai/tiny-1.0"
    assert (card.data.license, card.data.license_name) == ("other", "ours")
    assert card.data.license_link == "https://example.org/ours"
    assert card.data.library_name == "transformers" and card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["regroup", "gqa"]


def test_a_card_tells_how_the_model_was_made_and_what_it_is_worth(workplace):
    text = card_of(workplace, "told", "up/final").text
    rows = json.loads((workplace / "up/evaluation.json").read_text())["models"]
    for fact in ("| K/V heads | 2,1, before the conversion 4 |", "| conversion | mean, neighbours grouped |",
                 "| uptraining | 3 steps, α = 0.5000 of the original's 6 |", "On held-out text of tokens.h5",
                 *(f"{row['loss']:.4f}" for row in rows)):
        assert fact in text


def test_the_line_that_a_card_gives_loads_the_model(workplace, monkeypatch):
    text = card_of(workplace, "loaded", "up").text
    line = next(line for line in text.splitlines() if line.startswith("model = "))
    assert text.count("trust_remote_code=True") == 2
    monkeypatch.chdir(workplace)
    assert eval(line.removeprefix("model = ")).config.model_type == "regroup"
    expanded = card_of(workplace, "stock", "up", "--layout", "expanded").text
    assert "trust_remote_code" not in expanded and "K/V heads are repeated" in expanded
    assert AutoModelForCausalLM.from_pretrained(workplace / "stock").config.model_type == "llama"


def test_a_model_without_an_original_names_none(workplace):
    card = card_of(workplace, "plain", "run", "--format", "hdf5")
    assert card.data.base_model is None and card.data.license is None and card.data.library_name is None
    assert card.data.tags == ["regroup", "mha"]
    assert "regroup generate" in card.text


def test_a_damaged_evaluation_is_named(workplace, tmp_path):
    shutil.copytree(workplace / "up", tmp_path / "up", symlinks=True)
    (tmp_path / "up/evaluation.json").write_text('{"data": "x", "dtype": "fp32", "models": [{"name": 3}]}')
    result = regroup("export", "--model", tmp_path / "up/final", "--to", tmp_path / "out")
    assert result.returncode == 1 and "up/evaluation.json" in result.stderr
    assert not (tmp_path / "out").exists()
