"""Ensembles: a folder that every command takes like a run, and what is refused."""
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from common import BIN, QUIET, call

from fer2013_cnn.core import read_run, UserError
from fer2013_cnn.data.load import load_data
from fer2013_cnn.evaluation.compare import average_predictions, plot_learning, run_table, seed_table
from fer2013_cnn.evaluation.ensemble import make_ensemble
from fer2013_cnn.model.inference import load_network, open_onnx
from fer2013_cnn.training import loop
from fer2013_cnn.training.config import make_config
from fer2013_cnn.training.finetune import finetune_config
from fer2013_cnn.training.run import load_predictions, update_run


@pytest.fixture(scope='module')
def dataset(csv_file):
    return load_data(csv_file, csv_file.parent/'cache')


@pytest.fixture(scope='module')
def runs(dataset, tmp_path_factory):
    "Two runs of one epoch."
    folder = tmp_path_factory.mktemp('runs')
    return [loop.train(dataset, make_config('smoke', model='simple', epochs=1, seed=seed), folder/f'seed{seed}')
            for seed in range(2)]


@pytest.fixture(scope='module')
def ensemble(csv_file, runs):
    "Their mean, made by the command."
    folder = runs[0].parent/'mean'
    done = call('fer2013', 'ensemble', *runs, '--to', folder, '--data', csv_file, '--cache', csv_file.parent/'cache')
    assert (done.returncode, done.stderr) == (0, '')
    assert [word in done.stdout for word in ('seed0', 'seed1', 'mean', '0.500')] == [True]*4
    return folder


def refusal(*words):
    done = subprocess.run([BIN/'fer2013', *map(str, words)], env=QUIET, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count('\n')) == (1, 1), done.stderr
    return done.stderr


@pytest.fixture
def copy(ensemble, tmp_path):
    return shutil.copytree(ensemble, tmp_path/'copy')


def test_the_folder_says_what_it_is(ensemble, runs):
    info = read_run(ensemble)
    assert (info['config'], info['weights'], info['selected_on'], info['private_test_opened']) == (None, 'equal',
                                                                                                   'PublicTest', [])
    assert [(member['name'], member['weight']) for member in info['members']] == [('seed0', .5), ('seed1', .5)]
    assert [member['model_sha256'] for member in info['members']] == [read_run(run)['model_sha256'] for run in runs]
    expected = average_predictions(*[load_predictions(run, 'PublicTest') for run in runs]).probabilities
    assert np.abs(load_predictions(ensemble, 'PublicTest').probabilities - expected).max() < 1e-5


@pytest.mark.slow
def test_it_is_evaluated_and_reported_like_a_run(csv_file, ensemble, copy, runs, tmp_path):
    data = '--data', csv_file, '--cache', csv_file.parent/'cache'
    assert call('fer2013', 'evaluate', copy, '--split', 'PrivateTest', *data).returncode == 0
    assert len(read_run(copy)['private_test_opened']) == 1 and read_run(ensemble)['private_test_opened'] == []
    done = call('fer2013', 'report', '--model', copy, *data, '--run', tmp_path/'page')
    assert (done.returncode, done.stderr) == (0, '')
    page, card = (tmp_path/'page'/'report.html').read_text(), (tmp_path/'page'/'model_card.md').read_text()
    for text in (page, card): assert 'the mean probabilities of 2 networks with equal weights: seed0 (0.50)' in text
    assert 'ensemble of 2 networks' in page and 'There are no maps' not in page and 'unknown' not in page
    assert card.count('Ensemble of 2 networks') == 1 and 'Training**: unknown' not in card
    compared = f'runs={copy},{runs[0]}'
    done = call('fer2013', 'report', 'compare_runs', '-p', compared, '--run', tmp_path/'compared')
    assert (done.returncode, done.stderr) == (0, '')
    rows = json.loads((tmp_path/'compared'/'comparison.json').read_text())['runs']
    assert rows['copy']['model'] == 'ensemble of 2' and rows['copy']['MACs'] == 2*rows['seed0']['MACs']


def test_it_is_compared_with_runs(ensemble, runs):
    table = run_table([ensemble, *runs], 'PublicTest')
    assert table.model.tolist() == ['ensemble of 2', 'simple', 'simple']
    assert seed_table([ensemble, *runs], 'PublicTest').seeds.tolist() == [1, 2]
    assert len(plot_learning([ensemble, *runs]).axes[0].lines) == 3


@pytest.mark.slow
def test_it_predicts_photographs_and_is_exported(csv_file, dataset, ensemble, tmp_path):
    from matplotlib.cbook import get_sample_data
    photograph = get_sample_data('grace_hopper.jpg', asfileobj=False)
    done = call('fer2013', 'predict', photograph, '--model', ensemble, '--csv', tmp_path/'faces.csv')
    assert done.returncode == 0 and len(pd.read_csv(tmp_path/'faces.csv')) == 1
    data = '--data', csv_file, '--cache', csv_file.parent/'cache'
    assert call('fer2013', 'export', ensemble, '--to', tmp_path, *data).returncode == 0
    images = dataset.images[:32]
    expected = load_network(ensemble).predict(images[..., None], verbose=0)
    assert np.abs(open_onnx(tmp_path/'mean.onnx').predict(images) - expected).max() < 1e-5


def test_it_teaches(dataset, ensemble, runs, tmp_path):
    config = make_config('smoke', model='simple', epochs=1, teacher=str(ensemble), distillation_weight=.5)
    pixels = dataset.images[:32, ..., None].astype(np.float32)
    def taught_by(run): return np.asarray(loop.load_teacher(dataset, replace(config, teacher=str(run)))(pixels))
    assert np.abs(np.mean([taught_by(run) for run in runs], axis=0) - taught_by(ensemble)).max() < 1e-5
    assert read_run(loop.train(dataset, config, tmp_path/'student'))['finished']


def test_a_changed_network_is_noticed(csv_file, copy):
    content = bytearray((copy/'model.keras').read_bytes())
    content[len(content)//2] ^= 1
    (copy/'model.keras').write_bytes(content)
    assert 'its checksum is not the one in run.json' in refusal('predict', 'face.png', '--cropped', '--model', copy)


@pytest.mark.parametrize('change', [('"weight": 0.5', '"weight": 0.9'), ('"seed0"', '"other"')])
def test_an_edited_description_is_noticed(copy, change):
    (copy/'run.json').write_text((copy/'run.json').read_text().replace(*change))
    with pytest.raises(UserError, match='its checksum is wrong'): load_network(copy)


@pytest.mark.parametrize('members', ['seed0', [dict(name=3)], [dict(config=None)]])
def test_members_of_another_form_are_refused(copy, members):
    update_run(copy, members=members)
    with pytest.raises(UserError, match='members is|members: '): read_run(copy)


def test_members_must_be_different_finished_runs_on_the_same_data(dataset, ensemble, runs, tmp_path):
    unfinished = shutil.copytree(runs[1], tmp_path/'unfinished')
    update_run(unfinished, finished=None)
    for others, message in {(unfinished,): 'is not a finished run', (ensemble,): 'is an ensemble itself',
                            (runs[0],): 'all with different networks', (): 'two or more runs',
                            (tmp_path,): 'is not a run folder'}.items():
        with pytest.raises(UserError, match=message): make_ensemble([runs[0], *others], tmp_path/'new', dataset)
    with pytest.raises(UserError, match='two or more runs'): make_ensemble([], tmp_path/'new', dataset)
    with pytest.raises(UserError, match='already holds a run'): make_ensemble(runs, ensemble, dataset)
    with pytest.raises(UserError, match='unknown weights'): make_ensemble(runs, tmp_path/'new', dataset, 'best')
    assert not (tmp_path/'new').exists()


def test_an_ensemble_has_no_training_to_go_on_with(csv_file, dataset, ensemble, tmp_path):
    with pytest.raises(UserError, match='it is an ensemble, name one of its members'): finetune_config(str(ensemble))
    config = make_config('smoke', start_from=str(ensemble))
    with pytest.raises(UserError, match='is not a trained network of the architecture small'):
        loop.build_trainer(dataset, config)
    data = '--data', csv_file, '--cache', csv_file.parent/'cache'
    assert 'no configuration' in refusal('train', '--resume', '--run', ensemble, *data)
    with pytest.raises(UserError, match='is finished'): loop.train(dataset, None, ensemble)


@pytest.mark.slow
def test_a_sweep_averages_its_best_runs_and_makes_the_mean_anew_if_they_change(csv_file, tmp_path):
    command = ['sweep', '--data', csv_file, '--cache', csv_file.parent/'cache', '--preset', 'smoke',
               '--grid', 'epochs=1', '--grid', 'model=simple', '--to', tmp_path/'s1', '--ensemble', 2]
    done = call('fer2013', *command, '--seeds', 2)
    assert done.returncode == 0 and 'Mean of the best runs (' in done.stdout
    assert 'Mean of the best runs (' in (tmp_path/'s1'/'report'/'report.html').read_text()
    ensemble = tmp_path/'s1'/'ensemble'
    first, made = read_run(ensemble), (ensemble/'model.keras').stat().st_mtime_ns
    assert call('fer2013', *command, '--seeds', 2).returncode == 0
    assert (ensemble/'model.keras').stat().st_mtime_ns == made
    done = call('fer2013', *command[:-1], 3, '--seeds', 3)
    assert done.returncode == 0 and re.search(r'Mean of the best runs \((\S+, ){2}\S+\)', done.stdout)
    assert len(first['members']) == 2 and len(read_run(ensemble)['members']) == 3
    assert len(pd.read_csv(tmp_path/'s1'/'results.csv')) == 3
    update_run(ensemble, private_test_opened=['2026-01-31'])
    assert 'PrivateTest was opened for' in refusal(*command, '--seeds', 3)
    assert 'expected at least 2' in refusal(*command[:-1], 1, '--seeds', 3)
