"""Facial expressions from 48 × 48 grey faces: networks trained on FER2013, and how good they are."""
__version__ = "0.1.0"

_PUBLIC = {
    'core': ('CLASSES', 'SPLITS', 'Dataset', 'UserError', 'show_faces'),
    'data.synthetic': ('synthetic_dataset',),
    'data.load': ('load_data', 'load_ferplus'),
    'data.audit': ('audit',),
    'model.zoo': ('build_model',),
    'model.inference': ('load_network', 'load_pretrained', 'open_classifier'),
    'training.config': ('TrainConfig', 'make_config'),
    'training.run': ('load_predictions', 'new_run', 'read_history'),
    'training.loop': ('predict_split', 'train'),
    'evaluation.metrics': ('evaluate_run',),
    'evaluation.tables': ('class_table', 'metric_table'),
    'evaluation.plots': ('plot_confusion', 'plot_history'),
    'evaluation.external': ('evaluate_model',),
    'evaluation.ensemble': ('make_ensemble',),
    'evaluation.grad_cam': ('grad_cam',),
    'prediction.images': ('annotate', 'predict_faces'),
    'prediction.video': ('predict', 'predict_video'),
    'prediction.export': ('export_network',),
    'reporting': ('report',),
    'scale': ('report_each', 'run_jobs'),
    'sweep': ('train_sweep',),
    'bulk': ('predict_to',),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = ['__version__', *_MODULE_OF]


def __getattr__(name):
    "Import a public name when it is first used, so that importing the package itself stays fast."
    if name not in _MODULE_OF: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    return getattr(import_module(f'{__name__}.{_MODULE_OF[name]}'), name)


def __dir__(): return sorted({*globals(), *_MODULE_OF})
