"""What `export_network` refuses."""
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from fer2013_cnn.core import UserError
from fer2013_cnn.data.synthetic import synthetic_dataset

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def dataset():
    return synthetic_dataset((140, 35, 35))


@pytest.fixture(scope='module')
def run(dataset, tmp_path_factory):
    from fer2013_cnn.training.config import make_config
    from fer2013_cnn.training.loop import train
    return train(dataset, make_config('smoke', epochs=1), tmp_path_factory.mktemp('export')/'run')


def test_an_existing_file_is_kept(run, dataset, tmp_path):
    from fer2013_cnn.prediction.export import export_network
    (tmp_path/'run.onnx').write_text('mine')
    with pytest.raises(UserError, match='run.onnx exists already'): export_network(str(run), dataset, folder=tmp_path)
    assert (tmp_path/'run.onnx').read_text() == 'mine'


@pytest.mark.parametrize('options, says', [
    (dict(format='pickle'), "unknown format 'pickle': expected onnx, litert or saved_model"),
    (dict(format='saved_model', int8=True), 'int8 is for the formats onnx and litert')])
def test_unknown_formats(run, dataset, tmp_path, options, says):
    from fer2013_cnn.prediction.export import export_network
    with pytest.raises(UserError, match=says): export_network(str(run), dataset, folder=tmp_path, **options)


def test_other_data(run, dataset, tmp_path):
    from fer2013_cnn.prediction.export import export_network
    with pytest.raises(UserError, match=r'calibrated on the training data of small \(fer2013.csv\)'):
        export_network('small', dataset, int8=True, folder=tmp_path)
    with pytest.raises(UserError, match='run.json cannot be written'):
        export_network(str(run), dataset, folder=run/'run.json')


def test_a_missing_library_is_named(run, dataset, tmp_path):
    from fer2013_cnn.prediction.export import export_network
    with patch.dict('sys.modules', {'tf2onnx': None}), pytest.raises(UserError, match='tf2onnx is not installed: pip'):
        export_network(str(run), dataset, folder=tmp_path)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize('change, int8', [
    (lambda expected: expected + .01, False), (lambda expected: expected*np.nan, False),
    (lambda expected: expected[::-1], True), (lambda expected: expected*np.nan, True)])
def test_differing_outputs_are_refused(change, int8):
    from fer2013_cnn.prediction.export import check_outputs, compare_outputs
    expected, labels = np.random.default_rng(0).dirichlet([1]*7, 50), np.zeros(50, int)
    check_outputs(compare_outputs(expected, expected, labels), int8, Path('same'))
    with pytest.raises(UserError, match='x was not written: it makes'):
        check_outputs(compare_outputs(change(expected), expected, labels), int8, Path('x'))
