"""FER+: the second head, from its votes to the shipped network."""
import json
import shutil
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fer2013_cnn import cli
from fer2013_cnn.core import FERPLUS_CLASSES, read_run, UNKNOWN, UserError
from fer2013_cnn.data.load import FERPLUS_COLUMNS, ferplus_emotion
from fer2013_cnn.data.synthetic import synthetic_dataset
from fer2013_cnn.evaluation.metrics import evaluate_run
from fer2013_cnn.model.inference import (load_network, load_pretrained, open_classifier, open_onnx, open_pretrained,
                                         replace_head)
from fer2013_cnn.prediction.export import pack_onnx, package_run
from fer2013_cnn.prediction.images import photo_classifier
from fer2013_cnn.training import loop
from fer2013_cnn.training.config import make_config
from fer2013_cnn.training.run import load_predictions, read_metrics, update_run


@pytest.fixture(scope='module')
def dataset():
    return synthetic_dataset((140, 70, 70))


@pytest.fixture(scope='module')
def votes(dataset):
    "Ten votes a face: eight for one of the ten columns, two for the next; nobody agrees about the first test faces."
    first = np.arange(len(dataset)) % 10
    numbers = 8*np.eye(10, dtype=int)[first] + 2*np.eye(10, dtype=int)[(first + 1) % 10]
    numbers[dataset.indices('PublicTest')[:3]] = [5, 5, 0, 0, 0, 0, 0, 0, 0, 0]
    return pd.DataFrame(numbers, columns=FERPLUS_COLUMNS)


@pytest.fixture(scope='module')
def run(dataset, votes, tmp_path_factory):
    with patch.object(loop, 'load_ferplus', return_value=votes):
        config = make_config('smoke', epochs=1, ferplus_csv='votes.csv')
        return loop.train(dataset, config, tmp_path_factory.mktemp('ferplus')/'run')


@pytest.fixture(scope='module')
def weights(dataset, votes, run):
    folder, images = run.parent/'weights', dataset.images[dataset.indices('PublicTest')]
    for labels, asked in (('fer2013', None), ('ferplus', votes)):
        for split in ('PublicTest', 'PrivateTest'):
            with pytest.raises(UserError, match='scored on'): package_run(run, 'mine', images, folder)
            loop.predict_split(run, dataset, split, votes=asked)
            evaluate_run(run, split, labels=labels)
    package_run(run, 'mine', images, folder)
    pack_onnx('mine', images, folder)
    return folder


def test_only_faces_with_a_majority_emotion_are_scored(dataset, votes, run):
    predictions = loop.predict_split(run, dataset, 'PublicTest', votes=votes)
    emotions = ferplus_emotion(votes)[dataset.indices('PublicTest')]
    assert (emotions[:3] == UNKNOWN).all() and (emotions == UNKNOWN).sum() == 3 + 14
    assert np.array_equal(predictions.labels, emotions[emotions != UNKNOWN])
    assert tuple(predictions.class_names) == FERPLUS_CLASSES and predictions.probabilities.shape == (53, 8)
    scores = evaluate_run(run, 'PublicTest', labels='ferplus')
    assert scores['n'] == 53 and read_metrics(run)['PublicTest, FER+ emotions'] == scores
    assert len(load_predictions(run, 'PublicTest').labels) == 70  # those of FER2013 are separate


def test_the_second_head_sees_the_features_of_the_first(dataset, run):
    images = dataset.images[:5][..., None]
    network, emotions = load_network(run), load_network(run, labels='ferplus')
    for layer, other in zip(network.layers[:-1], emotions.layers[:-1], strict=True):
        for values, expected in zip(layer.get_weights(), other.get_weights(), strict=True):
            assert np.array_equal(values, expected)
    kernel, bias = emotions.layers[-1].get_weights()
    again = replace_head(network, dict(ferplus_kernel=kernel, ferplus_bias=bias))
    assert np.allclose(again.predict(images, verbose=0), emotions.predict(images, verbose=0), atol=1e-6)


def softened(probabilities, temperature):
    powers = probabilities**(1/temperature)
    return powers/powers.sum(1, keepdims=True)


def test_a_shipped_network_has_both_heads_in_both_files(dataset, run, weights):
    images = dataset.images[:9]
    trained = load_network(run, labels='ferplus').predict(images[..., None], verbose=0)
    expected = softened(trained, json.loads((weights/'mine.json').read_text())['ferplus']['temperature'])
    tolerance = np.abs(trained - expected).max()/3
    assert np.allclose(open_classifier(run, labels='ferplus').predict(images), trained, atol=1e-4)
    for classifier in (open_pretrained('mine', weights, labels='ferplus'),
                       open_classifier(weights/'mine.onnx', labels='ferplus')):
        assert classifier.class_names == FERPLUS_CLASSES
        assert np.allclose(classifier.predict(images), expected, atol=tolerance)
    keras_outputs = load_pretrained('mine', weights, labels='ferplus').predict(images[..., None], verbose=0)
    assert np.allclose(keras_outputs, expected, atol=tolerance)
    assert open_pretrained('mine', weights).predict(images).shape == (9, 7)


def test_the_temperature_is_part_of_a_shipped_network(dataset, run, weights):
    images = dataset.images[dataset.indices('PublicTest')]
    temperature = json.loads((weights/'mine.json').read_text())['temperature']
    expected = softened(load_network(run).predict(images[..., None], verbose=0), temperature)
    assert abs(temperature - 1) > .05
    assert np.allclose(open_pretrained('mine', weights).predict(images), expected, atol=5e-3)
    assert np.allclose(load_pretrained('mine', weights).predict(images[..., None], verbose=0), expected, atol=5e-3)
    card = (weights/'mine.md').read_text()
    assert 'Expected calibration error on PrivateTest' in card and '| PrivateTest, FER+ emotions, all | 56 |' in card


def test_a_head_that_does_not_fit_is_refused(run):
    kernel, bias = load_network(run, labels='ferplus').layers[-1].get_weights()
    for head in (dict(ferplus_kernel=kernel), dict(ferplus_kernel=kernel[1:], ferplus_bias=bias),
                 dict(ferplus_kernel=kernel, ferplus_bias=bias[:7]), dict(kernel=kernel, bias=bias), {}):
        with pytest.raises(UserError, match='does not fit'): replace_head(load_network(run), head)


def test_networks_without_ferplus_say_so(dataset, run, weights, tmp_path):
    plain = shutil.copytree(run, tmp_path/'plain')
    update_run(plain, ferplus_sha256=None)
    package_run(plain, 'plain', dataset.images[:9], tmp_path/'weights')
    pack_onnx('plain', dataset.images[:9], tmp_path/'weights')
    for open_model in (open_pretrained, load_pretrained):
        with pytest.raises(UserError, match='was trained without FER'):
            open_model('plain', tmp_path/'weights', labels='ferplus')
    for model in (plain, tmp_path/'weights'/'plain.onnx'):
        with pytest.raises(UserError, match='was trained without FER'): open_classifier(model, labels='ferplus')
    with pytest.raises(UserError, match="unknown labels 'affectnet'"):
        open_onnx(weights/'mine.onnx', labels='affectnet')
    with pytest.raises(UserError, match='priors=uniform is not known for labels=ferplus'):
        photo_classifier(weights/'mine.onnx', labels='ferplus', priors='uniform')


def test_the_command_line_evaluates_and_predicts_emotions(dataset, votes, run, tmp_path, capsys):
    with patch.object(cli, 'read_data', return_value=dataset), \
            patch('fer2013_cnn.data.load.load_ferplus', return_value=votes):
        cli.app(['evaluate', str(run), '--labels', 'ferplus', '--ferplus-csv', 'votes.csv'], standalone_mode=False)
    assert 'contempt' in capsys.readouterr().out and read_run(run)['ferplus_sha256']
    with pytest.raises(UserError, match='needs the votes: add --ferplus-csv'):
        cli.app(['evaluate', str(run), '--labels', 'ferplus'], standalone_mode=False)
    Image.fromarray(dataset.images[0]).save(tmp_path/'face.png')
    arguments = ['predict', str(tmp_path/'face.png'), '--cropped', '--model', str(run), '--labels', 'ferplus']
    cli.app([*arguments, '--csv', str(tmp_path/'faces.csv')], standalone_mode=False)
    assert {*FERPLUS_CLASSES} <= {*pd.read_csv(tmp_path/'faces.csv')}
