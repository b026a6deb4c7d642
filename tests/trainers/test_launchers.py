"""Runs started as people start them: torchrun on one node and two, mpirun, srun, nodes with separate networks."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from many_processes import free_port
from tiny_runs import PROGRAM, REGROUP, assert_done, losses, make_workplace, metrics, pretrain, words_of

ROOT = Path(__file__).resolve().parents[2]
# Without the "--", torchrun takes --run for an option that belongs to torchrun.
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--no-python"]
LONG = {"train__steps": 400, "checkpoint__every": 20, "data__val": "", "dist__timeout_s": 5}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = make_workplace(tmp_path_factory.mktemp("launchers"))
    assert_done(pretrain(folder, "alone"))
    return folder


def started(command, workplace, **variables):
    return subprocess.Popen([str(word) for word in command], cwd=workplace, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, env=os.environ | variables)


def finished(process, timeout=120):
    out, err = process.communicate(timeout=timeout)
    assert process.returncode == 0, err
    return out, err


def assert_as_alone(workplace, run, expected="alone"):
    found, wanted = losses(workplace / run), losses(workplace / expected)
    assert [step for step, _ in found] == [step for step, _ in wanted]
    np.testing.assert_allclose([loss for _, loss in found], [loss for _, loss in wanted], rtol=1e-5)
    assert "sent_bytes" in metrics(workplace / run)[0]  # only runs of several processes have it


def test_torchrun(workplace):
    _, err = finished(started([*TORCHRUN, "--nproc-per-node", 2, "--master-port", free_port(), "--", REGROUP,
                               *words_of("pretrain", "torchrun")], workplace))
    assert_as_alone(workplace, "torchrun")
    assert err.count("the model is in") == 1


def test_torchrun_on_two_nodes_meets_at_an_endpoint(workplace):
    rendezvous = ["--nnodes", 2, "--nproc-per-node", 1, "--rdzv-backend", "c10d", "--rdzv-id", "test",
                  "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    nodes = [started([*TORCHRUN, *rendezvous, "--", REGROUP, *words_of("pretrain", "two-nodes")], workplace)
             for _ in range(2)]
    for node in nodes:
        finished(node)
    assert_as_alone(workplace, "two-nodes")


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children
            if Path(f"/proc/{child}/exe").resolve() == PROGRAM]


def wait_for_step(workplace, run, step, timeout=60):
    until = time.monotonic() + timeout
    metrics_file = workplace / run / "metrics.jsonl"
    while not (metrics_file.exists() and losses(workplace / run) and losses(workplace / run)[-1][0] >= step):
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("victim", [0, 1])
def test_torchrun_restarts_a_run_that_loses_a_process(workplace, victim):
    run = f"restarted-{victim}"
    if not (workplace / "undisturbed").exists():
        finished(started([*TORCHRUN, "--nproc-per-node", 2, "--master-port", free_port(), "--", REGROUP,
                          *words_of("pretrain", "undisturbed", **LONG)], workplace))
    process = started([*TORCHRUN, "--nproc-per-node", 2, "--max-restarts", 2, "--master-port", free_port(), "--",
                       REGROUP, *words_of("pretrain", run, "--resume=auto", **LONG)], workplace)
    wait_for_step(workplace, run, 60)
    os.kill(workers_of(process)[victim], signal.SIGKILL)
    _, err = finished(process)
    assert "resuming from" in err
    assert losses(workplace / run) == losses(workplace / "undisturbed")


def test_torchrun_does_not_swallow_the_error_message(workplace):
    """The launcher kills all processes as soon as one exits, so the message must be out before that."""
    process = started([*TORCHRUN, "--nproc-per-node", 4, "--master-port", free_port(), "--", REGROUP,
                       *words_of("pretrain", "wrong", train__threads=0)], workplace)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.count("regroup: error") == 1 and "train.threads" in err


def test_two_nodes_of_torchrun_come_back_from_a_fault(workplace):
    """Each agent counts only its own restarts: one that restarts because the other did counts none."""
    rendezvous = ["--nnodes", 2, "--nproc-per-node", 1, "--max-restarts", 3, "--rdzv-backend", "c10d", "--rdzv-id",
                  "again", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    nodes = [started([*TORCHRUN, *rendezvous, "--", REGROUP,
                      *words_of("pretrain", "nodes-again", "--resume=auto", **LONG)], workplace) for _ in range(2)]
    wait_for_step(workplace, "nodes-again", 60)
    os.kill(workers_of(nodes[1])[0], signal.SIGKILL)
    errors = [finished(node)[1] for node in nodes]
    assert any("resuming from" in error for error in errors)
    assert [step for step, _ in losses(workplace / "nodes-again")] == list(range(1, 401))


def test_mpirun(workplace):
    finished(started(["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", 2, "-x", "MASTER_PORT", REGROUP,
                      *words_of("pretrain", "mpirun")], workplace, MASTER_PORT=str(free_port())))
    assert_as_alone(workplace, "mpirun")


SRUN = """\
#!/bin/bash
# What a program sees of srun in a step of two tasks on one node.
while [[ $1 == --* ]]; do shift; done
export SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_TASKS_PER_NODE=2 SLURM_NODEID=0
status=0
for task in 0 1; do SLURM_PROCID=$task SLURM_LOCALID=$task "$@" & tasks+=($!); done
for task in "${tasks[@]}"; do wait "$task" || status=$?; done
exit $status
"""


def stand_ins(folder, **scripts):
    """Programs for the front of PATH."""
    folder.mkdir()
    for name, script in scripts.items():
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def test_the_slurm_script(workplace):
    path = stand_ins(workplace / "bin", srun=SRUN)
    assert_done(pretrain(workplace, "original"))
    script = [ROOT / "configs/slurm/uptrain.sbatch", "run.ini", "slurm"]
    keys = ["--convert.from=original", "--convert.n_kv_head=2", "--train.device=cpu", "--uptrain.alpha=1"]
    # A batch script has the job's variables, which do not make it a rank of a run.
    out, _ = finished(started(["bash", *script, *keys], workplace, REGROUP=REGROUP, SLURM_JOB_ID="12",
                              SLURM_PROCID="0", SLURM_NTASKS="2", PATH=path, MASTER_PORT=str(free_port())))
    assert out.splitlines()[0].startswith("model")
    assert len(losses(workplace / "slurm")) == 6


SLURM_STEP = """\
#!/bin/bash
# srun with a task that ends with 137 on SIGTERM, or with the status that the file has.
trap 'exit 137' TERM
echo $$ >step
for _ in {1..100}; do [[ -f status ]] && exit "$(<status)"; sleep 0.05; done
"""


@pytest.mark.parametrize("status, time_is_over, said", [("", True, "requeue 12\n"), ("1", False, ""), ("0", False, "")])
def test_the_slurm_script_requeues_a_job_whose_time_is_over(tmp_path, status, time_is_over, said):
    path = stand_ins(tmp_path / "bin", srun=SLURM_STEP, scontrol='#!/bin/bash\necho "$@"\n',
                     scancel='#!/bin/bash\n[[ $* == "--signal=TERM 12" ]] && kill -TERM "$(<step)"\n')
    script = started(["bash", ROOT / "configs/slurm/uptrain.sbatch", "run.ini", "run"], tmp_path, SLURM_JOB_ID="12",
                     PATH=path)
    while not (tmp_path / "step").exists() or not (tmp_path / "step").read_text():
        time.sleep(0.02)
    if time_is_over:
        script.send_signal(signal.SIGUSR1)
    else:
        (tmp_path / "status").write_text(status)
    out, err = script.communicate(timeout=30)
    assert (script.returncode, out) == (137 if time_is_over else int(status), said), err


def test_the_kubernetes_job_starts_a_valid_command(workplace):
    service, job = yaml.safe_load_all((ROOT / "configs/kubernetes/uptrain.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    assert pod["subdomain"] == service["metadata"]["name"]
    words = pod["containers"][0]["command"]
    verb = words.index("build/release/regroup") + 1
    options = [word for word in words[verb + 1:] if not word.startswith(("--config", "--run", "--resume"))]
    result = subprocess.run([REGROUP, words[verb], "--config", "run.ini", "--run", "k8s", "--convert.from=alone",
                             "--convert.n_kv_head=2", *options, "--train.device=cpu"], cwd=workplace,
                            capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


NETWORK = """\
set -e
mount -t tmpfs none /run  # its own network names, removed with this process
ip netns add a; ip netns add b
ip link add va netns a type veth peer name vb netns b
ip -n a address add 10.77.0.1/24 dev va; ip -n b address add 10.77.0.2/24 dev vb
for node in a b; do ip -n $node link set lo up; ip -n $node link set v$node up; done
export WORLD_SIZE=4 LOCAL_WORLD_SIZE=2 MASTER_ADDR=10.77.0.1 MASTER_PORT=29555
rank=0
for node in a a b b; do
  RANK=$rank LOCAL_RANK=$((rank % 2)) ip netns exec $node "$@" >node-$rank.out 2>node-$rank.err & pids[rank++]=$!
done
{disturb}
status=
for pid in ${{pids[*]}}; do code=0; wait $pid || code=$?; status="$status $code"; done
echo $status
"""


def in_two_networks(workplace, words, disturb=""):
    script = NETWORK.format(disturb=disturb)
    return finished(started(["unshare", "--map-root-user", "--mount", "--net", "bash", "-c", script, "bash", REGROUP,
                             *words], workplace))[0].split()


def test_two_nodes_with_separate_networks(workplace):
    words = words_of("pretrain", "networks", dist__strategy="hybrid", train__activation_checkpointing="full")
    assert in_two_networks(workplace, words) == ["0"] * 4, (workplace / "node-0.err").read_text()
    assert_as_alone(workplace, "networks")


def test_a_node_whose_network_is_cut_off_is_named(workplace):
    """Each node knows only about itself: the first node names both ranks of the second."""
    words = words_of("pretrain", "cut", **{**LONG, "train__steps": 100_000})
    codes = in_two_networks(workplace, words, disturb="sleep 6; ip -n a link set va down")
    assert codes == ["1"] * 4
    message = (workplace / "node-0.err").read_text()
    assert "regroup: error: ranks 2, 3 (process " in message, message
    assert "regroup: error:" not in (workplace / "node-1.err").read_text()
