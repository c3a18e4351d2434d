"""Finding, caching and loading data; FER+ votes; the audit: what is refused, and what must not depend on luck."""
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import kagglehub
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fer2013_cnn.core import checksum, CLASSES, OFFICIAL_COUNTS, SPLITS, UNKNOWN, UserError
from fer2013_cnn.data.audit import audit, describe_findings, exact_groups, near_groups, near_pairs, not_leaked
from fer2013_cnn.data.folders import read_dataset
from fer2013_cnn.data.load import (
    FERPLUS_COLUMNS, KAGGLE_HANDLE, content_digest, digest_record, download_kaggle, ferplus_majority, file_state,
    find_data,
    kaggle_cache, kaggle_handle, load_data, load_ferplus, read_cache, read_ferplus, source_digest, source_files,
    source_path, write_cache)
from fer2013_cnn.data.synthetic import EXPRESSIONS, render_faces, sample_labels, synthetic_dataset


@pytest.fixture(scope='module')
def dataset():
    return synthetic_dataset((20, 7, 7))


@pytest.fixture
def faces(dataset, tmp_path):
    "A folder with the twenty Training faces."
    for i, (label, image) in enumerate(zip(dataset.labels[:20], dataset.images[:20])):
        file = tmp_path/'faces'/'train'/CLASSES[label]/f'Training_{i:03}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return tmp_path/'faces'


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.delenv('FER2013_DATA', raising=False)
    monkeypatch.setenv('KAGGLEHUB_CACHE', str(tmp_path/'kagglehub'))
    monkeypatch.setenv('FER2013_CACHE', str(tmp_path/'cache'))


def write_csv(path, dataset, *labels):
    pixels = ' '.join(map(str, dataset.images[0].ravel()))
    path.write_text('emotion,pixels,Usage\n' + ''.join(f'{label},{pixels},Training\n' for label in labels))


def damage(entry):
    with open(entry/'images.npy', 'r+b') as file:
        file.seek(1000)
        file.write(b'damaged')


# Synthetic faces

def test_face_does_not_depend_on_the_faces_before_it():
    assert np.array_equal(render_faces([0, 3, 6])[1:], render_faces([3, 6], start=1))


@pytest.mark.parametrize('n', [0, 1, 6, 7, 8, 100])
@pytest.mark.parametrize('imbalanced', [False, True])
def test_label_counts_are_proportional(n, imbalanced):
    shares = np.array(OFFICIAL_COUNTS[0] if imbalanced else [1]*7)
    counts = np.bincount(sample_labels(n, imbalanced, seed=3), minlength=len(EXPRESSIONS))
    assert counts.sum() == n
    assert (abs(counts - n*shares/shares.sum()) <= 1).all()


# Sources

WITHOUT_VERSION = ['kaggle:deadskull7/fer2013', 'kaggle:fer2013', 'kaggle:a/b/versions/', 'kaggle:a/b/versions/x']


@pytest.mark.parametrize('source', WITHOUT_VERSION)
def test_kaggle_handle_needs_a_version(source):
    with pytest.raises(UserError, match='expected kaggle:owner/name/versions/N'):
        kaggle_handle(source)


@pytest.mark.parametrize('source, handle', [
    ('kaggle', KAGGLE_HANDLE), ('kaggle:', KAGGLE_HANDLE), ('kaggle:a-b/c_d/versions/12', 'a-b/c_d/versions/12'),
    ('fer2013.csv', None), ('sample', None)])
def test_kaggle_handle(source, handle):
    assert kaggle_handle(source) == handle


def test_existing_path_is_not_a_handle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'kaggle:mine').touch()
    assert kaggle_handle('kaggle:mine') is None


def test_find_data_order(faces, monkeypatch):
    assert find_data() == ('sample', 'no data set was named or found')
    owner, name, _, version = KAGGLE_HANDLE.split('/')
    copy = faces.parent/'kagglehub'/'datasets'/owner/name/'versions'/version
    shutil.copytree(faces, copy)
    assert kaggle_cache() is None, 'the download is not complete'
    copy.parent.with_name(f'{version}.complete').touch()
    assert find_data() == find_data('') == ('kaggle', "found in kagglehub's cache")
    assert source_path('kaggle') == download_kaggle() == copy
    monkeypatch.setenv('FER2013_DATA', 'other.csv')
    assert find_data() == ('other.csv', 'named by $FER2013_DATA')
    assert find_data('my.csv') == ('my.csv', 'asked for')


def test_failed_download_costs_one_line(monkeypatch):
    def fail(handle):
        raise ConnectionError('no network')
    monkeypatch.setattr(kagglehub, 'dataset_download', fail)
    with pytest.raises(UserError, match=r'could not be downloaded from Kaggle \(ConnectionError\)'):
        download_kaggle()


def test_missing_source():
    message = "missing.csv does not exist: name a FER2013 csv, archive or folder, 'kaggle' or 'sample'"
    with pytest.raises(UserError, match=message):
        load_data('missing.csv')


def test_digest_depends_on_content_alone(dataset, tmp_path):
    write_csv(tmp_path/'fer.csv', dataset, 0)
    before = source_digest(tmp_path/'fer.csv', tmp_path/'cache')
    shutil.copy(tmp_path/'fer.csv', tmp_path/'copy.csv')
    assert source_digest(tmp_path/'copy.csv', tmp_path/'cache') == before == content_digest(tmp_path/'fer.csv')
    write_csv(tmp_path/'fer.csv', dataset, 1)
    assert source_digest(tmp_path/'fer.csv', tmp_path/'cache') != before


@pytest.mark.parametrize('content', ['', '{"state": ', '[]', '{}', '{"state": "old", "digest": "wrong"}'])
def test_damaged_record_of_a_digest_is_written_anew(dataset, tmp_path, content):
    write_csv(tmp_path/'fer.csv', dataset, 0)
    before = source_digest(tmp_path/'fer.csv', tmp_path/'cache')
    record, = (tmp_path/'cache'/'sources').iterdir()
    record.write_text(content)
    assert source_digest(tmp_path/'fer.csv', tmp_path/'cache') == before
    assert json.loads(record.read_text())['digest'] == before


def test_hidden_files_do_not_count(faces):
    before = content_digest(faces)
    (faces/'train'/'.DS_Store').write_text('')
    assert content_digest(faces) == before
    assert list(source_files(faces)) == sorted(source_files(faces))


# Cache

def test_damaged_entry_is_removed(faces, tmp_path):
    write_cache(tmp_path/'entry', read_dataset(faces))
    damage(tmp_path/'entry')
    assert read_cache(tmp_path/'entry') is None
    assert not (tmp_path/'entry').exists()


def test_verify_finds_damage_that_left_the_times_unchanged(faces, tmp_path):
    "The change time cannot be turned back, so the recorded state is changed to match."
    entry, original = tmp_path/'entry', read_dataset(faces)
    write_cache(entry, original)
    damage(entry)
    metadata = json.loads((entry/'about.json').read_text())
    metadata['states']['images'] = file_state(entry/'images.npy')
    (entry/'about.json').write_text(json.dumps(metadata))
    (entry/'checksum').write_text(checksum(entry/'about.json'))
    assert read_cache(entry).fingerprint == original.fingerprint
    assert read_cache(entry, verify=True) is None


@pytest.mark.parametrize('content', ['', '{}', '[]', '{"name": "x"}'])
def test_entry_without_metadata_is_read_again(faces, content):
    first = load_data(faces)
    entry, = (faces.parent/'cache').glob('*-raise-*')
    (entry/'about.json').write_text(content)
    again = load_data(faces)
    assert type(again.images) is np.ndarray and again.fingerprint == first.fingerprint
    assert isinstance(load_data(faces).images, np.memmap)


def test_entry_keeps_everything(faces):
    original = read_dataset(faces)
    load_data(faces)
    cached = load_data(faces, verify=True)
    names = 'labels splits source_rows name class_names notes skipped fingerprint synthetic'
    for name in names.split():
        assert np.array_equal(getattr(cached, name), getattr(original, name)), name


def test_cached_copy_has_the_name_of_its_source(dataset, tmp_path):
    for name in ('one.csv', 'two.csv'):
        write_csv(tmp_path/name, dataset, 0)
        assert load_data(tmp_path/name).name == name


def test_processes_that_want_the_same_entry_all_get_it(faces, tmp_path):
    program = ('import sys; from fer2013_cnn.data.load import load_data; '
               'print(load_data(sys.argv[1], sys.argv[2]).fingerprint)')
    command = [sys.executable, '-c', program, faces, tmp_path/'shared']
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert {process.communicate()[0].strip() for process in processes} == {read_dataset(faces).fingerprint}
    assert list((tmp_path/'shared').glob('.writing*')) == []


def test_cache_that_cannot_be_written(faces, tmp_path):
    (tmp_path/'note.txt').touch()
    with pytest.raises(UserError, match='the cache .*note.txt cannot be written .*: choose another with --cache'):
        load_data(faces, cache=tmp_path/'note.txt')


def test_cache_inside_of_the_data(faces):
    with pytest.raises(UserError, match='lies inside of the data'):
        load_data(faces, cache=faces/'cache')


def test_changed_file_is_read_again(dataset, tmp_path):
    write_csv(tmp_path/'fer.csv', dataset, 1)
    assert load_data(tmp_path/'fer.csv').labels.tolist() == [1]
    write_csv(tmp_path/'fer.csv', dataset, 1, 2)
    assert load_data(tmp_path/'fer.csv').labels.tolist() == [1, 2]


# FER+

@pytest.fixture(scope='module')
def ferplus(tmp_path_factory):
    "A table like fer2013new.csv: the majority of row i is class i modulo 7."
    names = ['anger', 'disgust', 'fear', 'happiness', 'sadness', 'surprise', 'neutral']  # in the order of `CLASSES`
    votes = pd.DataFrame(0, index=range(np.sum(OFFICIAL_COUNTS)), columns=FERPLUS_COLUMNS)
    for label, name in enumerate(names):
        votes.loc[label::7, name] = 10
    votes['Usage'] = np.repeat(SPLITS, np.sum(OFFICIAL_COUNTS, axis=1))
    path = tmp_path_factory.mktemp('ferplus')/'fer2013new.csv'
    votes.to_csv(path, index=False)
    return path


def subset_of_official(dataset, rows):
    "A data set whose images came from some rows of fer2013.csv with the splits and labels of `ferplus`."
    rows = np.array(rows)
    splits = np.searchsorted(np.cumsum(np.sum(OFFICIAL_COUNTS, axis=1)), rows, side='right').astype(np.uint8)
    return replace(dataset, images=dataset.images[:len(rows)], labels=(rows % 7).astype(np.uint8), splits=splits,
                   source_rows=rows, synthetic=False, name='part')


def test_votes_are_joined_by_row(ferplus, dataset):
    part = subset_of_official(dataset, [5, 6, 28_709, 32_300, 35_886])
    assert list(part.splits) == [0, 0, 1, 2, 2]
    votes = load_ferplus(ferplus, part)
    assert list(votes.columns) == list(FERPLUS_COLUMNS) and len(votes) == 5
    assert np.array_equal(ferplus_majority(votes), part.labels)


@pytest.mark.parametrize('change, says', [
    (dict(synthetic=True), 'differ'),
    (dict(source_rows=()), 'differ'),
    (dict(source_rows=np.array([5, 6, 28_709, 32_300, 35_887])), 'differ'),
    (dict(splits=np.uint8([0, 0, 1, 1, 2])), 'in another order'),
    (dict(labels=np.uint8([6, 5, 4, 3, 2])), 'in another order')])
def test_votes_of_other_rows_are_refused(ferplus, dataset, change, says):
    part = subset_of_official(dataset, [5, 6, 28_709, 32_300, 35_886])
    with pytest.raises(UserError, match=says):
        load_ferplus(ferplus, replace(part, **change))


def test_table_without_votes(dataset, tmp_path):
    write_csv(tmp_path/'fer.csv', dataset, 0)
    with pytest.raises(UserError, match='no column neutral'):
        read_ferplus(tmp_path/'fer.csv')
    with pytest.raises(UserError, match='No such file'):
        load_ferplus(tmp_path/'none.csv', dataset)
    (tmp_path/'empty.csv').touch()
    with pytest.raises(UserError, match='empty.csv is no table that can be read'):
        read_ferplus(tmp_path/'empty.csv')


@pytest.mark.parametrize('column', ['contempt', 'unknown', 'NF'])
def test_majority_outside_of_the_seven_classes_is_unknown(column):
    votes = pd.DataFrame(0, index=[0], columns=FERPLUS_COLUMNS)
    votes[column] = 10
    assert ferplus_majority(votes).tolist() == [UNKNOWN]


# Audit

def test_audit_needs_labels(dataset):
    unlabelled = replace(dataset, labels=np.full(len(dataset), UNKNOWN, np.uint8))
    with pytest.raises(UserError, match='has no labels'):
        audit(unlabelled)


@pytest.fixture
def leaky(dataset):
    "Face 21, of PublicTest, is face 2 of Training with another label."
    images, labels = dataset.images.copy(), dataset.labels.copy()
    images[21], labels[21] = images[2], (labels[2] + 1) % 7
    return replace(dataset, images=images, labels=labels)


def test_not_leaked_takes_any_groups(leaky):
    expected = np.arange(len(leaky)) >= 20
    expected[21] = False
    assert np.array_equal(not_leaked(leaky), expected)
    assert np.array_equal(not_leaked(leaky, exact_groups(leaky.images)), expected)
    assert not not_leaked(leaky, np.zeros(len(leaky), int)).any()


def test_audit_columns(leaky):
    table = audit(leaky, near=False)
    names = 'source_row split label group copy conflict leaked brightness contrast constant blank'
    assert list(table) == names.split()
    assert list(table.index[table.leaked]) == [21]
    lines = describe_findings(table).splitlines()
    assert lines[2] == 'images with an identical copy in Training: 1 in PublicTest, 0 in PrivateTest'


def test_no_near_pairs_of_one_image(dataset):
    images = dataset.images[[0, 0]]
    groups = exact_groups(images)
    pairs = near_pairs(images, groups)
    assert len(pairs) == 0 and near_groups(groups, pairs).tolist() == [0, 0]


def test_a_stored_digest_that_is_wrong_is_forgotten(tmp_path, dataset):
    "It is noticed when the source is read; the next try succeeds."
    csv, cache = tmp_path/'fer.csv', tmp_path/'cache'
    write_csv(csv, dataset, 0)
    source_digest(csv, cache)
    record = digest_record(csv, cache)
    saved = json.loads(record.read_text())
    record.write_text(json.dumps(saved | dict(digest='0'*64)))
    with pytest.raises(UserError, match='changed while it was read'): load_data(csv, cache)
    assert len(load_data(csv, cache)) > 0
