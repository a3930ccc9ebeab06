import json, os, sys

numbers = json.load(sys.stdin)["numbers"]
with open(os.path.join(os.environ["COCORE_OUT"], "report.txt"), "w") as report:
    for number in numbers:
        print(number, "*" * number, file=report)
with open(os.environ["COCORE_RESULT"], "w") as result:
    json.dump({"count": len(numbers), "sum": sum(numbers)}, result)
