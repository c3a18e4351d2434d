"""Hostile input: the corpus of tools/hostile.py without the groups that start processes, and two of their kinds."""
import subprocess
import sys

import pytest
from common import BIN, QUIET, ROOT

sys.path.insert(0, str(ROOT/'tools'))
import hostile


@pytest.mark.parametrize('group', [name for name in hostile.GROUPS if name not in hostile.SLOW])
def test_every_case_ends_right_or_in_one_line(group):
    failures, count = hostile.run_group(group)
    assert failures == {} and count > 25


def test_a_second_process_is_refused_while_the_first_writes(tmp_path):
    "By the lock of the folder, which ends with the process that holds it."
    program = ('import sys, time; from pathlib import Path; from fer2013_cnn.core import only_process\n'
               'with only_process(Path(sys.argv[1])): print("locked", flush=True); time.sleep(60)')
    other = subprocess.Popen([BIN/'python', '-c', program, tmp_path], stdout=subprocess.PIPE, env=QUIET)
    other.stdout.readline()
    with pytest.raises(hostile.UserError, match='is in use by another process'):
        hostile.write_locked(tmp_path)
    other.kill()
    other.wait()
    hostile.write_locked(tmp_path)
    assert not (tmp_path/'.lock').exists()


@pytest.mark.parametrize('shell', ['"{}/fer2013" --version >&-', '"{}/fer2013" models | head -1'])
def test_an_output_that_is_closed_is_no_error(shell):
    done = subprocess.run(shell.format(BIN), shell=True, capture_output=True, text=True, env=QUIET)
    assert (done.returncode, done.stderr) == (0, '')
