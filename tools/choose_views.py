"""Choose the views that `predict` averages, on PublicTest, by hand:

    python tools/choose_views.py FER2013.csv

A view is a face in one of five sizes at one of five places, and goes with its mirror image. All groups of up to four
are compared by the means over both networks. Those with a lower accuracy than the face and its mirror image are left
out; the best of the others is the one whose answers change least after the ten changes of `changed_versions`. Prints
the JSON of nbs/results/tta_views.json, without what its key first_rule says. Takes half an hour on one core.
"""
import json
import sys
from itertools import combinations

import numpy as np

from fer2013_cnn.core import machine_info, package_versions, progress_bar
from fer2013_cnn.data.load import load_data
from fer2013_cnn.evaluation.robustness import changed_versions
from fer2013_cnn.model.inference import open_pretrained
from fer2013_cnn.model.tta import zoom

NETWORKS = ('base', 'small')
SCALES = (1, .88, .94, 1.06, 1.12)
PLACES = ((0, 0), (0, -2), (0, 2), (-2, 0), (2, 0))  # pixels to the right and down
VIEWS = [(scale, *place) for scale in SCALES for place in PLACES]
FACE, TEN = [0], [VIEWS.index((scale, 0, 0)) for scale in SCALES]
KEPT = 5  # groups of each size


def view_probabilities(name, versions):
    "The means of each view and its mirror image, (views, versions, N, C)."
    network, rows = open_pretrained(name), []
    def predict(images):
        parts = [np.ascontiguousarray(images[start:start + 256]) for start in range(0, len(images), 256)]
        return np.concatenate([network.predict_batch(part) for part in parts])
    for view in progress_bar(VIEWS, name):
        zoomed = [zoom(images[..., None], *view) for images in versions]
        rows.append([(predict(images) + predict(images[:, :, ::-1]))/2 for images in zoomed])
    return np.array(rows, np.float32)


def scores(probabilities, group, labels):
    "Of the mean of the views of a group: the share of the same answers, accuracy, log loss."
    mean = probabilities[list(group)].mean(0)
    classes = mean.argmax(-1)
    return dict(same=float((classes[1:] == classes[0]).mean()), accuracy=float((classes[0] == labels).mean()),
                log_loss=float(-np.log(mean[0, np.arange(len(labels)), labels]).mean()))


def main(csv):
    dataset = load_data(csv)
    public = dataset.indices('PublicTest')
    labels, versions = dataset.labels[public], list(changed_versions(dataset.images[public]).values())
    probabilities = {name: view_probabilities(name, versions) for name in NETWORKS}
    def row(group):
        each = {name: scores(values, group, labels) for name, values in probabilities.items()}
        mean = {key: float(np.mean([one[key] for one in each.values()])) for key in ('same', 'accuracy', 'log_loss')}
        return dict(views=[VIEWS[i] for i in group], mean=mean, **each)
    two, best = row(FACE), {}
    for size in (2, 3, 4):
        rows = [row(group) for group in progress_bar(list(combinations(range(len(VIEWS)), size)), f'groups of {size}')]
        rows = [each for each in rows if each['mean']['accuracy'] >= two['mean']['accuracy']]
        best[2*size] = sorted(rows, key=lambda each: -each['mean']['same'])[:KEPT]
    print(json.dumps(dict(split=f'PublicTest of {dataset.description}', faces=len(labels), two_views=two,
                          ten_views=row(TEN), best=best, machine=machine_info(), versions=package_versions()),
                     indent=1))


if __name__ == '__main__': main(*sys.argv[1:])
