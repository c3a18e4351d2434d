__version__ = "0.1.0"


def __getattr__(name):
    "`load_pretrained`, imported when it is first asked for: importing the package stays light."
    if name != 'load_pretrained': raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from .pretrained import load_pretrained
    return load_pretrained
