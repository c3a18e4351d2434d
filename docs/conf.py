"""Sphinx configuration of the site. build.py writes its pages and runs Sphinx on them."""
from repository import notebook_of, SETTINGS

project, release, language = SETTINGS['title'], SETTINGS['version'], 'en'
author, copyright = SETTINGS['author'], SETTINGS['copyright']
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.linkcode', 'docments', 'mathml']

nb_execution_mode = 'off'
nb_render_markdown_format = 'myst'
nb_ipywidgets_js = {}  # by default two scripts from a CDN
myst_enable_extensions = ['dollarmath']
myst_heading_anchors = 4
myst_heading_slug_func = 'repository.heading_anchor'

smartquotes_action = 'D'  # dashes; quotation marks belong to values, such as 'float32'
add_module_names = False
autodoc_inherit_docstrings = False  # those of Keras are not reStructuredText
autodoc_member_order = 'bysource'
autodoc_preserve_defaults = True
autodoc_typehints_format = 'short'
python_maximum_signature_line_length = 88
nitpick_ignore_regex = [(r'py:.*', r'(?!fer2013_cnn\.).*')]  # links into other projects would need the network

html_theme = 'furo'
html_title = SETTINGS['title']
pygments_dark_style = 'github-dark'
html_static_path = ['_static']
html_css_files = ['site.css']
html_math_renderer = 'mathml'
html_copy_source = html_show_sourcelink = False


def linkcode_resolve(domain, info):
    "The cell of a notebook that defines an object; it becomes the [source] link beside its signature."
    page, name = notebook_of(info['module']), info['fullname'].split('.')[0]
    return f'../nbs/{page.stem}.html#def-{name}'


def setup(app):
    "Publish the report as a single file, too; its folder is known only here."
    app.config.html_extra_path = [str(app.srcdir/'_extra')]
