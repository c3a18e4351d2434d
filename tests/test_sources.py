"""Generated data sets, written in every form and read back: equal arrays, equal fingerprints, or one line that says what is wrong."""
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

from fer2013_cnn.data import load, load_votes
from fer2013_cnn.read import CLASSES, SPLITS, UNKNOWN, UserError, read

os.environ['TQDM_DISABLE'] = '1'
sources = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@st.composite
def faces(draw, most=8):
    "Images, labels and splits, in the order in which their files would be sorted."
    n, seed = draw(st.integers(1, most)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    high = draw(st.sampled_from([1, 10, 100, 256]))  # rows of one digit, of two, of three
    images = rng.integers(0, high, (n, 48, 48)).astype(np.uint8)
    labels, splits = rng.integers(0, 7, n).astype(np.uint8), rng.integers(0, 3, n).astype(np.uint8)
    order = np.argsort([path(label, split, row) for row, (label, split) in enumerate(zip(labels, splits))], kind='stable')
    return images[order], labels[order], splits[order]


def path(label, split, row):
    return f"{'test' if split else 'train'}/{CLASSES[label]}/{SPLITS[split]}_{row:05}.png"


def csv_bytes(images, labels, splits, columns=('emotion', 'pixels', 'Usage'), newline='\n', quote=False, bom=False, blanks=0):
    "A csv, written by Python's own `csv` module."
    out = io.StringIO()
    writer = csv.writer(out, lineterminator=newline, quoting=csv.QUOTE_ALL if quote else csv.QUOTE_MINIMAL)
    writer.writerow(columns)
    for image, label, split in zip(images, labels, splits):
        cells = dict(emotion=label, pixels=' '.join(map(str, image.ravel())), usage=SPLITS[split])
        writer.writerow([cells[column.strip().lower()] for column in columns])
    return ('\ufeff'*bom + out.getvalue() + newline*blanks).encode()


def png(image):
    Image.fromarray(image).save(out := io.BytesIO(), 'PNG')
    return out.getvalue()


def files_of(images, labels, splits):
    return {path(label, split, row): png(image) for row, (image, label, split) in enumerate(zip(images, labels, splits))}


def zip_bytes(files):
    with zipfile.ZipFile(out := io.BytesIO(), 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tar_bytes(files, mode='w:gz'):
    with tarfile.open(fileobj=(out := io.BytesIO()), mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def read_bytes(data, name='source', **options):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder)/name).write_bytes(data)
        return read(Path(folder)/name, **options)


def equal(found, expected):
    images, labels, splits = expected
    return np.array_equal(found.images, images) and np.array_equal(found.labels, labels) and np.array_equal(found.splits, splits)


@sources
@given(faces(most=40), st.sampled_from([('emotion', 'pixels', 'Usage'), ('emotion', ' Usage', ' pixels'), ('Pixels', 'emotion', 'USAGE')]),
       st.sampled_from(['\n', '\r\n']), st.booleans(), st.booleans(), st.integers(0, 3))
def test_csv_in_any_style(made, columns, newline, quote, bom, blanks):
    found = read_bytes(csv_bytes(*made, columns, newline, quote, bom, blanks))
    assert equal(found, made)
    assert found.fingerprint == read_bytes(csv_bytes(*made)).fingerprint
    assert found.source_rows.tolist() == list(range(len(made[0])))


@sources
@given(faces())
def test_every_archive_holds_the_same_faces(made):
    table, files = csv_bytes(*made), files_of(*made)
    icml = csv_bytes(*made, ('emotion', ' Usage', ' pixels'))
    train = csv_bytes(*made, ('emotion', 'pixels'))
    forms = [table, icml, gzip.compress(table), tar_bytes({'fer2013/README': b'...', 'fer2013/fer2013.csv': table}), tar_bytes({'./fer2013.csv': table}, 'w'),
             zip_bytes({'a.csv': table}), zip_bytes({'train.csv': train, 'x/icml_face_data.csv': icml}), zip_bytes({'fer2013.tar.gz': tar_bytes({'f.csv': table})}),
             zip_bytes(files), zip_bytes({f'archive/{name}': data for name, data in files.items()} | {'__MACOSX/archive/train/._1.png': b''})]
    found = [read_bytes(form) for form in forms]
    assert all(equal(one, made) for one in found)
    assert len({one.fingerprint for one in found}) == 1


@sources
@given(faces())
def test_folders_and_their_cache(made):
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files_of(*made).items():
            (Path(folder)/'faces'/name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder)/'faces'/name).write_bytes(data)
        first, second, verified = [load(f'{folder}/faces', f'{folder}/cache', verify=verify) for verify in (False, False, True)]
        assert equal(first, made) and equal(second, made) and equal(verified, made)
        assert first.fingerprint == second.fingerprint == verified.fingerprint == read_bytes(csv_bytes(*made)).fingerprint


@sources
@given(faces(), st.data())
def test_skip_leaves_out_just_the_bad_rows(made, data):
    bad = data.draw(st.sets(st.integers(0, len(made[0]) - 1), max_size=len(made[0]) - 1))
    lines = csv_bytes(*made).splitlines(keepends=True)
    for row in bad:
        lines[row + 1] = data.draw(st.sampled_from([b'8,1 2,Training\n', b'0,1 2 3,Training\n', b'0,' + b'999 '*2304 + b',Training\n', b'nonsense\n', b'\xff,\xff,\xff\n']))
    good = [row for row in range(len(made[0])) if row not in bad]
    found = read_bytes(b''.join(lines), on_bad='skip')
    assert equal(found, [array[good] for array in made])
    assert found.source_rows.tolist() == good
    assert [message.split(':')[0] for message in found.skipped] == [f'line {row + 2}' for row in sorted(bad)]
    if bad:
        with pytest.raises(UserError, match=f'^source, line {min(bad) + 2}: '):
            read_bytes(b''.join(lines))


@sources
@given(faces(), st.data())
def test_a_flipped_byte_is_never_taken_for_data(made, data):
    "A damaged archive is refused or, where the damage lies in what does not matter, read as it was."
    packed = bytearray(data.draw(st.sampled_from([gzip.compress(csv_bytes(*made)), tar_bytes({'f.csv': csv_bytes(*made)}), zip_bytes({'f.csv': csv_bytes(*made)}), zip_bytes(files_of(*made))])))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = read_bytes(bytes(packed))
    except UserError as error:
        assert '\n' not in str(error)
    else:
        assert np.array_equal(found.images, made[0])


@sources
@given(st.binary(max_size=5000))
def test_any_other_file_costs_one_line(data):
    with pytest.raises(UserError) as caught:
        read_bytes(data)
    assert str(caught.value).startswith('source') and '\n' not in str(caught.value)


one = (np.zeros((1, 48, 48), np.uint8), np.zeros(1, np.uint8), np.zeros(1, np.uint8))


@pytest.mark.parametrize('member, says', [
    ('../f.csv', 'lies outside of the archive'), ('/f.csv', 'lies outside of the archive')])
def test_members_that_climb_out_are_refused(member, says):
    for pack in (zip_bytes, tar_bytes):
        with pytest.raises(UserError, match=says):
            read_bytes(pack({member: csv_bytes(*one)}))


def test_links_are_refused():
    link = tarfile.TarInfo('fer2013.csv')
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
    with tarfile.open(fileobj=(tar := io.BytesIO()), mode='w:gz') as archive:
        archive.addfile(link)
    info = zipfile.ZipInfo('fer2013.csv')
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(packed := io.BytesIO(), 'w') as archive:
        archive.writestr(info, '/etc/passwd')
    for data in (tar.getvalue(), packed.getvalue()):
        with pytest.raises(UserError, match='fer2013.csv is a link'):
            read_bytes(data)


def test_a_bomb_is_refused_before_it_goes_off():
    with pytest.raises(UserError, match='would unpack to'):
        read_bytes(zip_bytes({'fer2013.csv': bytes(80 * 2**20)}))
    with pytest.raises(UserError, match='expected at most 50,000,000'):
        Image.new('1', (20_000, 20_000)).save(bomb := io.BytesIO(), 'PNG')
        read_bytes(zip_bytes({f'{name}/{i}.png': bomb.getvalue() if (name, i) == ('a', 0) else png(one[0][0]) for name in 'ab' for i in range(10)}))


def test_own_folders_of_any_size_and_colour():
    rng = np.random.default_rng(0)
    files = {}
    for i in range(60):
        Image.fromarray(rng.integers(0, 256, (rng.integers(20, 90), rng.integers(20, 90), 3)).astype(np.uint8)).save(out := io.BytesIO(), 'JPEG' if i % 2 else 'WEBP')
        files[f"my faces/{'bored' if i < 40 else 'awake'}/{i}.{'JPG' if i % 2 else 'webp'}"] = out.getvalue()
    found = read_bytes(zip_bytes(files))
    assert found.class_names == ('awake', 'bored') and found.kind == 'not FER2013'
    assert found.counts().to_numpy().tolist() == [[16, 32], [2, 4], [2, 4]]
    assert 'drawn by chance' in found.notes[0] and 'seed 0' in found.notes[0]
    assert any(note.startswith('60 of 60 images were not 48 × 48') for note in found.notes)
    assert found.fingerprint == read_bytes(zip_bytes(files)).fingerprint


def test_own_split_folders_are_kept():
    files = {f'{split}/{name}/{i}.png': png(np.full((48, 48), i, np.uint8)) for split in ('train', 'validation', 'test') for name in ('no', 'yes') for i in range(3)}
    found = read_bytes(zip_bytes(files))
    assert found.counts().to_numpy().tolist() == [[3, 3], [3, 3], [3, 3]] and found.notes == ()


def test_faces_without_labels_are_for_prediction_only():
    found = read_bytes(csv_bytes(*one, ('pixels',)))
    assert (found.labels == UNKNOWN).all() and found.kind == 'faces without labels, for prediction only'


@pytest.mark.skipif(not os.environ.get('FER2013_DATA', '').endswith('.csv'), reason='needs fer2013.csv')
def test_votes_join_only_where_the_order_was_kept(tmp_path):
    votes = Path(os.environ['FER2013_DATA']).parent/'fer2013new.csv'
    if not votes.exists():
        pytest.skip('needs fer2013new.csv beside it')
    official = load(os.environ['FER2013_DATA'])
    assert load_votes(votes, official).shape == (len(official), 10)
    lines = votes.read_text().splitlines(keepends=True)
    (tmp_path/'fer2013new.csv').write_text(''.join([lines[0], *reversed(lines[1:])]))
    with pytest.raises(UserError, match='in another order'):
        load_votes(tmp_path/'fer2013new.csv', official)


def test_the_cache_notices_a_change_behind_a_link(tmp_path):
    (tmp_path/'real.csv').write_bytes(csv_bytes(*one))
    (tmp_path/'data').mkdir()
    (tmp_path/'data'/'fer.csv').symlink_to(tmp_path/'real.csv')
    assert load(tmp_path/'data', tmp_path/'cache').labels.tolist() == [0]
    (tmp_path/'real.csv').write_bytes(csv_bytes(one[0], one[1] + 4, one[2]))
    assert load(tmp_path/'data', tmp_path/'cache').labels.tolist() == [4]


def test_every_array_of_a_cache_entry_is_verified(tmp_path):
    made = (np.zeros((2, 48, 48), np.uint8), np.arange(2).astype(np.uint8), np.zeros(2, np.uint8))
    (tmp_path/'fer.csv').write_bytes(csv_bytes(*made))
    load(tmp_path/'fer.csv', tmp_path/'cache')
    rows = next((tmp_path/'cache').glob('*/source_rows.npy'))
    np.save(rows, np.load(rows)[::-1].copy())
    assert load(tmp_path/'fer.csv', tmp_path/'cache').source_rows.tolist() == [0, 1]


@pytest.mark.parametrize('compression', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_under_any_compression_is_seen(compression):
    with zipfile.ZipFile(out := io.BytesIO(), 'w', compression) as archive:
        archive.writestr('fer.csv', csv_bytes(*one))
    for place in range(40, len(out.getvalue()) - 120, max(1, len(out.getvalue())//40)):
        data = bytearray(out.getvalue())
        data[place] ^= 255
        try:
            assert np.array_equal(read_bytes(bytes(data)).images, one[0]), 'the damage went unseen'
        except UserError as error:
            assert '\n' not in str(error)


def test_a_float_picture_is_not_taken_for_a_black_one():
    Image.fromarray(np.full((60, 60), .5, np.float32)).save(out := io.BytesIO(), 'TIFF')
    with pytest.raises(UserError, match='colour mode F'):
        read_bytes(zip_bytes({f'{name}/{i}.tif': out.getvalue() for name in 'ab' for i in range(10)}))
