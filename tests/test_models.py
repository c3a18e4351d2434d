"""Networks, classifiers and training configurations: invalid input is rejected, unusual networks are summarized."""
import json
import math
from dataclasses import asdict
from shutil import copy

import numpy as np
import pytest

from fer2013_cnn.core import CLASSES, UserError, checksum, write_json
from fer2013_cnn.model import inference
from fer2013_cnn.model.inference import (
    WEIGHTS, Classifier, adapt_input, class_order, load_network, load_pretrained, open_classifier, open_network,
    open_onnx, open_pretrained)
from fer2013_cnn.model.zoo import ZOO, build_model, keras, layer_stages, layer_titles, layers, summarize
from fer2013_cnn.training.config import CHOICES, LIMITS, PRESETS, TrainConfig, make_config
from fer2013_cnn.training.optimizer import make_targets

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 48, 48), dtype=np.uint8)


def rejected(message, function, *args, **options):
    with pytest.raises(UserError) as error: function(*args, **options)
    assert message in str(error.value) and '\n' not in str(error.value)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Networks as users have them: a run, files from elsewhere, files that are no networks."
    folder = tmp_path_factory.mktemp('networks')
    run = folder/'run'
    run.mkdir()
    build_model('small').save(run/'model.keras')
    write_json(run/'run.json', dict(data=dict(class_names=CLASSES), config=dict(model='small'),
                                    model_sha256=checksum(run/'model.keras')))
    for name, activation in (('softmax', 'softmax'), ('logits', None)):
        network = keras.Sequential([layers.Input((32, 32, 3)), layers.Conv2D(4, 3, strides=4),
                                    layers.GlobalAveragePooling2D(), layers.Dense(2, activation)])
        network.save(folder/f'{name}.keras')
    keras.Sequential([layers.Input((48, 48, 1)), layers.Lambda(lambda x: x[:, 0, 0] + 1)]).save(folder/'lambda.keras')
    for name in ('text.keras', 'text.onnx', 'old.h5'): (folder/name).write_text('not a network')
    return folder


# ---- classifiers

@pytest.mark.parametrize('images, message', [
    (np.zeros((1, 48, 48)), 'type float64, expected (N, 48, 48) and uint8'),
    (np.zeros((1, 64, 64), np.uint8), 'images of shape (1, 64, 64)'),
    (np.zeros((48, 48), np.uint8), 'images of shape (48, 48)'),
    (np.zeros((1, 48, 48, 1), np.uint8), 'images of shape (1, 48, 48, 1)')])
def test_classifier_rejects_other_arrays(images, message):
    rejected(message, Classifier('none', ('a', 'b'), None).predict, images)


@pytest.mark.parametrize('file, opener', [('small.onnx', open_pretrained), ('small.npz', load_pretrained)])
def test_damaged_weights_are_rejected(file, opener, tmp_path):
    copy(WEIGHTS/'small.json', tmp_path)
    rejected('is missing or damaged: install the package again', opener, 'small', tmp_path)
    copy(WEIGHTS/file, tmp_path)
    with open(tmp_path/file, 'r+b') as stream: stream.write(b'damage')
    rejected('is missing or damaged: install the package again', opener, 'small', tmp_path)


@pytest.mark.parametrize('metadata', [{}, dict(class_names='["a", "b"]', made_by='fer2013_cnn'),
                                      dict(class_names='angry,happy')])
def test_other_onnx_files_are_rejected(metadata, tmp_path):
    onnx = pytest.importorskip('onnx')
    network = onnx.load(WEIGHTS/'small.onnx')
    del network.metadata_props[:]
    onnx.helper.set_model_props(network, metadata)
    onnx.save(network, tmp_path/'other.onnx')
    rejected('was not written by fer2013 export', open_onnx, tmp_path/'other.onnx')


@pytest.mark.parametrize('name, message', [
    ('text.onnx', 'it is damaged, or no ONNX file'), ('no.onnx', 'does not exist')])
def test_open_onnx_rejects(name, message, folder):
    rejected(message, open_onnx, folder/name)


@pytest.mark.parametrize('name, message', [
    ('lambda.keras', 'cannot be opened'), ('text.keras', 'cannot be opened'), ('no.keras', 'does not exist'),
    ('old.h5', 'expected a run folder, a .keras file, base or small'),
    ('run/model.keras', 'belongs to a run: name its folder')])
def test_open_network_rejects(name, message, folder):
    rejected(message, open_network, str(folder/name))


def test_a_folder_without_a_run_is_no_network(tmp_path):
    rejected('is not a run folder: it has no run.json', load_network, tmp_path)
    rejected('unknown network', open_network, str(tmp_path))


def test_unfinished_and_damaged_runs_are_rejected(tmp_path):
    write_json(tmp_path/'run.json', dict(data=dict(class_names=CLASSES)))
    rejected('has no finished network: its training did not end', load_network, tmp_path)
    write_json(tmp_path/'run.json', dict(data=dict(class_names=CLASSES), model_sha256='0'*64))
    rejected('has no finished network: its training did not end', load_network, tmp_path)
    (tmp_path/'model.keras').write_bytes(b'other bytes')
    rejected('model.keras is damaged: its checksum is not the one in run.json', load_network, tmp_path)


def test_a_run_predicts_in_keras_as_its_network_does(folder):
    network = load_network(folder/'run')
    classifier = open_classifier(folder/'run')
    assert (classifier.name, classifier.class_names) == ('run', CLASSES)
    expected = network.predict(IMAGES[..., None], verbose=0)
    np.testing.assert_allclose(classifier.predict(IMAGES), expected, atol=1e-6)


@pytest.mark.parametrize('name, options, message', [
    ('softmax.keras', {}, 'is not a network of this package'),
    ('huge', {}, "unknown model 'huge': expected a run folder, an .onnx file, base or small"),
    ('base', dict(class_names='a,b'), 'go with an external network'),
    ('base', dict(pixel_range='0-1'), 'go with an external network'),
    ('run/model.keras', {}, 'belongs to a run: name its folder'),
    ('text.keras', dict(external=True), 'text.keras cannot be opened'),
    ('softmax.keras', dict(external=True), 'the network has 2 outputs, and 7 classes are named')])
def test_open_classifier_rejects(name, options, message, folder):
    rejected(message, open_classifier, folder/name if '.' in name else name, **options)


def test_external_classifier(folder):
    classifier = open_classifier(folder/'softmax.keras', external=True, pixel_range='0-1', class_names='calm, excited')
    network = keras.saving.load_model(folder/'softmax.keras')
    assert (classifier.name, classifier.class_names) == ('softmax', ('calm', 'excited'))
    expected = network.predict(adapt_input(network, IMAGES, '0-1'), verbose=0)
    np.testing.assert_allclose(classifier.predict(IMAGES), expected, atol=1e-6)


def test_outputs_that_are_no_probabilities_are_rejected(folder):
    classifier = open_classifier(folder/'logits.keras', external=True, class_names='calm,excited')
    rejected('its last layer must be a softmax', classifier.predict, IMAGES)


def test_a_folder_named_like_a_pretrained_network_does_not_hide_it(tmp_path, monkeypatch):
    (tmp_path/'base').mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_classifier('base').class_names == CLASSES


@pytest.mark.parametrize('names, classes, outputs, message', [
    ('b,c', ['a', 'b', 'c'], 2, 'lacks a; these are the names of the data'),
    ('', list(CLASSES), 8, 'the network has 8 outputs, and 7 classes are named'),
    ('a,b,c', ['a', 'b', 'c'], 4, 'the network has 4 outputs, and 3 classes are named')])
def test_class_order_rejects(names, classes, outputs, message):
    rejected(message, class_order, names, classes, outputs)


@pytest.mark.parametrize('shape', [(7,), (48, 48), (48, 48, 2), (8, 48, 48, 1)])
def test_networks_that_take_no_images_are_rejected(shape):
    network = keras.Sequential([layers.Input(shape), layers.Flatten(), layers.Dense(7)])
    rejected('expected images (N, height, width, 1 or 3)', adapt_input, network, IMAGES)


def test_an_unknown_pixel_range_is_rejected(folder):
    rejected("unknown pixel_range '0-2': expected 0-255, 0-1 or -1-1", adapt_input, build_model('small'), IMAGES, '0-2')


def test_images_of_any_size_are_adapted():
    network = keras.Sequential([layers.Input((None, None, 3)), layers.GlobalAveragePooling2D()])
    np.testing.assert_array_equal(adapt_input(network, IMAGES), np.repeat(IMAGES[..., None], 3, axis=-1))


def test_pretrained_cards_name_their_files():
    for name in inference.pretrained_names():
        card = json.loads((WEIGHTS/f'{name}.json').read_text())
        assert checksum(WEIGHTS/f'{name}.npz') == card['sha256']
        assert checksum(WEIGHTS/f'{name}.onnx') == card['onnx_sha256']


# ---- stages of networks

def bottleneck():
    "A residual network with 1 × 1 convolutions in the main branch, a convolution between blocks, and two dense layers."
    pixels = layers.Input((48, 48, 1))
    x = layers.Conv2D(8, 7, strides=2, padding='same')(pixels)
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, strides=2, padding='same')(x)
        y = layers.Conv2D(4, 1)(x)
        y = layers.Conv2D(filters, 3, padding='same')(layers.DepthwiseConv2D(3, padding='same')(y))
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Dense(7)(layers.Dense(9)(layers.GlobalMaxPooling2D()(x)))
    return keras.Model(pixels, layers.Softmax()(x))


def test_stages_of_an_unusual_network():
    assert list(summarize(bottleneck()).index) == [
        'stem, conv 7×7', 'stem, conv 3×3', 'stage 2, block 1, conv 1×1', 'stage 2, block 1, conv 3×3',
        'stage 3, conv 3×3', 'stage 3, block 1, conv 1×1', 'stage 3, block 1, conv 3×3', 'head, dense (1)',
        'head, dense (2)']


def test_stages_of_a_network_without_convolutions():
    network = keras.Sequential([layers.Input((48, 48, 1)), layers.Flatten(), layers.Dense(7)])
    assert set(layer_stages(network).values()) == {'head'}
    assert list(summarize(network).index) == ['head, dense']


@pytest.mark.parametrize('name', ZOO)
def test_every_layer_has_a_stage_and_a_title_of_its_own(name):
    network = build_model(name)
    titles = layer_titles(network)
    assert list(layer_stages(network)) == [layer.name for layer in network.layers]
    assert len(set(titles.values())) == len(titles) == len(summarize(network))


# ---- configurations

@pytest.mark.parametrize('name', LIMITS)
def test_numbers_outside_of_the_limits_are_rejected(name):
    low, high = LIMITS[name]
    for value in (low - 1e-9, high + 1, math.nan): rejected(f'{name}={value}', TrainConfig, **{name: value})
    if name != 'distillation_weight':
        for value in (low, high): TrainConfig(**{name: value})


@pytest.mark.parametrize('name', CHOICES)
def test_other_choices_are_rejected(name):
    rejected(f"unknown {name} 'other': expected {[*CHOICES[name]][0]}", make_config, 'quick', **{name: 'other'})


@pytest.mark.parametrize('preset, changes, message', [
    ('fast', {}, "unknown preset 'fast': expected smoke, quick"),
    ('quick', dict(epoch=3), "unknown setting 'epoch': expected translation, rotation"),
    ('quick', dict(epochs='three'), 'epochs=three, expected a value of type int'),
    ('quick', dict(epochs=2.5), 'epochs=2.5, expected a value of type int'),
    ('quick', dict(learning_rate=''), 'learning_rate=, expected a value of type float'),
    ('quick', dict(label_smoothing=2), 'label_smoothing=2.0, expected 0 to 0.99'),
    ('quick', dict(model='vgg99'), "unknown model 'vgg99': expected simple, mini_xception"),
    ('quick', dict(distillation_weight=.5), 'teacher and distillation_weight go together'),
    ('quick', dict(teacher='run'), 'teacher and distillation_weight go together')])
def test_make_config_rejects(preset, changes, message):
    rejected(message, make_config, preset, **changes)


@pytest.mark.parametrize('preset', PRESETS)
def test_a_configuration_survives_as_text(preset):
    config = PRESETS[preset]
    text = {name: str(value) for name, value in asdict(config).items()}
    assert make_config('smoke', **text) == config


def test_balanced_targets_count_classes_equally():
    targets = make_targets([3, 3, 3, 4], 7, TrainConfig(class_balance=1))
    np.testing.assert_allclose(targets.sum(1), [2/3, 2/3, 2/3, 2], rtol=1e-6)
