"""Great Expectations' Data Docs page of a validation, as one file that needs nothing else.

GX's own page loads styles and scripts from five places in the internet. Here they are replaced by a style of
our own; the scripts only folded and filtered.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from great_expectations.core import ExpectationSuiteValidationResult

_OUTSIDE = (
    r"<script\b.*?</script>",
    r"<style\b.*?</style>",
    r"<link\b[^>]*>",
    r"<nav\b.*?</nav>",
    r"<footer\b.*?</footer>",
)


def render(result: ExpectationSuiteValidationResult, title: str, facts: dict[str, str]) -> bytes:
    """The page as HTML.

    :param facts: what was validated, shown at the top.
    """
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(result))
    for pattern in _OUTSIDE:
        page = re.sub(pattern, "", page, flags=re.DOTALL | re.IGNORECASE)
    return page.encode()
