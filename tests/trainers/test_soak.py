"""tools/soak.sh, with few kills."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_three_kills_leave_no_trace(tmp_path):
    result = subprocess.run([ROOT / "tools/soak.sh", "--kills", "3", "--folder", tmp_path, "--",
                             "--train.steps=90"], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert "kill 3 of 3" in result.stderr
    assert "3 kills in " in result.stderr
