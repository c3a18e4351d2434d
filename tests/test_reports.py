"""Reports as a user gets them, on synthetic faces."""
import json
import shutil
import subprocess
import time

import pytest
from common import BIN, QUIET, REPORTS, ROOT, call

pytestmark = pytest.mark.slow
FORBIDDEN = ('<script', '<link', 'src="http', 'import ', 'Traceback')


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    "The main report on synthetic faces: train, evaluate, show."
    run = tmp_path_factory.mktemp('report')/'run'
    done = call('fer2013', 'report', '--data', 'sample', '--run', run)
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.startswith('Data: sample (asked for).')
    return run


def test_report_leaves_everything(report):
    expected = {'report.html', 'report.ipynb', 'metrics.json', 'history.jsonl', 'model.keras', 'model.h5', 'run.json',
                'figures', 'model_card.md', 'checkpoint', 'predictions-PublicTest.npz', 'predictions-PrivateTest.npz'}
    assert {path.name for path in report.iterdir()} - {'report.pdf'} == expected  # a pdf where there is a browser
    assert len(list((report/'figures').glob('*.png'))) == len(list((report/'figures').glob('*.svg'))) == 11


def test_report_scores_synthetic_faces(report):
    metrics = read(report/'metrics.json')['PrivateTest']
    assert .85 < metrics['accuracy'] < .98
    assert metrics['accuracy_ci95'][0] < metrics['accuracy'] < metrics['accuracy_ci95'][1]
    assert len(read(report/'run.json')['private_test_opened']) == 1


def test_report_page_stands_alone(report):
    page = (report/'report.html').read_text()
    assert 'synthetic faces' in page
    assert [word for word in FORBIDDEN if word in page] == []
    assert page.count('<img') == page.count('alt="') == 11
    accuracy = read(report/'metrics.json')['PrivateTest']['accuracy']
    assert f'| 700 | {accuracy:.1%}'.rstrip('%') in (report/'model_card.md').read_text()


def test_layers_are_named_by_stage(report):
    page = (report/'report.html').read_text()
    assert 'conv2d_' not in page
    assert 'stage 2, block 1, conv 3×3' in page


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


def test_evaluating_a_run_twice_gives_the_same_figures_and_opens_nothing(report, tmp_path):
    for name in ('one', 'two'):
        done = call('fer2013', 'report', '--model', report, '--data', 'sample', '--run', tmp_path/name)
        assert (done.returncode, done.stderr) == (0, '')
    assert files(tmp_path/'one') == files(tmp_path/'two')
    assert read(tmp_path/'one'/'metrics.json')['PrivateTest'] == read(report/'metrics.json')['PrivateTest']
    assert len(read(report/'run.json')['private_test_opened']) == 1
    page = (tmp_path/'one'/'report.html').read_text()
    assert page.count('<img') == page.count('alt="') == 6 and '<script' not in page


def test_a_run_is_no_better_than_its_copy(report, tmp_path):
    shutil.copytree(report, tmp_path/'again')
    runs = f"runs={report},{tmp_path/'again'}"
    done = call('fer2013', 'report', 'compare_runs', '-p', runs, '--run', tmp_path/'compared')
    assert (done.returncode, done.stderr) == (0, '')
    (difference,) = read(tmp_path/'compared'/'comparison.json')['differences'].values()
    assert (difference['difference'], difference['p_value']) == (0, 1)
    assert (tmp_path/'compared'/'report.html').exists()


def test_reports_list_their_parameters(tmp_path):
    done = call('fer2013', 'report', '--list')
    assert done.returncode == 0
    for path in REPORTS: assert f'{path.stem}: ' in done.stdout
    assert call('fer2013', 'report', 'compare_runs', '-p', 'runs=one', '--run', tmp_path/'run').returncode == 1


def test_the_audit_is_a_report_too(tmp_path):
    done = call('fer2013', 'report', 'data_audit', '--data', 'sample', '--run', tmp_path/'run')
    assert (done.returncode, done.stderr) == (0, '')
    assert (tmp_path/'run'/'findings.csv').exists()
    page = (tmp_path/'run'/'report.html').read_text()
    assert 'ynthetic faces' in page and [word for word in FORBIDDEN if word in page and word != 'import '] == []


def test_a_killed_report_leaves_no_page(tmp_path):
    run = tmp_path/'run'
    process = subprocess.Popen([BIN/'fer2013', 'report', '--data', 'sample', '--run', run], env=QUIET,
                               stdout=subprocess.DEVNULL)
    for _ in range(1200):
        if (run/'history.jsonl').exists(): break
        time.sleep(.1)
    process.kill()
    process.wait()
    assert (run/'history.jsonl').exists()
    assert not any((run/name).exists() for name in ('report.html', 'report.ipynb'))


def test_papermill_runs_a_report_directly(tmp_path):
    parameters = dict(data='sample', run=tmp_path/'run', repeats=1, train_networks='small', many=400)
    words = [word for name, value in parameters.items() for word in ('-p', name, value)]
    done = call('papermill', ROOT/'nbs/reports/benchmark.ipynb', tmp_path/'out.ipynb', *words)
    assert done.returncode == 0 and (tmp_path/'run'/'benchmark.json').exists()
