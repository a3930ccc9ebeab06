"""A program of several files: reads movements as CSV from standard input, prints what is in stock, and fails when more left than came.

cocore deploy examples/stock && cocore run stock --below 5 < movements.csv
"""

import sys

from stock.ledger import Ledger, Shortage
from stock.movements import read_movements


def main(arguments):
    below = int(arguments[1]) if arguments[:1] == ["--below"] else None
    ledger = Ledger()
    try:
        for movement in read_movements(sys.stdin):
            ledger.book(movement)
    except Shortage as shortage:
        print(shortage, file=sys.stderr)
        return 1
    for item, count in ledger.items(below):
        print(f"{item}\t{count}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
