"""What the demo refuses before it serves a page."""

import pytest

from fer2013_cnn.core import UserError
from fer2013_cnn.prediction.demo import build_page, free_port

pytestmark = pytest.mark.slow


def test_unknown_model():
    with pytest.raises(UserError, match="unknown model 'huge'"): build_page('huge')


def test_an_impossible_port():
    with pytest.raises(UserError, match='cannot listen on 127.0.0.1, port 99999'): free_port('127.0.0.1', 99999)
