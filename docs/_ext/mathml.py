"""Formulas as MathML, which browsers display without a script."""
import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.logging import getLogger

SIZES = r'\\[bB]igg?[lr]?(?![A-Za-z])'  # docutils does not know \Big; the brackets of MathML grow by themselves


def visit(translator, node):
    "Write a formula, inline or as a block."
    block = isinstance(node, nodes.math_block)
    try: formula = tex2mathml(re.sub(SIZES, '', node.astext()), as_block=block)
    except MathError as error: getLogger(__name__).warning('formula: %s', error, location=node)
    else: translator.body.append(f'<div class="formula">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app):
    "Register the renderer, which conf.py chooses."
    app.add_html_math_renderer('mathml', (visit, None), (visit, None))
    return dict(parallel_read_safe=True, parallel_write_safe=True)
