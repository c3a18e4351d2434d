"""What each ingredient of the recipe is worth: train `small` without it, three seeds each, on FER2013.

    python tools/ablations.py fer2013.csv fer2013new.csv RUNS [TEACHER]

Repeat the command to continue an interrupted one. Finished runs are summarised in RUNS/ablations.json, whose content
nbs/34_train.ipynb shows from nbs/results/ablations.json. TEACHER is a run or an ensemble."""
import sys
from dataclasses import asdict
from pathlib import Path

from fer2013_cnn.core import git_commit, machine_info, package_versions, progress_bar, write_json
from fer2013_cnn.data.load import load_data
from fer2013_cnn.sweep import is_finished, sweep_row, train_run
from fer2013_cnn.training.config import make_config
from fer2013_cnn.training.run import read_history

SEEDS = 3
CHANGES = {'reference': {}, 'no FER+ votes': dict(ferplus_csv=''),
           'AdamW': dict(optimizer='adamw', learning_rate=2e-3), 'no averaged weights': dict(ema_momentum=0),
           'no label smoothing': dict(label_smoothing=0), 'no mixup': dict(mixup_alpha=0),
           'no erasing': dict(erasing=0), 'no rotation, no zoom': dict(rotation=0, zoom=0),
           'always resampled': dict(no_resample_prob=0), 'class weights': dict(class_balance=.5),
           'blur and noise': dict(blur=.2, noise=5)}


def configurations(ferplus_csv: str, teacher: str | None) -> dict:
    "Name of each run → its settings; seed by seed, so that an interrupted series can be compared."
    changes = CHANGES | ({'teacher': dict(teacher=teacher, distillation_weight=.7)} if teacher else {})
    shared = dict(model='small', epochs=16, ema_momentum=.99, ferplus_csv=ferplus_csv, ferplus_weight=1)
    return {f'{name}, seed {seed}': make_config('standard', **shared | change, seed=seed)
            for seed in range(SEEDS) for name, change in changes.items()}


def summary(runs: dict, dataset) -> dict:
    "Settings and PublicTest scores of the finished runs."
    finished = {name: (run, config) for name, (run, config) in runs.items() if is_finished(run)}
    rows = {}
    for name, (run, config) in finished.items():
        files = {setting: Path(getattr(config, setting)).name for setting in ('ferplus_csv', 'teacher')}  # no folders
        scores = {score: float(sweep_row(run)[score]) for score in ('accuracy', 'macro_f1')}
        history = read_history(run)
        rows[name] = dict(config=asdict(config) | files, **scores, val_loss=float(history.val_loss.iloc[-1]),
                          seconds=float(history.seconds.sum()))
    return dict(data=dict(name=dataset.name, fingerprint=dataset.fingerprint), machine=machine_info(),
                versions=package_versions(), git_commit=git_commit(), runs=rows)


if __name__ == '__main__':
    data, ferplus_csv, folder, *teacher = sys.argv[1:]
    dataset, folder = load_data(data), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    configs = configurations(ferplus_csv, *(teacher or [None]))
    runs = {name: (folder/name.replace(', ', '-').replace(' ', '_'), config) for name, config in configs.items()}
    for name in progress_bar([*runs], 'ablations'):
        run, config = runs[name]
        train_run(str(run), asdict(config), data, None, 'raise', dataset.fingerprint)
        write_json(folder/'ablations.json', summary(runs, dataset))
