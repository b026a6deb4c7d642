"""Several processes of `regroup` that act as one run, started by environment variables alone, so that no launcher
ends the survivors of a fault."""

import os
import resource
import socket
import subprocess
import time
from pathlib import Path

from tiny_runs import REGROUP, losses

SHARD = {"dist__strategy": "shard", "train__activation_checkpointing": "full"}
HYBRID = {"dist__strategy": "hybrid", "train__activation_checkpointing": "full"}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Processes:
    """n processes of one run, `local_size` of them to a node, each with its stderr and stdout in a file."""

    def __init__(self, workplace, n, words, local_size=None, rank_words=None,
                 file_limits=None, folders=None):
        self.workplace, self.logs = Path(workplace), Path(workplace) / "logs"
        self.logs.mkdir(exist_ok=True)
        local_size = local_size or n
        common = {"WORLD_SIZE": n, "LOCAL_WORLD_SIZE": local_size, "MASTER_PORT": free_port()}
        self.processes = []
        for rank in range(n):
            variables = {**common, "RANK": rank, "LOCAL_RANK": rank % local_size}
            environment = os.environ | {name: str(value) for name, value in variables.items()}
            with self.log(rank, "out").open("w") as out, self.log(rank, "err").open("w") as err:
                process = subprocess.Popen([REGROUP, *words, *(rank_words or {}).get(rank, [])], cwd=(folders or {}).get(rank, workplace),
                                           stdout=out, stderr=err, env=environment)
            if file_limits and rank in file_limits:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (file_limits[rank],) * 2)
            self.processes.append(process)

    def log(self, rank, name):
        return self.logs / f"{rank}.{name}"

    def text(self, rank, name="err"):
        return self.log(rank, name).read_text()

    def wait(self, timeout=120, ranks=None):
        """The exit codes in the order of ranks. Kills processes that are late, and fails the test."""
        until = time.monotonic() + timeout
        try:
            return [self.processes[rank].wait(max(0.1, until - time.monotonic()))
                    for rank in (range(len(self.processes)) if ranks is None else ranks)]
        finally:
            self.kill()

    def kill(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()

    def wait_for_step(self, run, step):
        metrics = self.workplace / run / "metrics.jsonl"
        self.wait_until(lambda: metrics.exists() and any(found >= step for found, _ in losses(self.workplace / run)))

    def wait_for_file(self, name):
        self.wait_until((self.workplace / name).exists)

    def wait_until(self, is_so, timeout=60):
        until = time.monotonic() + timeout
        while not is_so():
            assert time.monotonic() < until, self.text(0)
            assert all(process.poll() is None for process in self.processes), self.text(0)
            time.sleep(0.02)


def run_processes(workplace, n, words, **options):
    """Runs to the end and checks that only rank 0 prints."""
    processes = Processes(workplace, n, words, **options)
    assert processes.wait() == [0] * n, processes.text(0)
    for rank in range(1, n):
        assert processes.text(rank) == processes.text(rank, "out") == ""
    return processes
