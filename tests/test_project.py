"""The project from outside: sources in step, notebooks that run, the report and the wheel as a user gets them."""
import ast
import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(path.relative_to(ROOT) for path in (ROOT/'nbs').glob('[!_.]*.ipynb'))
REPORTS = sorted(path.relative_to(ROOT) for path in (ROOT/'nbs'/'reports').glob('[!_.]*.ipynb'))
IMPORT_ORDER = ['sample', 'read', 'data', 'audit', 'model', 'run', 'views', 'recipe', 'train', 'evaluate', 'figures', 'compare', 'runtime', 'pretrained', 'assess', 'explain', 'noise', 'pictures', 'detect', 'predict', 'video', 'export', 'demo', 'report', 'cli']
QUIET = {**os.environ, 'TQDM_DISABLE': '1', 'NO_COLOR': '1', 'COLUMNS': '110'}
if os.environ.get('FER2013_DATA') not in (None, '', 'sample', 'kaggle'):
    QUIET['FER2013_DATA'] = str(Path(os.environ['FER2013_DATA']).resolve())  # the notebooks run in their own folder


def call(*words, cwd=ROOT, env=QUIET, timeout=1200):
    "Run a command of the environment under test; its output is shown if it fails."
    done = subprocess.run([BIN/words[0], *map(str, words[1:])], cwd=cwd, env=env, timeout=timeout, capture_output=True, text=True)
    print(done.stdout[-5000:], done.stderr[-5000:])
    return done


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of the sources, to clean and to export without touching the real ones."
    folder = tmp_path_factory.mktemp('copy')
    for name in ('nbs', 'fer2013_cnn'):
        shutil.copytree(ROOT/name, folder/name, ignore=shutil.ignore_patterns('.*', '__pycache__', 'outputs'))
    for name in ('settings.ini', 'setup.py', 'pyproject.toml'):
        shutil.copy(ROOT/name, folder)
    return folder


def test_notebooks_are_clean(copy):
    assert call('nbdev_clean', cwd=copy).returncode == 0
    changed = [str(path) for path in NOTEBOOKS + REPORTS if not filecmp.cmp(ROOT/path, copy/path, shallow=False)]
    assert changed == [], 'run: make export'


def test_export_reproduces_the_package(copy):
    assert call('nbdev_export', cwd=copy).returncode == 0
    names = [path.name for path in (ROOT/'fer2013_cnn').glob('*.py')]
    assert sorted(names) == sorted(path.name for path in (copy/'fer2013_cnn').glob('*.py'))
    assert filecmp.cmpfiles(ROOT/'fer2013_cnn', copy/'fer2013_cnn', names, shallow=False)[1:] == ([], []), 'run: make export'


def test_readme_is_in_step(tmp_path):
    subprocess.run(['make', '--silent', 'readme', f'README={tmp_path}/README.md', f'VENV={BIN.parent}'], cwd=ROOT, check=True)
    assert (tmp_path/'README.md').read_text() == (ROOT/'README.md').read_text(), 'run: make export'


def test_modules_import_what_they_use():
    assert call('python', '-m', 'pyflakes', 'fer2013_cnn', 'tests').returncode == 0


def test_imports_run_one_way():
    for path in (ROOT/'fer2013_cnn').glob('[!_]*.py'):
        imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
        ours = [node for node in imports if node.level or node.module.split('.')[0] == 'fer2013_cnn']
        used = {name for node in ours for name in [(node.module or '').split('.')[-1], *(alias.name for alias in node.names)] if name in IMPORT_ORDER}
        assert [name for name in used if IMPORT_ORDER.index(name) >= IMPORT_ORDER.index(path.stem)] == [], path.stem


@pytest.mark.parametrize('notebook', NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(notebook):
    flags = ['--flags', 'realdata'] if os.environ.get('FER2013_DATA') else []
    done = call('nbdev_test', '--path', notebook, '--n_workers', 0, '--do_print', *flags)
    assert done.returncode == 0 and 'Success.' in done.stdout + done.stderr


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    "The main job on drawn faces, as a user runs it."
    run = tmp_path_factory.mktemp('report')/'run'
    done = call('fer2013', 'report', '--data', 'sample', '--run', run)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith('Data: sample (asked for).')
    return run


def test_report_leaves_everything(report):
    wanted = {'report.html', 'report.ipynb', 'metrics.json', 'history.jsonl', 'model.keras', 'model.h5', 'run.json', 'figures',
              'model_card.md', 'checkpoint', 'predictions-PublicTest.npz', 'predictions-PrivateTest.npz'}
    assert {path.name for path in report.iterdir()} - {'report.pdf'} == wanted  # the pdf where there is a browser
    assert len(list((report/'figures').glob('*.png'))) == len(list((report/'figures').glob('*.svg'))) == 11


def test_report_scores_drawn_faces(report):
    score = json.loads((report/'metrics.json').read_text())['PrivateTest']
    assert .85 < score['accuracy'] < .98
    assert score['accuracy_ci95'][0] < score['accuracy'] < score['accuracy_ci95'][1]
    assert len(json.loads((report/'run.json').read_text())['private_test_opened']) == 1


def test_report_page_stands_alone(report):
    page = (report/'report.html').read_text()
    assert 'drawn faces (not FER2013)' in page
    assert [word for word in ('<script', '<link', 'src="http', 'import ', 'Traceback') if word in page] == []
    assert page.count('<img') == page.count('alt="') == 11
    score = json.loads((report/'metrics.json').read_text())['PrivateTest']['accuracy']
    assert f'| PrivateTest, all | 700 | {score:.1%}'.rstrip('%') in (report/'model_card.md').read_text()


def test_evaluating_again_gives_the_same_numbers(report):
    before = (report/'metrics.json').read_text()
    done = call('fer2013', 'evaluate', report, '--split', 'PrivateTest')
    assert done.returncode == 0 and 'surprise' in done.stdout
    assert (report/'metrics.json').read_text() == before


def test_a_second_report_keeps_the_first(report):
    done = call('fer2013', 'report', '--data', 'sample', '--run', report)
    assert done.returncode == 1 and 'already holds a run' in done.stderr


def files(folder):
    "Figures and metrics of a report, as bytes."
    return {path.name: path.read_bytes() for path in [folder/'metrics.json', *(folder/'figures').iterdir()]}


def test_assessing_a_run_twice_gives_the_same_figures_and_opens_nothing(report, tmp_path):
    for name in ('one', 'two'):
        done = call('fer2013', 'report', 'evaluate_model', '--model', report, '--data', 'sample', '--run', tmp_path/name)
        assert (done.returncode, done.stderr) == (0, '')
    assert files(tmp_path/'one') == files(tmp_path/'two')
    assert json.loads((tmp_path/'one'/'metrics.json').read_text())['PrivateTest'] == json.loads((report/'metrics.json').read_text())['PrivateTest']
    assert len(json.loads((report/'run.json').read_text())['private_test_opened']) == 1
    page = (tmp_path/'one'/'report.html').read_text()
    assert page.count('<img') == page.count('alt="') == 6 and '<script' not in page


def test_a_run_is_no_better_than_its_copy(report, tmp_path):
    shutil.copytree(report, tmp_path/'again')
    done = call('fer2013', 'report', 'compare_runs', '-p', f"runs={report},{tmp_path/'again'}", '--run', tmp_path/'compared')
    assert (done.returncode, done.stderr) == (0, '')
    (difference,) = json.loads((tmp_path/'compared'/'comparison.json').read_text())['differences'].values()
    assert (difference['difference'], difference['p_value']) == (0, 1)
    assert 'Which run is better?' in (tmp_path/'compared'/'report.html').read_text()


def test_reports_say_what_they_take():
    done = call('fer2013', 'report', '--list')
    assert done.returncode == 0
    for path in REPORTS:
        assert f'{path.stem}: ' in done.stdout
    assert call('fer2013', 'report', 'compare_runs', '-p', 'runs=one').returncode == 1


def test_the_audit_is_a_report_too(tmp_path):
    done = call('fer2013', 'report', 'data_audit', '--data', 'sample', '--run', tmp_path/'run')
    assert (done.returncode, done.stderr) == (0, '')
    assert (tmp_path/'run'/'findings.csv').exists()
    page = (tmp_path/'run'/'report.html').read_text()
    assert 'rawn faces' in page and [word for word in ('<script', '<link', 'src="http', 'Traceback') if word in page] == []


def test_shuffled_labels_teach_nothing(tmp_path):
    import numpy as np
    from fer2013_cnn.data import drawn_faces
    from fer2013_cnn.recipe import configure
    from fer2013_cnn.train import predict_split, train
    faces = drawn_faces()
    labels = np.where(faces.splits == 0, np.random.default_rng(0).permutation(faces.labels), faces.labels)
    faces = replace(faces, labels=labels.astype(np.uint8))
    answers = predict_split(train(faces, configure('smoke'), tmp_path/'run'), faces, 'PrivateTest')
    assert (answers.classes == answers.labels).mean() < .3


def test_a_killed_report_leaves_no_page(tmp_path):
    run = tmp_path/'run'
    process = subprocess.Popen([BIN/'fer2013', 'report', '--data', 'sample', '--run', run], env=QUIET, stdout=subprocess.DEVNULL)
    for _ in range(1200):
        if (run/'history.jsonl').exists():
            break
        time.sleep(.1)
    process.kill()
    process.wait()
    assert (run/'history.jsonl').exists()
    assert not any((run/name).exists() for name in ('report.html', 'report.ipynb'))


@pytest.fixture(scope='module')
def few_faces(tmp_path_factory):
    "A csv with 210 drawn faces to learn from."
    from fer2013_cnn.data import SPLITS, drawn_faces
    faces, path = drawn_faces((210, 70, 70)), tmp_path_factory.mktemp('few')/'faces.csv'
    lines = [f"{label},{' '.join(map(str, image.ravel()))},{SPLITS[split]}" for image, label, split in zip(faces.images, faces.labels, faces.splits)]
    path.write_text('\n'.join(['emotion,pixels,Usage', *lines, '']))
    return path


def stop_after(epochs, words, run, how):
    "Start `fer2013 train`, send it a signal when its history has so many lines, and return what it said."
    process = subprocess.Popen([BIN/'fer2013', 'train', *map(str, words)], env=QUIET, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a job in the background inherits that it is ignored
    history = run/'history.jsonl'
    while process.poll() is None and not (history.exists() and history.read_text().count('\n') >= epochs):
        time.sleep(.02)
    process.send_signal(how)
    return process.communicate()[1], process.returncode


def test_a_killed_training_resumes_bit_for_bit(few_faces, tmp_path):
    import numpy as np
    from fer2013_cnn.train import load_network
    whole, killed = tmp_path/'whole', tmp_path/'killed'
    recipe = ['--data', few_faces, '--preset', 'smoke', '--set', 'epochs=4', '--set', 'batch_size=16', '--set', 'mixup=.4']
    assert call('fer2013', 'train', *recipe, '--run', whole).returncode == 0
    again = ['--data', few_faces, '--run', killed, '--resume']
    assert stop_after(1, [*recipe, '--run', killed], killed, signal.SIGKILL)[1] == -signal.SIGKILL
    said, code = stop_after(2, again, killed, signal.SIGINT)
    assert code == 1 and said.count('\n') == 1 and f'fer2013 train --resume --run {killed}' in said
    assert call('fer2013', 'train', *again).returncode == 0
    histories = [[{**json.loads(line), 'seconds': 0} for line in (run/'history.jsonl').read_text().splitlines()] for run in (whole, killed)]
    assert len(histories[0]) == 4 and histories[0] == histories[1]
    assert all(np.array_equal(*pair) for pair in zip(*(load_network(run).get_weights() for run in (whole, killed)), strict=True))


def test_a_network_trained_with_jax_answers_the_same_with_tensorflow(few_faces, tmp_path):
    import numpy as np
    from fer2013_cnn.data import load
    from fer2013_cnn.run import load_predictions, read_run
    from fer2013_cnn.train import load_network
    run = tmp_path/'run'
    done = call('fer2013', 'train', '--data', few_faces, '--preset', 'smoke', '--set', 'epochs=1', '--set', 'batch_size=70', '--run', run, env={**QUIET, 'KERAS_BACKEND': 'jax'})
    assert done.returncode == 0 and read_run(run)['backend'] == 'jax'
    faces, answers = load(few_faces), load_predictions(run, 'PublicTest')
    assert np.allclose(load_network(run).predict(faces.images[answers.rows][..., None], verbose=0), answers.probabilities, atol=1e-5)


@pytest.mark.parametrize('name', sorted(path.stem for path in (ROOT/'fer2013_cnn'/'weights').glob('*.json')))
def test_pretrained_scores_what_its_card_says(name):
    import numpy as np
    import fer2013_cnn
    from fer2013_cnn.data import load
    from fer2013_cnn.pretrained import pretrained_card
    network, card = fer2013_cnn.load_pretrained(name), pretrained_card(name)
    assert network.count_params() == card['parameters'] < dict(small=300_000, base=2_000_000)[name]
    if not os.environ.get('FER2013_DATA', '').endswith('.csv'):
        pytest.skip('needs fer2013.csv')
    faces = load()
    rows = faces.rows('PublicTest')
    assert faces.fingerprint == card['data']['fingerprint']
    answers = network.predict(faces.images[rows][..., None], batch_size=256, verbose=0).argmax(1)
    assert np.mean(answers == faces.labels[rows]) == pytest.approx(card['metrics']['PublicTest']['accuracy'], abs=.002)


def test_weights_are_small():
    assert sum(path.stat().st_size for path in (ROOT/'fer2013_cnn'/'weights').iterdir()) < 8_000_000


def test_importing_the_package_stays_light():
    done = call('python', '-c', "import sys, fer2013_cnn; print([name for name in ('keras', 'tensorflow', 'numpy') if name in sys.modules])")
    assert done.stdout == '[]\n'


def test_evaluation_and_prediction_need_no_keras():
    modules = ', '.join(f'fer2013_cnn.{name}' for name in ('data', 'audit', 'run', 'views', 'evaluate', 'figures', 'compare', 'runtime', 'pictures', 'detect', 'predict', 'video'))
    done = call('python', '-c', f"import sys, {modules}; print([name for name in ('keras', 'tensorflow') if name in sys.modules])")
    assert done.stdout == '[]\n'


def test_papermill_runs_a_report_directly(tmp_path):
    done = call('papermill', ROOT/'nbs/reports/benchmark.ipynb', tmp_path/'out.ipynb', '-p', 'data', 'sample', '-p', 'run', tmp_path/'run', '-p', 'repeats', 1)
    assert done.returncode == 0 and (tmp_path/'run'/'benchmark.json').exists()


@pytest.mark.parametrize('words, says', [
    (['report', '--data', 'sample', '--preset', 'fast'], "no preset is named 'fast', choose one of smoke, quick"),
    (['train', '--data', 'sample', '--set', 'distillation=.5'], 'teacher and distillation go together'),
    (['train', '--data', 'sample', '--resume', '--seed', '1'], '--resume goes with --run, --data'),
    (['train', '--data', 'sample', '--model', 'vgg99'], "no model is named 'vgg99', choose one of simple, mini_xception, vgg")], ids=lambda value: value if isinstance(value, str) else '')
def test_a_mistake_costs_one_line(words, says, tmp_path):
    done = call('fer2013', *words, '--run', tmp_path/'run')
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1 and says in done.stderr
    assert not (tmp_path/'run'/'run.json').exists()


def test_without_a_network_kaggle_costs_one_line(tmp_path):
    nowhere = 'http://127.0.0.1:9'
    env = {**QUIET, 'KAGGLEHUB_CACHE': str(tmp_path), 'HTTPS_PROXY': nowhere, 'HTTP_PROXY': nowhere, 'https_proxy': nowhere, 'http_proxy': nowhere}
    done = call('fer2013', 'report', '--data', 'kaggle', '--run', tmp_path/'run', env=env)
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1 and 'could not be downloaded' in done.stderr


def test_the_wheel_reports_by_itself(tmp_path):
    "Built, installed into an empty environment, and used from another folder."
    source = tmp_path/'source'
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns('.venv', '.git', 'outputs', 'data', 'build', '*.egg-info'))
    assert call('python', '-m', 'build', '--wheel', '--outdir', tmp_path, source).returncode == 0
    venv.create(tmp_path/'venv', with_pip=True)
    python = tmp_path/'venv'/'bin'/'python'
    subprocess.run([python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '-c', ROOT/'constraints.txt', *tmp_path.glob('*.whl')], check=True)
    (tmp_path/'elsewhere').mkdir()
    done = subprocess.run([tmp_path/'venv'/'bin'/'fer2013', 'report', '--data', 'sample', '--run', 'run', '-p', 'epochs=1'], cwd=tmp_path/'elsewhere',
                          env={name: value for name, value in QUIET.items() if name != 'PYTHONPATH'}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    where = subprocess.run([python, '-c', 'import fer2013_cnn.report as r; print(r.reports_folder())'], cwd=tmp_path, capture_output=True, text=True)
    assert where.stdout.startswith(str(tmp_path/'venv'))
    assert (tmp_path/'elsewhere'/'run'/'report.html').exists()
    weights = subprocess.run([python, '-c', "import fer2013_cnn; print(fer2013_cnn.load_pretrained('small').count_params())"], cwd=tmp_path, capture_output=True, text=True)
    assert 200_000 < int(weights.stdout) < 300_000, weights.stderr
    photograph = subprocess.run([python, '-c', "from matplotlib.cbook import get_sample_data as get; print(get('grace_hopper.jpg', asfileobj=False), end='')"], capture_output=True, text=True).stdout
    done = subprocess.run([tmp_path/'venv'/'bin'/'fer2013', 'predict', photograph], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '') and '1 picture, 1 face: 1 neutral.' in done.stdout
    done = subprocess.run([tmp_path/'venv'/'bin'/'fer2013', 'demo'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr == "fer2013: gradio is not installed: pip install 'fer2013_cnn[demo]'\n"
