import sys

print(sum(int(argument) for argument in sys.argv[1:]))
