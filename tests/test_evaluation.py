"""Refused input of the notebooks 43 to 46: comparison, evaluation of any network, Grad-CAM and label noise."""
from dataclasses import asdict, replace

import numpy as np
import pytest

from fer2013_cnn.core import CLASSES, UNKNOWN, UserError
from fer2013_cnn.data.synthetic import synthetic_dataset
from fer2013_cnn.evaluation.compare import (average_predictions, best_run, mcnemar_test, paired_table, run_table,
                                            split_names)
from fer2013_cnn.training.run import Predictions, save_predictions, start_run, trained_run_info


def refused(message):
    return pytest.raises(UserError, match=message)


@pytest.fixture(scope='module')
def predictions():
    rng = np.random.default_rng(0)
    return Predictions(np.arange(50), rng.integers(0, 7, 50), rng.dirichlet([1]*7, 50), np.ones(50, bool))


@pytest.fixture(scope='module')
def dataset():
    return synthetic_dataset((28, 7, 7))


def write_run(run, predictions, fingerprint='f', **run_info):
    "A run folder with predictions and without a network."
    config = dict(model='small', epochs=1, seed=0)
    start_run(run, dict(data=dict(fingerprint=fingerprint, synthetic=False), config=config, **run_info))
    save_predictions(run, predictions)
    return run


# comparison

@pytest.mark.parametrize('compare', [mcnemar_test, average_predictions])
@pytest.mark.parametrize('name', ['indices', 'labels', 'class_names'])
def test_only_predictions_of_the_same_faces_are_compared(predictions, compare, name):
    with refused(f'not of the same faces: their {name} differ'):
        compare(predictions, replace(predictions, **{name: getattr(predictions, name)[::-1]}))


@pytest.mark.parametrize('runs', ['', 'outputs/a', 'outputs/a,', 'outputs/a, outputs/a', 'a,b,a'])
def test_a_comparison_needs_different_runs(runs):
    with refused('expected two or more different run folders'):
        split_names(runs)


def test_runs_on_different_data_are_not_compared(predictions, tmp_path):
    runs = [write_run(tmp_path/fingerprint, predictions, fingerprint) for fingerprint in 'fg']
    with refused('trained on different data'):
        run_table(runs, 'PublicTest')


@pytest.mark.parametrize('table', [run_table, paired_table])
def test_a_run_without_predictions_is_not_compared(predictions, tmp_path, table):
    runs = [write_run(tmp_path/name, predictions) for name in 'ab']
    with refused('PrivateTest'):
        table(runs, 'PrivateTest')


def test_an_evaluation_is_not_a_run_to_compare(predictions, tmp_path):
    runs = [write_run(tmp_path/'run', predictions),
            write_run(tmp_path/'evaluation', predictions, network='outputs/run')]
    with refused('was evaluated, not trained: name the run itself, outputs/run'):
        run_table(runs, 'PublicTest')
    with refused('was evaluated, not trained'):
        trained_run_info(runs[1])


def test_nothing_is_chosen_on_private_test(predictions, tmp_path):
    with refused('PrivateTest'):
        best_run([write_run(tmp_path/'run', predictions)], 'PrivateTest')


# evaluation of any network

@pytest.fixture(scope='module')
def evaluate_model():
    from fer2013_cnn.evaluation.external import evaluate_model
    return evaluate_model


@pytest.mark.parametrize('options, message', [(dict(class_names='a,b'), 'class_names is for .keras files'),
                                              (dict(pixel_range='0-1'), 'pixel_range is for .keras files')])
def test_our_networks_know_their_input_and_classes(evaluate_model, dataset, tmp_path, options, message):
    with refused(message):
        evaluate_model('small', dataset, tmp_path/'run', **options)
    assert not (tmp_path/'run').exists()


def without_test_faces(dataset):
    return replace(dataset, splits=np.zeros(len(dataset), np.uint8))


def without_a_label(dataset):
    return replace(dataset, labels=np.where(np.arange(len(dataset)) == len(dataset) - 1, UNKNOWN, dataset.labels))


def with_animals(dataset):
    return replace(dataset, class_names=('cat', 'dog', *CLASSES[2:]))


@pytest.mark.parametrize('change, message', [(without_test_faces, 'has no faces in PublicTest and PrivateTest'),
                                             (without_a_label, 'labels'), (with_animals, 'cat, dog')])
def test_data_that_do_not_fit_are_not_evaluated(evaluate_model, dataset, tmp_path, change, message):
    with refused(message):
        evaluate_model('small', change(dataset), tmp_path/'run')
    assert not (tmp_path/'run').exists()


def test_the_network_of_a_run_is_named_by_its_folder(evaluate_model, dataset, predictions, tmp_path):
    run = write_run(tmp_path/'run', predictions)
    with refused(str(run)):
        evaluate_model(str(run/'model.keras'), dataset, tmp_path/'evaluation')
    assert not (tmp_path/'evaluation').exists()


def test_an_evaluation_has_no_latency(predictions, tmp_path):
    from fer2013_cnn.evaluation.external import latency
    with refused('was evaluated, not trained'):
        latency(write_run(tmp_path/'run', predictions, network='small'))


# Grad-CAM

@pytest.fixture(scope='module')
def network():
    from fer2013_cnn.model.zoo import keras, layers
    parts = [layers.Input((48, 48, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(7)]
    return keras.Sequential(parts, name='tiny')


@pytest.mark.parametrize('class_index', [-1, 7])
def test_grad_cam_explains_the_classes_of_the_network(network, dataset, class_index):
    from fer2013_cnn.evaluation.grad_cam import grad_cam
    with refused(f'tiny has no class {class_index}: expected 0 to 6'):
        grad_cam(network, dataset.images[:2], [0, class_index])


def test_grad_cam_needs_a_convolution(dataset):
    from fer2013_cnn.evaluation.grad_cam import grad_cam
    from fer2013_cnn.model.zoo import keras, layers
    dense = keras.Sequential([layers.Input((48, 48, 1)), layers.Flatten(), layers.Dense(7)], name='dense')
    with refused('dense has no convolution'):
        grad_cam(dense, dataset.images[:1], [0])


def test_grad_cam_needs_feature_maps_of_that_size(network, dataset):
    from fer2013_cnn.evaluation.grad_cam import grad_cam
    with refused('tiny has no convolution with an output of 47 × 47 or more'):
        grad_cam(network, dataset.images[:1], [0], min_size=47)


def test_grad_cam_needs_tensorflow(network, dataset, monkeypatch):
    from fer2013_cnn.evaluation.grad_cam import grad_cam
    monkeypatch.setattr('keras.backend.backend', lambda: 'jax')
    with refused('needs the TensorFlow backend: KERAS_BACKEND is jax'):
        grad_cam(network, dataset.images[:1], [0])


# label noise

@pytest.fixture(scope='module')
def config():
    from fer2013_cnn.training.config import make_config
    return make_config('smoke', model='simple')


@pytest.mark.parametrize('folds, fold', [(1, 1), (3, 4), (3, 0)])
def test_folds_are_two_or_more_and_counted_from_one(dataset, folds, fold):
    from fer2013_cnn.evaluation.label_noise import fold_data
    with refused('expected two folds or more, counted from 1'):
        fold_data(dataset, folds, fold)


@pytest.mark.parametrize('options', [dict(ferplus_csv='votes.csv'), dict(teacher='outputs/a', distillation_weight=.5)])
def test_label_noise_is_estimated_from_labels_alone(dataset, config, tmp_path, options):
    from fer2013_cnn.evaluation.label_noise import cross_val_predict_proba
    with refused('leave out ferplus_csv and teacher'):
        cross_val_predict_proba(dataset, replace(config, **options), tmp_path/'noise')


@pytest.mark.parametrize('fold, options', [(1, dict(epochs=4)), (2, {})])
def test_a_fold_is_resumed_with_the_same_data_and_configuration(dataset, config, tmp_path, fold, options):
    from fer2013_cnn.evaluation.label_noise import fold_data, train_fold
    first = fold_data(dataset, 2, 1)
    run = start_run(tmp_path/'fold-1', dict(data=dict(fingerprint=first.fingerprint), config=asdict(config)))
    with refused('was started with other data or another configuration'):
        train_fold(fold_data(dataset, 2, fold), replace(config, **options), run)


def test_saved_probabilities_of_another_origin_are_not_used(dataset, config, tmp_path):
    from fer2013_cnn.evaluation.label_noise import cross_val_predict_proba, load_out_of_sample
    path = tmp_path/'out_of_sample.npz'
    np.savez(path, probabilities=np.ones((2, 7)), about='one')
    assert load_out_of_sample(path, 'one').shape == (2, 7)
    with refused('is from other data or another configuration'):
        cross_val_predict_proba(dataset, config, tmp_path)


def test_damaged_probabilities_are_named(dataset, config, tmp_path):
    from fer2013_cnn.evaluation.label_noise import cross_val_predict_proba
    (tmp_path/'out_of_sample.npz').write_bytes(b'damage')
    with refused(r'out_of_sample.npz is damaged \('):
        cross_val_predict_proba(dataset, config, tmp_path)


def test_without_cleanlab_the_extra_is_named(monkeypatch):
    from fer2013_cnn.evaluation.label_noise import label_quality
    monkeypatch.setattr('fer2013_cnn.core.find_spec', lambda module: None)
    with refused(r"cleanlab is not installed: pip install 'fer2013_cnn\[noise\]'"):
        label_quality(np.zeros(3, np.uint8), np.full((3, 7), 1/7))
