"""The page that runs in the browser: the answers of Python, no other host, and no network once it is loaded."""
import base64
import http.server
import importlib.util
import io
import json
import re
import shutil
import threading
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from common import ROOT
from matplotlib.cbook import get_sample_data
from PIL import Image

from fer2013_cnn.prediction import faces
from fer2013_cnn.prediction.images import photo_classifier

pytestmark = pytest.mark.slow

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
if not CHROMIUM: pytest.skip('no Chromium', allow_module_level=True)
if not shutil.which('npm'): pytest.skip('no npm', allow_module_level=True)

PHOTO = get_sample_data('grace_hopper.jpg', asfileobj=False)
MAX_WIRE_BYTES = 8_000_000
ANALYSE = """async ([base64, type, network]) => {
  const {decodeImage, readPixels} = await import('./pixels.js')
  const {findFaces} = await import('./detect.js')
  const {predict} = await import('./main.js')
  const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0))
  const image = readPixels(await decodeImage(new Blob([bytes], {type})))
  document.getElementById('network').value = network
  await predict(image, [])  // loads the network
  const started = performance.now(), found = await findFaces(image), searched = performance.now()
  const rows = await predict(image, found), ended = performance.now()
  return {search: searched - started, face: (ended - searched)/Math.max(1, rows.length),
          rows: rows.map(({face, crop, probabilities}) => ({face, crop: [...crop], probabilities}))}
}"""


class Handler(http.server.SimpleHTTPRequestHandler):
    "Serves files and counts the bytes of their content."
    sent = 0

    def copyfile(self, source, outputfile):
        data = source.read()
        Handler.sent += len(data)
        outputfile.write(data)

    def log_message(self, *args): pass


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "The built page."
    spec = importlib.util.spec_from_file_location('build_page', ROOT/'page'/'build.py')
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    folder = tmp_path_factory.mktemp('page')/'page'
    size = builder.build(folder)
    print(f'\nloads {size:,} bytes')
    assert size < MAX_WIRE_BYTES
    return folder


@pytest.fixture(scope='module')
def address(folder):
    "The address of a local server for the page."
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    "Chromium with a camera that shows the photograph."
    from playwright.sync_api import sync_playwright
    video = tmp_path_factory.mktemp('camera')/'photo.mjpeg'
    video.write_bytes(4*encode(Image.open(PHOTO).convert('RGB')))
    camera = ['--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream',
              f'--use-file-for-fake-video-capture={video}']
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox', *camera])
        yield browser
        browser.close()


def open_page(context, address):
    "Open the page and wait until it is ready; collects requests and messages of the console in its attributes."
    page = context.new_page()
    page.requests, page.problems = [], []
    def keep(message):
        if message.type in ('error', 'warning'): page.problems.append(message.text)
    page.on('console', keep)
    page.on('pageerror', lambda error: page.problems.append(str(error)))
    context.on('request', lambda request: page.requests.append(request.url))
    page.goto(address)
    wait_until_ready(page)
    return page


def wait_until(page, selector, text='', seconds=120):
    "Wait for an element with some text. (Playwright's wait_for_function is forbidden by the page's policy.)"
    page.locator(selector, has_text=text).first.wait_for(timeout=1000*seconds)


def wait_until_ready(page):
    wait_until(page, '#choose:enabled, #error:not(:empty)')
    assert page.inner_text('#error') == '' and page.inner_text('#status').startswith('Ready')


@pytest.fixture(scope='module')
def opened(browser, address):
    context = browser.new_context(viewport=dict(width=1280, height=900))
    yield open_page(context, address)
    context.close()


@pytest.fixture
def page(opened, address):
    "The page, which must not have printed an error or sent a request to another host when a test ends."
    yield opened
    check(opened, address)


def check(page, address):
    hosts = {urlsplit(url).netloc for url in page.requests if urlsplit(url).scheme not in ('blob', 'data')}
    assert hosts == {urlsplit(address).netloc} and page.problems == []


def collage(photo):
    "Four copies of a photograph, at different sizes."
    canvas = Image.new('RGB', (1700, 1500), '#778')
    for place, width in [((0, 0), 900), ((950, 20), 512), ((30, 1080), 300), ((900, 850), 180)]:
        canvas.paste(photo.resize((width, round(width*photo.height/photo.width)), Image.Resampling.LANCZOS), place)
    return canvas


def encode(image, **options):
    "The bytes of a JPEG file."
    file = io.BytesIO()
    image.save(file, 'JPEG', quality=92, **options)
    return file.getvalue()


def pictures():
    "Name → bytes of an image file."
    photo = Image.open(PHOTO).convert('RGB')
    turned = photo.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90° clockwise
    small = photo.resize((150, 176), Image.Resampling.LANCZOS)
    large = photo.resize((2611, 3060), Image.Resampling.BICUBIC)
    return dict(photo=Path(PHOTO).read_bytes(), rotated=encode(photo.rotate(25, Image.Resampling.BICUBIC, expand=True)),
                collage=encode(collage(photo)), orientation=encode(turned, exif=exif), small=encode(small),
                large=encode(large), none=encode(Image.new('RGB', (300, 200), '#456')))


def expected(data, network):
    "Boxes, crops and probabilities of Python."
    image, classifier = faces.open_image(data), photo_classifier(network)
    boxes = faces.find_faces(image)
    crops = np.array([faces.crop_face(image, box) for box in boxes], np.uint8).reshape(-1, 48, 48)
    return boxes, crops, classifier.predict(crops)


@pytest.mark.parametrize('network', ['base', 'small'])
@pytest.mark.parametrize('name', list(pictures()))
def test_same_faces_and_answers_as_python(page, name, network):
    data = pictures()[name]
    boxes, crops, probabilities = expected(data, network)
    found = page.evaluate(ANALYSE, [base64.b64encode(data).decode(), 'image/jpeg', network])
    assert len(found['rows']) == len(boxes) == dict(collage=4, none=0).get(name, 1)
    print(f"\n{name}, {network}: {found['search']:.0f} ms for the search, {found['face']:.1f} ms a face")
    if not len(boxes): return
    ours = {key: np.array([row[key] for row in found['rows']]) for key in ('face', 'crop', 'probabilities')}
    difference = np.abs(ours['face'] - boxes)
    print(f"boxes {difference[:, :4].max():.3f} pixels, angle {difference[:, 5].max():.3f}°, confidence "
          f"{difference[:, 4].max():.4f}, crops {np.abs(ours['crop'].reshape(crops.shape) - crops.astype(int)).max()} "
          f"grey values, probabilities {np.abs(ours['probabilities'] - probabilities).max():.4f}")
    assert difference[:, :4].max() <= 2
    assert np.abs(ours['probabilities'] - probabilities).max() <= .01


def test_faces_of_a_video_are_followed_as_in_python(page):
    data = pictures()['rotated']
    image = faces.open_image(data)
    before = faces.find_faces(image) + [9, -6, 0, 0, 0, 3]
    after = page.evaluate("""async ([base64, faces]) => {
      const {decodeImage, readPixels} = await import('./pixels.js'), {followFaces} = await import('./detect.js')
      const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0))
      return followFaces(readPixels(await decodeImage(new Blob([bytes]))), faces)
    }""", [base64.b64encode(data).decode(), before.tolist()])
    assert np.abs(np.array(after) - faces.follow_faces(image, before)).max() < .1


def test_time_of_a_face(page):
    "Printed; the limit is far above what one thread needs, because other programs may run."
    data = base64.b64encode(pictures()['photo']).decode()
    for network in ('base', 'small'):
        times = [page.evaluate(ANALYSE, [data, 'image/jpeg', network])['face'] for _ in range(9)]
        print(f'\n{network}: {np.median(times):.1f} ms a face, from {min(times):.1f} to {max(times):.1f}')
        assert np.median(times) < 600


def test_pictures_are_shown_one_after_another(page, tmp_path):
    for name, data in pictures().items(): (tmp_path/f'{name}.jpg').write_bytes(data)
    (tmp_path/'text.jpg').write_text('no picture')
    names = ['photo.jpg', 'text.jpg', 'collage.jpg']
    page.set_input_files('#files', [tmp_path/name for name in names])
    wait_until(page, '#results section:nth-child(2) .face:nth-child(4)')
    assert page.locator('#results .face').count() == 5
    assert page.inner_text('#error') == 'text.jpg: not an image that this browser can read'
    cards = page.locator('#results .face')
    for i in range(5):
        shares = json.loads(cards.nth(i).get_attribute('data-probabilities'))
        assert cards.nth(i).locator('dt').count() == len(shares) == 7 and abs(sum(shares) - 1) < .001
        assert ('uncertain' in cards.nth(i).inner_text()) == (max(shares) < .4)
    labels = json.loads(page.locator('#results canvas[role=img]').nth(1).get_attribute('data-labels'))
    boxes = [json.loads(cards.nth(i).get_attribute('data-face'))[:4] for i in range(1, 5)]
    scale = 1600/1700  # of the canvas
    squares = [np.array([x, y, x + width, y + height])*scale for x, y, width, height in boxes]
    for i, (left, top, right, bottom) in enumerate(labels):
        for other in [*labels[:i], *squares]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


@pytest.mark.parametrize('highest, uncertain', [(.39, True), (.41, False)])
def test_uncertain(page, highest, uncertain):
    found = page.evaluate("""async row => {
      const {min_confidence} = await (await fetch('about.json')).json()
      return (await import('./classify.js')).answer(row, min_confidence)
    }""", [.1, highest, .2])
    assert found == dict(index=1, probability=highest, uncertain=uncertain)


def test_drop(page):
    page.evaluate("""async base64 => {
      const bytes = Uint8Array.from(atob(base64), letter => letter.charCodeAt(0)), dataTransfer = new DataTransfer()
      dataTransfer.items.add(new File([bytes], 'dropped.jpg', {type: 'image/jpeg'}))
      document.getElementById('drop').dispatchEvent(new DragEvent('drop', {dataTransfer, bubbles: true}))
    }""", base64.b64encode(pictures()['small']).decode())
    wait_until(page, 'figcaption', 'dropped.jpg: 1 face')
    assert page.locator('#results section').count() == page.locator('#results .face').count() == 1


def test_webcam(page):
    page.click('#webcam')
    wait_until(page, 'figcaption', 'Webcam: 1 face')
    wait_until(page, '.face')
    assert page.get_attribute('#webcam', 'aria-pressed') == 'true' and page.inner_text('#error') == ''
    page.click('#webcam')
    assert page.get_attribute('#webcam', 'aria-pressed') == 'false'


def test_limits_of_use_are_always_visible(page):
    from fer2013_cnn.evaluation.tables import FER2013_LIMITS
    from fer2013_cnn.model.inference import usage_notice
    page.select_option('#network', 'base')
    name, address = re.search(r'\[(.+)\]\((.+?)\)', FER2013_LIMITS).groups()
    assert page.inner_text('#notice') == usage_notice('base')
    assert page.inner_text('#limits') == FER2013_LIMITS.replace(f'[{name}]({address})', name)
    assert page.get_attribute('#limits a', 'href') == address
    assert page.is_visible('#notice') and page.is_visible('#limits')


@pytest.mark.parametrize('width', [390, 1280])
def test_nothing_is_wider_than_the_page(page, width):
    page.set_viewport_size(dict(width=width, height=844))
    assert page.evaluate('document.documentElement.scrollWidth') <= width


def test_each_file_is_transferred_once_and_the_page_works_offline(browser, address):
    context, before = browser.new_context(), Handler.sent
    page = open_page(context, address)
    print(f'\n{len(page.requests)} requests, {Handler.sent - before:,} bytes: this server does not compress text')
    assert Handler.sent - before < MAX_WIRE_BYTES + 200_000
    context.set_offline(True)
    page.reload()
    wait_until_ready(page)
    found = page.evaluate(ANALYSE, [base64.b64encode(pictures()['photo']).decode(), 'image/jpeg', 'base'])
    assert len(found['rows']) == 1
    check(page, address)
    page.select_option('#network', 'small')
    wait_until(page, '#error', 'check the connection')
    context.close()


def test_the_policy_forbids_other_hosts(browser, address):
    context = browser.new_context()
    page = open_page(context, address)
    sent = page.evaluate("fetch('http://127.0.0.2:9/').then(() => 'sent', error => error.message)")
    assert sent == 'Failed to fetch' and 'Content Security Policy' in page.problems[0]
    context.close()
