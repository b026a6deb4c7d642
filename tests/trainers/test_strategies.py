"""A run divided over processes, in every way, has the results of one process."""

import json

import h5py
import numpy as np
import pytest
from hf_families import random_model
from many_processes import HYBRID, SHARD, run_processes
from safetensors.numpy import load_file
from tiny_runs import assert_done, losses, make_workplace, metrics, pretrain, uptrain, words_of

STEPS = 40
# Five sequences a step: uneven shares. Layers with different numbers of K/V heads.
UNEVEN = {"train__steps": STEPS, "train__batch_tokens": 80, "train__micro_batch": 2, "model__n_layer": 3,
          "model__n_kv_head": "4,2,1", "eval__every": 10, "checkpoint__every": 0, "optim__lr": 0.001}
DIVISIONS = [(2, None, {}), (3, None, {}), (4, None, {}), (2, None, SHARD), (3, None, SHARD), (4, None, SHARD),
             (4, 2, HYBRID)]


def name_of(division):
    n, local_size, keys = division
    return f"{keys.get('dist__strategy', 'replicate')}-{n}" + (f"-{local_size}-a-node" if local_size else "")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = make_workplace(tmp_path_factory.mktemp("strategies"))
    assert_done(pretrain(folder, "untied", **UNEVEN))
    assert_done(pretrain(folder, "tied", **UNEVEN, model__tie_embeddings="true"))
    return folder


def val_losses(run):
    return [line["val_loss"] for line in metrics(run) if "val_loss" in line]


def assert_same_run(run, expected, tolerance=1e-5):
    assert [step for step, _ in losses(run)] == [step for step, _ in losses(expected)]
    np.testing.assert_allclose([loss for _, loss in losses(run)], [loss for _, loss in losses(expected)],
                               rtol=tolerance)
    np.testing.assert_allclose(val_losses(run), val_losses(expected), rtol=tolerance)
    found, wanted = (load_file(folder / "final/model.safetensors") for folder in (run, expected))
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.linalg.norm(found[name] - values) <= tolerance * np.linalg.norm(values), name


@pytest.mark.parametrize("division", DIVISIONS, ids=name_of)
@pytest.mark.parametrize("embeddings", ["untied", "tied"])
def test_forty_steps_are_those_of_one_process(workplace, division, embeddings):
    n, local_size, keys = division
    run = f"{embeddings}-{name_of(division)}"
    tied = {"model__tie_embeddings": "true"} if embeddings == "tied" else {}
    run_processes(workplace, n, words_of("pretrain", run, **UNEVEN, **keys, **tied), local_size=local_size)
    assert_same_run(workplace / run, workplace / embeddings)


@pytest.mark.parametrize("keys", [{}, SHARD], ids=["replicate", "shard"])
def test_processes_without_a_sequence_and_blocks_smaller_than_their_number(workplace, keys):
    """Two sequences a step for four processes; a final norm of two numbers."""
    tiny = {"model__d_model": 2, "model__n_head": 1, "model__d_ff": 2, "model__tie_embeddings": "true",
            "train__batch_tokens": 32, "train__steps": 10, "checkpoint__every": 0}
    name = f"tiny-{len(keys)}"
    assert_done(pretrain(workplace, f"{name}-alone", **tiny))
    run_processes(workplace, 4, words_of("pretrain", name, **tiny, **keys))
    assert_same_run(workplace / name, workplace / f"{name}-alone")


# The last block of the first has no parameter, the second projects its embedding, norms of the third have no weights.
@pytest.mark.parametrize("family, variant, fields", [
    ("opt", "plain", {"_remove_final_layer_norm": True}), ("opt", "norms after, narrow embedding", {}),
    ("olmo", "plain", {})])
def test_families_whose_blocks_differ(workplace, family, variant, fields):
    name = f"{family}-{len(variant)}"
    random_model(family, variant, **fields, vocab_size=64).save_pretrained(workplace / name)
    # AdamW's epsilon as in tests/models/test_family_training.py.
    job = {"uptrain__from": name, "uptrain__original": name, "train__steps": 10, "optim__eps": 1e-5,
           "checkpoint__every": 5}
    assert_done(uptrain(workplace, f"{name}-alone", **job))
    run_processes(workplace, 3, words_of("uptrain", f"{name}-run", **job, **SHARD))
    assert_same_run(workplace / f"{name}-run", workplace / f"{name}-alone", tolerance=1e-4)


@pytest.mark.parametrize("keys", [{}, SHARD], ids=["replicate", "shard"])
@pytest.mark.parametrize("dtypes", [{"train__dtype": "bf16"}, {"dist__wire_dtype": "bf16"},
                                    {"dist__wire_dtype": "bf16", "dist__reduce_dtype": "bf16"}],
                         ids=["model", "wire", "sums"])
def test_bf16_differs_less_than_two_seeds_do(workplace, dtypes, keys):
    name = f"{'-'.join(dtypes)}-{len(keys)}"
    dtype = {key: value for key, value in dtypes.items() if key == "train__dtype"}
    for run, seed in (("alone", 0), ("other", 1)):
        assert_done(pretrain(workplace, f"{name}-{run}", **UNEVEN, **dtype, train__seed=seed))
    run_processes(workplace, 2, words_of("pretrain", name, **UNEVEN, **dtypes, **keys))
    alone, other, divided = (np.array([loss for _, loss in losses(workplace / run)])
                             for run in (f"{name}-alone", f"{name}-other", name))
    assert np.abs(divided - alone).max() < np.abs(other - alone).max()
    if "dist__wire_dtype" in dtypes:
        assert not np.array_equal(divided, alone)  # gradients did travel rounded


def test_accumulation_talks_once_a_step(workplace):
    """Replicas reduce at the step's last micro-batch: more micro-batches send no more bytes."""
    sent = []
    for micro_batch in (8, 1):
        run = f"accumulate-{micro_batch}"
        run_processes(workplace, 2, words_of("pretrain", run, train__micro_batch=micro_batch, train__steps=3))
        sent.append([line["sent_bytes"] for line in metrics(workplace / run) if "loss" in line])
    assert sent[0] == sent[1]
    n_bytes = sum(values.nbytes for values in load_file(workplace / "accumulate-8/final/model.safetensors").values())
    assert sent[0][1] == n_bytes  # half of each gradient is exchanged, half of the weights published


@pytest.mark.parametrize("keys", [{}, SHARD], ids=["replicate", "shard"])
def test_uptraining_with_a_teacher_and_its_evaluation(workplace, keys):
    job = {"convert__from": "untied", "convert__n_kv_head": 1, "uptrain__alpha": 0.5, "distill__weight": 0.5,
           "distill__temperature": 2, "convert__method": "pca", "checkpoint__every": 5,
           "optim__lr": 0.001}
    name = f"uptrained-{len(keys)}"
    assert_done(uptrain(workplace, f"{name}-alone", **job))
    processes = run_processes(workplace, 2, words_of("uptrain", name, **job, **keys))
    # The teacher computes in bf16, whose rounding depends on how many sequences go together.
    assert_same_run(workplace / name, workplace / f"{name}-alone", tolerance=1e-3)
    assert processes.text(0, "out").splitlines()[0].startswith("model")
    assert_same_evaluation(workplace / name, workplace / f"{name}-alone", tolerance=1e-3)


def evaluated(run):
    return json.loads((run / "evaluation.json").read_text())["models"]


def assert_same_evaluation(run, expected, tolerance):
    for found, wanted in zip(evaluated(run), evaluated(expected), strict=True):
        assert found.keys() == wanted.keys()
        for key in ("loss", "perplexity", "bits_per_byte", "kl"):
            assert found[key] == pytest.approx(wanted[key], rel=tolerance, abs=1e-6), key
        for key in ("choice_accuracy", "agreement"):
            assert found[key] == pytest.approx(wanted[key], abs=0.02), key
        for key in ("name", "n_kv_head", "parameters", "tokens", "kv_bytes_per_token", "compute_fraction"):
            assert found[key] == wanted[key], key
        assert found["decode_tokens_per_s"]["1"] > 0


def write_choices(path):
    """Seven questions of a context of four tokens and two options of three."""
    random = np.random.default_rng(0)
    options = 4 * 7 + 6 * np.arange(7)  # behind all contexts
    with h5py.File(path, "w") as file:
        group = file.create_group("choices")
        group["tokens"] = random.integers(0, 64, 70).astype(np.uint16)
        group["context_offsets"] = 4 * np.arange(8, dtype=np.uint64)
        group["option_offsets"] = np.stack([options, options + 3, options + 6], 1).astype(np.uint64)
        group["gold"] = random.integers(0, 2, 7)


@pytest.mark.parametrize("n, keys", [(2, {}), (3, SHARD)], ids=["2-replicate", "3-shard"])
def test_evaluation_is_that_of_one_process(workplace, n, keys):
    """Without training steps the models are equal to the last bit."""
    write_choices(workplace / "choices.h5")
    job = {"convert__from": "tied", "convert__n_kv_head": 1, "uptrain__alpha": 0, "eval__choices": "choices.h5"}
    assert_done(uptrain(workplace, f"evaluated-{n}-alone", **job))
    run_processes(workplace, n, words_of("uptrain", f"evaluated-{n}", **job, **keys))
    assert_same_evaluation(workplace / f"evaluated-{n}", workplace / f"evaluated-{n}-alone", tolerance=1e-6)
    accuracies = [[model["choice_accuracy"] for model in evaluated(workplace / f"evaluated-{n}{alone}")]
                  for alone in ("", "-alone")]
    assert accuracies[0] == accuracies[1] and accuracies[0][0] > 0


CALIBRATED = {
    "moments": {"convert__grouping": "similar", "convert__n_kv_head": 2},
    "output": {"convert__refit": "output"},
    "block": {"convert__refit": "block"},
    "few": {"convert__refit": "block", "convert__calibration_tokens": 768},  # two windows to fit
    "budget": {"convert__refit": "output", "convert__n_kv_head": "", "convert__kv_budget": 0.5},
}


@pytest.mark.parametrize("n, keys", [(2, {}), (3, SHARD)], ids=["2-replicate", "3-shard"])
@pytest.mark.parametrize("what", CALIBRATED)
def test_calibration_is_that_of_one_process(workplace, what, n, keys):
    """Seven windows to fit and one held out, each of two blocks of queries, on two and three processes."""
    if not (workplace / "longer").exists():
        assert_done(pretrain(workplace, "longer", model__max_seq_len=256))
    job = {"convert__from": "longer", "convert__n_kv_head": 1, "convert__method": "pca", "uptrain__alpha": 0,
           "data__val": "", **CALIBRATED[what]}
    if not (workplace / what).exists():
        assert_done(uptrain(workplace, what, **job))
    run = f"{what}-{n}"
    run_processes(workplace, n, words_of("uptrain", run, **job, **keys))
    found, wanted = (load_file(workplace / folder / "converted/model.safetensors") for folder in (run, what))
    assert found.keys() == wanted.keys()
    # Training computes in bf16 if the CPU does; a ridge solution depends on the last bits of its sums.
    tolerance = {"block": 1e-2, "few": 1e-2, "moments": 1e-4}.get(what, 1e-3)
    for name, values in wanted.items():
        assert found[name].shape == values.shape
        assert np.linalg.norm(found[name] - values) <= tolerance * np.linalg.norm(values), name


@pytest.mark.parametrize("keys", [{}, SHARD, HYBRID], ids=["replicate", "shard", "hybrid"])
def test_state_is_divided_among_the_processes(workplace, keys):
    """Each number of the optimizer's state is in one process's file, which holds a quarter of every block."""
    run = "states-" + keys.get("dist__strategy", "replicate")
    run_processes(workplace, 4, words_of("pretrain", run, train__steps=2, **keys),
                  local_size=2 if keys == HYBRID else None)
    files = sorted((workplace / run / "checkpoints/latest").glob("training_state_*"))
    assert len(files) == 4
    sizes = []
    for file in files:
        with h5py.File(file) as state:
            sizes.append([state[f"blocks/{block}/first_moment"].shape[0] for block in state["blocks"]])
    sizes = np.array(sizes)
    weights = load_file(workplace / run / "final/model.safetensors")
    assert sizes.sum() == sum(values.size for values in weights.values())
    assert (sizes <= np.ceil(sizes.sum(0) / 4)).all()
