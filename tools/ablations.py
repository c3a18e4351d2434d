"""What each ingredient of the recipe is worth: train `small` without it on FER2013, three seeds each.

    python tools/ablations.py FER2013.csv FER2013NEW.csv FOLDER [SEED ...]

Repeat the command to continue an interrupted one; several processes can share the seeds. FOLDER/ablations.json has the
scores of all finished runs; nbs/34_train.ipynb shows them from nbs/results/ablations.json.
"""
import sys
from dataclasses import asdict
from pathlib import Path

from fer2013_cnn.core import git_commit, machine_info, package_versions, progress_bar, write_json
from fer2013_cnn.data.load import load_data
from fer2013_cnn.sweep import is_finished, sweep_row, train_run
from fer2013_cnn.training.config import make_config
from fer2013_cnn.training.run import read_history

SEEDS = (0, 1, 2)
CHANGES = {'reference': {}, 'no FER+ votes': dict(ferplus_csv=''),
           'AdamW': dict(optimizer='adamw', learning_rate=2e-3), 'no label smoothing': dict(label_smoothing=0),
           'no erasing': dict(erasing=0), 'no rotation, no zoom': dict(rotation=0, zoom=0),
           'always resampled': dict(no_resample_prob=0)}


def configurations(ferplus_csv, seeds):
    "Name of each run → its settings; seed by seed, so that an interrupted series can be compared."
    shared = dict(model='small', epochs=12, ferplus_csv=ferplus_csv, ferplus_weight=1)
    return {f'{name}, seed {seed}': make_config('standard', **shared | change, seed=seed)
            for seed in seeds for name, change in CHANGES.items()}


def run_folder(folder, name): return folder/name.replace(', ', '-').replace(' ', '_')


def scores(run, config):
    "Settings, PublicTest scores and training time of a finished run."
    row, history = sweep_row(run), read_history(run)
    return dict(config=asdict(config) | dict(ferplus_csv=Path(config.ferplus_csv).name), accuracy=row['accuracy'],
                macro_f1=row['macro_f1'], val_loss=history.val_loss.iloc[-1], seconds=history.seconds.sum())


def summary(folder, dataset, ferplus_csv):
    runs = {name: (run_folder(folder, name), config) for name, config in configurations(ferplus_csv, SEEDS).items()}
    return dict(data=dict(name=dataset.name, fingerprint=dataset.fingerprint), machine=machine_info(),
                versions=package_versions(), git_commit=git_commit(),
                runs={name: scores(*entry) for name, entry in runs.items() if is_finished(entry[0])})


if __name__ == '__main__':
    data, ferplus_csv, folder, *seeds = sys.argv[1:]
    dataset, folder = load_data(data), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    configs = configurations(ferplus_csv, [*map(int, seeds)] or SEEDS)
    for name in progress_bar([*configs], 'ablations'):
        train_run(str(run_folder(folder, name)), asdict(configs[name]), data, None, 'raise', dataset.fingerprint)
        write_json(folder/'ablations.json', summary(folder, dataset, ferplus_csv))
