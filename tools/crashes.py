"""Kill processes at random moments: `python tools/crashes.py [N] [SEED]` prints `N of M` for each kind, and for all.

Each kind of work is done once without a disturbance. Then it is started again, killed with SIGKILL at a moment drawn
from a seed, and done once more, as a user would. The result must be the undisturbed one, byte for byte.
"""
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, 'TQDM_DISABLE': '1', 'NO_COLOR': '1', 'TF_CPP_MIN_LOG_LEVEL': '3'}


def fer2013(words, cwd, kill_after=None):
    "Run a command, or kill it with its children after some seconds; its exit status and what it printed."
    process = subprocess.Popen([BIN/'fer2013', *map(str, words)], cwd=cwd, env=ENVIRONMENT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try: output = process.communicate(timeout=kill_after)[0]
    except subprocess.TimeoutExpired:
        process.kill()
        output = process.communicate()[0]
    return process.returncode, output


def must(words, cwd):
    status, output = fer2013(words, cwd)
    if status: raise AssertionError(f'{words}: {output[-500:]}')
    return output


def contents(folder, *patterns):
    "Name → bytes of the files that match."
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for pattern in patterns for path in sorted(folder.glob(pattern))}


def prepare(folder):
    "Data for all kinds: a csv with synthetic faces, and pictures."
    from PIL import Image

    from fer2013_cnn import SPLITS, synthetic_dataset
    dataset = synthetic_dataset((210, 70, 70))
    rows = (f"{label},{' '.join(map(str, image.ravel()))},{SPLITS[split]}"
            for image, label, split in zip(dataset.images, dataset.labels, dataset.splits))
    (folder/'fer.csv').write_text('\n'.join(['emotion,pixels,Usage', *rows, '']))
    (folder/'pictures').mkdir()
    for number, image in enumerate(dataset.images[:120]):
        Image.fromarray(image).save(folder/'pictures'/f'{number:03}.png')


# each kind: (work, result), with work(folder, kill_after) and the result of what it has left

def train(folder, kill_after=None):
    run, words = folder/'run', ['train', '--data', folder.parent/'fer.csv', '--cache', folder/'cache']
    settings = ['--preset', 'smoke', '--set', 'epochs=3', '--set', 'batch_size=32', '--set', 'erasing=.4']
    if kill_after is None and (run/'run.json').exists():
        if json.loads((run/'run.json').read_text())['finished']: return
        settings = ['--resume']
    fer2013([*words, '--run', run, *settings], folder, kill_after) if kill_after else must(
        [*words, '--run', run, *settings], folder)


def trained(folder):
    found = contents(folder, 'run/model.*', 'run/predictions-*')
    history = (folder/'run'/'history.jsonl').read_text().splitlines()
    return found, [{**json.loads(line), 'seconds': 0} for line in history], sorted(
        path.name for path in (folder/'run').iterdir())


def report(folder, kill_after=None):
    "A killed report is not resumed: its folder has no page, and it is written again in another folder."
    for number in range(9):
        run = folder/f'run-{number}'
        if (run/'report.html').exists(): return
        if not run.exists(): break
    words = ['report', 'data_audit', '--data', folder.parent/'fer.csv', '--cache', folder/'cache', '--run', run]
    fer2013(words, folder, kill_after) if kill_after else must(words, folder)


def reported(folder):
    runs = [run for run in folder.glob('run-*') if (run/'report.html').exists()]
    return [contents(run, 'findings.*', 'figures/*.svg') for run in runs]


def predict(folder, kill_after=None):
    words = ['predict', folder.parent/'pictures', '--csv', folder/'faces.csv', '--json', folder/'faces.jsonl',
             '--cropped']
    if kill_after: return fer2013(words, folder, kill_after)
    for name in ('faces.csv', 'faces.jsonl'):
        if (folder/name).exists(): check_prefix(folder/name)
        (folder/name).unlink(missing_ok=True)
    must(words, folder)


def check_prefix(path):
    "What a killed prediction has written are the first lines of the undisturbed result."
    whole = path.parent.parent/'predict'/path.name
    content = path.read_bytes()
    if whole.exists(): assert whole.read_bytes().startswith(content) and content[-1:] in (b'', b'\n'), path.name


def predicted(folder): return contents(folder, 'faces.*')


def cache(folder, kill_after=None):
    words = ['prepare', '--data', folder.parent/'fer.csv', '--cache', folder/'cache']
    fer2013(words, folder, kill_after) if kill_after else must(words, folder)


def cached(folder):
    left = sorted(path.name for path in (folder/'cache').iterdir() if path.name.startswith('.'))
    return contents(folder, 'cache/*/*.npy'), left


KINDS = dict(train=(train, trained), report=(report, reported), predict=(predict, predicted), cache=(cache, cached))


class Crashes:
    "The undisturbed results, and how often a killed one was equal."
    def __init__(self, folder, seed=0):
        self.folder, self.random, self.undisturbed = Path(folder), random.Random(seed), {}
        prepare(self.folder)

    def measure(self, kind):
        "Do the work undisturbed, keep the result and its duration."
        folder = self.folder/kind
        folder.mkdir()
        start = time.monotonic()
        KINDS[kind][0](folder)
        self.undisturbed[kind] = KINDS[kind][1](folder), time.monotonic() - start

    def kill(self, kind, number):
        "Kill once, and do the work again; whether the result is the undisturbed one."
        if kind not in self.undisturbed: self.measure(kind)
        expected, seconds = self.undisturbed[kind]
        folder = self.folder/f'{kind}-{number}'
        folder.mkdir()
        KINDS[kind][0](folder, self.random.uniform(.2, 1)*seconds)
        KINDS[kind][0](folder)
        same = KINDS[kind][1](folder) == expected
        if same: shutil.rmtree(folder)
        return same


def main():
    count, seed = [*map(int, sys.argv[1:]), 100, 0][:2] if len(sys.argv) != 2 else (int(sys.argv[1]), 0)
    right = 0
    with tempfile.TemporaryDirectory() as folder:
        crashes = Crashes(folder, seed)
        for place, kind in enumerate(KINDS):
            kills = range(place, count, len(KINDS))
            same = sum(crashes.kill(kind, number) for number in kills)
            print(f'{kind}: {same} of {len(kills)} ({crashes.undisturbed[kind][1]:.1f} s undisturbed)', flush=True)
            right += same
    print(f'{right} of {count}')
    sys.exit(right < count)


if __name__ == '__main__': main()
