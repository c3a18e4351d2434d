"""Train an ensemble, and students of it, on one GPU: members side by side, then the ensemble, then the students.

    KERAS_BACKEND is set to jax, TensorFlow is not needed:
    python tools/train_on_gpu.py --data fer2013.csv --ferplus fer2013new.csv --minutes 9.5

The members (`MEMBERS`), then the students (`STUDENTS`) are trained by processes that share the GPU, at the same time
where NVIDIA's MPS can be started, otherwise time-sliced. A call ends after --minutes; the same call again goes on from
the last finished epoch of each training. The students get as many epochs as fit into the rest of the call in which they
begin; it must be long enough for 60. Finished runs, the report and the logs are written to --to, in files of at most
15 MiB, when the ensemble is made, and at the end of each call. Only PublicTest is evaluated.

Elsewhere, with --restore and the folder of these files, the runs are made from them, and nothing is trained. Without
--restore, finished runs that lie in --from are restored first: a new machine need not train them again.
With --rehearse, everything is done with a few synthetic faces and networks that learn nothing, on a CPU in minutes.
"""
import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = dict(os.environ)  # of the trainings; this process itself stays on the CPU

# That of nbs/results/base_seed_0 without averaged weights and mixup; the line of a run has what is different.
RECIPE = dict(model='base', epochs=60, batch_size=128, optimizer='muon', learning_rate=.008, warmup=.1,
              weight_decay=.05, label_smoothing=.1, translation=.08, rotation=.04, zoom=.15, no_resample_prob=.25,
              erasing=.5, ferplus_csv='fer2013new.csv', ferplus_weight=1., precision='bfloat16', seed=0)
MEMBERS = dict(base_seed_0=dict(),
               base_seed_1=dict(seed=1),
               base_seed_2=dict(seed=2),
               base_labels_only=dict(ferplus_csv=''),
               base_robust=dict(seed=3, blur=.2, noise=5.),
               large=dict(seed=4, model='large'))
STUDENT = dict(teacher='runs/ensemble', distillation_weight=.9, teacher_images='augmented', learning_rate=.006, blur=.2,
               noise=5.)
STUDENTS = dict(base=dict(STUDENT, seed=5, start_from='runs/base_seed_0'),
                student_6=dict(STUDENT, seed=6, start_from='runs/base_seed_1'),
                student_7=dict(STUDENT, seed=7, start_from='runs/base_seed_2'),
                small=dict(STUDENT, seed=5, model='small', zoom=.12, erasing=.25))
FEWEST_EPOCHS = 60  # of a student; if the call is too short even for these, a longer one goes on
TRIAL_EPOCHS = 6    # after which the speed of a student is known
TINY = dict(model='small', epochs=2, batch_size=70)  # what --rehearse changes; without a GPU also the
# precision: XLA compiles bfloat16 for a CPU slowly, and the network then answered NaN (jax 0.11.2, AMD EPYC).
REHEARSED = ('base_seed_0', 'base_labels_only', 'base')
FINISH = 15           # seconds in which a training writes its networks and predicts PublicTest
RESERVE = 25          # seconds at the end of a call, to stop the trainings and to write the files
PART = 15*2**20       # bytes of a file in --to
SMALL_FILES = ('run.json', 'history.jsonl', 'metrics.json', 'predictions-PublicTest.npz', 'ferplus_head.npz')
GPU_QUERY = 'name,utilization.gpu,memory.used,power.draw'


def say(*words): print(f'[{time.strftime("%H:%M:%S")}]', *words, flush=True)


class Utilization(threading.Thread):
    "How busy the GPU is, read from nvidia-smi every two seconds."
    def __init__(self):
        super().__init__(daemon=True)
        self.samples, self.name, self.process = [], 'no GPU', None
        if not shutil.which('nvidia-smi'): return
        command = ['nvidia-smi', f'--query-gpu={GPU_QUERY}', '--format=csv,noheader,nounits', '--loop=2', '--id=0']
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.start()

    def run(self):
        for line in self.process.stdout:
            try:
                name, *numbers = line.split(', ')
                self.samples.append((time.time(), *map(float, numbers)))
                self.name = name
            except ValueError: continue  # [N/A], or a message

    def stop(self):
        if self.process: self.process.terminate()

    def summary(self, start, end):
        "Mean and median of the utilisation in %, largest memory in MiB and mean power in W between two times."
        samples = [sample[1:] for sample in self.samples if start <= sample[0] <= end]
        if not samples: return None
        busy, memory, power = zip(*samples)
        return dict(samples=len(busy), mean_busy_percent=round(sum(busy)/len(busy), 1),
                    median_busy_percent=sorted(busy)[len(busy)//2], memory_mib=max(memory),
                    mean_power_w=round(sum(power)/len(power)))


class Stages:
    "The steps of all calls with their times; the report of an earlier call goes on."
    def __init__(self, path, gpu):
        self.path, self.gpu = path, gpu
        self.report = json.loads(path.read_text()) if path.exists() else dict(calls=0, stages=[])
        self.report['calls'] += 1

    def write(self, **entries):
        self.report.update(entries, gpu=self.gpu.name)
        self.path.write_text(json.dumps(self.report, indent=1) + '\n')

    def __call__(self, name, function, *arguments):
        say(name)
        start = time.time()
        try: return function(*arguments)
        finally:
            seconds, busy = round(time.time() - start, 1), self.gpu.summary(start, time.time())
            self.report['stages'].append(dict(call=self.report['calls'], name=name, seconds=seconds, gpu=busy))
            self.write()
            say(f'{name}: {seconds} s;', f"GPU busy {busy['mean_busy_percent']} %" if busy else self.gpu.name)


# the trainings

def start_mps(work):
    "Let the processes use the GPU at the same time, by NVIDIA's Multi-Process Service. Whether its daemon was started."
    if not shutil.which('nvidia-cuda-mps-control') or 'CUDA_MPS_PIPE_DIRECTORY' in ENVIRONMENT: return False
    (work/'mps').mkdir(exist_ok=True)
    ENVIRONMENT.update(CUDA_MPS_PIPE_DIRECTORY=str(work/'mps'), CUDA_MPS_LOG_DIRECTORY=str(work/'logs'))
    started = not subprocess.run(['nvidia-cuda-mps-control', '-d'], env=ENVIRONMENT, capture_output=True).returncode
    if not started: stop_mps()
    return started


def stop_mps():
    "Stop the daemon; later processes take turns."
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(['nvidia-cuda-mps-control'], input=b'quit\n', env=ENVIRONMENT, capture_output=True, timeout=10)
    for name in ('CUDA_MPS_PIPE_DIRECTORY', 'CUDA_MPS_LOG_DIRECTORY'): del ENVIRONMENT[name]


def child_environment(work):
    "The environment of a training that shares the GPU with others."
    path = os.pathsep.join(filter(None, (str(ROOT), ENVIRONMENT.get('PYTHONPATH'))))
    return {**ENVIRONMENT, 'KERAS_BACKEND': 'jax', 'PYTHONPATH': path, 'TQDM_DISABLE': '1', 'NO_COLOR': '1',
            'PYTHONUNBUFFERED': '1', 'XLA_PYTHON_CLIENT_PREALLOCATE': 'false', 'TF_CPP_MIN_LOG_LEVEL': '3',
            'JAX_COMPILATION_CACHE_DIR': str(work/'jax_cache')}


def fer2013(work, data, log, *words):
    "Start a command of the package in the work folder."
    command = [sys.executable, '-m', 'fer2013_cnn', *map(str, words), '--data', str(data), '--cache', 'cache']
    with open(work/'logs'/f'{log}.log', 'a') as file:
        print('$', *command[2:], file=file, flush=True)
        return subprocess.Popen(command, cwd=work, env=child_environment(work), stdout=file, stderr=file,
                                stdin=subprocess.DEVNULL)


def run_info(work, name):
    path = work/'runs'/name/'run.json'
    return json.loads(path.read_text()) if path.exists() else {}


def finished(work, name): return bool(run_info(work, name).get('finished'))


def start_training(work, data, name, settings):
    if run_info(work, name): return fer2013(work, data, name, 'train', '--run', f'runs/{name}', '--resume')
    changes = [word for key, value in settings.items() if value != '' for word in ('--set', f'{key}={value}')]
    return fer2013(work, data, name, 'train', '--run', f'runs/{name}', '--preset', 'quick', *changes)


def last_line(work, name):
    return (work/'logs'/f'{name}.log').read_text().strip().rpartition('\n')[2]


def stop(processes):
    "Stop as Ctrl-C does; then the trainings say how they are resumed."
    for process in processes: process.send_signal(signal.SIGINT)
    patience = time.time() + 10
    for process in processes:
        try: process.wait(max(0, patience - time.time()))
        except subprocess.TimeoutExpired: process.kill()
    for process in processes: process.wait()


def train_side_by_side(work, data, runs, deadline):
    "Train those of the runs that are not finished. One that fails is tried a second time. Whether all are finished."
    missing = {name: settings for name, settings in runs.items() if not finished(work, name)}
    processes = {name: start_training(work, data, name, settings) for name, settings in missing.items()}
    tries = dict.fromkeys(missing, 1)
    try:
        while processes and time.time() < deadline:
            time.sleep(.5)
            for name, process in [*processes.items()]:
                if process.poll() is None: continue
                del processes[name]
                say(f'{name}: {last_line(work, name)}')
                if process.returncode and tries[name] < 2 and time.time() < deadline:
                    tries[name] += 1
                    processes[name] = start_training(work, data, name, missing[name])
    finally: stop([*processes.values()])
    return all(finished(work, name) for name in runs)


def make_ensemble(work, data, members):
    "Average the finished members, once."
    if finished(work, 'ensemble'): return True
    words = ['ensemble', *(f'runs/{name}' for name in members), '--to', 'runs/ensemble']
    process = fer2013(work, data, 'ensemble', *words)
    try: process.wait()
    finally: stop([process] if process.poll() is None else [])
    if process.returncode: say(last_line(work, 'ensemble'))
    return finished(work, 'ensemble')


def read_epochs(work, name):
    "The lines of a run's history."
    path = work/'runs'/name/'history.jsonl'
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def seconds_per_epoch(work, name):
    "Median without the first epoch, which contains compilation; None without a history."
    seconds = sorted(epoch['seconds'] for epoch in read_epochs(work, name)[1:])
    return seconds[len(seconds)//2] if seconds else None


def measure_students(work, data, runs, deadline):
    "Seconds until training begins, and of an epoch, of students that are trained side by side and thrown away."
    start, begun, trials = time.time(), {}, {f'trial_{name}': settings for name, settings in runs.items()}
    for name in trials: shutil.rmtree(work/'runs'/name, ignore_errors=True)
    processes = {name: start_training(work, data, name, settings) for name, settings in trials.items()}
    try:
        while time.time() < deadline:
            time.sleep(.2)
            for name in trials:
                if name not in begun and read_epochs(work, name): begun[name] = time.time() - start
            if all(len(read_epochs(work, name)) >= min(TRIAL_EPOCHS, trials[name]['epochs']) for name in trials): break
            if any(process.poll() for process in processes.values()): break  # one has failed
    finally: stop([*processes.values()])
    speeds = {name: seconds_per_epoch(work, f'trial_{name}') for name in runs}
    for name in trials: shutil.rmtree(work/'runs'/name, ignore_errors=True)
    return {name: dict(start=round(begun[f'trial_{name}'] - speed, 1), epoch=speed)
            for name, speed in speeds.items() if speed}


def fit_epochs(runs, speeds, deadline):
    "Give the students as many epochs as fit into the rest of the call, at the speed that was measured."
    def epochs(name): return int((deadline - time.time() - speeds[name]['start'] - FINISH)/speeds[name]['epoch'])
    return {name: settings | dict(epochs=epochs(name)) for name, settings in runs.items()}


# data, input pipeline, scores

def write_rehearsal(work):
    "Write a csv of synthetic faces, and votes that fit: FER+'s table has a row for each of FER2013's 35,887."
    import numpy as np
    from fer2013_cnn import SPLITS, synthetic_dataset
    from fer2013_cnn.data.load import FERPLUS_AS_FER2013, FERPLUS_COLUMNS
    faces = synthetic_dataset((420, 70, 70))
    labels, splits = np.zeros(35_887, int), np.zeros(35_887, int)
    labels[:len(faces)], splits[:len(faces)] = faces.labels, faces.splits
    columns = [FERPLUS_AS_FER2013.index(name) for name in faces.class_names]
    votes = np.zeros((len(labels), len(FERPLUS_COLUMNS)), int)
    votes[np.arange(len(labels)), np.array(columns)[labels]] = 10
    table = [','.join([SPLITS[split], *map(str, row)]) for split, row in zip(splits, votes)]
    (work/'fer2013new.csv').write_text('\n'.join([','.join(['Usage', *FERPLUS_COLUMNS]), *table, '']))
    rows = (f"{label},{' '.join(map(str, image.ravel()))},{SPLITS[split]}"
            for image, label, split in zip(faces.images, faces.labels, faces.splits))
    (work/'faces.csv').write_text('\n'.join(['emotion,pixels,Usage', *rows, '']))
    return work/'faces.csv'


PRECISION_CHECK = """
import sys
import numpy as np
from fer2013_cnn import build_model
from fer2013_cnn.training.loop import training_clone
faces = np.random.default_rng(0).integers(0, 256, (256, 48, 48, 1)).astype(np.float32)
network = build_model(sys.argv[1])
exact, fast = [model.predict(faces, verbose=0) for model in (network, training_clone(network, 'bfloat16'))]
print(np.abs(exact - fast).max())
"""


def choose_precision(work, model):
    "bfloat16 if an untrained network computes nearly the same in it as in float32; otherwise, and for None, float32."
    command = [sys.executable, '-c', PRECISION_CHECK, model]
    done = subprocess.run(command, cwd=work, env=child_environment(work), capture_output=True, text=True)
    (work/'logs'/'precision.log').write_text(done.stdout + done.stderr)
    try: difference = float(done.stdout.split()[-1])
    except (IndexError, ValueError): difference = float('nan')
    say(f'largest difference between probabilities in bfloat16 and in float32: {difference:.2g}')
    return 'bfloat16' if difference < .05 else 'float32' if difference >= .05 else None


def measure_pipeline(work, data):
    "Seconds in which one thread makes the batches of an epoch; nothing else of a training is done."
    from fer2013_cnn import load_data, make_config
    from fer2013_cnn.training.loop import training_targets, TrainingBatches
    dataset = load_data(data, work/'cache')
    config = make_config('quick', **{**RECIPE, 'ferplus_csv': str(work/'fer2013new.csv')})
    batches = TrainingBatches(dataset.images[dataset.indices('Training')], training_targets(dataset, config), config)
    def epoch():
        start = time.perf_counter()
        for number in range(len(batches)): batches[number]
        return time.perf_counter() - start
    return dict(faces=len(batches.images), batches=len(batches), seconds_per_epoch=round(min(epoch(), epoch()), 3))


def commit():
    "Of this checkout; in a copy without git, the one that tools/gpu_wheels.sh has noted."
    from fer2013_cnn.core import git_commit
    noted = ROOT/'.gpu'/'commit'
    return git_commit() or (noted.read_text().strip() if noted.exists() else None)


def table(work, names):
    "A row for each run: its epochs, seconds per epoch, and accuracy on PublicTest."
    from fer2013_cnn import evaluate_run
    rows = {}
    for name in names:
        run, info = work/'runs'/name, run_info(work, name)
        history = read_epochs(work, name)
        rows[name] = row = dict(epochs=len(history), of=(info.get('config') or {}).get('epochs'),
                                not_finite=sum(None in epoch.values() for epoch in history),  # with a loss of NaN
                                seconds_per_epoch=seconds_per_epoch(work, name), resumed=len(info.get('resumed', [])))
        if not finished(work, name): continue
        metrics = evaluate_run(run, 'PublicTest')
        row.update(accuracy=round(metrics['accuracy'], 4), ci95=[round(limit, 4) for limit in metrics['accuracy_ci95']])
    return rows


# what comes back

def packed_weights(work, name):
    "The weights of a finished run, kernels in half precision."
    from fer2013_cnn import load_network
    from fer2013_cnn.prediction.export import pack_weights
    path = work/'runs'/name/'weights.npz'
    if not path.exists(): pack_weights(load_network(work/'runs'/name), path)
    return path


def write_results(work, to, members, students):
    "Write results.tar in parts: small files and logs of all runs, weights of members in half precision, students' own."
    def add(path, name):
        if path.exists(): archive.add(path, name)
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode='w') as archive:
        for name in (*students, 'ensemble', *members):
            run = work/'runs'/name
            for file in SMALL_FILES: add(run/file, f'runs/{name}/{file}')
            add(work/'logs'/f'{name}.log', f'logs/{name}.log')
            if not finished(work, name): continue
            if name in students: add(run/'model.keras', f'runs/{name}/model.keras')
            if name in members: add(packed_weights(work, name), f'runs/{name}/weights.npz')
    content = stream.getvalue()
    parts = [content[start:start+PART] for start in range(0, len(content), PART)]
    to.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        (to/'part').write_bytes(part)
        (to/'part').replace(to/f'results.tar.{number}')
    for path in to.glob('results.tar.*'):
        if int(path.suffix[1:]) >= len(parts): path.unlink()
    shutil.copy(work/'report.json', to)
    say(f'{to}: {len(parts)} parts, {len(content)/2**20:.1f} MiB')


def restore(work, folder, data, predict=False):
    "Make the finished runs whose files lie in a folder, unless they are there; the ensemble is made from its members."
    from fer2013_cnn import build_model, load_data, predict_split
    from fer2013_cnn.model.inference import unpack_weights
    from fer2013_cnn.training.loop import save_network
    parts = sorted(folder.glob('results.tar.*'), key=lambda path: int(path.suffix[1:]))
    if not parts: return
    with tarfile.open(fileobj=BytesIO(b''.join(path.read_bytes() for path in parts))) as archive:
        names = {Path(name).parent for name in archive.getnames() if Path(name).name in ('weights.npz', 'model.keras')}
        new = {name for name in names if not (work/name).exists()}
        archive.extractall(work, filter='data', members=[item for item in archive if Path(item.name).parent in new])
    for name in sorted(new):
        info, run = run_info(work, name.name), work/name
        say(f'{name.name}: restored')
        if (run/'model.keras').exists(): continue  # a student, as it was trained
        network = build_model(info['config']['model'], len(info['data']['class_names']))
        unpack_weights(network, run/'weights.npz')
        save_network(run, network)
        if not predict: continue  # the predictions of the original weights are there
        predict_split(run, load_data(data, work/'cache'), 'PublicTest')  # half precision changes them a little


# the whole

def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--data', type=Path, help='fer2013.csv')
    add('--ferplus', type=Path, help='fer2013new.csv, the votes of FER+')
    add('--work', type=Path, default=Path('outputs/gpu'), help='folder of runs, cache and logs (%(default)s)')
    add('--to', type=Path, help='folder for the files that are taken home (default: back in --work)')
    add('--from', type=Path, dest='source', help='folder with files of --to from another machine')
    add('--minutes', type=float, default=9.5, help='time after which this call ends (%(default)s)')
    add('--rehearse', action='store_true', help='tiny settings and synthetic faces')
    add('--restore', action='store_true', help='only make the runs from the files in --from')
    arguments = parser.parse_args()
    if not arguments.rehearse and not (arguments.data and arguments.ferplus): parser.error('--data and --ferplus')
    return arguments


def settings_of(rehearse):
    "Settings of the members and of the students by name."
    groups = [{name: RECIPE | changes for name, changes in group.items()} for group in (MEMBERS, STUDENTS)]
    if not rehearse: return groups
    tiny = TINY | ({} if shutil.which('nvidia-smi') else dict(precision='float32'))
    return [{name: {key: tiny.get(key, value) for key, value in settings.items()}
             for name, settings in group.items() if name in REHEARSED} for group in groups]


def print_report(report):
    for stage in report['stages']:
        busy = f"busy {stage['gpu']['mean_busy_percent']} %" if stage['gpu'] else 'no samples'
        print(f"call {stage['call']}  {stage['name']:<28} {stage['seconds']:7.1f} s  {report['gpu']}: {busy}")
    for name, row in report['runs'].items(): print(f'{name:<18}', row)
    print('input pipeline', report['pipeline'], flush=True)


def work_through(arguments, stages, deadline):
    "All steps; those that are done already are skipped. Whether everything is finished."
    members, students = settings_of(arguments.rehearse)
    work, data, to = arguments.work, arguments.data, arguments.to
    def report():
        runs = table(work, [*members, 'ensemble', *students])
        stages.write(commit=commit(), runs=runs, members=members, students=students)
        write_results(work, to, members, students)
    daemon = stages.report.get('mps', True) and start_mps(work)
    try:
        if 'pipeline' not in stages.report:
            stages.write(pipeline=stages('input pipeline', measure_pipeline, work, data))
            say(stages.report['pipeline'])
        if 'precision' not in stages.report:
            precision = stages('check of bfloat16', choose_precision, work, students['base']['model'])
            if daemon and not precision:
                daemon = stop_mps()
                precision = stages('check without MPS', choose_precision, work, students['base']['model'])
            stages.write(precision=precision or 'float32', mps='CUDA_MPS_PIPE_DIRECTORY' in ENVIRONMENT)
        if stages.report['precision'] == 'float32':
            members, students = [{name: settings | dict(precision='float32') for name, settings in group.items()}
                               for group in (members, students)]
        whole = stages('members', train_side_by_side, work, data, members, deadline)
        usable = [name for name in members if finished(work, name)]
        if not whole and (time.time() > deadline or len(usable) < 2): return False
        if not stages('ensemble', make_ensemble, work, data, usable): return False
        stages('report of the members', report)
        if 'speeds' not in stages.report:
            speeds = stages('speed of the students', measure_students, work, data, students, deadline)
            if len(speeds) < len(students): return False
            stages.write(speeds=speeds)
        if not arguments.rehearse and not any(run_info(work, name) for name in students):
            students = fit_epochs(students, stages.report['speeds'], deadline)
            if min(settings['epochs'] for settings in students.values()) < FEWEST_EPOCHS: return False
        return stages('students', train_side_by_side, work, data, students, deadline)
    finally:
        stages('report', report)
        if daemon: stop_mps()


def main():
    arguments, start = parse_arguments(), time.time()
    for name in ('work', 'data', 'ferplus', 'to', 'source'):
        if getattr(arguments, name): setattr(arguments, name, getattr(arguments, name).resolve())
    work = arguments.work
    arguments.to = arguments.to or work/'back'
    for folder in ('runs', 'logs'): (work/folder).mkdir(parents=True, exist_ok=True)
    os.environ.update(KERAS_BACKEND='jax', JAX_PLATFORMS='cpu')
    sys.path.insert(0, str(ROOT))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if arguments.rehearse: arguments.data = write_rehearsal(work)
    else: shutil.copy(arguments.ferplus, work/'fer2013new.csv')
    if arguments.restore: return restore(work, arguments.source, arguments.data, predict=True)
    gpu = Utilization()
    stages = Stages(work/'report.json', gpu)
    try:
        if arguments.source: stages('restore', restore, work, arguments.source, arguments.data)
        complete = work_through(arguments, stages, start + 60*arguments.minutes - RESERVE)
    finally: gpu.stop()
    print_report(stages.report)
    print('complete' if complete else 'not complete: the same command goes on', flush=True)


if __name__ == '__main__': main()
