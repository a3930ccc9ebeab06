"""A handler: takes an order, and returns what it costs.

cocore deploy examples/quote && cocore run --event '{"lines": [{"item": "bolt", "price": 0.2, "count": 150}]}' quote
"""

from decimal import Decimal

DISCOUNT_FROM = 100
DISCOUNT = Decimal("0.1")


def quote(event, context):
    lines = [price(line) for line in event["lines"]]
    print(f"{context.function_name} {context.function_version}: {len(lines)} lines")
    return {"lines": lines, "total": round(sum(line["total"] for line in lines), 2)}


def price(line):
    if line["count"] < 1:
        raise ValueError(f"{line['item']}: a count must be at least 1, and is {line['count']}")
    total = Decimal(str(line["price"])) * line["count"]
    if line["count"] >= DISCOUNT_FROM:
        total -= total * DISCOUNT
    return {"item": line["item"], "total": float(round(total, 2))}
