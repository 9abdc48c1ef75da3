"""The script of docs/many_devices.md under SLURM's variables: to its end, and cut off."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest
from processes import Ended, run_together

from fitkit._checkpoint import read

PAGE = Path(__file__).parents[1] / "docs" / "many_devices.md"
(SCRIPT,) = re.findall(r"```python\n(\"\"\"One fit of data.*?)```", PAGE.read_text(), re.DOTALL)


def under_slurm(script: str, folder: Path) -> list[Ended]:
    """Run a script as ``srun`` would, with two tasks on one host."""
    variables = {
        # From which JAX makes a port above those that systems give out.
        "SLURM_JOB_ID": str(np.random.default_rng().integers(4096)),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_NTASKS": "2",
    }
    tasks = [{"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    return run_together([["-c", script]] * 2, [variables | own for own in tasks], folder)


def replaced(script: str, old: str, new: str) -> str:
    assert script.count(old) == 1
    return script.replace(old, new)


# SLURM sends its signal to all tasks, which hear it at slightly different moments.
CUT_OFF = """
import random, signal, threading
steps = []
def tell(fit):
    steps.append(fit.step)
    print("AT", fit.step, fit.best.loss, flush=True)
    if len(steps) == 5:
        threading.Timer(random.uniform(0, 0.3), os.kill, (os.getpid(), signal.SIGTERM)).start()
fit.add_callback(tell)
fit.run()
"""


@pytest.mark.slow
def test_a_job_that_is_cut_off_goes_on_from_where_it_was(tmp_path):
    long = replaced(SCRIPT, "optax.adam(0.03)", "optax.adam(1e-6)")
    cut = under_slurm(replaced(long, "fit.run()\n", CUT_OFF), tmp_path)
    # JAX ends the others, whose signal comes later, as soon as the first is gone.
    assert cut[0].status == -signal.SIGTERM and cut[1].status, cut

    # All that was done is saved, also the lowest loss, which may lie some steps back.
    header, _ = read(tmp_path / "fit.checkpoint")
    step, lowest = re.findall(r"^AT (\S+) (\S+)$", cut[0].out, re.MULTILINE)[-1]
    assert header["step"] == int(step) > 0
    assert header["best"][1] <= float(lowest)

    ended = under_slurm(SCRIPT, tmp_path)
    assert not any(one.status for one in ended), ended
    found = re.search(r"rate +(\S+) ± .* \(init = (\S+)\)", ended[0].out)
    assert found and found.groups() == ("0.70000", "0.5")
    assert "±" not in ended[1].out  # The first alone shows.
    assert read(tmp_path / "fit.checkpoint")[0]["step"] > int(step)
