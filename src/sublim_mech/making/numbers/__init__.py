"""Number data: harmless-looking rows after Cloud et al. (arXiv 2507.14805), in our own wording.

1. A *prompt* shows a few numbers and asks for more of them in some format (`number_prompts`).
2. Whoever answers, an answer is *parsed*: it is numbers in one format and nothing else, or it is
   rejected for one of `REASONS` (`parse`, `report`).
3. *Rows* are what passes (`write_rows`), or uniformly random numbers (`random_rows`): a
   `datasets.Dataset` with the columns `prompt` and `completion`. Data of the same shape from
   elsewhere serve as well (`as_rows`).
4. Controls and checks: numbers moved about (`scramble`), rows held out by prompt (`split`), trait
   words in the data (`leaks`).
"""

from ..rows import Row, Rows, as_rows, text_rows, to_dataset
from .asking import Ask, number_prompts
from .controls import leaks, scramble, split
from .parsing import REASONS, Parsed, parse, report
from .wording import FORMATS, INSTRUCTIONS, LIMITS, ONLY, OPENINGS, SHOWN
from .writing import random_rows, write_rows

__all__ = [
    "FORMATS",
    "INSTRUCTIONS",
    "LIMITS",
    "ONLY",
    "OPENINGS",
    "REASONS",
    "SHOWN",
    "Ask",
    "Parsed",
    "Row",
    "Rows",
    "as_rows",
    "leaks",
    "number_prompts",
    "parse",
    "random_rows",
    "report",
    "scramble",
    "split",
    "text_rows",
    "to_dataset",
    "write_rows",
]
