"""Metrics, tables, cards and figures: edge cases and refusals that the notebooks do not show."""
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from fer2013_cnn.core import SPLITS, UserError, read_run, utc_now, write_json, write_run
from fer2013_cnn.evaluation.metrics import (apply_temperature, check_not_private, confusion, confusion_metrics,
    evaluate, evaluate_run, fit_temperature, summarize_predictions)
from fer2013_cnn.evaluation.plots import plot_headline, save_figure
from fer2013_cnn.evaluation.tables import (badges, card_duration, card_facts, card_text, headline_html,
    headline_markdown, headline_rows, headline_table, metric_table, protocol_paragraph, write_card)
from fer2013_cnn.training.run import (append_history, Predictions, read_metrics, save_predictions, start_run,
    update_run)


@pytest.fixture(scope='module')
def predictions():
    "A made-up network for 200 images, some of them leaked."
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, 200).astype(np.uint8)
    probabilities = rng.dirichlet(np.ones(7), 200) + .4*np.eye(7)[labels]
    return Predictions(np.arange(200), labels, probabilities/1.4, not_leaked=rng.random(200) < .9,
                       brightness=rng.uniform(0, 255, 200))


@pytest.fixture(scope='module')
def metrics(predictions):
    return evaluate(predictions)


CONFIG = dict(model='small', epochs=8, teacher='/home/me/runs/base_v1', distillation_weight=.5,
              ferplus_csv='/data/votes.csv', seed=0)
DATA = dict(name='fer.csv', description='not FER2013', synthetic=False, fingerprint='f', notes=[], skipped=0,
            counts={split: dict(cat=30, dog=50) for split in SPLITS})


@pytest.fixture
def run(tmp_path, predictions):
    "A finished run with predictions and history."
    run_info = dict(data=DATA, config=CONFIG, selected_epoch=3, selected_on='PublicTest', backend='tensorflow')
    run = start_run(tmp_path/'run', run_info)
    for split in SPLITS[1:]:
        save_predictions(run, replace(predictions, split=split))
    for epoch in (1, 2, 3):
        append_history(run, epoch=epoch, accuracy=.5, val_accuracy=.4, loss=1., val_loss=2.)
    update_run(run, finished=utc_now(), private_test_opened=[utc_now()])
    return run


@pytest.fixture
def evaluated_run(run, metrics):
    "The same, with metrics.json."
    write_json(run/'metrics.json', {split: metrics for split in SPLITS[1:]})
    return run


def test_classes_that_do_not_occur(predictions):
    subset = predictions.subset((predictions.labels < 2) & (predictions.predicted < 3))
    ours = confusion_metrics(confusion(subset))
    assert np.isclose(ours['macro_f1'], f1_score(subset.labels, subset.predicted, average='macro'))
    assert np.isclose(ours['balanced_accuracy'], balanced_accuracy_score(subset.labels, subset.predicted))
    summary = summarize_predictions(subset)
    assert summary['per_class']['neutral']['roc_auc'] is None and summary['per_class']['neutral']['support'] == 0
    assert summary == json.loads(json.dumps(summary, allow_nan=False))


def test_temperature_one_changes_nothing(predictions):
    assert np.allclose(apply_temperature(predictions, 1).probabilities, predictions.probabilities)


def test_nothing_is_chosen_on_private_test(predictions):
    check_not_private('PublicTest')
    private = replace(predictions, split='PrivateTest')
    for choose in (lambda: check_not_private('PrivateTest'), lambda: fit_temperature(private)):
        with pytest.raises(UserError, match='nothing may be chosen on PrivateTest'):
            choose()


def test_evaluate_run_needs_predictions(run):
    with pytest.raises(UserError, match='no predictions for PrivateTest'):
        evaluate_run(run, 'PrivateTest', tta=10)


def test_metrics_json_keeps_other_splits(run, predictions):
    evaluate_run(run, 'PublicTest')
    save_predictions(run, predictions, tta=10)
    evaluate_run(run, 'PublicTest', tta=10)
    assert list(read_metrics(run)) == ['PublicTest', 'PublicTest, TTA 10']


@pytest.mark.parametrize('leaked', ['some', 'none', 'all'])
def test_not_leaked_is_shown_where_it_differs(metrics, leaked):
    without = {name: value for name, value in metrics.items() if name != 'not_leaked'}
    case = dict(some=metrics, none=metrics | dict(not_leaked=without), all=without)[leaked]
    run_info = dict(data=DATA, config=CONFIG, private_test_opened=['once'])
    card = run_info | dict(metrics=dict(PublicTest=case, PrivateTest=case), machine=dict(cores=1, processor='CPU'),
                           git_commit=None, parameters=1, started=utc_now(), finished=utc_now(), selected_epoch=1,
                           selected_on='PublicTest', backend='tensorflow')
    subsets = headline_table(dict(PrivateTest=case)).index.get_level_values(1)
    texts = [headline_html(case, run_info), card_text('name', card), *subsets, *metric_table(case).index]
    assert any('not leaked' in text for text in texts) == (leaked == 'some')
    assert len(headline_rows(dict(PrivateTest=case))) == (2 if leaked == 'some' else 1)
    assert headline_markdown(case, run_info).count('\n>\n') == (0 if leaked == 'none' else 1)


OTHER = dict(trained=dict(data=DATA | dict(name='<other>', fingerprint='g')))
PROTOCOL = ('**Protocol**: trained on 80 Training faces, with FER+ votes as a second target, distilled from `base_v1` '
            '(weight 0.5). Epoch 3 of 8 was selected on 80 PublicTest faces; PrivateTest (80 faces) was opened once. '
            'Seed 0.')


@pytest.mark.parametrize('change, badge, protocol', [
    (dict(), 'epoch selected on PublicTest', PROTOCOL),
    (dict(), 'FER+ votes as a second target', PROTOCOL),
    (dict(private_test_opened=[]), 'PrivateTest opened 0 times', 'PrivateTest was not opened'),
    (dict(private_test_opened=['first', 'second']), 'PrivateTest opened 2 times', 'was opened 2 times'),
    (dict(tta=10), 'TTA 10', 'Seed 0'),
    (OTHER, 'trained on <other>, not on this data', 'was trained on &#60;other&#62;, not on this data'),
    (dict(config=None), 'PrivateTest opened once here', 'the training of this network is unknown')])
def test_what_is_said_of_a_run(change, badge, protocol):
    run_info = dict(data=DATA, config=CONFIG, selected_epoch=3, private_test_opened=['once']) | change
    assert badge in badges(run_info)
    assert protocol in protocol_paragraph(run_info, 'asked for')


def test_no_card_before_both_splits_are_evaluated(run, metrics):
    for evaluated in ({}, dict(PublicTest=metrics)):
        write_json(run/'metrics.json', evaluated)
        with pytest.raises(UserError, match='not finished and scored on both test splits'):
            card_facts(run)


def test_no_card_of_an_unfinished_run(evaluated_run):
    text = write_card(evaluated_run, 'mine', 1000).read_text(encoding='utf-8')
    assert '---\n\n# mine\n' in text and 'license' not in text and '/home/me' not in text and '/data' not in text
    update_run(evaluated_run, finished=None)
    with pytest.raises(UserError, match='not finished and scored on both test splits'):
        write_card(evaluated_run, 'mine', 1000)


@pytest.mark.parametrize('change, expected', [
    (dict(), '**Limits of use**: FER2013 consists of'),
    (dict(data=DATA | dict(synthetic=True)), '**Limits of use**: Trained on synthetic faces'),
    (dict(data=DATA | dict(synthetic=True, fingerprint='g'), trained=dict(data=DATA)), 'FER2013 consists of'),
    (OTHER, '* **Trained on**: &#60;other&#62;, with FER+'),
    (dict(config=None, network_sha256='5e1f'), 'SHA-256 of its file: `5e1f`'),
    (dict(tta=10), 'Test-time augmentation with 10 views (TTA 10)')])
def test_what_a_card_says(evaluated_run, change, expected):
    run_info = read_run(evaluated_run) | change
    write_run(evaluated_run, {name: value for name, value in run_info.items() if value is not None})
    assert expected in write_card(evaluated_run, 'mine', 1000).read_text(encoding='utf-8')


def test_duration_of_a_resumed_training():
    times = dict(started='2026-01-31T12:00:00+00:00', finished='2026-01-31T13:30:00+00:00')
    assert card_duration(times) == '90 minutes'
    assert card_duration(times | dict(resumed=1)) == '90 minutes, pauses included,'


def test_figures_are_the_same_bytes_each_time(run):
    written = []
    for _ in range(2):
        image = save_figure(run, 'headline', plot_headline(run, 'PublicTest'), 'Accuracy by epoch')
        written.append({file.name: file.read_bytes() for file in (run/'figures').iterdir()})
    assert image.alt == 'Accuracy by epoch'
    assert sorted(written[0]) == ['headline.png', 'headline.svg'] and written[0] == written[1]
    assert b'synthetic faces' not in written[0]['headline.svg']
    update_run(run, data=DATA | dict(synthetic=True))
    save_figure(run, 'headline', plot_headline(run, 'PublicTest'), '')
    assert 'synthetic faces, not FER2013' in (run/'figures'/'headline.svg').read_text(encoding='utf-8')
