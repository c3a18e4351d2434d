"""Settings for all tests, and the last line of a test run in the form that scripts read."""
import os

import pytest

os.environ['TQDM_DISABLE'] = '1'


@pytest.fixture
def real_data():
    "Whether $FER2013_DATA names a copy of FER2013."
    return bool(os.environ.get('FER2013_DATA'))


def pytest_unconfigure(config):
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    if reporter is None:
        return
    count = {kind: len(reporter.stats.get(kind, [])) for kind in ('passed', 'failed', 'error')}
    print(f"{count['passed']} passed, {count['failed'] + count['error']} failed")
