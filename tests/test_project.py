"""The package from outside: training and resuming, pretrained networks, imports, the wheel as a user gets it."""
import json
import os
import re
import shutil
import signal
import subprocess
import time
import venv
from dataclasses import replace
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import numpy as np
import pytest
from common import BIN, QUIET, ROOT, call

pytestmark = pytest.mark.slow
PARAMETERS = dict(small=300_000, base=2_000_000)  # at most
WITHOUT_KERAS = ('core', 'data.load', 'data.audit', 'model.inference', 'training.run', 'evaluation.metrics',
                 'evaluation.tables', 'evaluation.plots', 'evaluation.compare', 'prediction.faces',
                 'prediction.images', 'prediction.video', 'scale', 'bulk', 'cli')


def test_shuffled_labels_teach_nothing(tmp_path):
    from fer2013_cnn import make_config, predict_split, synthetic_dataset, train
    dataset = synthetic_dataset((1400, 350, 350))
    shuffled = np.random.default_rng(0).permutation(dataset.labels)
    labels = np.where(dataset.splits == 0, shuffled, dataset.labels).astype(np.uint8)
    dataset = replace(dataset, labels=labels)
    run = train(dataset, make_config('smoke'), tmp_path/'run')
    predictions = predict_split(run, dataset, 'PrivateTest')
    assert (predictions.predicted == predictions.labels).mean() < .3


def default_interrupt():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a background job inherits that it is ignored


def stop_after(epochs, words, run, how, env=QUIET):
    "Start `fer2013 train`, send a signal after some epochs, and return stderr and exit code."
    process = subprocess.Popen([BIN/'fer2013', 'train', *map(str, words)], env=env, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, preexec_fn=default_interrupt)
    history = run/'history.jsonl'
    while process.poll() is None and not (history.exists() and history.read_text().count('\n') >= epochs):
        time.sleep(.02)
    process.send_signal(how)
    return process.communicate()[1], process.returncode


def read_epochs(run):
    return [{**json.loads(line), 'seconds': 0} for line in (run/'history.jsonl').read_text().splitlines()]


def test_a_killed_training_resumes_bit_for_bit(csv_file, tmp_path):
    from fer2013_cnn import load_network
    whole, killed = tmp_path/'whole', tmp_path/'killed'
    settings = ['epochs=4', 'batch_size=16', 'erasing=.4']
    words = ['--data', csv_file, '--preset', 'smoke', *[word for setting in settings for word in ('--set', setting)]]
    assert call('fer2013', 'train', *words, '--run', whole).returncode == 0
    again = ['--data', csv_file, '--run', killed, '--resume']
    assert stop_after(1, [*words, '--run', killed], killed, signal.SIGKILL)[1] == -signal.SIGKILL
    stderr, code = stop_after(2, again, killed, signal.SIGINT)
    assert code == 1 and stderr.count('\n') == 1 and f'fer2013 train --resume --run {killed}' in stderr
    assert call('fer2013', 'train', *again).returncode == 0
    assert len(read_epochs(whole)) == 4 and read_epochs(whole) == read_epochs(killed)
    weights = [load_network(run).get_weights() for run in (whole, killed)]
    assert all(np.array_equal(*pair) for pair in zip(*weights, strict=True))


WITHOUT_TENSORFLOW = "import sys; sys.modules['tensorflow'] = None; from fer2013_cnn.__main__ import main; main()"


@pytest.fixture(scope='module')
def jax_run(csv_file, tmp_path_factory):
    "A run of two epochs with the JAX backend, in a process that cannot import TensorFlow, and the words after `train`."
    run, env = tmp_path_factory.mktemp('jax')/'run', {**QUIET, 'KERAS_BACKEND': 'jax'}
    words = ['--data', csv_file, '--preset', 'smoke', '--set', 'epochs=2', '--set', 'batch_size=70']
    assert call('python', '-c', WITHOUT_TENSORFLOW, 'train', *words, '--run', run, env=env).returncode == 0
    return run, words, env


def test_a_network_trained_with_jax_predicts_the_same_with_tensorflow(jax_run, csv_file):
    from fer2013_cnn import load_data, load_network, load_predictions
    run = jax_run[0]
    assert json.loads((run/'run.json').read_text())['backend'] == 'jax'
    dataset, predictions = load_data(csv_file), load_predictions(run, 'PublicTest')
    images = dataset.images[predictions.indices][..., None]
    assert np.allclose(load_network(run).predict(images, verbose=0), predictions.probabilities, atol=1e-5)


def test_a_killed_training_with_jax_resumes_bit_for_bit(jax_run, csv_file, tmp_path):
    whole, words, env = jax_run
    killed = tmp_path/'killed'
    assert stop_after(1, [*words, '--run', killed], killed, signal.SIGKILL, env)[1] == -signal.SIGKILL
    again = ['train', '--data', csv_file, '--run', killed, '--resume']
    assert call('python', '-c', WITHOUT_TENSORFLOW, *again, env=env).returncode == 0
    assert read_epochs(killed) == read_epochs(whole)
    assert (killed/'model.keras').read_bytes() == (whole/'model.keras').read_bytes()


def test_the_program_for_a_gpu_goes_on_where_it_was_stopped(tmp_path):
    command = ['python', 'tools/train_on_gpu.py', '--rehearse', '--to', tmp_path/'home']
    for minutes in (.8, 15):
        done = call(*command, '--work', tmp_path/'work', '--minutes', minutes)
        assert done.returncode == 0
    assert done.stdout.endswith('complete\n') and not done.stdout.endswith('not complete\n')
    report = json.loads((tmp_path/'home'/'report.json').read_text())
    assert report['calls'] == 2 and report['pipeline']['faces'] == 420
    assert all(row['accuracy'] for row in report['runs'].values())
    assert call(*command, '--restore', '--from', tmp_path/'home', '--work', tmp_path/'new').returncode == 0
    models = [{path.parent.name for path in (tmp_path/work/'runs').glob('*/model.keras')} for work in ('work', 'new')]
    assert models[0] - models[1] == {'ensemble'} and models[1] == {'base_seed_0', 'base_labels_only', 'base'}


@pytest.mark.parametrize('name', sorted(path.stem for path in (ROOT/'fer2013_cnn'/'weights').glob('*.json')))
def test_pretrained_scores_what_its_card_says(name):
    from fer2013_cnn import load_data, load_pretrained
    from fer2013_cnn.model.inference import pretrained_card
    network, card = load_pretrained(name), pretrained_card(name)
    assert network.count_params() == card['parameters'] < PARAMETERS[name]
    if not os.environ.get('FER2013_DATA', '').endswith('.csv'): pytest.skip('needs fer2013.csv')
    dataset = load_data()
    indices = dataset.indices('PublicTest')
    assert dataset.fingerprint == card['data']['fingerprint']
    predicted = network.predict(dataset.images[indices][..., None], batch_size=256, verbose=0).argmax(1)
    accuracy = np.mean(predicted == dataset.labels[indices])
    assert accuracy == pytest.approx(card['metrics']['PublicTest']['accuracy'], abs=.002)


def test_weights_are_small():
    assert sum(path.stat().st_size for path in (ROOT/'fer2013_cnn'/'weights').iterdir()) < 9_500_000


def loaded(program, *names):
    "Which of some modules a program loads."
    done = call('python', '-c', f'import sys\n{program}\nprint([name for name in {names} if name in sys.modules])')
    return done.stdout


def test_importing_the_package_stays_light():
    assert loaded('import fer2013_cnn', 'keras', 'tensorflow', 'numpy') == '[]\n'


def test_evaluation_and_prediction_need_no_keras():
    program = '\n'.join(f'import fer2013_cnn.{name}' for name in WITHOUT_KERAS)
    assert loaded(program, 'keras', 'tensorflow') == '[]\n'


def test_every_public_name_can_be_imported():
    import fer2013_cnn
    assert [name for name in fer2013_cnn.__all__ if not hasattr(fer2013_cnn, name)] == []
    assert callable(fer2013_cnn.report) and callable(fer2013_cnn.train) and callable(fer2013_cnn.predict)
    with pytest.raises(AttributeError, match='no_such_name'): fer2013_cnn.no_such_name


@pytest.mark.parametrize('words, says', [
    (['report', '--data', 'sample', '--preset', 'fast'], "unknown preset 'fast': expected smoke, quick"),
    (['train', '--data', 'sample', '--set', 'distillation_weight=.5'], 'teacher and distillation_weight'),
    (['train', '--data', 'sample', '--resume', '--seed', '1'], '--resume takes only --run, --data'),
    (['train', '--data', 'sample', '--model', 'vgg99'], "unknown model 'vgg99': expected simple, mini_xception")])
def test_a_mistake_costs_one_line(words, says, tmp_path):
    done = call('fer2013', *words, '--run', tmp_path/'run')
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1 and says in done.stderr
    assert not (tmp_path/'run'/'run.json').exists()


def test_without_internet_kaggle_costs_one_line(tmp_path):
    proxy = 'http://127.0.0.1:9'
    proxies = {name: proxy for name in ('HTTPS_PROXY', 'HTTP_PROXY', 'https_proxy', 'http_proxy')}
    env = {**QUIET, **proxies, 'KAGGLEHUB_CACHE': str(tmp_path)}
    done = call('fer2013', 'report', '--data', 'kaggle', '--run', tmp_path/'run', env=env)
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1 and 'could not be downloaded' in done.stderr


def leave_out(folder, names):
    "What is not a source, for `copytree`."
    return {'.venv', '.git', 'outputs', 'data', 'build', 'dist'} & {*names} if Path(folder) == ROOT else ()


def build_wheel(folder):
    "Build the wheel from a copy of the sources."
    shutil.copytree(ROOT, folder/'source', ignore=leave_out)
    assert call('python', '-m', 'build', '--wheel', '--outdir', folder, folder/'source').returncode == 0
    return next(folder.glob('*.whl'))


def install(folder, *packages):
    pip = [folder/'bin'/'python', '-m', 'pip', '--quiet', '--disable-pip-version-check', 'install', '--no-compile']
    subprocess.run([*pip, '-c', ROOT/'constraints.txt', *packages], check=True)


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    return build_wheel(tmp_path_factory.mktemp('wheel'))


@pytest.fixture(scope='module')
def photograph(tmp_path_factory):
    from matplotlib.cbook import get_sample_data
    return shutil.copy(get_sample_data('grace_hopper.jpg', asfileobj=False), tmp_path_factory.mktemp('photographs'))


def outside(folder, cwd, **variables):
    "A function that runs a command of an environment, away from the sources."
    env = {name: value for name, value in QUIET.items() if name != 'PYTHONPATH'} | variables

    def run(*words):
        return subprocess.run([folder/'bin'/words[0], *words[1:]], cwd=cwd, env=env, capture_output=True, text=True)
    return run


def film(path, photograph):
    import cv2
    image = cv2.imread(str(photograph))[:600, :512]
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, (512, 600))
    for _ in range(3): video.write(image)
    video.release()
    return path


NEEDS = [(['train', '--data', 'sample'], 'keras', 'train'), (['evaluate', 'run'], 'scipy', 'evaluate'),
         (['report', '--list'], 'papermill', 'report'), (['export', 'base'], 'keras', 'train'),
         (['demo'], 'gradio', 'demo'), (['serve'], 'fastapi', 'serve'), (['sweep', '--to', 's1'], 'keras', 'train'),
         (['predict', '.', '--to', 'faces'], 'pyarrow', 'scale')]


def test_the_base_installation_predicts_and_prepares(wheel, photograph, tmp_path):
    "Without TensorFlow and below 500 MB; each other command names its extra. Then metrics with the extra `evaluate`."
    venv.create(tmp_path/'venv', with_pip=True)
    install(tmp_path/'venv', wheel)
    packages = tmp_path/'venv'/'lib'
    assert sum(path.stat().st_size for path in packages.rglob('*') if path.is_file()) < 500_000_000
    assert not [*packages.rglob('tensorflow')] and not [*packages.rglob('keras')]
    run = outside(tmp_path/'venv', tmp_path)
    for command in (['fer2013'], ['python', '-m', 'fer2013_cnn']):
        assert run(*command, '--version').stdout.startswith('fer2013_cnn ')
    for source, summary in ((photograph, '1 image, 1 face: 1 neutral.'),
                            (Path(photograph).parent, '1 image, 1 face: 1 neutral.'),
                            (film(tmp_path/'film.mp4', photograph), '3 frames, 3 faces: 3 neutral.')):
        done = run('fer2013', 'predict', source)
        assert (done.returncode, done.stderr) == (0, '') and summary in done.stdout
    assert '4,900 images' in run('fer2013', 'prepare', '--data', 'sample', '--cache', tmp_path/'cache').stdout
    for command, module, extra in NEEDS:
        says = f"fer2013: {module} is not installed: pip install 'fer2013_cnn[{extra}]'\n"
        assert (done := run('fer2013', *command)).returncode == 1 and done.stderr == says
    install(tmp_path/'venv', f'{wheel}[evaluate]')
    shutil.copytree(ROOT/'nbs'/'results'/'base_seed_0', tmp_path/'run')
    done = run('fer2013', 'evaluate', 'run', '--split', 'PrivateTest')
    assert done.returncode == 0 and '71.7 %' in done.stdout, done.stderr


def test_the_wheel_reports_with_its_extra(wheel, tmp_path):
    "The extra's packages are those of the environment under test; they take too long to install again."
    venv.create(tmp_path/'venv', with_pip=True)
    install(tmp_path/'venv', '--no-deps', wheel)
    next((tmp_path/'venv'/'lib').glob('*/site-packages')).joinpath('extra.pth').write_text(np.__path__[0] + '/..')
    run = outside(tmp_path/'venv', tmp_path, JUPYTER_PATH=str(BIN.parent/'share'/'jupyter'))
    assert 'data_audit' in run('fer2013', 'report', '--list').stdout
    done = run('fer2013', 'train', '--data', 'sample', '--run', 'run', '--set', 'epochs=1')
    assert done.returncode == 0 and (tmp_path/'run'/'model.keras').exists(), done.stderr
    done = run('fer2013', 'report', 'data_audit', '--data', 'sample', '--run', 'audit')
    assert done.returncode == 0 and (tmp_path/'audit'/'report.html').exists(), done.stderr
    folder = run('python', '-c', 'from fer2013_cnn.reporting import reports_folder; print(reports_folder())').stdout
    assert folder.startswith(str(tmp_path))
    done = run('python', '-c', "import fer2013_cnn; print(fer2013_cnn.load_pretrained('small').count_params())")
    assert 200_000 < int(done.stdout) < 300_000, done.stderr


def import_names():
    "Pairs of extra and module of each call of `require` in the package."
    calls = [call for path in (ROOT/'fer2013_cnn').rglob('*.py') for call in
             re.findall(r"require\(('[a-z_', A-Z0-9]+')\)", path.read_text())]
    words = [re.findall(r"'(\w+)'", call) for call in calls]
    return {(extra, module) for extra, *modules in words for module in modules}


def test_required_modules_belong_to_their_extra():
    provided = packages_distributions()
    extras = {line.split(';')[1].split('"')[1]: set() for line in requires('fer2013_cnn') if 'extra ==' in line}
    for line in requires('fer2013_cnn'):
        for extra in re.findall(r'extra == "(\w+)"', line): extras[extra].add(re.match(r'[\w.-]+', line)[0].lower())
    assert len(import_names()) > 12
    for extra, module in import_names():
        assert {name.lower() for name in provided[module]} & extras[extra], (extra, module)
