"""Evidently's page, sealed: its data are data, and no script runs in it but those that Evidently wrote.

The policy is part of the page, so that it also holds where the page is opened as a file, from MLflow or from a bucket.
"""

from __future__ import annotations

import base64
import hashlib
import re

from monitoring.interface import PermanentMonitoringError

# One line of JSON each: a text in it may say </script>, which ends a script wherever it stands, but holds no line break
_DATA = re.compile(r"(<script>\n    var (\w+) = )(.*)(;\n    var additional_graphs_\2 = )(.*)(;\n</script>)")
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_SCRIPTS = 4  # the data, a global name, the library, the call that draws
_HEAD = '<meta charset="UTF-8">'


def sealed(page: str) -> str:
    """*page* with its data escaped and a Content-Security-Policy that names its scripts by their hashes.

    Raises PermanentMonitoringError for a page that is not of the form that Evidently gives it.
    """
    page, found = _DATA.subn(lambda part: part[1] + _escaped(part[3]) + part[4] + _escaped(part[5]) + part[6], page)
    page = page.replace("\r\n", "\n").replace("\r", "\n")  # as a browser reads it
    scripts = [script[1] for script in _SCRIPT.finditer(page)]
    if found != 1 or len(scripts) != _SCRIPTS or page.count("</script>") != _SCRIPTS or page.count(_HEAD) != 1:
        raise PermanentMonitoringError(
            f"Evidently's page has {len(scripts)} scripts and {found} blocks of data; expected {_SCRIPTS} and 1, as version"
            " 0.7.23 writes it. Pin that version, or adapt monitoring/evidence/evidently_page.py."
        )
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts
    )
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; font-src data:;"
        " base-uri 'none'; form-action 'none'"
    )
    return page.replace(_HEAD, f'{_HEAD}<meta http-equiv="Content-Security-Policy" content="{policy}">', 1)


def _escaped(data: str) -> str:
    """JSON in which nothing can end the script around it; it says the same."""
    return data.replace("<", "\\u003c").replace(">", "\\u003e")
