__version__ = "0.1.0"

LAZY = {'load_pretrained': 'pretrained', 'predict_faces': 'predict', 'draw_faces': 'predict'}


def __getattr__(name):
    "The names in `LAZY`, imported when they are first asked for: importing the package stays light."
    if name not in LAZY: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    return getattr(import_module(f'{__name__}.{LAZY[name]}'), name)


def __dir__(): return [*globals(), *LAZY]
