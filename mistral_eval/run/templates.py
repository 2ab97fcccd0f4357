"""One Jinja template compiled once.

lm-eval's `apply_template` compiles its template at each use: once per question and once more per
shot, which for 14042 five-shot questions takes longer than everything else together. The
replacement renders the same text from the same environment.
"""

from functools import lru_cache
from typing import Any

import lm_eval.utils
from jinja2 import Template


@lru_cache(maxsize=1024)
def _compiled(template: str) -> Template:
    compiled: Template = lm_eval.utils.env.from_string(template)
    return compiled


def apply_template(template: str, doc: dict[str, Any]) -> str:
    """Render `template` with the columns of `doc`, as `lm_eval.utils.apply_template` does."""
    return _compiled(template).render(**doc)


def compile_templates_once() -> None:
    """Let lm-eval's tasks of this process use the cached templates."""
    lm_eval.utils.apply_template = apply_template
