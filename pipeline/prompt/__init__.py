"""prompt: a row to a request: templates, DATASET, the request key.

`Prompts` renders rows, `KeyRecipe` names what is asked, `check_examples` holds a job to its own examples, and
`cache_marks` marks what rows share right before a request is sent.
"""

from pipeline.prompt.cache import CacheMarks, cache_marks, cache_warnings
from pipeline.prompt.examples import check_examples
from pipeline.prompt.key import KeyRecipe, row_hash
from pipeline.prompt.prompts import Prompts, estimated_tokens, needed_columns
from pipeline.prompt.unnamed import prompt_warnings

__all__ = [
    "CacheMarks",
    "KeyRecipe",
    "Prompts",
    "cache_marks",
    "cache_warnings",
    "check_examples",
    "estimated_tokens",
    "needed_columns",
    "prompt_warnings",
    "row_hash",
]
