"""What several test files use: paths, and a way to run a command of the environment under test."""
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(path.relative_to(ROOT) for path in (ROOT/'nbs').glob('[!_.]*.ipynb'))
REPORTS = sorted(path.relative_to(ROOT) for path in (ROOT/'nbs'/'reports').glob('[!_.]*.ipynb'))
QUIET = {**os.environ, 'TQDM_DISABLE': '1', 'NO_COLOR': '1', 'COLUMNS': '110'}
if os.environ.get('FER2013_DATA') not in (None, '', 'sample', 'kaggle'):
    QUIET['FER2013_DATA'] = str(Path(os.environ['FER2013_DATA']).resolve())  # notebooks run in their own folder


def call(*words, cwd=ROOT, env=QUIET, timeout=1200):
    "Run a command of the environment under test; its output is shown if the test fails."
    done = subprocess.run([BIN/words[0], *map(str, words[1:])], cwd=cwd, env=env, timeout=timeout,
                          capture_output=True, text=True)
    print(done.stdout[-5000:], done.stderr[-5000:])
    return done
