"""What all pages share: everything from the user's data is escaped, and what a template does not know is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def rendered(template: str, filters: dict[str, Callable[..., Any]], **values: Any) -> str:
    """The page of a template. A content policy in their base forbids scripts and requests besides."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("contextae.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(template).render(**values)
