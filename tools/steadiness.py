"""How often the answer stays the same after ten changes that should not matter, by hand:

    python tools/steadiness.py FER2013.csv FOLDER TRUTH.json 'DESCRIPTION OF THE PHOTOGRAPHS'

FOLDER holds photographs, and TRUTH.json says where faces are in NAME.png or NAME.jpg: {NAME: {"faces": [{"box": [centre
right, centre down, width, height]}]}}; found faces whose centre lies in no such box are left out. Prints the JSON of
nbs/results/robustness/steadiness.json.
"""
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from fer2013_cnn.core import machine_info, package_versions
from fer2013_cnn.data.load import load_data
from fer2013_cnn.evaluation.robustness import changed_versions, steadiness_table
from fer2013_cnn.model.inference import open_pretrained
from fer2013_cnn.model.tta import average_views
from fer2013_cnn.prediction.faces import crop_face, find_faces, open_image

VIEWS = {f"{name}, {views} view{'s'*(views > 1)}": (name, views) for name, views in
         (('base', 1), ('base', 2), ('base', 8), ('base', 10), ('small', 8))}


def mirrored(image, faces):
    faces = faces.copy()
    faces[:, 0], faces[:, 5] = image.width - faces[:, 0] - faces[:, 2], -faces[:, 5]
    return ImageOps.mirror(image), faces


def moved(image, faces, right, down):
    "The squares moved by 2 of 48 pixels."
    faces = faces.copy()
    faces[:, :2] += faces[:, 2:3]*np.array([right, down])*2/48
    return image, faces


def resized(image, faces, factor):
    filter = Image.Resampling.BOX if factor < 1 else Image.Resampling.BILINEAR
    faces = np.column_stack([faces[:, :4]*factor, faces[:, 4:]])
    return image.resize([max(1, round(side*factor)) for side in image.size], filter), faces


def compressed(image, faces, quality):
    image.save(file := io.BytesIO(), 'JPEG', quality=quality)
    return Image.open(file).convert(image.mode), faces


def lit(image, faces, factor): return image.point(lambda value: min(255, round(factor*value))), faces


CHANGES = [lambda *it: it, mirrored, *[lambda *it, side=side: moved(*it, *side) for side in
                                       ((1, 0), (-1, 0), (0, 1), (0, -1))],  # the face moves the other way
           lambda *it: resized(*it, .5), lambda *it: resized(*it, 2), lambda *it: compressed(*it, 40),
           lambda *it: lit(*it, 1.3), lambda *it: lit(*it, .7)]


def true_faces(image, boxes):
    "The faces that are found in a photograph and lie in one of the boxes."
    faces, boxes = find_faces(image), np.reshape([box[:4] for box in boxes], (-1, 4))
    centres = faces[:, None, :2] + faces[:, None, 2:4]/2
    return faces[(np.abs(centres - boxes[:, :2]) < boxes[:, 2:]/2).all(2).any(1)]


def photograph_versions(folder, truth):
    "The crops of all faces, as they are and after each change; and the number of photographs."
    names = list(changed_versions(np.zeros((1, 48, 48), np.uint8)))
    crops, count = {name: [] for name in names}, 0
    for path in sorted(Path(folder).iterdir()):
        if not truth.get(path.stem, {}).get('faces'): continue
        image, count = open_image(path), count + 1
        faces = true_faces(image, [face['box'] for face in truth[path.stem]['faces']])
        for name, change in zip(names, CHANGES, strict=True):
            changed, squares = change(image, faces)
            crops[name] += [crop_face(changed, square) for square in squares]
    return {name: np.array(images) for name, images in crops.items()}, count


def tables(versions):
    "A table for each of `VIEWS`."
    found = {}
    for name, (model, views) in VIEWS.items():
        print(name, file=sys.stderr, flush=True)
        found[name] = steadiness_table(average_views(open_pretrained(model), views).predict, versions)
    return {name: table.to_dict('records') for name, table in found.items()}


def main(csv, folder, truth, description):
    dataset = load_data(csv)
    faces = dataset.images[dataset.indices('PublicTest')[::4]]
    versions, count = photograph_versions(folder, json.loads(Path(truth).read_text()))
    n = len(versions['as they are'])
    print(json.dumps(dict(
        public_test=f'PublicTest of {dataset.description}: every fourth face, {len(faces)} of them',
        photographs=f'{n} faces in {count} photographs: {description}',
        photograph_tables=tables(versions), public_test_tables=tables(changed_versions(faces)),
        machine=machine_info(), load_average=round(os.getloadavg()[0], 1), versions=package_versions()),
        indent=1, ensure_ascii=False))


if __name__ == '__main__': main(*sys.argv[1:])
