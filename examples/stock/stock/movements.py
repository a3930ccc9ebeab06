import csv
from typing import NamedTuple


class Movement(NamedTuple):
    item: str
    count: int


def read_movements(lines):
    """Rows of `item,count`; a negative count left."""
    for row in csv.DictReader(lines):
        yield Movement(row["item"], int(row["count"]))
