"""Fuzz a boundary for longer than `make test` does: `python tools/fuzz.py BOUNDARY [SECONDS] [SEED]`, or `all`.

With atheris installed (it is no requirement: pip install atheris) the changes are guided by coverage, and its options
follow the name: `python tools/fuzz.py zip -max_total_time=600`. Without it they are drawn at random. What breaks is
written to fuzz-BOUNDARY-N.bin and belongs into tools/hostile.py.
"""
import random
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import boundaries
import hostile


def fuzz_at_random(name, seconds, seed):
    "Change the valid file at random until the time is over; the number of files and of failures."
    numbers, valid = random.Random(f'{name} {seed}'), boundaries.SEEDS[name]()
    folder, end, count, broken = Path(tempfile.mkdtemp()), time.monotonic() + seconds, 0, 0
    while time.monotonic() < end:
        changes = [(numbers.choice(('flip', 'cut', 'repeat', 'insert')), numbers.random(), numbers.randbytes(8))
                   for _ in range(numbers.randint(1, 4))]
        content = boundaries.change(valid, changes)
        problem, count = hostile.run_case(lambda: boundaries.READERS[name](folder, content)), count + 1
        if not problem: continue
        broken += 1
        Path(f'fuzz-{name}-{count}.bin').write_bytes(content)
        print(f'   {name} {count}: {problem}', flush=True)
    print(f'{name}: {count - broken} of {count}', flush=True)
    return broken


def fuzz_with_atheris(name, options):
    "Hand the boundary to libFuzzer."
    import atheris
    folder, corpus = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    (corpus/'valid').write_bytes(boundaries.SEEDS[name]())

    def one_input(content):
        problem = hostile.run_case(lambda: boundaries.READERS[name](folder, content))
        if problem: raise AssertionError(problem)
    atheris.instrument_all()
    atheris.Setup([sys.argv[0], *options, str(corpus)], one_input)
    atheris.Fuzz()


def main():
    name, *options = sys.argv[1:] or ['all']
    if name != 'all' and find_spec('atheris') and not (options and options[0].isdecimal()):
        return fuzz_with_atheris(name, options)
    seconds, seed = [*map(int, options), 60, 0][:2] if len(options) != 1 else (int(options[0]), 0)
    sys.exit(sum(fuzz_at_random(each, seconds, seed) for each in (boundaries.SEEDS if name == 'all' else [name])) > 0)


if __name__ == '__main__': main()
