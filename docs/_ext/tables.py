"""Data frames and JSON files as Markdown tables."""
import json
import re

import pandas as pd


CLASS = '```{rst-class} data\n```\n\n'  # for the style sheet


def plain(text):
    "Text as Markdown: options as code, a dollar sign is no formula, a bar ends no cell."
    text = re.sub(r'(?<!\S)(--[a-z][\w-]*)', r'`\1`', text)
    return re.sub(r'(`[^`]*`)|([$<>|*])', lambda match: match[1] or f'\\{match[2]}', text)


def cell_text(value):
    "A value in a table; floating-point numbers have four digits."
    if isinstance(value, (list, tuple)): return ', '.join(map(cell_text, value))
    if isinstance(value, float): return '' if pd.isna(value) else f'{value:.4g}'
    return f'{value:,}' if type(value) is int else plain(str(value))


def markdown_table(frame):
    "A data frame as a Markdown table; the levels of its index are the first columns."
    levels = [frame.index.get_level_values(level).tolist() for level in range(frame.index.nlevels)]
    rows = [[*names, *values] for *names, values in zip(*levels, frame.astype(object).to_numpy().tolist())]
    head = [name or '' for name in frame.index.names] + [*frame.columns]
    return CLASS + '\n'.join(f"| {' | '.join(map(cell_text, row))} |" for row in [head, ['---'] * len(head), *rows])


def is_table(value):
    "Whether the values are columns: lists of one length, longer than three measurements."
    lengths = {len(column) if isinstance(column, list) else 0 for column in value.values()}
    return len(lengths) == 1 and min(lengths) > 3


def has_rows(value):
    "Whether the values are rows: dictionaries that end in something else than a dictionary, and are no tables."
    rows = [row for row in value.values() if isinstance(row, dict) and row and not is_table(row)]
    return len(rows) == len(value) > 0 and not isinstance([*rows[0].values()][-1], dict)


def row_table(value):
    "A table of rows. Nested settings that are the same in all rows are left out."
    frame = pd.json_normalize([*value.values()]).set_axis([*value])
    same = [name for name in frame if '.' in name and frame[name].nunique() == 1]
    return markdown_table(frame.drop(columns=same))


def json_tables(value, level):
    "The content of a JSON object as Markdown: tables, below headings from the given level on."
    if is_table(value): return [markdown_table(pd.DataFrame(value).set_index([*value][0]))]
    if has_rows(value): return [row_table(value)]
    facts = {name: part for name, part in value.items() if not isinstance(part, dict)}
    parts = [markdown_table(pd.Series(facts, dtype=object).to_frame(''))] if facts else []
    for name, part in value.items():
        if isinstance(part, dict): parts += [f"{'#' * level} {name}", *json_tables(part, level + 1)]
    return parts


def file_tables(path, level):
    "The content of a JSON file as Markdown."
    return json_tables(json.loads(path.read_text(encoding='utf-8')), level)
