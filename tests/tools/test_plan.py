"""What `regroup plan` predicts is what runs take."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from many_processes import SHARD, Processes, run_processes
from tiny_runs import assert_done, assert_refused, make_workplace, metrics, regroup, words_of

GIB = 2**30
# Mostly state: a step is short and has few activations.
LARGE = {"model__n_layer": 8, "model__d_model": 768, "model__n_head": 12, "model__d_ff": 2048,
         "model__vocab_size": 4096, "train__batch_tokens": 64, "train__micro_batch": 1, "train__steps": 2,
         "checkpoint__every": 0, "data__val": ""}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return make_workplace(tmp_path_factory.mktemp("plan"))


def plan(workplace, *words, **keys):
    overrides = [f"--{name.replace('__', '.')}={value}" for name, value in keys.items()]
    done = assert_done(regroup("plan", "--config", "run.ini", *words, *overrides, "--json", "plan.json", cwd=workplace))
    (workplace / "plan.txt").write_text(done.stdout)
    found = json.loads((workplace / "plan.json").read_text())
    return {row["strategy"]: row for row in found["strategies"]}, found


@pytest.mark.parametrize("tied", ["false", "true"])
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("strategy, keys", [("replicate", {}), ("shard", SHARD)])
@pytest.mark.parametrize("dtypes", [{}, {"dist__wire_dtype": "bf16"},
                                    {"train__dtype": "bf16", "dist__wire_dtype": "bf16"}],
                         ids=["fp32", "mixed", "bf16"])
def test_bytes_on_the_wire_exactly(workplace, strategy, keys, n, tied, dtypes):
    job = {"train__steps": 3, "train__batch_tokens": 80, "train__micro_batch": 1, "data__val": "",
           "checkpoint__every": 0, "model__tie_embeddings": tied, "model__n_kv_head": "4,1", **dtypes}
    run = f"wire-{strategy}-{n}-{tied}-{len(dtypes)}"
    run_processes(workplace, n, words_of("pretrain", run, **job, **keys))
    rows, _ = plan(workplace, "--gpus", n, **job)
    assert [line["sent_bytes"] for line in metrics(workplace / run)] == [rows[strategy]["sent_bytes_a_step"]] * 3


def peak_bytes(workplace, n, run, keys):
    """The largest process's peak resident memory."""
    processes = Processes(workplace, n, words_of("pretrain", run, "--force", **keys))
    peaks = []
    for process in processes.processes:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, processes.text(0)
        peaks.append(usage.ru_maxrss * 1024)
    return max(peaks)


@pytest.mark.parametrize("n, strategy, keys", [(1, "replicate", {}), (2, "replicate", {}), (4, "replicate", {}),
                                               (2, "shard", SHARD), (4, "shard", SHARD)])
def test_peak_memory_within_a_tenth(workplace, n, strategy, keys):
    rows, _ = plan(workplace, "--gpus", n, **LARGE)
    predicted = rows[strategy]["device_bytes"] + rows[strategy]["snapshot_bytes"]
    small = {**LARGE, "model__d_model": 32, "model__n_head": 4, "model__d_ff": 48, "model__vocab_size": 64}
    program = peak_bytes(workplace, n, "small", {**small, **keys})  # the libraries, and hardly any model
    measured = peak_bytes(workplace, n, "large", {**LARGE, **keys}) - program
    assert abs(predicted - measured) < 0.1 * measured, (predicted / GIB, measured / GIB)


# Uptraining: the shape is the model's that it starts from, and a teacher takes room

@pytest.fixture(scope="module")
def mha(workplace):
    assert_done(regroup(*words_of("pretrain", "mha", model__tie_embeddings="true"), cwd=workplace))
    return json.loads((workplace / "mha/final/config.json").read_text())


@pytest.mark.parametrize("strategy, keys", [("replicate", {}), ("shard", SHARD)])
def test_bytes_on_the_wire_with_a_teacher_exactly(workplace, mha, strategy, keys):
    job = {"convert__from": "mha", "convert__n_kv_head": "2,1", "distill__weight": 0.5, "uptrain__alpha": 0.5,
           "train__batch_tokens": 80, "train__micro_batch": 1, "data__val": "", "checkpoint__every": 0}
    run = f"taught-{strategy}"
    run_processes(workplace, 2, words_of("uptrain", run, **job, **keys))
    rows, _ = plan(workplace, "--gpus", 2, **job)
    assert [line["sent_bytes"] for line in metrics(workplace / run)] == [rows[strategy]["sent_bytes_a_step"]] * 3


def test_an_uptraining_is_planned_from_its_model(workplace, mha):
    job = {"convert__from": "mha", "convert__n_kv_head": "2,1", "distill__weight": 0.5, "uptrain__alpha": 0.5,
           "model__n_layer": 7}  # [model] is not the model
    rows, found = plan(workplace, **job)
    assert found["n_kv_head"] == [2, 1]
    assert found["tokens"] == 3 * 128  # half of the original's 6 steps
    shapes = {"converted": found["parameters"], "original": found["teacher_parameters"]}
    assert_done(regroup("convert", "--from", "mha", "--to", "two-one", "--kv-heads", "2,1", cwd=workplace))
    for model, folder in (("converted", "two-one"), ("original", "mha")):
        described = json.loads(regroup("inspect", folder + "/final" * (folder == "mha"), "--json", cwd=workplace).stdout)
        assert shapes[model] == described["parameters"], model
    assert rows["replicate"]["teacher_bytes"] == 2 * found["teacher_parameters"]
    text = (workplace / "plan.txt").read_text()
    assert re.search("of .*/mha, K/V heads 4 -> 2,1, with .*/mha/.* as teacher; fp32, 1 GPU;", text), text
    already = plan(workplace, uptrain__from="two-one", uptrain__original="mha", uptrain__alpha=0.5)[1]
    assert (already["n_kv_head"], already["tokens"], already["teacher_parameters"]) == ([2, 1], 3 * 128, None)
    named = plan(workplace, "--model", "two-one", distill__weight=1, uptrain__original="mha")[1]
    assert (named["n_kv_head"], named["teacher_parameters"]) == ([2, 1], shapes["original"])


def test_a_plan_without_the_length_of_training_asks_for_it(workplace, mha):
    config = json.loads((workplace / "mha/final/config.json").read_text())
    del config["regroup"]
    shutil.copytree(workplace / "mha/final", workplace / "foreign")
    (workplace / "foreign/config.json").write_text(json.dumps(config))
    done = assert_done(regroup("plan", "--model", "foreign", cwd=workplace))
    assert "depends on --tokens" in done.stdout
    found = plan(workplace, train__steps=10)[1]  # pretraining
    assert found["tokens"] == 10 * 128 and found["hours"] > 0


def test_a_plan_says_how_long_a_config_takes_on_this_cpu(workplace):
    words = ["plan", "--config", "run.ini", "--train.steps=10", "--json", "cpu.json"]
    here = assert_done(regroup(*words, cwd=workplace))
    assert "On this CPU, where the config trains: about" in here.stdout
    assert json.loads((workplace / "cpu.json").read_text())["cpu_hours"] > 0
    on_gpus = assert_done(regroup(*words, "--gpus", 2, cwd=workplace))
    assert "On this CPU" not in on_gpus.stdout
    assert json.loads((workplace / "cpu.json").read_text())["cpu_hours"] is None


def llama_2(workplace, n_gpus):
    config = Path(__file__).resolve().parents[2] / "configs/llama2-7b.ini"
    result = assert_done(regroup("plan", "--config", config, "--gpus", n_gpus, "--tokens", 2e12, "--json", "plan.json",
                                 cwd=workplace))
    found = json.loads((workplace / "plan.json").read_text())
    return result.stdout, found, {row["strategy"]: row for row in found["strategies"]}


def test_llama_2_needs_the_known_memory(workplace):
    text, found, rows = llama_2(workplace, 8)
    assert found["parameters"] == 6_738_415_616
    for strategy, held in (("replicate", 1), ("shard", 8)):
        row = rows[strategy]
        assert row["fits"]
        assert row["parameter_bytes"] == pytest.approx(2 * found["parameters"] / held, rel=1e-6)
        assert row["gradient_bytes"] == pytest.approx(4 * found["parameters"] / held, rel=1e-6)
        assert row["optimizer_bytes"] == pytest.approx(12 * found["parameters"] / 8, rel=1e-6)
        assert row["largest_micro_batch"] >= 1
    # Gradients travel in fp32 to the ranks that update them, and weights back.
    assert rows["replicate"]["sent_bytes_a_step"] == pytest.approx((4 + 2) * found["parameters"] * 7 / 8, rel=1e-6)
    assert rows["shard"]["sent_bytes_a_step"] > rows["replicate"]["sent_bytes_a_step"]
    assert "Take strategy = replicate." in text
    assert found["hours"] > 0


def test_llama_2_does_not_fit_alone(workplace):
    text, found, rows = llama_2(workplace, 1)  # 18 bytes a parameter
    assert rows["replicate"]["device_bytes"] > 18 * found["parameters"]
    assert not rows["replicate"]["fits"]
    assert "No strategy fits" in text


def test_nodes_of_eight_may_be_hybrid(workplace):
    rows, _ = plan(workplace, "--gpus", 64)
    assert list(rows) == ["replicate", "hybrid", "shard"]
    assert list(plan(workplace, "--gpus", 12)[0]) == ["replicate", "shard"]
    assert list(plan(workplace, "--gpus", 1)[0]) == ["replicate"]


def test_more_memory_takes_larger_micro_batches(workplace):
    sizes = [plan(workplace, "--gpus", 2, "--gpu-memory", memory)[0]["shard"]["largest_micro_batch"]
             for memory in ("2GiB", "3GiB", "10GB", "80GB")]
    assert sizes == sorted(sizes) and sizes[0] == 0 < sizes[1] < sizes[3]


def test_plan_refuses_bad_requests(workplace):
    assert_refused(regroup("plan", cwd=workplace), 2, "--config", "--model")
    assert_refused(regroup("plan", "--config", "run.ini", "--seq-len", 1000, cwd=workplace), 2, "--seq-len")
    assert_refused(regroup("plan", "--config", "run.ini", "--gpus", 0, cwd=workplace), 2, "--gpus")
    assert_refused(regroup("plan", "--config", "run.ini", "--gpu-memory", "much", cwd=workplace), 2, "--gpu-memory")
