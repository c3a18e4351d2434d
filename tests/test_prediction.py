"""Refused and odd images, result files and videos; the notebooks 50 to 52 show one refusal of each kind."""
import io
import json
import struct
import zlib
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pandas as pd
import pytest
from matplotlib.cbook import get_sample_data
from PIL import Image

from fer2013_cnn.core import UserError
from fer2013_cnn.model.inference import Classifier
from fer2013_cnn.prediction import faces
from fer2013_cnn.prediction.faces import (crop_face, decode_image, find_faces, find_images, follow_faces, open_image,
                                          read_file)
from fer2013_cnn.prediction.images import (ImageResult, annotate, format_summary, open_result,
                                           predict_faces, predict_images, quantity, result_files, save_annotated,
                                           to_frame, unused_path)
from fer2013_cnn.prediction.video import (expand_videos, iter_video, open_video, plot_emotions, predict, predict_video,
                                          predict_video_file, read_frames, save_plot, video_writer)

HOPPER = Path(get_sample_data('grace_hopper.jpg', asfileobj=False))


def encode(image, format='PNG', **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def small():
    return Image.open(HOPPER).reduce(8)


def png_of_size(width, height):
    "A PNG whose header claims a size that it does not have."
    data = bytearray(encode(small()))
    data[16:24] = struct.pack('>II', width, height)
    data[29:33] = struct.pack('>I', zlib.crc32(data[12:29]))
    return bytes(data)


def brightness(pixels):
    "Two classes: darker or lighter than mid-grey."
    return np.eye(2, dtype=np.float32)[(pixels.mean((1, 2, 3)) > 127).astype(int)]


@pytest.fixture
def toy():
    return Classifier('toy', ('dark', 'light'), brightness)


@pytest.fixture(scope='module')
def clip(tmp_path_factory):
    "A video of six frames with one face."
    path = tmp_path_factory.mktemp('video')/'clip.mp4'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'mp4v'), 10, (256, 300))
    frame = cv2.cvtColor(np.asarray(Image.open(HOPPER).resize((256, 300))), cv2.COLOR_RGB2BGR)
    for _ in range(6):
        writer.write(frame)
    writer.release()
    return path


@pytest.mark.parametrize('data, message', [
    (b'', 'empty'), (b'Dear diary', 'not an image that can be read'),
    (encode(small())[:2000], 'not an image that can be read'),
    (png_of_size(30_000, 30_000), 'far too large, expected at most 150,000,000 pixels'),
    (png_of_size(16_000, 10_000), '16,000 × 10,000 pixels, expected at most'),
    (b'....ftypheic', 'or not JPEG, PNG')])
def test_files_that_are_no_images(data, message):
    with pytest.raises(UserError, match=message):
        decode_image(data)


def test_first_frame_of_an_animation():
    image = small()
    gif = encode(image, 'GIF', save_all=True, append_images=[image.rotate(90)])
    difference = np.asarray(decode_image(gif).convert('L')).astype(int) - np.asarray(image.convert('L'))
    assert np.abs(difference).mean() < 4


@pytest.mark.parametrize('source, message', [
    (np.zeros((4, 4)), 'array of shape (4, 4) and type float64, expected uint8'),
    (np.zeros((4, 4, 2), np.uint8), 'with 1, 3 or 4 channels'), (np.zeros((0, 4), np.uint8), 'array of shape (0, 4)'),
    (np.zeros(4, np.uint8), 'array of shape (4,)'), ('/dev/zero', 'not a file'), ('/tmp', 'not a file'),
    ('no/such.jpg', 'cannot be read (No such file or directory)'),
    (Image.new('F', (2, 2)), 'colour mode F'), (Image.new('L', (0, 5)), 'no pixels'),
    (Image.open(io.BytesIO(encode(small())[:2000])), 'damaged'), (UserError('given'), 'given')])
def test_sources_that_cannot_be_opened(source, message):
    with pytest.raises(UserError) as error:
        open_image(source)
    assert message in str(error.value)


def test_file_size_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(faces, 'MAX_FILE_BYTES', 3)
    (tmp_path/'a').write_bytes(b'four')
    with pytest.raises(UserError, match='expected at most 3 bytes'):
        read_file(tmp_path/'a')


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_arrays_with_channels(channels):
    assert open_image(np.zeros((5, 6, channels), np.uint8)).size == (6, 5)


def test_find_images(tmp_path):
    for name in ('a.jpg', 'deeper/c.png', '.hidden/d.png', 'album.jpg/e.bmp'):
        (tmp_path/name).parent.mkdir(exist_ok=True)
        small().convert('RGB').save(tmp_path/name)
    (tmp_path/'none.jpg').mkdir()
    (tmp_path/'[1].jpg').write_bytes((tmp_path/'a.jpg').read_bytes())
    def names(sources):
        return [Path(name).name for name, _ in find_images(sources)]
    assert names(tmp_path) == ['[1].jpg', 'a.jpg', 'e.bmp', 'c.png']
    assert names([str(tmp_path/'a.jpg'), tmp_path/'deeper']) == ['a.jpg', 'c.png']
    assert names(str(tmp_path/'[1].jpg')) == ['[1].jpg']  # a file before it is a pattern
    assert names(f'{tmp_path}/**/*.png') == ['c.png']
    assert names(np.zeros((3, 48, 48), np.uint8)) == ['array 0', 'array 1', 'array 2']
    missing = ((tmp_path/'none.jpg', r'contains no image \(.jpg, .jpeg, .png'), ('gone*.jpg', 'does not exist'))
    for source, message in missing:
        (name, error), = find_images(source)
        assert name == str(source)
        with pytest.raises(UserError, match=message):
            open_image(error)


@pytest.mark.parametrize('size', [(1, 1), (5000, 2), (20_000, 40)])
def test_images_of_odd_shape_have_no_face(size):
    assert find_faces(Image.new('L', size)).shape == (0, 6)


def test_crop_outside_of_the_image():
    image = open_image(HOPPER)
    for face in ([-500, 900, 50, 50, 1, 20], [10, 10, 0, 0, 1, 0], [5000, 5000, 900, 900, 1, -30]):
        assert crop_face(image, face).shape == (48, 48)


@pytest.mark.parametrize('side', [20, 48, 50, 95.5, 96, 191, 192, 300, 500])
def test_crop_follows_the_written_rule(side):
    "The rule of 50_predict.faces, point by point."
    pixels = np.random.default_rng(0).integers(0, 256, (450, 600), dtype=np.uint8)
    x, y, angle, block = 301.3, 220.7, np.radians(17), max(1, int(side//96))
    reduced = np.asarray(Image.fromarray(pixels).reduce(block)).astype(float)
    height, width = reduced.shape
    n, points = int(np.ceil(side/block/48)), []
    for row in range(48*n):
        for column in range(48*n):
            right, down = ((place + .5)/48/n*side/block - side/block/2 for place in (column, row))
            at_x = np.clip(x/block + right*np.cos(angle) - down*np.sin(angle) - .5, 0, width - 1)
            at_y = np.clip(y/block + right*np.sin(angle) + down*np.cos(angle) - .5, 0, height - 1)
            left, top = int(at_x), int(at_y)
            (a, b), (c, d) = reduced[np.ix_([top, min(top + 1, height - 1)], [left, min(left + 1, width - 1)])]
            points.append((1 - at_y + top)*(a + (at_x - left)*(b - a)) + (at_y - top)*(c + (at_x - left)*(d - c)))
    expected = np.reshape(points, (48, n, 48, n)).mean((1, 3))
    crop = crop_face(Image.fromarray(pixels), [x - side/2, y - side/2, side, side, 1, 17])
    assert np.abs(crop - expected).max() < .51


def test_follow_no_faces():
    assert follow_faces(open_image(HOPPER), np.empty((0, 6))).shape == (0, 6)

def test_no_images(toy):
    with pytest.raises(UserError, match='no image was processed'):
        predict_faces([], toy)
    assert len(predict_faces(Image.new('RGB', (400, 300)), toy)) == 0


def test_batches_of_crops(toy):
    crops = [np.full((48, 48), value, np.uint8) for value in range(40)] + [b'', np.full((48, 48), 255, np.uint8)]
    table = predict_faces(crops, toy, cropped=True)
    assert table.emotion.tolist() == ['dark']*40 + ['light']
    assert table.attrs['unread'] == ['bytes 40: empty']


def test_a_hundred_faces_in_an_image(toy):
    head = open_image(HOPPER).crop((110, 60, 420, 370)).resize((96, 96))
    crowd = Image.new('RGB', (1100, 1100), 'gray')
    for place in range(100):
        crowd.paste(head.rotate(place % 7 - 3), (place % 10*110 + 7, place//10*110 + 7))
    table = predict_faces(crowd, toy)
    assert len(table) == 100
    assert annotate(crowd, table).size == crowd.size


def test_reserved_column_names():
    table = to_frame(np.array([[1, 2, 3, 4, .9, 5]]), np.array([[.9, .1]]), ('left', 'right'))
    assert list(table)[4:] == ['confidence', 'angle', 'emotion', 'left_', 'right']
    assert table.emotion[0] == 'left_'


@pytest.mark.parametrize('folder', ['a.csv/below', 'a.csv'])
def test_result_files_that_cannot_be_written(tmp_path, folder):
    (tmp_path/'a.csv').write_text('')
    with pytest.raises(UserError, match='cannot be written|exists already'):
        result_files(tmp_path/folder).__enter__()
    with pytest.raises(UserError, match='a.csv cannot be written'):
        unused_path(tmp_path/'a.csv', 'b.jpg', '.jpg')


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='no /dev/full')
@pytest.mark.parametrize('files', [dict(csv='/dev/full'), dict(json_lines='/dev/full')])
def test_full_disk(toy, files):
    table = predict_faces(np.zeros((2, 48, 48), np.uint8), toy, cropped=True).drop(columns='image')
    with pytest.raises(UserError, match='the results cannot be written on .No space left on device'):
        with result_files(**files) as keep:
            keep('a.jpg', table)


def test_header_is_written_once(tmp_path, toy):
    table = predict_faces(np.zeros((2, 48, 48), np.uint8), toy, cropped=True).drop(columns='image')
    with result_files(tmp_path/'a.csv', tmp_path/'a.jsonl') as keep:
        keep('none', table[:0])
        keep('first', table, time=.5)
        keep('broken', table[:0], 'empty')
    assert pd.read_csv(tmp_path/'a.csv').image.tolist() == ['first', 'first']
    lines = [json.loads(line) for line in (tmp_path/'a.jsonl').open()]
    keys = [['image', 'faces'], ['image', 'time', 'faces'], ['image', 'faces', 'error']]
    assert [list(line) for line in lines] == keys
    assert lines[1]['faces'][0]['emotion'] == table.emotion[0]
    assert lines[1]['faces'][0]['width'] == table.width[0] == 48
    assert list(lines[1]['faces'][0]) == ['left', 'top', 'width', 'height', 'confidence', 'angle', 'emotion',
                                            'dark', 'light']


def test_summary_lists_the_unread():
    summary = format_summary('image', pd.Series([], dtype=object), 1, ['a.jpg: empty'], 1)
    assert summary == '1 image, 0 faces; no face in 1.\n1 could not be read:\na.jpg: empty'
    assert quantity(2000, 'face') == '2,000 faces'


def test_open_result_creates_the_folder(tmp_path):
    open_result(tmp_path/'new'/'a.csv').close()
    assert (tmp_path/'new'/'a.csv').exists()


def test_predict_images_names_all_unread(tmp_path, toy, capsys):
    kept = []
    with pytest.raises(UserError, match='nothing could be read: a.jpg: does not exist'):
        predict_images(['a.jpg', 'b.jpg'], toy, False, lambda *result: kept.append(result), None)
    assert capsys.readouterr().out == 'b.jpg: does not exist\n'
    assert [(name, error) for name, _, error in kept] == [('a.jpg', 'does not exist'), ('b.jpg', 'does not exist')]


def test_predict_images_stopped(toy, capsys):
    def keep(name, table, error):
        if name == 'ndarray 2':
            raise KeyboardInterrupt
    crops = [np.full((48, 48), 255, np.uint8)]*5
    table, summary = predict_images(crops, toy, True, keep, None)
    assert capsys.readouterr().out == 'Stopped after 2 of 5 images.\n'
    assert (len(table), summary) == (2, '2 images, 2 faces: 2 light.')


def test_copy_that_cannot_be_drawn(tmp_path, toy, capsys):
    no_faces = to_frame(np.empty((0, 6)), np.empty((0, 2)), ('dark', 'light'))
    result = ImageResult('a'*300 + '.jpg', no_faces, Image.new('L', (9, 9)))
    save_annotated(result, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ['a'*100 + '-faces.jpg']
    with patch.object(Image.Image, 'save', side_effect=OSError(28, 'No space left on device')):
        save_annotated(result, tmp_path)
    assert 'could not be drawn' in capsys.readouterr().out and len([*tmp_path.iterdir()]) == 1


@pytest.mark.parametrize('source, message', [
    ('letter.mp4', 'letter.mp4 is not a video that can be read'), ('none.mp4', 'none.mp4 does not exist'),
    ('webcam:99', 'camera 99 cannot be opened'), ('webcam:99999999999', "unknown camera '99999999999'"),
    ('webcam:left', "unknown camera 'left'"), ('webcam:²', "unknown camera '²'")])
def test_videos_that_cannot_be_opened(tmp_path, monkeypatch, source, message):
    (tmp_path/'letter.mp4').write_text('Dear diary')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        open_video(source)


def test_video_with_a_name_like_a_url(tmp_path, monkeypatch, clip):
    (tmp_path/'12:30.mp4').write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(list(read_frames(open_video('12:30.mp4')))) == 6


@pytest.mark.parametrize('options', [dict(stride=0), dict(smooth=-1.)])
def test_video_options_out_of_range(toy, clip, options):
    with pytest.raises(UserError, match='expected at least 1 and 0'):
        predict_video(clip, toy, **options)


def test_annotated_video_that_cannot_be_written(tmp_path, toy, clip):
    with pytest.raises(UserError, match='cannot be written'):
        predict_video(clip, toy, draw=tmp_path/'missing'/'copy.mp4')


def test_frames_of_several_sizes(tmp_path):
    with video_writer(tmp_path/'sizes.mp4', 10) as append:
        for size in ((480, 270), (270, 480), (480, 270)):
            append(Image.new('RGB', size))
    assert [frame.image.size for frame in read_frames(open_video(tmp_path/'sizes.mp4'))] == [(480, 270)]*3
    assert [path.name for path in tmp_path.iterdir()] == ['sizes.mp4']


def test_interrupted_video_keeps_its_frames(tmp_path, toy, clip):
    results = iter_video(clip, toy, draw=tmp_path/'begun.mp4')
    for _ in range(3):
        next(results)
    results.close()  # as Ctrl-C does
    assert len(list(read_frames(open_video(tmp_path/'begun.mp4')))) == 3
    assert [path.name for path in tmp_path.iterdir()] == ['begun.mp4']


def test_video_without_frames(toy, clip):
    with patch('fer2013_cnn.prediction.video.read_frames', lambda *_: iter([])):
        with pytest.raises(UserError, match='has no frame that can be read'):
            predict_video(clip, toy)
        with pytest.raises(UserError, match='has no frame that can be read'):
            predict_video_file(str(clip), toy, 1, 0., lambda *_, **__: None, None)


def test_predict_video_file_stopped(tmp_path, toy, clip, capsys):
    times = []
    def keep(source, table, time):
        times.append(time)
        if len(times) == 3:
            raise KeyboardInterrupt
    table, summary = predict_video_file(str(clip), toy, 1, 0., keep, tmp_path)
    assert times == [0., .1, .2]
    assert capsys.readouterr().out == 'Stopped.\n'
    assert (len(table), summary.startswith('3 frames, 3 faces: 3 ')) == (3, True)


def test_plot_without_a_face(tmp_path, toy, clip, capsys):
    table = predict_video(clip, toy)
    with pytest.raises(UserError, match='no face was found'):
        plot_emotions(table[:0])
    save_plot(table[:0], tmp_path/'plot.png')
    assert (capsys.readouterr().out, [*tmp_path.iterdir()]) == ('No face, so no plot.\n', [])


def test_predict_chooses_by_source(toy, clip):
    assert list(predict(clip, toy))[:2] == ['time', 'face']
    assert list(predict(HOPPER, toy))[:2] == ['image', 'left']
    with pytest.raises(UserError, match='nothing could be read'):
        predict([clip], toy)


def test_expand_videos(clip):
    assert expand_videos([f'{clip.parent}/*.mp4', 'webcam:1']) == [str(clip), 'webcam:1']
    assert expand_videos(['gone*.mp4']) == ['gone*.mp4']
    assert expand_videos(['a.jpg', 'folder']) == []
    with pytest.raises(UserError, match='videos and images together'):
        expand_videos(['a.mp4', 'a.jpg'])
