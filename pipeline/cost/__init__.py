"""cost: what a call cost, in whole nano-dollars, and who says so.

`Pricer` prices calls; `usd` and `usd_text` show nano-dollars to people.
"""

from pipeline.cost.money import nanos, usd, usd_text
from pipeline.cost.pricer import Pricer
from pipeline.cost.rates import ModelPrice

__all__ = ["ModelPrice", "Pricer", "nanos", "usd", "usd_text"]
