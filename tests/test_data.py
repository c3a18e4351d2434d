"""Invalid and unusual sources: each is rejected with one line that says where and why."""
import gzip
import io
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from fer2013_cnn.core import CLASSES, SPLITS, UserError
from fer2013_cnn.data import folders, tables
from fer2013_cnn.data.folders import check_member, decode_face, find_classes, infer_layout, read_dataset, read_member
from fer2013_cnn.data.synthetic import render_faces
from fer2013_cnn.data.tables import DatasetBuilder, parse_chunk, parse_header, parse_pixels, read_table

IMAGES = render_faces(np.arange(7))


def pixel_text(image):
    return ' '.join(map(str, image.ravel()))


def csv_text(rows, header='emotion,pixels,Usage'):
    return '\n'.join([header, *(','.join(map(str, row)) for row in rows)]) + '\n'


def read_text(text, on_bad='raise'):
    stream = io.BytesIO(text.encode())
    header = parse_header(stream.readline())
    return read_table(stream, header, DatasetBuilder('fer.csv', on_bad))


def encode(image, format='PNG'):
    file = io.BytesIO()
    Image.fromarray(image).save(file, format)
    return file.getvalue()


# Tables

FIRST_PIXEL = [b'256', b'1000', b'1200', b'-1', b'1.5', b'007', b'07', b'', b'1 1', b'x', b'1:', b'P', b'\t7', b'\xff']


@pytest.mark.parametrize('first', FIRST_PIXEL)
def test_parse_chunk_declines_unusual_pixels(first):
    assert parse_chunk([pixel_text(IMAGES[0]).encode(), first + b' 0'*2303]) is None


def test_parse_chunk_declines_rows_of_unequal_length():
    text = pixel_text(IMAGES[0]).encode()
    assert parse_chunk([text + b' 7', text.rpartition(b' ')[0]]) is None


def test_unusual_spaces_and_zeros_are_accepted_by_the_slower_parser():
    text = '  007  ' + ' 0'*2303 + ' '
    assert parse_pixels(text.encode()).ravel().tolist() == [7] + [0]*2303
    rows = [(3, text, 'Training'), (4, pixel_text(IMAGES[4]), 'Training')]
    assert np.array_equal(read_text(csv_text(rows)).images, [parse_pixels(text.encode()), IMAGES[4]])


ROW = dict(emotion=4, pixels=pixel_text(IMAGES[4]), usage='Training')
OTHER_PIXELS = ROW['pixels'][ROW['pixels'].index(' '):]
INVALID_ROWS = [
    (dict(pixels=ROW['pixels'].rsplit(' ', 1)[0]), '2,303 pixels, expected 2,304'),
    (dict(pixels=ROW['pixels'] + ' 7'), '2,305 pixels, expected 2,304'),
    (dict(pixels=''), '0 pixels, expected 2,304'),
    (dict(pixels='256' + OTHER_PIXELS), 'pixel value 256, expected 0 to 255'),
    (dict(pixels='300' + OTHER_PIXELS), 'pixel value 300, expected 0 to 255'),
    (dict(pixels='-1' + OTHER_PIXELS), 'pixel value -1, expected 0 to 255'),
    (dict(pixels='1.5' + OTHER_PIXELS), 'a pixel is not a whole number'),
    (dict(pixels=ROW['pixels'] + ' x'), 'a pixel is not a whole number'),
    (dict(emotion=7), "emotion '7', expected 0 to 6"),
    (dict(emotion='happy'), "emotion 'happy', expected 0 to 6"),
    (dict(usage='Test'), "Usage 'Test', expected Training, PublicTest or PrivateTest"),
    (dict(another=1), '4 columns, expected 3')]


@pytest.mark.parametrize('change, message', INVALID_ROWS, ids=[message for _, message in INVALID_ROWS])
def test_invalid_rows(change, message):
    text = csv_text([ROW.values(), (ROW | change).values()])
    with pytest.raises(UserError) as error:
        read_text(text)
    assert str(error.value).startswith(f'line 3: {message}')
    dataset = read_text(text, on_bad='skip')
    assert dataset.labels.tolist() == [4] and dataset.skipped == (str(error.value),)


@pytest.mark.parametrize('text, message', [
    ('', 'the file or its first line is empty'),
    ('\nemotion,pixels\n', 'the file or its first line is empty'),
    ('emotion,pixel,Usage\n', "no column pixels in the first line, found 'emotion, pixel, usage'"),
    ('emotion,pixels,Emotion\n', 'the column emotion appears twice'),
    ('emotion,pixels,Usage\n', 'no usable images'),
    ('emotion,pixels,Usage\n' + '7'*2**20, 'line 2: expected less than 1,048,576 characters')])
def test_invalid_tables(text, message):
    with pytest.raises(UserError, match=message):
        read_text(text)


def test_binary_files_are_no_tables():
    for line in (b'\x89PNG\xff', b'"\xff"', b'"a\0b'):
        with pytest.raises(UserError, match='not a text file|no column pixels'):
            parse_header(line)


def test_a_table_without_usable_rows_names_the_first_error():
    with pytest.raises(UserError, match=r'no usable images \(line 2: 3 pixels, expected 2,304\)'):
        read_text(csv_text([(1, '1 2 3', 'Training')]), on_bad='skip')


def test_a_table_has_a_maximum_size(monkeypatch):
    monkeypatch.setattr(tables, 'TABLE_LIMIT', 10_000)
    with pytest.raises(UserError, match='too large: expected at most 10,000 bytes'):
        read_text(csv_text([ROW.values()]*3))


# Images

@pytest.mark.parametrize('data, message', [
    (encode(IMAGES[0])[:500], 'not an image that can be read'),
    (b'\xff\xd8 nothing', 'not an image that can be read'),
    (b'', 'not an image that can be read'),
    (encode(np.zeros((64, 50), np.uint8)), '50 × 64 pixels, expected 48 × 48')])
def test_invalid_images(data, message):
    with pytest.raises(UserError, match=message):
        decode_face(data)


def test_a_rotated_photo_is_turned_upright():
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 3  # orientation: turned by 180 degrees
    Image.fromarray(IMAGES[3]).save(file, 'PNG', exif=exif)
    assert np.array_equal(decode_face(file.getvalue(), any_size=True), IMAGES[3][::-1, ::-1])
    assert np.array_equal(decode_face(file.getvalue()), IMAGES[3])  # FER2013's files are taken as they are


# Splits and classes

@pytest.mark.parametrize('paths, official, message', [
    (['joy/Training_1.png'], True, 'joy/Training_1.png: unknown class folder, expected angry'),
    (['1.png'], False, '1.png is in no class folder'),
    ([f'{i}/1.png' for i in range(256)], False, 'class folders: expected a list of 1 to 255 class names')])
def test_invalid_class_folders(paths, official, message):
    with pytest.raises(UserError, match=message):
        find_classes(paths, official)


@pytest.mark.parametrize('paths, empty, message', [
    (['train/sad/Training_1.jpg', 'train/sad/im0.png'], [], 'train/sad/im0.png: unknown split, expected a file name'),
    (['test/cat/1.png', 'train/cat/2.png', 'dog/3.png'], [], 'dog/3.png: unknown split, expected a train'),
    (['train/sad/PrivateTest_1.jpg'], [], 'its file name and its folder name different splits'),
    (['a/cat/1.png', 'b/cat/1.png'], [], r'more than one set of class folders \(a, b\)'),
    (['a/train/sad/Training_1.jpg', 'b/train/sad/Training_1.jpg'], [], r'more than one set of class folders \(a, b\)'),
    (['train/sad/Training_1.jpg'], ['train', 'train/sad', 'train/fear'], 'the folder train/fear contains no images'),
    (['train/cat/1.png'], ['train', 'train/cat', 'val'], 'the folder val contains no images'),
    (['test/cat/1.png'], [], 'no folder train'),
    (['train/cat/1.png', 'val/cat/2.png', 'test/dog/3.png'], [], 'the class dog has no training images'),
    ([f'cat/{i}.png' for i in range(9)], [], 'the smallest class has 9 training images, expected at least 10')])
def test_invalid_layouts(paths, empty, message):
    with pytest.raises(UserError, match=message):
        infer_layout(paths, empty)


# Archives

@pytest.mark.parametrize('member, message', [
    (('../../etc/cron', 9, 9, False), 'lies outside of the archive'),
    (('/etc/cron', 9, 9, False), 'lies outside of the archive'),
    (('..\\cron', 9, 9, False), 'lies outside of the archive'),
    (('fer.csv', 9, 9, True), 'fer.csv is a link'),
    (('bomb.csv', 2**31, 2**21, False), 'would unpack to 1,024 times its packed size'),
    (('bomb.csv', 2**33, 2**33, False), 'expected at most 4,294,967,296'),
    (('bomb.png', 2**31, 2**31, False), 'expected at most 67,108,864')])
def test_unsafe_members(member, message):
    with pytest.raises(UserError, match=message):
        check_member(*member)


def test_large_and_missing_members(tmp_path):
    large = folders.Member('1.png', 2**27, None)
    assert '134,217,728 bytes, expected at most 67,108,864' in str(read_member(large))
    missing = folders.Member('1.png', 9, lambda: open(tmp_path/'1.png', 'rb'))
    assert 'damaged (' in str(read_member(missing))


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    "Seven faces as a csv, gzip, tarball, zip archive and folder; then damaged copies of them."
    folder = tmp_path_factory.mktemp('sources')
    rows = [(label, pixel_text(IMAGES[label]), SPLITS[label % 3]) for label in range(7)]
    (folder/'table').write_text(csv_text(rows))
    (folder/'gzip').write_bytes(gzip.compress((folder/'table').read_bytes()))
    with tarfile.open(folder/'tarball', 'w:gz') as archive:
        archive.add(folder/'table', 'fer2013/fer2013.csv')
    with zipfile.ZipFile(folder/'archive', 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('train.csv', csv_text([row[:2] for row in rows], 'emotion,pixels'))
        archive.writestr('icml_face_data.csv', csv_text(rows))
    for label in range(7):
        file = folder/'faces'/('test' if label % 3 else 'train')/CLASSES[label]/f'{SPLITS[label % 3]}_{label}.png'
        file.parent.mkdir(parents=True)
        file.write_bytes(encode(IMAGES[label]))
    shutil.make_archive(folder/'faces', 'zip', folder/'faces')
    damage(folder)
    return folder


def damage(folder):
    for name, source, length in [('cut.csv', 'table', 30_000), ('cut.csv.gz', 'gzip', 9_000), ('empty.csv', 'table', 0),
                                 ('cut.tar.gz', 'tarball', 9_000), ('cut.zip', 'faces.zip', 5_000)]:
        (folder/name).write_bytes((folder/source).read_bytes()[:length])
    for name, source, position in [('flipped.zip', 'archive', 22_000), ('flipped.tar.gz', 'tarball', -7)]:
        data = bytearray((folder/source).read_bytes())
        data[position] ^= 255
        (folder/name).write_bytes(data)
    for name in ('torn', 'gap', 'mixed', 'linked'):
        shutil.copytree(folder/'faces', folder/name)
    (folder/'none').mkdir()
    (folder/'torn'/'test'/'disgust'/'PublicTest_1.png').write_bytes(b'\x89PNG broken')
    (folder/'gap'/'train'/'fear').mkdir()
    shutil.copy(folder/'table', folder/'mixed'/'fer2013.csv')
    (folder/'linked'/'train'/'fear').symlink_to(folder/'faces'/'test'/'fear')
    write_zip(folder/'notes.zip', {'README': b'...', 'votes.csv': b'a,b\n1,2\n'})
    write_zip(folder/'twice.zip', {name: (folder/'table').read_bytes() for name in ('a.csv', 'b.csv')})
    with tarfile.open(folder/'notes.tar', 'w') as archive:
        archive.add(folder/'table', 'README')


def write_zip(path, files):
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in files.items():
            archive.writestr(name, data)


@pytest.mark.parametrize('name, message', [
    ('cut.csv', ': line 5: 2 columns, expected 3'),
    ('cut.csv.gz', ' cannot be read or is damaged'),
    ('cut.tar.gz', ' cannot be read or is damaged'),
    ('cut.zip', ': not a complete zip archive'),
    ('flipped.zip', ' cannot be read or is damaged'),
    ('flipped.tar.gz', ' cannot be read or is damaged'),
    ('empty.csv', ': the file or its first line is empty'),
    ('none', ': no faces, expected a csv with pixels'),
    ('torn', ': test/disgust/PublicTest_1.png: not an image that can be read'),
    ('gap', ': the folder train/fear contains no images'),
    ('mixed', ': both a table (fer2013.csv) and images'),
    ('linked', ': train/fear is a link to a folder'),
    ('notes.zip', ': no faces, expected a csv with pixels'),
    ('notes.tar', ': no csv with pixels in the tarball'),
    ('twice.zip', ': more than one table with faces (a.csv, b.csv)')])
def test_damaged_sources(sources, name, message):
    with pytest.raises(UserError) as error:
        read_dataset(sources/name)
    assert str(error.value).startswith(name + message) and '\n' not in str(error.value)


def test_a_damaged_image_can_be_skipped(sources):
    dataset = read_dataset(sources/'torn', on_bad='skip')
    assert len(dataset) == 6
    assert dataset.skipped == ('test/disgust/PublicTest_1.png: not an image that can be read',)


def test_a_gzip_file_has_a_maximum_size(sources, monkeypatch):
    monkeypatch.setattr(tables, 'TABLE_LIMIT', 10_000)
    monkeypatch.setattr(folders, 'TABLE_LIMIT', 10_000)
    with pytest.raises(UserError, match='^gzip: it unpacks to more than 10,000 bytes'):
        read_dataset(sources/'gzip')


def test_on_bad_is_checked(sources):
    with pytest.raises(UserError, match="unknown on_bad 'ignore': expected raise or skip"):
        read_dataset(sources/'table', on_bad='ignore')
