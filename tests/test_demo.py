"""What the demo refuses before it serves a page."""
import sys
from unittest.mock import patch

import pytest

from fer2013_cnn.core import UserError
from fer2013_cnn.prediction.demo import build_page, free_port, upload_widget

pytestmark = pytest.mark.slow


def test_unknown_model():
    with pytest.raises(UserError, match="unknown model 'huge'"): build_page('huge')


@pytest.mark.parametrize('function, module', [(build_page, 'gradio'), (upload_widget, 'ipywidgets')])
def test_a_missing_library_is_named(function, module):
    message = rf"{module} is not installed: pip install 'fer2013_cnn\[demo\]'"
    with patch.dict(sys.modules, {module: None}), pytest.raises(UserError, match=message): function()


def test_an_impossible_port():
    with pytest.raises(UserError, match='cannot listen on 127.0.0.1, port 99999'): free_port('127.0.0.1', 99999)
