"""Property tests: generated data sets, written in every form and read back, give equal arrays and equal fingerprints.

Damaged forms and other files give an error of one line."""
import csv
import gzip
import io
import os
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image

from fer2013_cnn.core import CLASSES, SPLITS, UNKNOWN, UserError
from fer2013_cnn.data.folders import read_dataset
from fer2013_cnn.data.load import load_data, load_ferplus

os.environ['TQDM_DISABLE'] = '1'
few_examples = settings(max_examples=25, deadline=None,
                        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
ONE_IMAGE = (np.zeros((1, 48, 48), np.uint8), np.zeros(1, np.uint8), np.zeros(1, np.uint8))


# Make data sets

@st.composite
def arrays(draw, max_size=8):
    "Images, labels and splits, in the order of the paths of their files."
    n, seed = draw(st.integers(1, max_size)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    high = draw(st.sampled_from([1, 10, 100, 256]))  # numbers of one, two or three digits
    images = rng.integers(0, high, (n, 48, 48)).astype(np.uint8)
    labels, splits = rng.integers(0, 7, n).astype(np.uint8), rng.integers(0, 3, n).astype(np.uint8)
    paths = [image_path(label, split, row) for row, (label, split) in enumerate(zip(labels, splits))]
    order = np.argsort(paths, kind='stable')
    return images[order], labels[order], splits[order]


def image_path(label, split, row):
    return f"{'test' if split else 'train'}/{CLASSES[label]}/{SPLITS[split]}_{row:05}.png"


def encode(image, format='PNG'):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format)
    return file.getvalue()


def image_files(images, labels, splits):
    "Path → content, as in Kaggle's folder."
    rows = enumerate(zip(images, labels, splits))
    return {image_path(label, split, row): encode(image) for row, (image, label, split) in rows}


def csv_bytes(images, labels, splits, columns=('emotion', 'pixels', 'Usage'),
              newline='\n', quote=False, bom=False, blank_lines=0):
    "A csv, written by Python's `csv` module."
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=newline, quoting=csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL)
    writer.writerow(columns)
    for image, label, split in zip(images, labels, splits):
        cells = dict(emotion=label, pixels=' '.join(map(str, image.ravel())), usage=SPLITS[split])
        writer.writerow([cells[column.strip().lower()] for column in columns])
    return ('\ufeff'*bom + out.getvalue() + newline*blank_lines).encode()


def zip_bytes(files, compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def tar_bytes(files, mode='w:gz'):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def read_bytes(data, name='source', **options):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder)/name).write_bytes(data)
        return read_dataset(Path(folder)/name, **options)


def is_equal(dataset, expected):
    pairs = zip((dataset.images, dataset.labels, dataset.splits), expected)
    return all(np.array_equal(array, other) for array, other in pairs)


# Every form is read alike

COLUMN_ORDERS = [('emotion', 'pixels', 'Usage'), ('emotion', ' Usage', ' pixels'), ('Pixels', 'emotion', 'USAGE')]


@few_examples
@given(arrays(max_size=40), st.sampled_from(COLUMN_ORDERS),
       st.sampled_from(['\n', '\r\n']), st.booleans(), st.booleans(), st.integers(0, 3))
def test_csv_in_any_style(expected, columns, newline, quote, bom, blank_lines):
    dataset = read_bytes(csv_bytes(*expected, columns, newline, quote, bom, blank_lines))
    assert is_equal(dataset, expected)
    assert dataset.fingerprint == read_bytes(csv_bytes(*expected)).fingerprint
    assert dataset.source_rows.tolist() == list(range(len(expected[0])))


@few_examples
@given(arrays())
def test_archives(expected):
    table, files = csv_bytes(*expected), image_files(*expected)
    reordered = csv_bytes(*expected, ('emotion', ' Usage', ' pixels'))
    without_usage = csv_bytes(*expected, ('emotion', 'pixels'))
    below = {f'archive/{name}': data for name, data in files.items()}
    forms = [
        table, reordered, gzip.compress(table),
        tar_bytes({'fer2013/README': b'...', 'fer2013/fer2013.csv': table}), tar_bytes({'./fer2013.csv': table}, 'w'),
        zip_bytes({'a.csv': table}), zip_bytes({'train.csv': without_usage, 'x/icml_face_data.csv': reordered}),
        zip_bytes({'fer2013.tar.gz': tar_bytes({'f.csv': table})}),
        zip_bytes(files), zip_bytes(below | {'__MACOSX/archive/train/._1.png': b''})]
    datasets = [read_bytes(form) for form in forms]
    assert all(is_equal(dataset, expected) for dataset in datasets)
    assert len({dataset.fingerprint for dataset in datasets}) == 1


@few_examples
@given(arrays())
def test_folders_and_their_cache(expected):
    with tempfile.TemporaryDirectory() as folder:
        for name, data in image_files(*expected).items():
            (Path(folder)/'faces'/name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder)/'faces'/name).write_bytes(data)
        datasets = [load_data(f'{folder}/faces', f'{folder}/cache', verify=verify) for verify in (False, False, True)]
        assert all(is_equal(dataset, expected) for dataset in datasets)
        fingerprint = read_bytes(csv_bytes(*expected)).fingerprint
        assert {dataset.fingerprint for dataset in datasets} == {fingerprint}


# Invalid rows and damaged files

INVALID_LINES = [b'8,1 2,Training\n', b'0,1 2 3,Training\n', b'0,' + b'999 '*2304 + b',Training\n', b'nonsense\n',
                 b'\xff,\xff,\xff\n']


@few_examples
@given(arrays(), st.data())
def test_skip_leaves_out_only_the_invalid_rows(expected, data):
    n = len(expected[0])
    invalid = data.draw(st.sets(st.integers(0, n - 1), max_size=n - 1))
    lines = csv_bytes(*expected).splitlines(keepends=True)
    for row in invalid:
        lines[row + 1] = data.draw(st.sampled_from(INVALID_LINES))
    valid = [row for row in range(n) if row not in invalid]
    dataset = read_bytes(b''.join(lines), on_bad='skip')
    assert is_equal(dataset, [array[valid] for array in expected])
    assert dataset.source_rows.tolist() == valid
    assert [message.split(':')[0] for message in dataset.skipped] == [f'line {row + 2}' for row in sorted(invalid)]
    if invalid:
        with pytest.raises(UserError, match=f'^source: line {min(invalid) + 2}: '):
            read_bytes(b''.join(lines))


@few_examples
@given(arrays(), st.data())
def test_a_flipped_byte_never_changes_the_images(expected, data):
    "A damaged archive is rejected, or read correctly if the damage is where it does not matter."
    table = csv_bytes(*expected)
    archives = [gzip.compress(table), tar_bytes({'f.csv': table}), zip_bytes({'f.csv': table}),
                zip_bytes(image_files(*expected))]
    archive = bytearray(data.draw(st.sampled_from(archives)))
    archive[data.draw(st.integers(0, len(archive) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        dataset = read_bytes(bytes(archive))
    except UserError as error:
        assert '\n' not in str(error)
    else:
        assert np.array_equal(dataset.images, expected[0])


@pytest.mark.parametrize('compression', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_is_noticed_with_any_compression(compression):
    archive = zip_bytes({'fer.csv': csv_bytes(*ONE_IMAGE)}, compression)
    for position in range(40, len(archive) - 120, max(1, len(archive)//40)):
        data = bytearray(archive)
        data[position] ^= 255
        try:
            assert np.array_equal(read_bytes(bytes(data)).images, ONE_IMAGE[0]), 'the damage was not noticed'
        except UserError as error:
            assert '\n' not in str(error)


@few_examples
@given(st.binary(max_size=5000))
def test_any_other_file_gives_an_error_of_one_line(data):
    with pytest.raises(UserError) as error:
        read_bytes(data)
    assert str(error.value).startswith('source') and '\n' not in str(error.value)


# Unsafe archives

@pytest.mark.parametrize('pack', [zip_bytes, tar_bytes])
@pytest.mark.parametrize('member', ['../f.csv', '/f.csv'])
def test_members_outside_of_the_archive_are_rejected(member, pack):
    with pytest.raises(UserError, match='lies outside of the archive'):
        read_bytes(pack({member: csv_bytes(*ONE_IMAGE)}))


def test_links_are_rejected():
    link = tarfile.TarInfo('fer2013.csv')
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode='w:gz') as archive:
        archive.addfile(link)
    link = zipfile.ZipInfo('fer2013.csv')
    link.external_attr = 0o120777 << 16
    for data in (tar.getvalue(), zip_bytes_of_link(link)):
        with pytest.raises(UserError, match='fer2013.csv is a link'):
            read_bytes(data)


def zip_bytes_of_link(link):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr(link, '/etc/passwd')
    return file.getvalue()


def labelled_files(suffix, content):
    "Ten image files in each of two class folders."
    return {f'{name}/{i}{suffix}': content for name in ('a', 'b') for i in range(10)}


def test_files_that_unpack_to_far_more_are_rejected():
    with pytest.raises(UserError, match='would unpack to'):
        read_bytes(zip_bytes({'fer2013.csv': bytes(80 * 2**20)}))
    file = io.BytesIO()
    Image.new('1', (20_000, 20_000)).save(file, 'PNG')
    files = labelled_files('.png', encode(ONE_IMAGE[0][0])) | {'a/0.png': file.getvalue()}
    with pytest.raises(UserError, match='expected at most 50,000,000'):
        read_bytes(zip_bytes(files))


def test_images_of_floats_are_rejected():
    content = encode(np.full((60, 60), .5, np.float32), 'TIFF')
    with pytest.raises(UserError, match='colour mode F'):
        read_bytes(zip_bytes(labelled_files('.tif', content)))


# Other data sets than FER2013

def test_folders_of_any_size_and_colour():
    rng = np.random.default_rng(0)
    files = {}
    for i in range(60):
        image = rng.integers(0, 256, (rng.integers(20, 90), rng.integers(20, 90), 3)).astype(np.uint8)
        path = f"my faces/{'bored' if i < 40 else 'awake'}/{i}.{'JPG' if i % 2 else 'webp'}"
        files[path] = encode(image, 'JPEG' if i % 2 else 'WEBP')
    dataset = read_bytes(zip_bytes(files))
    assert dataset.class_names == ('awake', 'bored') and dataset.description == 'not FER2013'
    assert dataset.counts().to_numpy().tolist() == [[16, 32], [2, 4], [2, 4]]
    assert 'drawn at random' in dataset.notes[0] and 'seed 0' in dataset.notes[0]
    assert any(note.startswith('60 of 60 images were not 48 × 48') for note in dataset.notes)
    assert dataset.fingerprint == read_bytes(zip_bytes(files)).fingerprint


def test_split_folders_are_kept():
    files = {f'{split}/{name}/{i}.png': encode(np.full((48, 48), i, np.uint8))
             for split in ('train', 'validation', 'test') for name in ('no', 'yes') for i in range(3)}
    dataset = read_bytes(zip_bytes(files))
    assert dataset.counts().to_numpy().tolist() == [[3, 3], [3, 3], [3, 3]] and dataset.notes == ()


def test_images_without_labels_are_for_prediction_only():
    dataset = read_bytes(csv_bytes(*ONE_IMAGE, ('pixels',)))
    assert (dataset.labels == UNKNOWN).all()
    assert dataset.description == 'faces without labels, for prediction only'


# FER+ votes and the cache

@pytest.mark.skipif(not os.environ.get('FER2013_DATA', '').endswith('.csv'), reason='needs fer2013.csv')
def test_votes_are_joined_only_if_the_order_was_kept(tmp_path):
    votes = Path(os.environ['FER2013_DATA']).parent/'fer2013new.csv'
    if not votes.exists():
        pytest.skip('needs fer2013new.csv beside it')
    dataset = load_data(os.environ['FER2013_DATA'])
    assert load_ferplus(votes, dataset).shape == (len(dataset), 10)
    lines = votes.read_text().splitlines(keepends=True)
    (tmp_path/'fer2013new.csv').write_text(''.join([lines[0], *reversed(lines[1:])]))
    with pytest.raises(UserError, match='in another order'):
        load_ferplus(tmp_path/'fer2013new.csv', dataset)


def test_the_cache_notices_a_change_behind_a_link(tmp_path):
    images, labels, splits = ONE_IMAGE
    (tmp_path/'real.csv').write_bytes(csv_bytes(*ONE_IMAGE))
    (tmp_path/'data').mkdir()
    (tmp_path/'data'/'fer.csv').symlink_to(tmp_path/'real.csv')
    assert load_data(tmp_path/'data', tmp_path/'cache').labels.tolist() == [0]
    (tmp_path/'real.csv').write_bytes(csv_bytes(images, labels + 4, splits))
    assert load_data(tmp_path/'data', tmp_path/'cache').labels.tolist() == [4]


def test_every_array_of_a_cache_entry_is_verified(tmp_path):
    expected = (np.zeros((2, 48, 48), np.uint8), np.arange(2).astype(np.uint8), np.zeros(2, np.uint8))
    (tmp_path/'fer.csv').write_bytes(csv_bytes(*expected))
    load_data(tmp_path/'fer.csv', tmp_path/'cache')
    source_rows = next((tmp_path/'cache').glob('*/source_rows.npy'))
    np.save(source_rows, np.load(source_rows)[::-1].copy())
    assert load_data(tmp_path/'fer.csv', tmp_path/'cache').source_rows.tolist() == [0, 1]
