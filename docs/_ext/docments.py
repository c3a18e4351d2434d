"""API pages: docments, the comments behind parameters, become lists of parameters, and `names` become links."""
import importlib
import inspect
import re
from functools import cache

from fastcore.docments import docments
from repository import NOTEBOOKS, module_of


@cache
def modules_of_names():
    "Public name → the modules that define it."
    found = {}
    for path in NOTEBOOKS:
        for name in importlib.import_module(module_of(path)).__all__: found.setdefault(name, []).append(module_of(path))
    return found


def link(name, module):
    "A name of the package as a link to its description, anything else as code."
    modules = modules_of_names().get(name, [])
    target = module if module in modules else modules[0] if len(modules) == 1 else None
    return f':py:obj:`{name} <{target}.{name}>`' if target else f'``{name}``'


def to_rst(text, module):
    "A docstring or comment with `code` as reStructuredText."
    parts = re.split(r'`([^`]+)`', text)
    parts[::2] = [re.sub(r'([\\*|_])', r'\\\1', part) for part in parts[::2]]
    parts[1::2] = [link(part, module) for part in parts[1::2]]
    return r'\ '.join(parts)  # an escaped space: nothing, but it ends and begins inline markup


def comments(obj):
    "Parameter → its comment; `return` → that of the result."
    found, source = docments(obj, returns=True), inspect.getsource(obj)
    found |= dict(re.findall(r'\*\*(\w+) *# *(.*)', source))  # fastcore overlooks the comment of **options
    for name in [*found]:
        if (found[name] or '').startswith('→'):  # def load_network(run: str | Path):  # → keras.Model
            found |= {'return': found[name].removeprefix('→'), name: None}
    return {name: ' '.join(comment.split()) for name, comment in found.items() if comment}


def process_docstring(app, what, name, obj, options, lines):
    "Add the comments of a function, method or class to its docstring, as a list of fields."
    if what == 'data': return lines.clear()  # the docstring of its type
    module = getattr(obj, '__module__', None) or name
    lines[:] = [to_rst(line, module) for line in lines]
    if what not in ('function', 'method', 'class'): return
    lines.append('')
    for parameter, comment in comments(obj).items():
        field = 'returns' if parameter == 'return' else f'param {parameter}'
        lines.append(f':{field}: {to_rst(comment, module)}')
    lines.append('')


def setup(app):
    "Register the hook."
    app.connect('autodoc-process-docstring', process_docstring)
    return dict(parallel_read_safe=True)
