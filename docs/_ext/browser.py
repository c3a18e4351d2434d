"""The page that runs in the browser: part of the site if `make page` has built it."""
import shutil

LINK = '<a href="page/index.html">{}</a>'
TEXT = f"""# In the browser
{LINK.format('Open the page')}: it finds the faces of pictures or of the webcam, and classifies them as
[`fer2013 predict`](/nbs/51_predict.ipynb) does. The networks run in the browser, on one thread, and the page may
contact no server but its own: pictures stay on your computer. Once loaded, it works offline.

`make page` builds it: a folder of static files, for any web server.
"""


def write_page(folder, page):
    "Copy the page to the sources of the site and describe it; returns a sentence for the front page, or nothing."
    if not (page/'index.html').exists(): return ''
    shutil.copytree(page, folder/'_extra'/'page')
    (folder/'browser.md').write_text(TEXT, encoding='utf-8')
    return f"{LINK.format('Try it in your browser')}: pictures stay on your computer."
