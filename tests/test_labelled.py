"""Evaluation on other labelled faces: what is refused, and what the command prints and writes."""
import json
from dataclasses import replace

import numpy as np
import pytest
from common import call
from matplotlib.cbook import get_sample_data
from PIL import Image

from fer2013_cnn.core import CLASSES, UserError
from fer2013_cnn.data.synthetic import synthetic_dataset
from fer2013_cnn.model.inference import open_pretrained
from fer2013_cnn.prediction.labelled import (assign_classes, describe_labelled, evaluate_labelled, labelled_table,
                                             parse_pairs, read_labelled)

PAIRS = 'happy=joy,sad=sadness'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Drawn faces in the folders joy, sadness and neutral; of neutral in a folder of a split."
    root, faces = tmp_path_factory.mktemp('labelled')/'set', synthetic_dataset((140, 0, 0))
    for number, (image, label) in enumerate(zip(faces.images, faces.labels)):
        name = {'happy': 'joy', 'sad': 'sadness', 'neutral': 'test/Neutral'}.get(CLASSES[label])
        if not name: continue
        (root/name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root/name/f'{number:03}.png')
    return root


@pytest.mark.parametrize('text, message', [
    ('joy', "'joy' is not of the form CLASS=FOLDER"), ('happy=', 'is not of the form'),
    ('hapy=joy', "unknown class 'hapy': expected angry, disgust"), ('happy=joy,sad=joy', 'joy has two classes'),
    ('happy=joy,', "'' is not of the form"), ('happy=joy\rsad=sadness', 'is not a list of pairs')])
def test_pairs_that_are_refused(text, message):
    with pytest.raises(UserError, match=message): parse_pairs(text, CLASSES)


@pytest.mark.parametrize('folders, pairs, message', [
    (['joy', 'sad'], {}, r'the folder joy is none of .* --classes CLASS=joy .* --classes =joy leaves it out'),
    (['joy', 'sad'], {'fun': 'happy'}, 'no folder fun with pictures: found joy or sad'),
    (['joy', 'happy'], {'joy': 'happy'}, 'only one class'), (['sad', 'x'], {'x': ''}, 'only one class')])
def test_folders_that_are_refused(folders, pairs, message):
    with pytest.raises(UserError, match=message): assign_classes(folders, CLASSES, pairs)


def test_places_without_labelled_pictures(folder, tmp_path):
    (tmp_path/'empty').mkdir()
    Image.new('L', (48, 48)).save(tmp_path/'1.png')
    for path, message in ((folder/'none', 'is not a folder'), (tmp_path/'1.png', 'is not a folder'),
                          (tmp_path/'empty', 'contains no pictures'), (tmp_path, '1.png is in no class folder')):
        with pytest.raises(UserError, match=message): read_labelled(path, CLASSES)


def test_scores_are_those_of_the_same_faces(folder):
    faces, network = read_labelled(folder, CLASSES, PAIRS), open_pretrained('small')
    result = evaluate_labelled('small', folder, PAIRS)
    probabilities, of_set = network.predict(faces.images), [3, 4, 6]
    assert len(faces.labels) == 60 and faces.counts == {'Neutral': 20, 'joy': 20, 'sadness': 20}
    assert result['all_classes']['accuracy'] == np.mean(probabilities.argmax(1) == faces.labels)
    among = np.array(of_set)[probabilities[:, of_set].argmax(1)]
    assert result['set_classes']['accuracy'] == np.mean(among == faces.labels) > result['all_classes']['accuracy']
    assert result['set_classes']['confusion'] == [[int(((faces.labels == row) & (among == column)).sum())
                                                   for column in of_set] for row in of_set]
    assert [*labelled_table(result)] == ['all classes', 'classes of the set']


def test_a_left_out_folder_and_unreadable_pictures_are_named(tmp_path):
    set_ = tmp_path/'copy'
    for name in ('joy', 'sadness', 'contempt'):
        (set_/name).mkdir(parents=True)
        Image.new('L', (48, 48), 99).save(set_/name/'1.png')
    (set_/'joy'/'2.jpg').write_text('dear diary')
    text = '\n'.join(describe_labelled(evaluate_labelled('small', set_, f'{PAIRS},=contempt')))
    assert 'Left out: the folder contempt, 1 picture.' in text
    assert '1 picture could not be read:\njoy/2.jpg: not an image' in text
    assert 'of 2 faces of copy' in text and 'not a score on FER2013' in text and 'other faces than those' in text


def test_found_faces_and_pictures_without_one(tmp_path):
    portrait = Image.open(get_sample_data('grace_hopper.jpg', asfileobj=False))
    for name in ('neutral', 'sad'):
        (tmp_path/name).mkdir()
        portrait.save(tmp_path/name/'1.png')
    Image.new('RGB', (300, 300), 'gray').save(tmp_path/'sad'/'2.png')
    result = evaluate_labelled('small', tmp_path, find=True)
    assert result['without_face'] == ['sad/2.png'] and result['all_classes']['n'] == 2
    assert (result['all_classes']['accuracy'], result['of_pictures']['accuracy']) == (1/2, 1/3)
    assert '1 picture without a face that was found:\nsad/2.png' in '\n'.join(describe_labelled(result))
    for path in tmp_path.glob('*/1.png'): path.unlink()
    Image.new('RGB', (300, 300), 'gray').save(tmp_path/'neutral'/'2.png')
    with pytest.raises(UserError, match='no face was found'): evaluate_labelled('small', tmp_path, find=True)


def test_the_command(folder, tmp_path):
    done = call('fer2013', 'evaluate', 'small', '--data', folder, '--classes', PAIRS, '--to', tmp_path/'r.json')
    assert done.returncode == 0 and 'This is not a score on FER2013' in done.stdout
    assert 'when it chooses only among the 3 classes of the set: happy, sad, neutral' in done.stdout
    result = json.loads((tmp_path/'r.json').read_text())
    assert result['all_classes']['n'] == 60 and len(result['set_classes']['accuracy_ci95']) == 2


@pytest.mark.parametrize('words, message', [
    (['evaluate', 'small'], 'needs --data DIR'),
    (['evaluate', 'small', '--data', 'sample'], 'is not a folder'),
    (['evaluate', 'small', '--data', '.', '--split', 'PrivateTest'], 'are not for other faces')])
def test_one_line_says_what_is_wrong(words, message, tmp_path):
    done = call('fer2013', *words, cwd=tmp_path)
    assert done.returncode == 1 and message in done.stderr and done.stderr.count('\n') == 1


def test_the_report_says_that_it_needs_the_same_classes(tmp_path):
    from fer2013_cnn.evaluation.external import evaluate_model
    for names in (('joy', *CLASSES[1:]), CLASSES[:2]):
        other = synthetic_dataset((70, 70, 70))
        other = replace(other, labels=other.labels % len(names), class_names=names)
        with pytest.raises(UserError, match='fer2013 evaluate NETWORK --data DIR --classes'):
            evaluate_model('small', other, tmp_path/'run')
    assert not (tmp_path/'run').exists()
