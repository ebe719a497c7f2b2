"""cost: what a call cost, in whole nano-dollars, and who says so.

`Pricer` prices calls; `user_book` and `read_book` read prices that
people wrote down; `usd` and `usd_text` show nano-dollars to people.
"""

from pipeline.cost.book import Book, Dated, StatedPrice, read_book, user_book, user_file
from pipeline.cost.money import nanos, usd, usd_text, usd_texts
from pipeline.cost.pricer import Pricer, Quote
from pipeline.cost.rates import ModelPrice
from pipeline.cost.table import canonical
from pipeline.cost.terms import SEARCH_NANOS

__all__ = [
    "SEARCH_NANOS",
    "Book",
    "Dated",
    "ModelPrice",
    "Pricer",
    "Quote",
    "StatedPrice",
    "canonical",
    "nanos",
    "read_book",
    "usd",
    "usd_text",
    "usd_texts",
    "user_book",
    "user_file",
]
