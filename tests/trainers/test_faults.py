"""A fault of one process ends all processes of the run, with one message that names it."""

import resource
import signal
import time
from pathlib import Path

import h5py
import pytest
from many_processes import SHARD, Processes, run_processes
from safetensors.numpy import load_file, save_file
from tiny_runs import assert_done, checkpoints, losses, make_workplace, pretrain, words_of, write_tokens

TIMEOUT_S = 5
ENDLESS = {"train__steps": 1_000_000, "dist__timeout_s": TIMEOUT_S, "checkpoint__every": 50, "data__val": ""}


@pytest.fixture
def workplace(tmp_path):
    return make_workplace(tmp_path)


def errors(processes, ranks):
    return {rank: processes.text(rank) for rank in ranks if "regroup: error:" in processes.text(rank)}


def assert_one_message(processes, reporter, *parts, ranks=None):
    found = errors(processes, ranks or range(len(processes.processes)))
    assert list(found) == [reporter], found
    message = found[reporter]
    assert message.count("regroup: error:") == 1
    assert "frame #" not in message and "defect" not in message and len(message) < 3000
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("keys", [{}, SHARD], ids=["replicate", "shard"])
@pytest.mark.parametrize("victim", [0, 2])
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hung"])
def test_a_process_that_is_gone_is_named(workplace, fault, victim, keys):
    processes = Processes(workplace, 3, words_of("pretrain", "run", **ENDLESS, **keys))
    processes.wait_for_step("run", 5)
    processes.processes[victim].send_signal(fault)
    begin = time.monotonic()
    survivors = [rank for rank in range(3) if rank != victim]
    assert processes.wait(ranks=survivors) == [1, 1]
    assert time.monotonic() - begin < TIMEOUT_S + 5
    assert_one_message(processes, survivors[0], f"rank {victim} (process {processes.processes[victim].pid} on ",
                       "is gone: killed, hung or cut off", ranks=survivors)


def test_two_processes_that_are_gone_are_both_named(workplace):
    processes = Processes(workplace, 4, words_of("pretrain", "run", **ENDLESS))
    processes.wait_for_step("run", 5)
    for victim in (1, 3):
        processes.processes[victim].kill()
    assert processes.wait(ranks=[0, 2]) == [1, 1]
    assert_one_message(processes, 0, "ranks 1, 3 (process ", "are gone", ranks=[0, 2])


def test_a_process_that_never_comes_is_named(workplace):
    processes = Processes(workplace, 3, words_of("pretrain", "run", **{**ENDLESS, "dist__timeout_s": 3}))
    processes.processes[1].kill()  # before it can load its libraries
    assert processes.wait(ranks=[0, 2]) == [1, 1]
    assert_one_message(processes, 0, "rank 1 did not come", ranks=[0, 2])
    assert not (workplace / "run").exists()


def test_rank_0_reports_the_failure_of_one_process(workplace):
    """A token file that is damaged on one node: each process finds another file under the same name."""
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "run.ini").write_text((workplace / "run.ini").read_text())
    (elsewhere / "tokens.h5").write_bytes((workplace / "tokens.h5").read_bytes()[:3000])
    words = words_of("pretrain", workplace / "run", **ENDLESS, data__train="/proc/self/cwd/tokens.h5")
    processes = Processes(workplace, 3, words, folders={2: elsewhere})
    assert processes.wait() == [1, 1, 1]
    assert_one_message(processes, 0, "rank 2: ", "tokens.h5")


def test_a_process_that_is_out_of_memory_reports_it(workplace):
    """Rank 1 runs out of memory in the first step, which takes a gigabyte, while rank 0 waits for it."""
    large = {**ENDLESS, "model__n_layer": 24, "model__d_model": 256, "model__d_ff": 2048, "train__micro_batch": 256,
             "train__batch_tokens": 512 * 8}
    processes = Processes(workplace, 2, words_of("pretrain", "run", **large))
    processes.wait_for_file("run/config.ini")
    victim = processes.processes[1].pid
    allowed = int(Path(f"/proc/{victim}/statm").read_text().split()[0]) * resource.getpagesize() + (128 << 20)
    resource.prlimit(victim, resource.RLIMIT_AS, (allowed, allowed))
    assert processes.wait() == [1, 1]
    (reporter,) = errors(processes, range(2))
    assert_one_message(processes, reporter, "rank 1: out of memory", "train.micro_batch")


def test_a_process_whose_calibration_text_overflows_reports_it(workplace):
    """One token overflows and occurs in one process's text only, while the other processes wait for that process."""
    assert_done(pretrain(workplace, "original", checkpoint__every=0))
    weights = load_file(workplace / "original/final/model.safetensors")
    weights["model.embed_tokens.weight"][63] = 1e38
    save_file(weights, workplace / "original/final/model.safetensors", {"format": "pt"})
    with h5py.File(workplace / "tokens.h5", "r+") as file:
        tokens = file["train/tokens"][:]
        tokens[tokens == 63] = 62
        tokens[500] = 63
        file["train/tokens"][:] = tokens
    job = {"convert__from": "original/final", "convert__n_kv_head": 1, "convert__method": "pca", "convert__refit": "output",
           "dist__timeout_s": TIMEOUT_S, "data__val": ""}
    processes = Processes(workplace, 3, words_of("uptrain", "run", **job))
    assert processes.wait() == [1, 1, 1]
    (reporter,) = errors(processes, range(3))
    assert_one_message(processes, reporter, f"rank {reporter}: ", "the activations of the original after layer 0 are not")
    assert not (workplace / "run/converted").exists()


@pytest.mark.parametrize("override, named", [("--train.seed=5", "train.seed is 0 on rank 0, 5 on rank 1"),
                                             ("--optim.lr=0.5", "optim.lr is 0.01 on rank 0, 0.5 on rank 1")])
def test_processes_with_different_configs_are_refused(workplace, override, named):
    processes = Processes(workplace, 2, words_of("pretrain", "run", **ENDLESS), rank_words={1: [override]})
    assert processes.wait() == [2, 2]
    assert_one_message(processes, 0, named)
    assert not (workplace / "run").exists()


def test_processes_with_different_data_are_refused(workplace):
    write_tokens(workplace / "other.h5", seed=1)
    processes = Processes(workplace, 2, words_of("pretrain", "run", **ENDLESS),
                          rank_words={1: ["--data.train=other.h5"]})
    assert processes.wait() == [2, 2]
    assert_one_message(processes, 0, "data.train is ", " on rank 0, ")


def test_a_bad_request_is_reported_once(workplace):
    processes = Processes(workplace, 3, words_of("pretrain", "run", train__stepps=3))
    assert processes.wait() == [2, 2, 2]
    assert_one_message(processes, 0, "train.stepps", "train.steps")


def test_shard_without_recomputation_is_refused(workplace):
    processes = Processes(workplace, 2, words_of("pretrain", "run", dist__strategy="shard",
                                               train__activation_checkpointing="none"))
    assert processes.wait() == [2, 2]
    assert_one_message(processes, 0, "dist.strategy", "train.activation_checkpointing = full")


def test_nccl_on_cpus_is_refused(workplace):
    processes = Processes(workplace, 2, words_of("pretrain", "run", dist__backend="nccl"))
    assert processes.wait() == [2, 2]
    assert_one_message(processes, 0, "dist.backend")


def test_an_interrupted_run_saves_on_all_processes(workplace):
    processes = Processes(workplace, 2, words_of("pretrain", "run", **ENDLESS))
    processes.wait_for_step("run", 5)
    processes.processes[1].send_signal(signal.SIGINT)  # the other ranks agree to stop
    assert processes.wait() == [130, 130]
    last = losses(workplace / "run")[-1][0]
    assert checkpoints(workplace / "run")[-1] == f"step_{last:08d}"


def test_a_process_that_dies_while_saving_leaves_the_checkpoint_before(workplace):
    """The system kills rank 1 while it writes a file beyond its size limit."""
    run_processes(workplace, 2, words_of("pretrain", "run", train__steps=4, optim__schedule="constant"))
    words = words_of("pretrain", "run", "--resume", train__steps=8, checkpoint__every=6,
                     optim__schedule="constant")
    processes = Processes(workplace, 2, words, file_limits={1: 10_000})
    assert processes.wait() == [1, -signal.SIGXFSZ]
    assert_one_message(processes, 0, "rank 1 (process ")
    run = workplace / "run/checkpoints"
    assert (run / "latest").resolve().name == "step_00000004"
    run_processes(workplace, 2, words)
    assert (run / "latest").resolve().name == "step_00000008"
    assert not list(run.glob(".regroup-tmp-*"))


def test_steps_that_are_not_finite_are_skipped_on_all(workplace):
    """A learning rate that makes the weights overflow: every process stops at the same step."""
    processes = Processes(workplace, 2, words_of("pretrain", "run", optim__lr=1e30, train__steps=50,
                                                 train__max_skipped_steps=3, optim__warmup_steps=0))
    assert processes.wait() == [1, 1]
    assert_one_message(processes, 0, "was not finite in 3 steps in a row")


def test_a_single_process_of_a_launcher_is_a_run_as_ever(workplace):
    run_processes(workplace, 1, words_of("pretrain", "one"))
    assert_done(pretrain(workplace, "alone"))
    assert losses(workplace / "one") == losses(workplace / "alone")
