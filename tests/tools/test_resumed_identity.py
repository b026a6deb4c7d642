"""What a resumed run prints about a schedule that has become longer, and about another model."""

import json
import shutil

import pytest
from tiny_runs import assert_done, assert_refused, make_workplace, metrics, pretrain, uptrain

JUMP = "the learning rate jumps: at step 6"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workplace = make_workplace(tmp_path_factory.mktemp("finished"))
    assert_done(pretrain(workplace, "run"))
    return workplace


@pytest.fixture
def workplace(tmp_path, finished):
    shutil.copytree(finished, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


def test_a_longer_schedule_says_that_the_learning_rate_jumps(workplace):
    assert [line["lr"] for line in metrics(workplace / "run") if "lr" in line][-1] == 0.001
    result = assert_done(pretrain(workplace, "run", "--resume", train__steps=12))
    assert result.stderr.count(JUMP) == 1
    assert "it was 0.001 in the schedule of 6 steps" in result.stderr
    assert "in that of 12" in result.stderr


def test_a_run_of_the_same_length_says_nothing(workplace):
    shutil.rmtree(workplace / "run/checkpoints/step_00000006")
    (workplace / "run/checkpoints/latest").unlink()
    assert "jumps" not in assert_done(pretrain(workplace, "run", "--resume")).stderr


def test_a_constant_schedule_does_not_jump(workplace):
    constant = {"optim__schedule": "constant", "optim__warmup_steps": 1}
    assert_done(pretrain(workplace, "constant", **constant))
    result = assert_done(pretrain(workplace, "constant", "--resume", train__steps=12, **constant))
    assert "jumps" not in result.stderr


def set_scaling(model, scaling):
    path = model / "config.json"
    config = json.loads(path.read_text())
    config["rope_scaling"] = scaling
    config["rope_parameters"] = {**scaling, "rope_theta": config["rope_theta"]}
    path.write_text(json.dumps(config))


def test_two_kinds_of_rope_scaling_differ_on_resuming(workplace):
    model = workplace / "model"
    shutil.copytree(workplace / "run/final", model)
    set_scaling(model, {"rope_type": "linear", "factor": 2.0})
    keys = dict(uptrain__from="model", uptrain__original="model", uptrain__alpha=1, uptrain__original_steps=2)
    assert_done(uptrain(workplace, "up", **keys))
    set_scaling(model, {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 32})
    assert_refused(uptrain(workplace, "up", "--resume", **keys), 2,
                   "model.layers.0.attention.rotary.scaling.kind is llama3, the checkpoint was trained with linear")
