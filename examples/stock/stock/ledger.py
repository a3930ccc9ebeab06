from collections import Counter


class Shortage(Exception):
    pass


class Ledger:
    def __init__(self):
        self._counts = Counter()

    def book(self, movement):
        left = self._counts[movement.item] + movement.count
        if left < 0:
            raise Shortage(f"{movement.item}: {-left} more left than came")
        self._counts[movement.item] = left

    def items(self, below=None):
        """By name; only those of which there are fewer than `below`, where it is given."""
        return [(item, count) for item, count in sorted(self._counts.items()) if below is None or count < below]
