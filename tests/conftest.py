"""Settings for all tests, and the last line of a test run in the form that scripts read."""
import os

import pytest

os.environ['TQDM_DISABLE'] = '1'


@pytest.fixture
def real_data():
    "Whether $FER2013_DATA names a copy of FER2013."
    return bool(os.environ.get('FER2013_DATA'))


@pytest.fixture(scope='session')
def csv_file(tmp_path_factory):
    "A csv with 210 synthetic faces to train on."
    from fer2013_cnn import SPLITS, synthetic_dataset
    dataset, path = synthetic_dataset((210, 70, 70)), tmp_path_factory.mktemp('csv')/'faces.csv'
    lines = [f"{label},{' '.join(map(str, image.ravel()))},{SPLITS[split]}"
             for image, label, split in zip(dataset.images, dataset.labels, dataset.splits)]
    path.write_text('\n'.join(['emotion,pixels,Usage', *lines, '']))
    return path


def pytest_unconfigure(config):
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    if reporter is None:
        return
    count = {kind: len(reporter.stats.get(kind, [])) for kind in ('passed', 'failed', 'error')}
    print(f"{count['passed']} passed, {count['failed'] + count['error']} failed")
