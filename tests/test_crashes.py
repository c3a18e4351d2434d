"""Ten kills at random moments, from a seed; tools/crashes.py does a hundred by hand."""
import sys

import pytest
from common import ROOT

sys.path.insert(0, str(ROOT/'tools'))
import crashes

pytestmark = pytest.mark.slow
KILLS = dict(train=1, report=1, predict=4, cache=4)


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    return crashes.Crashes(tmp_path_factory.mktemp('crashes'), seed=1)


@pytest.mark.parametrize('kind', KILLS)
def test_a_killed_process_leaves_nothing_that_changes_the_result(kind, killed):
    same = [killed.kill(kind, number) for number in range(KILLS[kind])]
    assert all(same), f'{killed.folder}/{kind}-{same.index(False)} differs from {killed.folder}/{kind}'
