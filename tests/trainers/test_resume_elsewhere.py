"""A killed run resumes exactly, and with another number of processes or strategy it matches one process."""

import shutil

import numpy as np
import pytest
from many_processes import HYBRID, SHARD, Processes, run_processes
from tiny_runs import assert_done, assert_refused, checkpoints, losses, make_workplace, pretrain, words_of

STEPS = 80
JOB = {"train__steps": STEPS, "train__batch_tokens": 80, "train__micro_batch": 2, "model__n_kv_head": "4,2",
       "checkpoint__every": 7, "checkpoint__keep": 3, "data__val": ""}
STRATEGIES = {"replicate": {}, "shard": SHARD}


def job(name, dtype):
    return {**JOB, **STRATEGIES[name], "train__dtype": dtype}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return make_workplace(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module", params=[("replicate", "fp32"), ("replicate", "bf16"), ("shard", "fp32"),
                                        ("shard", "bf16")],
                ids=lambda param: "-".join(param))
def killed(request, workplace):
    """A run of two processes that was killed, and one that was not."""
    name, dtype = request.param
    run, whole = f"killed-{name}-{dtype}", f"whole-{name}-{dtype}"
    run_processes(workplace, 2, words_of("pretrain", whole, **job(name, dtype)))
    processes = Processes(workplace, 2, words_of("pretrain", run, **job(name, dtype)))
    processes.wait_for_step(run, 30)
    processes.kill()
    assert checkpoints(workplace / run)
    return run, whole, name, dtype


def resumed(workplace, killed, n, keys, copy):
    """The losses of a copy of the killed run, resumed with n processes."""
    run, _, name, dtype = killed
    shutil.copytree(workplace / run, workplace / copy, symlinks=True)
    run_processes(workplace, n, words_of("pretrain", copy, "--resume", **{**job(name, dtype), **keys}),
                  local_size=2 if keys == HYBRID else None)
    return losses(workplace / copy)


def test_a_run_resumes_bit_for_bit_at_the_same_number(workplace, killed):
    run, whole, _, _ = killed
    assert resumed(workplace, killed, 2, {}, f"{run}-same") == losses(workplace / whole)
    for name in ("model.safetensors", "config.json"):
        assert ((workplace / f"{run}-same/final" / name).read_bytes()
                == (workplace / whole / "final" / name).read_bytes())


@pytest.mark.parametrize("n, keys", [(1, {}), (3, {}), (3, SHARD), (4, HYBRID)],
                         ids=["1", "3", "3-shard", "4-hybrid"])
def test_a_run_resumes_elsewhere_with_the_same_losses(workplace, killed, n, keys):
    run, whole, _, dtype = killed
    found = resumed(workplace, killed, n, keys, f"{run}-{n}-{len(keys)}-{keys.get('dist__strategy')}")
    expected = losses(workplace / whole)
    assert [step for step, _ in found] == [step for step, _ in expected]
    tolerance = {"fp32": 1e-5, "bf16": 2e-2}[dtype]
    np.testing.assert_allclose([loss for _, loss in found], [loss for _, loss in expected], rtol=tolerance)


def flip_a_byte(file):
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


@pytest.mark.parametrize("damage", ["model.safetensors", "training_state_00001_of_00002.h5", "config.json"])
def test_a_damaged_checkpoint_is_named_and_passed_over_with_auto(workplace, damage):
    run = f"damaged-{damage}"
    steps = {**JOB, "train__steps": 21, "optim__schedule": "constant"}
    run_processes(workplace, 2, words_of("pretrain", run, **steps))
    newest = workplace / run / "checkpoints/step_00000021"
    flip_a_byte(newest / damage)
    longer = {**steps, "train__steps": 23}
    processes = Processes(workplace, 2, words_of("pretrain", run, "--resume", **longer))
    assert processes.wait() == [1, 1]
    assert str(newest / damage) in processes.text(0)
    again = Processes(workplace, 2, words_of("pretrain", run, "--resume=auto", **longer))
    assert again.wait() == [0, 0], again.text(0)
    assert str(newest) in again.text(0) and "step_00000014" in again.text(0)
    assert [step for step, _ in losses(workplace / run)] == list(range(1, 24))


def test_a_process_whose_file_is_missing_is_named(workplace):
    run = "missing"
    run_processes(workplace, 2, words_of("pretrain", run, **{**JOB, "train__steps": 7}))
    (workplace / run / "checkpoints/latest/training_state_00001_of_00002.h5").unlink()
    assert_refused(pretrain(workplace, run, "--resume", **{**JOB, "train__steps": 7}), 1,
                   "training_state_00001_of_00002.h5")


def test_alone_after_many_and_many_after_alone(workplace):
    """A run whose number of processes changes at every stop has the same losses."""
    constant = {**JOB, "optim__schedule": "constant", "checkpoint__every": 0}
    assert_done(pretrain(workplace, "one", **{**constant, "train__steps": 24}))
    for n, steps in ((1, 6), (3, 12), (2, 18), (1, 24)):
        run_processes(workplace, n, words_of("pretrain", "changing", "--resume", **{**constant, "train__steps": steps}))
    np.testing.assert_allclose([loss for _, loss in losses(workplace / "changing")],
                               [loss for _, loss in losses(workplace / "one")], rtol=1e-5)
