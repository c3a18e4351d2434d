"""Fuzzing with hypothesis: any change of a file gives a right result, or a `UserError` of one line, within seconds.

tools/fuzz.py does the same by hand for longer, guided by coverage (atheris).
"""
import sys

import pytest
from common import ROOT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(ROOT/'tools'))
import boundaries
import hostile

QUICK = settings(max_examples=40, deadline=20_000, derandomize=True, database=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('fuzz')


@pytest.mark.parametrize('name', boundaries.SEEDS)
@QUICK
@given(data=st.data())
def test_changed_files(name, folder, data):
    "Bytes are flipped, cut out, repeated or inserted in a valid file."
    seed = boundaries.SEEDS[name]()
    changes = data.draw(st.lists(st.tuples(st.sampled_from(['flip', 'cut', 'repeat', 'insert']), st.floats(0, 1),
                                           st.binary(min_size=1, max_size=8)), min_size=1, max_size=3))
    content = boundaries.change(seed, changes)
    assert hostile.run_case(lambda: boundaries.READERS[name](folder, content)) is None


@QUICK
@given(text=st.text(max_size=300))
def test_any_text_is_printed_as_one_line(text):
    hostile.check_line(hostile.printable(text) or 'empty')


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4))


@QUICK
@given(key=st.sampled_from(boundaries.RUN_KEYS), value=JSON)
def test_any_entry_of_run_json(folder, key, value):
    case = hostile.edited(folder, hostile.setting(key, value))
    assert hostile.run_case(case) is None


@QUICK
@given(name=st.sampled_from(boundaries.SETTINGS),
       value=st.text(max_size=20) | st.floats().map(str) | st.integers().map(str))
def test_any_value_of_a_setting(name, value):
    from fer2013_cnn.training.config import make_config
    assert hostile.run_case(lambda: make_config('smoke', **{name: value})) is None


@QUICK
@given(names=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=9))
def test_class_names_come_back_as_they_were(names):
    from fer2013_cnn.core import check_class_names
    from fer2013_cnn.model.inference import join_class_names, parse_class_names
    try: valid = check_class_names(names, 'a file')
    except hostile.UserError: return
    assert parse_class_names(join_class_names(valid)) == list(valid)
