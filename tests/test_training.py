"""Run folders and training: what is rejected, and what a resumed training must repeat."""
import json
import shutil
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest

from fer2013_cnn import core
from fer2013_cnn.core import CLASSES, read_run, SHAPE, UserError
from fer2013_cnn.data.load import FERPLUS_COLUMNS
from fer2013_cnn.data.synthetic import synthetic_dataset
from fer2013_cnn.model.inference import load_network
from fer2013_cnn.model.tta import predict_proba
from fer2013_cnn.model.zoo import conv_bn, keras, layers, ZOO
from fer2013_cnn.training import loop
from fer2013_cnn.training.config import make_config
from fer2013_cnn.training.run import (check_new_run, load_predictions, Predictions, predictions_path, read_history,
                                      read_metrics, save_predictions, start_run, truncate_history, update_run)


def mini(num_classes=len(CLASSES)):
    "A network that is compiled in a second."
    pixels = keras.Input((*SHAPE, 1), name='pixels')
    x = layers.MaxPooling2D(8)(layers.ReLU()(conv_bn(layers.Rescaling(1/255)(pixels), 4, 3, strides=2)))
    x = layers.Dropout(.2)(layers.Flatten()(x))
    return keras.Model(pixels, layers.Dense(num_classes, activation='softmax', name='probabilities')(x), name='mini')


@pytest.fixture(scope='module', autouse=True)
def mini_in_the_zoo():
    ZOO['mini'] = mini
    yield
    del ZOO['mini']


@pytest.fixture(scope='module')
def dataset():
    return synthetic_dataset((140, 35, 35))


@pytest.fixture(scope='module')
def config(mini_in_the_zoo):
    return make_config('smoke', model='mini', epochs=2)


@pytest.fixture(scope='module')
def run(dataset, config, tmp_path_factory):
    return loop.train(dataset, config, tmp_path_factory.mktemp('training')/'run')


@pytest.fixture
def unfinished(run, tmp_path):
    "A run that was stopped after its first epoch."
    folder = tmp_path/'unfinished'
    shutil.copytree(run, folder)
    update_run(folder, finished=None)
    return folder


def weights(run): return load_network(run).get_weights()


def same_weights(a, b): return all(np.array_equal(*pair) for pair in zip(weights(a), weights(b), strict=True))


def stop(epoch, batch):
    "Interrupt a training in a batch of an epoch, both counted from 0."
    def interrupt(recorder, number, logs=None):
        if (recorder.epoch, number) == (epoch, batch): raise KeyboardInterrupt
    return patch.object(loop.CheckpointCallback, 'on_train_batch_end', interrupt)


# the run folder

def test_a_run_folder_is_not_written_twice(run):
    with pytest.raises(UserError, match='already holds a run: choose another folder with --run'): start_run(run, {})
    with pytest.raises(UserError, match='already holds a run'): check_new_run(str(run))


def test_a_run_folder_that_cannot_be_written(tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'): start_run(tmp_path/'file'/'run', {})


def test_damaged_files_are_reported(tmp_path):
    (tmp_path/'metrics.json').write_text('{"PublicTest":')
    predictions_path(tmp_path, 'PrivateTest').write_bytes(b'PK not really')
    with pytest.raises(UserError, match='is damaged: remove it, and evaluate again'): read_metrics(tmp_path)
    with pytest.raises(UserError, match='is damaged'): load_predictions(tmp_path, 'PrivateTest')
    with pytest.raises(UserError, match='is not a run folder'): read_run(tmp_path)


def test_missing_files_are_reported(tmp_path):
    with pytest.raises(UserError, match='has no training history'): read_history(tmp_path)
    with pytest.raises(UserError, match='has no predictions for PublicTest$'): load_predictions(tmp_path, 'PublicTest')
    with pytest.raises(UserError, match='has no predictions for PublicTest with tta=10'):
        load_predictions(tmp_path, 'PublicTest', tta=10)
    truncate_history(tmp_path, 3)
    assert read_metrics(tmp_path) == {} and list(tmp_path.iterdir()) == []


def test_predictions_come_back_as_they_were(tmp_path):
    probabilities = np.random.default_rng(0).dirichlet([1]*3, 5).astype(np.float32)
    predictions = Predictions(np.arange(5), np.uint8([0, 1, 2, 2, 1]), probabilities, np.arange(5) > 1,
                              np.array(['a', 'b', 'c']), np.arange(5.), 'PrivateTest')
    save_predictions(tmp_path, predictions, tta=2)
    loaded = load_predictions(tmp_path, 'PrivateTest', tta=2)
    for name, values in vars(predictions).items(): assert np.array_equal(getattr(loaded, name), values), name
    assert loaded.subset(loaded.labels == 2).brightness.tolist() == [2, 3]


# what a training leaves

def test_the_predictions_are_those_of_the_selected_network(dataset, run):
    public, history, run_info = load_predictions(run, 'PublicTest'), read_history(run), read_run(run)
    assert np.mean(public.predicted == public.labels) == pytest.approx(history.val_accuracy.max(), abs=1e-6)
    assert run_info['selected_epoch'] == history.val_accuracy.idxmax() + 1
    assert run_info['private_test_opened'] == [] and run_info['selected_on'] == 'PublicTest'
    assert run_info['config']['model'] == 'mini'
    images = dataset.images[dataset.indices('PublicTest')][..., None]
    for network in (load_network(run), keras.saving.load_model(run/'model.h5', compile=False)):
        assert np.allclose(network.predict(images, verbose=0), public.probabilities, atol=1e-5)


def test_opening_private_test_is_recorded(dataset, run, tmp_path):
    shutil.copytree(run, tmp_path/'run')
    for _ in range(2): loop.predict_split(tmp_path/'run', dataset, 'PrivateTest', tta=2)
    assert len(read_run(tmp_path/'run')['private_test_opened']) == 2
    assert predictions_path(tmp_path/'run', 'PrivateTest', tta=2).exists()


def test_another_seed_gives_other_weights(dataset, config, run, tmp_path):
    assert not same_weights(loop.train(dataset, replace(config, epochs=1, seed=1), tmp_path/'run'), run)


@pytest.mark.parametrize('changes', [dict(erasing=.5, precision='bfloat16'),
                                     dict(optimizer='adamw')], ids=['muon', 'adamw'])
def test_a_resumed_training_ends_with_the_same_weights(changes, dataset, config, tmp_path):
    config = replace(config, **changes)
    with stop(epoch=1, batch=1), pytest.raises(UserError, match='fer2013 train --resume --run'):
        loop.train(dataset, config, tmp_path/'stopped')
    loop.train(dataset, None, tmp_path/'stopped')
    loop.train(dataset, config, tmp_path/'whole')
    histories = [read_history(tmp_path/name).drop(columns='seconds') for name in ('stopped', 'whole')]
    assert same_weights(tmp_path/'stopped', tmp_path/'whole') and histories[0].equals(histories[1])
    assert len(read_run(tmp_path/'stopped')['resumed']) == 1


def test_a_training_that_was_stopped_before_its_first_checkpoint_is_repeated(dataset, config, run, tmp_path):
    with patch.object(loop, 'fit_network', side_effect=KeyboardInterrupt), pytest.raises(UserError, match='stopped'):
        loop.train(dataset, config, tmp_path/'run')
    assert same_weights(loop.train(dataset, None, tmp_path/'run'), run)


# soft targets

def test_the_teacher_predicts_what_the_student_sees(dataset, config, run):
    config = replace(config, teacher=str(run), distillation_weight=.5, teacher_images='augmented', rotation=.04)
    _, trainer = loop.build_trainer(dataset, config)
    images, _ = loop.TrainingBatches(dataset.images, np.eye(7)[dataset.labels], config)[0]
    def outputs(epoch):
        loop.seed_epoch(trainer, config, epoch)
        return np.asarray(trainer(images, training=True))
    first = outputs(0)
    loop.seed_epoch(trainer, config, 0)
    seen = np.asarray(trainer.augmentation(images, training=True))
    expected = load_network(run).predict(seen, verbose=0)
    assert np.allclose(first[:, 7:], expected, atol=1e-4) and not np.allclose(first[:, 7:], expected[::-1], atol=1e-4)
    assert not np.allclose(outputs(1), first, atol=1e-4) and np.array_equal(outputs(0), first)
    assert trainer(images).shape == (len(images), 7)


def test_a_teacher_of_the_original_images_has_a_share_of_the_targets(dataset, config, run):
    config = replace(config, teacher=str(run), distillation_weight=.75, label_smoothing=0.)
    indices = dataset.indices('Training')
    predicted = predict_proba(load_network(run), dataset.images[indices][..., None], tta=2)
    targets = loop.training_targets(dataset, config)
    assert targets.dtype == np.float32
    assert np.allclose(targets, .25*np.eye(7)[dataset.labels[indices]] + .75*predicted, atol=1e-5)
    assert loop.build_trainer(dataset, config)[1].teacher is None
    augmented = replace(config, teacher_images='augmented')
    assert np.array_equal(loop.training_targets(dataset, augmented), np.eye(7)[dataset.labels[indices]])


def test_a_training_leaves_the_teacher_as_it_is(dataset, config, run):
    config = replace(config, teacher=str(run), distillation_weight=.5, teacher_images='augmented')
    _, trainer = loop.build_trainer(dataset, config)
    before, student = trainer.teacher.get_weights(), trainer.network.get_weights()
    images = dataset.images[:70, ..., None].astype(np.float32)
    trainer.fit(images, np.eye(7)[dataset.labels[:70]], verbose=0)
    assert all(map(np.array_equal, trainer.teacher.get_weights(), before))
    assert not all(map(np.array_equal, trainer.network.get_weights(), student))
    assert not {*map(id, trainer.teacher.variables)} & {*map(id, loop.all_variables(trainer))}


@pytest.mark.parametrize('images', ['original', 'augmented'])
def test_a_resumed_training_with_a_teacher_ends_with_the_same_weights(images, dataset, config, run, tmp_path):
    config = replace(config, epochs=3, teacher=str(run), distillation_weight=.5, teacher_images=images)
    with stop(epoch=2, batch=1), pytest.raises(UserError, match='fer2013 train --resume --run'):
        loop.train(dataset, config, tmp_path/'stopped')
    loop.train(dataset, None, tmp_path/'stopped')
    loop.train(dataset, config, tmp_path/'whole')
    assert same_weights(tmp_path/'stopped', tmp_path/'whole')


def test_precision_is_chosen_at_the_start_and_recorded(dataset, config, tmp_path):
    with patch.object(loop, 'resolve_precision', return_value='bfloat16') as resolve:
        loop.train(dataset, replace(config, epochs=1, precision='auto'), tmp_path/'run')
    assert resolve.call_args_list[0].args == ('auto',)
    assert read_run(tmp_path/'run')['config']['precision'] == 'bfloat16'


@pytest.fixture
def votes(dataset):
    "Random FER+ votes; nobody voted about the first image."
    numbers = np.random.default_rng(0).integers(0, 5, (len(dataset), len(FERPLUS_COLUMNS)))
    numbers[0] = 0
    return pd.DataFrame(numbers, columns=FERPLUS_COLUMNS)


def test_votes_are_further_columns_of_the_targets(dataset, config, votes):
    with patch.object(loop, 'load_ferplus', return_value=votes):
        targets = loop.training_targets(dataset, replace(config, ferplus_csv='votes.csv'))
    assert targets.shape == (140, 17) and targets.dtype == np.float32
    assert np.allclose(targets[:, :7].sum(1), 1)
    assert np.allclose(targets[1:, 7:].sum(1), 1) and not targets[0, 7:].any()
    assert np.array_equal(targets[:, :7], loop.training_targets(dataset, config))


def test_teacher_and_votes_change_what_is_learned(dataset, config, run, votes, tmp_path):
    config = replace(config, epochs=1, teacher=str(run), distillation_weight=.5, ferplus_csv='votes.csv')
    with patch.object(loop, 'load_ferplus', return_value=votes):
        student = loop.train(dataset, config, tmp_path/'student')
    assert read_run(student)['config']['teacher'] == str(run)
    public = dataset.images[dataset.indices('PublicTest')][..., None]
    assert load_network(student).output_shape == (None, 7)
    emotions = load_network(student, labels='ferplus').predict(public, verbose=0)
    assert emotions.shape == (len(public), 8) and np.allclose(emotions.sum(1), 1, atol=1e-5)
    with pytest.raises(UserError, match='was trained without FER'): load_network(run, labels='ferplus')
    (student/'ferplus_head.npz').write_bytes(b'damage')
    with pytest.raises(UserError, match='missing or damaged'): load_network(student, labels='ferplus')
    assert np.isfinite(read_history(student).val_loss).all() and not same_weights(student, run)


# what is rejected

def test_a_training_needs_a_new_folder_before_anything_else(dataset, config, run):
    with pytest.raises(UserError, match='already holds a run'):
        loop.train(dataset, replace(config, teacher='nowhere', distillation_weight=.5), run)


def test_only_an_unfinished_run_can_be_resumed(dataset, run, tmp_path):
    with pytest.raises(UserError, match='is finished: there is nothing to resume'): loop.train(dataset, None, run)
    with pytest.raises(UserError, match='is not a run folder'): loop.train(dataset, None, tmp_path)


def test_a_run_is_resumed_with_the_same_data_and_backend(dataset, unfinished):
    with pytest.raises(UserError, match='was trained on other data'):
        loop.train(synthetic_dataset((7, 7, 7)), None, unfinished)
    update_run(unfinished, backend='another')
    with pytest.raises(UserError, match='another backend: set KERAS_BACKEND=another'):
        loop.train(dataset, None, unfinished)


def test_a_damaged_checkpoint_is_reported(dataset, unfinished):
    (unfinished/'checkpoint'/'state.npz').write_bytes(b'damage')
    with pytest.raises(UserError, match='state.npz cannot be used .*: start again in another folder'):
        loop.train(dataset, None, unfinished)


def test_a_checkpoint_of_another_network_is_reported(dataset, unfinished):
    config = read_run(unfinished)['config']
    update_run(unfinished, config=config | dict(model='simple'))
    with pytest.raises(UserError, match='cannot be used'): loop.train(dataset, None, unfinished)


@pytest.mark.parametrize('sizes', [(0, 7, 7), (7, 0, 7), (7, 7, 0)])
def test_all_splits_are_needed(sizes, config, tmp_path):
    split = ('Training', 'PublicTest', 'PrivateTest')[sizes.index(0)]
    with pytest.raises(UserError, match=f'has no images in {split}, expected all three splits'):
        loop.train(synthetic_dataset(sizes), config, tmp_path/'run')
    assert not (tmp_path/'run').exists()


def test_only_the_data_of_a_run_are_predicted(dataset, run):
    with pytest.raises(UserError, match='was trained on other data'):
        loop.predict_split(run, synthetic_dataset((7, 7, 7)), 'PrivateTest')
    with pytest.raises(UserError, match="unknown test split 'Training': expected PublicTest or PrivateTest"):
        loop.predict_split(run, dataset, 'Training')
    with pytest.raises(UserError, match='was trained on other data'):
        config = make_config('smoke', teacher=str(run), distillation_weight=.5)
        loop.load_teacher(synthetic_dataset((7, 7, 7)), config)


def test_votes_that_cannot_be_read_are_reported_before_the_training(dataset, config, tmp_path):
    with pytest.raises(UserError, match='votes.csv'):
        loop.train(dataset, replace(config, ferplus_csv='votes.csv'), tmp_path/'run')
    assert not (tmp_path/'run').exists()


def test_versions_of_packages_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(core, 'DEPENDENCIES', ('numpy', 'no-such-package'))
    assert [*core.package_versions()] == ['python', 'numpy']


def test_a_training_that_diverges_is_stopped(dataset, config, tmp_path):
    nan = np.full((140, 7), np.nan, np.float32)
    with patch.object(loop, 'training_targets', return_value=nan):
        with pytest.raises(UserError, match='the loss is nan in epoch 1 at a learning rate of .*no epoch was finished'):
            loop.train(dataset, config, tmp_path/'run')


def test_the_message_about_divergence_names_the_saved_epoch(dataset, config, tmp_path):
    network, trainer = loop.build_trainer(dataset, config)
    batches = loop.TrainingBatches(dataset.images[:140], np.zeros((140, 7), np.float32), config)
    recorder = loop.CheckpointCallback(tmp_path, network, batches, best=.5, best_epoch=3)
    recorder.set_model(trainer)
    recorder.epoch = 4
    loop.DivergenceCallback(recorder).on_train_batch_end(0, dict(loss=2.))
    with pytest.raises(UserError, match='the loss is inf in epoch 5 .*the weights of epoch 3 are in'):
        loop.DivergenceCallback(recorder).on_train_batch_end(0, dict(loss=np.inf))


def test_a_full_disk_is_noticed_before_the_first_epoch(dataset, config, tmp_path):
    almost_full = shutil.disk_usage(tmp_path)._replace(free=0)
    with patch('shutil.disk_usage', return_value=almost_full):
        with pytest.raises(UserError, match='not enough disk space for .* MB needed, 0.0 MB free'):
            loop.train(dataset, config, tmp_path/'run')


def test_a_disk_that_gets_full_can_be_resumed_from(dataset, config, tmp_path):
    with patch.object(loop, 'save_checkpoint', side_effect=OSError(28, 'No space left on device')):
        with pytest.raises(UserError, match=r'\(No space left on device\): make room, then resume with fer2013 train'):
            loop.train(dataset, config, tmp_path/'run')


def test_a_damaged_network_is_not_loaded(run, tmp_path):
    shutil.copytree(run, tmp_path/'run')
    with open(tmp_path/'run'/'model.keras', 'r+b') as file: file.write(b'damage')
    with pytest.raises(UserError, match='is damaged'): load_network(tmp_path/'run')
    update_run(tmp_path/'run', model_sha256=None)
    with pytest.raises(UserError): load_network(tmp_path/'run')


def test_the_run_folder_contains_json_only(run):
    for line in (run/'history.jsonl').read_text().splitlines():
        assert set(json.loads(line)) == {'epoch', 'loss', 'accuracy', 'val_loss', 'val_accuracy', 'seconds'}
