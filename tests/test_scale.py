"""Sweeps and predictions on several processes and machines: killed workers and drivers, damaged files, refusals."""
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import psutil
import pytest
from common import BIN, QUIET, ROOT, call
from matplotlib.cbook import get_sample_data
from PIL import Image

from fer2013_cnn import bulk
from fer2013_cnn.core import UserError
from fer2013_cnn.scale import check_threads, finished_runs, only_driver, run_jobs, worker_environment

slow = pytest.mark.slow
HOSTS = ('127.0.0.2', '127.0.0.3')  # Linux answers on all of 127.0.0.0/8


# Pictures and data

@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    "2,000 small pictures: most with one face, some with two or none, and one that cannot be read."
    folder = tmp_path_factory.mktemp('pictures')
    one = Image.open(get_sample_data('grace_hopper.jpg', asfileobj=False)).reduce(8)
    two = Image.new('RGB', (2*one.width, one.height))
    for left in (0, one.width): two.paste(one, (left, 0))
    black = Image.new('RGB', (64, 64))
    for name, image in dict(one=one, two=two, none=black).items(): image.save(folder/f'.{name}.png')
    for number in range(2000):
        name = 'none' if number % 50 == 7 else 'two' if number % 10 == 3 else 'one'
        shutil.copy(folder/f'.{name}.png', folder/f'{number:04}.png')
    (folder/'0100.png').write_text('dear diary')
    return folder


def rows(folder, kind='images'):
    "All rows of the parts, sorted."
    table = pd.read_parquet(folder/kind)
    return table.sort_values(list(table.columns)).reset_index(drop=True)


@pytest.fixture(scope='module')
def serial(pictures, tmp_path_factory):
    "The predictions of one process."
    folder = tmp_path_factory.mktemp('serial')/'faces'
    counts, failed = bulk.predict_to([str(pictures)], folder)
    assert (counts['images'], counts['unread'], counts['without'], failed) == (1999, 1, 40, [])
    return rows(folder)


def refusal(*words):
    "The error message of a command line, run in this process; one line."
    from fer2013_cnn.cli import main
    with patch('sys.argv', ['fer2013', *words]), patch('sys.stdout', Path(os.devnull).open('w')), \
         pytest.raises(SystemExit) as end: main()
    assert '\n' not in end.value.code
    return end.value.code


# Engines

def start(*words, **options):
    env = QUIET | worker_environment(1) | dict(PYTHONPATH=str(ROOT/'tests'))
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return subprocess.Popen([BIN/'dask', *words], env=env, **quiet, **options)


@pytest.fixture
def hosts(tmp_path):
    "A scheduler and two workers, started as programs on addresses of their own; keyword argument of `run_jobs`."
    if sys.platform != 'linux': pytest.skip('needs several loopback addresses')
    file = tmp_path/'scheduler.json'
    programs = [start('scheduler', '--host', '127.0.0.1', '--port', '0', '--dashboard-address', '127.0.0.1:0',
                      '--scheduler-file', str(file), cwd=tmp_path)]
    while not file.exists(): time.sleep(.1)
    address = json.loads(file.read_text())['address']
    programs += [start('worker', address, '--nthreads', '1', '--host', host, '--no-dashboard', cwd=tmp_path)
                 for host in HOSTS]
    yield dict(cluster=address), programs
    for program in programs: program.kill()
    for program in programs: program.wait()


@pytest.fixture(params=['processes', 'hosts'])
def engine(request):
    "Keyword argument of `run_jobs`, and the parents of the worker processes."
    if request.param == 'processes': return dict(workers=2), [psutil.Process()]
    arguments, programs = request.getfixturevalue('hosts')
    return arguments, [psutil.Process(program.pid) for program in programs[1:]]


def worker_processes(parents):
    found = [child for parent in parents for child in parent.children(recursive=True)]
    return [child for child in found if 'spawn_main' in ' '.join(child.cmdline())]


def open_folders(process):
    "The folders of the files that a process has opened, such as the lock of a run."
    try: return {Path(file.path).parent for file in process.open_files()}
    except psutil.NoSuchProcess: return set()


class Killer(threading.Thread):
    "Watch a folder, and kill a worker each time that some number of files is reached; if given, one in that run."
    def __init__(self, pattern, numbers, parents, run=None):
        super().__init__(daemon=True)
        self.pattern, self.numbers, self.parents, self.folder = pattern, list(numbers), parents, run
        self.inodes, self.killed, self.stopped = {}, [], threading.Event()

    def run(self):
        while not self.stopped.is_set():
            paths = list(self.pattern())
            for path in paths: self.inodes.setdefault(path.name, set()).add(path.stat().st_ino)
            if self.numbers and len(paths) >= self.numbers[0]: self.kill()
            time.sleep(.01)

    def kill(self):
        victims = worker_processes(self.parents)
        if self.folder: victims = [victim for victim in victims if self.folder in open_folders(victim)]
        if not victims: return
        self.numbers.pop(0)
        victim = victims[-1]
        victim.send_signal(signal.SIGKILL)
        self.killed.append(victim.pid)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.join()


# Jobs

def square(number):
    if number == 'bad': raise ValueError('not a\nnumber')
    if number == 'fatal': os.kill(os.getpid(), signal.SIGKILL)
    return number**2


def test_jobs_in_this_process():
    results = list(run_jobs([dict(number=number) for number in (2, 'bad', 3)], square))
    assert [result.value for result in results] == [4, None, 9]
    assert results[1].error == 'ValueError: not a'


def test_ctrl_c_ends_all_jobs_also_where_a_job_reports_it_as_an_error():
    def interrupted():
        try: raise KeyboardInterrupt
        except KeyboardInterrupt: raise UserError('stopped') from None
    with pytest.raises(KeyboardInterrupt): list(run_jobs([{}, {}], interrupted))


@slow
def test_a_job_that_kills_its_workers_is_named_and_the_others_are_answered(engine):
    arguments, _ = engine
    jobs = [dict(number=number) for number in (*range(20), 'fatal', 'bad', *range(20, 40))]
    results = list(run_jobs(jobs, square, **arguments))
    assert sorted(result.value for result in results if not result.error) == [number**2 for number in range(40)]
    assert {result.job['number']: result.cause for result in results if result.error} == \
        dict(fatal='KilledWorker', bad='ValueError')


@slow
def test_many_jobs_and_a_worker_with_two_threads(hosts):
    arguments, programs = hosts
    results = list(run_jobs([dict(number=number) for number in range(300)], square, **arguments))
    assert sorted(result.value for result in results) == [number**2 for number in range(300)]
    programs.append(start('worker', arguments['cluster'], '--nthreads', '2', '--no-dashboard'))
    with pytest.raises(UserError, match='has 2 threads: start it with --nthreads 1'):
        for _ in range(100): list(run_jobs([dict(number=1)], square, **arguments))


@pytest.mark.parametrize('arguments, message', [
    (dict(workers=2, cluster='tcp://127.0.0.1:1'), 'give --workers or --cluster'),
    (dict(workers=-1), 'expected at least 0')])
def test_refused_engines(arguments, message):
    with pytest.raises(UserError, match=message): list(run_jobs([{}], square, **arguments))


@slow
def test_a_scheduler_that_does_not_answer_costs_one_line(pictures, tmp_path):
    done = call('fer2013', 'predict', pictures, '--to', tmp_path/'faces', '--cluster', 'tcp://127.0.0.1:9')
    assert done.returncode == 1
    assert done.stderr == 'fer2013: no Dask scheduler answers at tcp://127.0.0.1:9 (OSError)\n'


def test_threads_of_workers():
    check_threads({'tcp://10.0.0.1:1': 1})
    with pytest.raises(UserError, match='--nworkers 8'): check_threads({'tcp://10.0.0.1:1': 8})


# Prediction

@slow
def test_two_killed_workers_change_nothing(engine, pictures, serial, tmp_path):
    arguments, parents = engine
    folder = tmp_path/'faces'
    with patch('fer2013_cnn.bulk.PART_SIZE', 50), \
         Killer(lambda: folder.glob('images/[!.]*.parquet'), [5, 20], parents) as killer:
        counts, failed = bulk.predict_to([str(pictures)], folder, **arguments)
    assert len(killer.killed) == 2 and failed == []
    pd.testing.assert_frame_equal(rows(folder), serial)
    assert counts['images'] == 1999 and len(killer.inodes) == 40
    assert [name for name, inodes in killer.inodes.items() if len(inodes) > 1] == []
    final = {path.name: {path.stat().st_ino} for path in folder.glob('images/*.parquet')}
    assert final == killer.inodes


@slow
def test_a_killed_driver_continues_with_the_same_line(pictures, serial, tmp_path):
    folder = tmp_path/'faces'
    words = ['predict', str(pictures), '--to', str(folder), '--workers', '2']
    driver = subprocess.Popen([BIN/'fer2013', *words], env=QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while driver.poll() is None and len(list(folder.glob('images/[!.]*'))) < 3: time.sleep(.01)
    workers = worker_processes([psutil.Process(driver.pid)])
    driver.kill()
    driver.communicate()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert len(workers) == 2 and alive == []
    before = {path: path.stat().st_ino for path in folder.glob('images/[!.]*.parquet')}
    assert 3 <= len(before) < 8
    done = call('fer2013', *words)
    assert (done.returncode, done.stderr) == (0, '')
    assert {path: path.stat().st_ino for path in before} == before
    pd.testing.assert_frame_equal(rows(folder), serial)
    assert '1,999 images, ' in done.stdout and '1 could not be read' in done.stdout


@slow
def test_a_lost_scheduler_costs_one_line_and_the_rest_is_done_without(hosts, pictures, serial, tmp_path):
    arguments, programs = hosts
    folder = tmp_path/'faces'
    words = ['predict', str(pictures), '--to', str(folder)]
    driver = subprocess.Popen([BIN/'fer2013', *words, '--cluster', arguments['cluster']], env=QUIET, text=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while driver.poll() is None and len(list(folder.glob('images/[!.]*'))) < 2: time.sleep(.01)
    programs[0].kill()
    _, err = driver.communicate(timeout=120)
    assert driver.returncode == 1 and err.count('\n') == 1 and 'lost' in err
    assert call('fer2013', *words).returncode == 0
    pd.testing.assert_frame_equal(rows(folder), serial)


def deadly(**job):
    "`predict_part` that is killed by a picture named poison.png."
    names = bulk.read_plan(Path(job['folder']), job['part'])['names']
    if any('poison' in name for name in names) and 'give_up' not in job: os.kill(os.getpid(), signal.SIGKILL)
    return bulk.predict_part(**job)


@slow
def test_a_picture_that_kills_the_process_is_named(pictures, tmp_path):
    photos = tmp_path/'photos'
    photos.mkdir()
    for number in range(40): shutil.copy(pictures/f'{number:04}.png', photos)
    shutil.copy(photos/'0000.png', photos/'0011-poison.png')
    with patch('fer2013_cnn.bulk.predict_part', deadly):
        counts, failed = bulk.predict_to([str(photos)], tmp_path/'faces', workers=2)
        again, _ = bulk.predict_to([str(photos)], tmp_path/'faces')  # nothing is left to do, so nothing is killed
    assert (counts['images'], counts['unread'], failed, again) == (40, 1, [], counts)
    (unread,) = rows(tmp_path/'faces', 'unread').to_dict('records')
    assert unread['image'].endswith('0011-poison.png') and 'killed twice' in unread['error']
    whole, _ = bulk.predict_to([str(photos)], tmp_path/'whole')
    assert whole['images'] == 41
    expected = rows(tmp_path/'whole')
    expected = expected[~expected.image.str.contains('poison')].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows(tmp_path/'faces'), expected)


def broken(**job): raise MemoryError('too large')


def test_where_everything_fails_the_pictures_are_not_to_blame(pictures, tmp_path):
    with patch('fer2013_cnn.bulk.predict_part', broken), patch('fer2013_cnn.bulk.PART_SIZE', 100), \
         pytest.raises(UserError, match='no part could be predicted: MemoryError: too large'):
        bulk.predict_to([str(pictures)], tmp_path/'faces')
    assert not (tmp_path/'faces'/'unread').exists()


@pytest.fixture
def few(pictures, tmp_path):
    "Twelve pictures, in three parts of a folder."
    photos = tmp_path/'photos'
    photos.mkdir()
    for number in range(12): shutil.copy(pictures/f'{number:04}.png', photos)
    (photos/'0005.png').write_text('dear diary')
    with patch('fer2013_cnn.bulk.PART_SIZE', 4): bulk.predict_to([str(photos)], tmp_path/'faces')
    return photos, tmp_path/'faces'


@pytest.mark.parametrize('name', ['images/00001.parquet', 'plan/00001.json', 'unread/00001.parquet', 'manifest.json'])
@pytest.mark.parametrize('share', [0, .5, .99])
def test_damaged_files_are_written_again(few, name, share):
    photos, folder = few
    before, unread = rows(folder), rows(folder, 'unread')
    counts = json.loads((folder/'manifest.json').read_text())['total']
    content = (folder/name).read_bytes()
    (folder/name).write_bytes(content[:int(share*len(content))])
    if name.startswith('unread'): (folder/'images'/'00001.parquet').unlink()  # killed between the two
    again, failed = bulk.predict_to([str(photos)], folder)
    assert (again, failed) == (counts, [])
    pd.testing.assert_frame_equal(rows(folder), before)
    pd.testing.assert_frame_equal(rows(folder, 'unread'), unread)


def test_a_changed_byte_is_found(few):
    photos, folder = few
    path = folder/'images'/'00000.parquet'
    before, content = rows(folder), bytearray(path.read_bytes())
    content[len(content)//3] ^= 255
    path.write_bytes(content)
    assert bulk.read_counts(path) is None
    bulk.predict_to([str(photos)], folder)
    pd.testing.assert_frame_equal(rows(folder), before)


def test_a_folder_that_grows_is_continued(few):
    photos, folder = few
    before = {path.name: path.stat().st_ino for path in folder.glob('images/*')}
    shutil.copy(photos/'0000.png', photos/'0000-new.png')
    counts, _ = bulk.predict_to([str(photos)], folder)
    assert counts['images'] == 12
    now = {path.name: path.stat().st_ino for path in folder.glob('images/*')}
    assert now.pop('00003.parquet') and now == before


def test_a_stray_file_of_a_divided_part_is_removed(few):
    photos, folder = few
    before = rows(folder)
    bulk.divide_part(folder, '00002')
    bulk.predict_to([str(photos)], folder)
    assert not (folder/'images'/'00002.parquet').exists()
    pd.testing.assert_frame_equal(rows(folder), before)


def test_pictures_that_a_machine_does_not_see_are_not_unreadable(few):
    photos, folder = few
    (folder/'images'/'00001.parquet').unlink()
    found = bulk.find_sources([str(photos)])
    photos.rename(photos.with_name('elsewhere'))
    with patch('fer2013_cnn.bulk.find_sources', return_value=found):
        counts, failed = bulk.predict_to([str(photos)], folder)
    assert counts['images'] == 8 and 'all machines need the same folders' in failed[0].error


def test_two_drivers_on_one_folder(few):
    photos, folder = few
    with only_driver(folder):
        done = call('fer2013', 'predict', photos, '--to', folder)
    assert done.returncode == 1
    assert done.stderr == f'fer2013: {folder} is in use by another process: wait for it, or choose another folder\n'


@pytest.mark.parametrize('words, message', [
    (['--csv', 'x.csv', '--to', 'faces'], '--to writes parquet files: leave out --csv'),
    (['--workers', '2'], '--workers and --cluster need --to DIR'),
    (['--to', 'faces', '--stride', '0'], 'stride=0 and smooth=0.0, expected at least 1 and 0'),
    (['--to', 'faces', '--model', 'large'], "unknown model 'large'"),
    (['webcam', '--to', 'faces'], 'webcam: --to is for files, a camera has no end')])
def test_refused_predictions(few, words, message):
    photos, _ = few
    done = call('fer2013', 'predict', photos, *words, cwd=photos)
    assert done.returncode == 1 and done.stderr.count('\n') == 1 and message in done.stderr


def test_without_workers_no_engine_is_imported(few, tmp_path):
    photos, _ = few
    program = f"""
import sys
sys.argv = ['fer2013', 'predict', {str(photos)!r}, '--to', {str(tmp_path/'other')!r}]
from fer2013_cnn.cli import main
try: main()
except SystemExit as end: print(end.code)
print(sorted({{'dask', 'distributed', 'optuna', 'tensorflow'}} & set(sys.modules)))"""
    assert call('python', '-c', program).stdout.endswith('None\n[]\n')


# Sweeps

def train_twice(csv_file, folder, seeds, **arguments):
    from fer2013_cnn import load_data
    from fer2013_cnn.sweep import train_sweep
    dataset = load_data(csv_file, csv_file.parent/'cache')
    grid = dict(epochs=['4'], batch_size=['16'], erasing=['.4'])
    with patch('fer2013_cnn.sweep.write_report'):
        return train_sweep(dataset, str(csv_file), folder, 'smoke', grid, seeds, cache=csv_file.parent/'cache',
                           **arguments)


@pytest.fixture(scope='module')
def undisturbed(csv_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp('undisturbed')
    assert train_twice(csv_file, folder, 2, workers=2)[0] == []
    return folder


def run_content(run):
    "History without times, weights and predictions of a run."
    import h5py
    content = []
    history = [{**json.loads(line), 'seconds': 0} for line in (run/'history.jsonl').read_text().splitlines()]
    with h5py.File(run/'model.h5') as file:
        file['model_weights'].visititems(lambda name, item: content.append((name.split('/')[-2:], item[()].tobytes()))
                                         if isinstance(item, h5py.Dataset) else None)
    with np.load(run/'predictions-PublicTest.npz') as arrays: probabilities = arrays['probabilities'].tobytes()
    return history, content, probabilities


@slow
def test_a_worker_killed_in_training_changes_nothing(engine, csv_file, undisturbed, tmp_path):
    arguments, parents = engine
    name = 'epochs=4-batch_size=16-erasing=0.4-seed=1'
    history = tmp_path/name/'history.jsonl'

    def lines():  # as paths that can be counted
        return [history]*history.read_text().count('\n') if history.exists() else []

    with Killer(lines, [1], parents, tmp_path/name) as killer:
        failed, _ = train_twice(csv_file, tmp_path, 2, **arguments)
    assert len(killer.killed) == 1 and failed == []
    resumed = [run for run in tmp_path.glob('epochs=*') if 'resumed' in json.loads((run/'run.json').read_text())]
    assert len(resumed) == 1
    for run in tmp_path.glob('epochs=*'): assert run_content(run) == run_content(undisturbed/run.name)


@slow
def test_a_finished_sweep_is_not_trained_again(csv_file, undisturbed, tmp_path):
    before = {path: path.stat().st_ino for path in undisturbed.glob('*/model.keras')}
    assert train_twice(csv_file, undisturbed, 2)[0] == []
    assert {path: path.stat().st_ino for path in undisturbed.glob('*/model.keras')} == before
    table = pd.read_csv(undisturbed/'results.csv')
    assert list(table.seed) == [0, 1] and (table.core_hours > 0).all()
    assert len(finished_runs(f'{undisturbed}/*')) == 2


def test_other_settings_and_other_data_are_refused(tmp_path):
    from fer2013_cnn.sweep import check_config, load_same_data
    shutil.copytree(ROOT/'nbs'/'results'/'quick', tmp_path/'run')
    config = json.loads((tmp_path/'run'/'run.json').read_text())['config']
    check_config(tmp_path/'run', config)
    with pytest.raises(UserError, match='with epochs=16, not 3'): check_config(tmp_path/'run', config | dict(epochs=3))
    with pytest.raises(UserError, match='has other content'): load_same_data('sample', None, 'raise', 64*'0')


@pytest.mark.parametrize('words, message', [
    (['--grid', 'rate=1'], "unknown setting 'rate'"), (['--grid', 'epochs'], 'not of the form name=value'),
    (['--grid', 'seed=1,2'], "unknown setting 'seed'"), (['--grid', 'epochs=1,1'], 'gives a value twice'),
    (['--grid', 'epochs=many'], 'expected a value of type int'), (['--seeds', '0'], 'expected at least 1'),
    (['--search', 'random'], "unknown search 'random': expected optuna"), (['--search', 'optuna'], 'needs settings'),
    (['--search', 'optuna', '--grid', 'epochs=8:4'], 'expected a lower and a higher number')])
def test_refused_sweeps(words, message, csv_file, tmp_path):
    assert message in refusal('sweep', '--data', str(csv_file), '--to', str(tmp_path/'s1'), *words)
    assert not list(tmp_path.glob('s1/*/run.json'))


@pytest.mark.parametrize('words, message', [
    (['--each', 'no/*', '--data', 'sample'], 'no/* matches no finished run'),
    (['benchmark', '--each', '*'], '--each is for evaluate, without --model'),
    (['--workers', '2'], '--workers and --cluster need --each PATTERN')])
def test_refused_reports(words, message):
    assert refusal('report', *words) == f'fer2013: {message}'


# The page 'Beyond one machine'

def core_hours(preset):
    info = json.loads((ROOT/'nbs'/'results'/preset/'run.json').read_text())
    duration = pd.Timestamp(info['finished']) - pd.Timestamp(info['started'])
    return duration.total_seconds()/3600*info['machine']['cores']


def test_estimates_are_computed_from_measured_rates():
    measured = json.loads((ROOT/'nbs'/'results'/'benchmark'/'scale.json').read_text())['times']
    seconds = {name: values['wall'][0] for name, values in measured.items()}
    hours = {'a million photographs': 1e6/1024*seconds['1,024 photographs: 1 worker']/3600,
             'a million face crops': 1e6/20_000*seconds['20,000 crops: 1 worker']/3600}
    hours |= {f'a hundred runs of `{preset}`': 100*core_hours(preset) for preset in ('quick', 'standard')}
    page = (ROOT/'docs'/'beyond_one_machine.md').read_text()
    for name, value in hours.items():
        row = next(line for line in page.splitlines() if line.startswith(f'| {name} |')).strip('| ').split(' | ')
        number, unit = row[3].split()
        assert row[1:3] == [f'{value:.1f}', f'{value:.1f} h'] and row[4] == f'{.05*value:.2f}'
        assert float(number) == pytest.approx(value/32*dict(h=1, min=60)[unit], rel=.03)
    peaks = [measured[f'{number} crops: this process']['memory'][0] for number in ('1,000', '20,000')]
    assert peaks[1] < 1.2*peaks[0] and f'{peaks[0]:.0f} MB after 1,000 crops and {peaks[1]:.0f} MB' in page
