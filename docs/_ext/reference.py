"""The pages of the modules and of the command line."""
import importlib
import inspect
from typing import Annotated, get_origin

import typer
from notebooks import toctree
from repository import module_of, notebook_of, NOTEBOOKS, numbered_title, PAGES, ROOT, SETTINGS, short_name
from tables import plain

PACKAGE = SETTINGS['lib_name']
PROGRAM = SETTINGS['console_scripts'].partition('=')[0]


def first_line(obj):
    "The first line of a docstring."
    return (obj.__doc__ or '').partition('\n')[0]


def directive(name, obj):
    "The autodoc directive for a public name; none for an option of the command line, which has its own page."
    if get_origin(obj) is Annotated: return ''
    if inspect.isclass(obj): return f'.. autoclass:: {name}\n   :members:\n'
    if inspect.isfunction(inspect.unwrap(obj)): return f'.. autofunction:: {name}\n'
    shown = '   :no-value:\n' if len(repr(obj)) > 200 or str(ROOT) in repr(obj) else ''
    return f'.. autodata:: {name}\n{shown}'


def module_page(path):
    "The description of a module, from its docstrings and docments."
    module = importlib.import_module(module_of(path))
    directives = [directive(name, getattr(module, name)) for name in module.__all__]
    return '\n'.join([f"# {short_name(path)}", '', first_line(module), '',
                      f'`{module.__name__}`, written in the notebook [{numbered_title(path)}](/{PAGES[path]}).', '',
                      '```{eval-rst}', f'.. py:currentmodule:: {module.__name__}', '', *directives, '```', ''])


def public_names():
    "The names that the package itself offers, with a line each."
    package = importlib.import_module(PACKAGE)
    for name, module in package._MODULE_OF.items():
        obj = getattr(package, name)
        text = plain(first_line(obj)) if callable(obj) else f'`{obj}`'
        yield f'| {{py:obj}}`{name} <{PACKAGE}.{module}.{name}>` | {text} |'


def index_page():
    "The names of the package, and the list of its modules."
    modules = [*map(short_name, NOTEBOOKS)]
    summaries = [first_line(importlib.import_module(module_of(path))) for path in NOTEBOOKS]
    rows = [f'| [{module}]({module}.md) | {summary} |' for module, summary in zip(modules, summaries)]
    return '\n'.join(['# API', '', f'`from {PACKAGE} import ...` offers these names:', '',
                      '| name | |', '|---|---|', *public_names(), '', '## Modules', '',
                      '| module | |', '|---|---|', *rows, '', toctree(modules)])


def parameter_entry(parameter, context):
    "An option or argument with its help."
    names, text = parameter.get_help_record(context)
    return f'```{{option}} {names}\n{plain(text)}\n```\n'


def command_section(name, command):
    "A subcommand: what it does, its usage, arguments and options."
    context = command.context_class(command, info_name=f'{PROGRAM} {name}')
    parameters = [parameter_entry(parameter, context) for parameter in command.get_params(context)]
    usage = command.get_usage(context).partition(': ')[2]
    return '\n'.join([f'## {name}', '', plain(command.help), '', f'```text\n{usage}\n```', '',
                      f'```{{program}} {PROGRAM} {name}\n```', '', *parameters])


def cli_page():
    "The reference of the command line, from the help texts of the application."
    module = f'{PACKAGE}.cli'
    page = notebook_of(module)
    group = typer.main.get_command(importlib.import_module(module).app)
    sections = [command_section(name, command) for name, command in group.commands.items()]
    intro = (f'{plain(group.help)} The notebook [{numbered_title(page)}](/{PAGES[page]}) shows each command with its '
             'output.')
    return '\n'.join(['# Command line', '', intro, '', *sections])


def write_pages(folder):
    "Write the pages of the API and of the command line."
    (folder/'api').mkdir(parents=True)
    (folder/'api'/'index.md').write_text(index_page(), encoding='utf-8')
    for path in NOTEBOOKS:
        (folder/'api'/f'{short_name(path)}.md').write_text(module_page(path), encoding='utf-8')
    (folder/'cli.md').write_text(cli_page(), encoding='utf-8')
