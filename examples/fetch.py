"""Prints how a web page answers: cocore deploy examples/fetch.py --allow example.org:443"""
import sys
import urllib.request

for url in sys.argv[1:]:
    with urllib.request.urlopen(url, timeout=20) as answer:
        print(answer.status, answer.headers.get("content-type"), len(answer.read()), "bytes")
