"""What bench_peers.py and bench_processes.py share."""
