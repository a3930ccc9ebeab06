"""Runs a handler: the event from standard input, its result to the file that COCORE_RESULT names.

handler.py ENTRY HANDLER [ARGUMENT...]
"""

import asyncio
import importlib.util
import inspect
import json
import os
import sys
import time
import traceback

BEGAN = time.monotonic()
# As much of an error as its reader can use.
MOST_CHARACTERS = 16 * 1024


class Context:
    """What a handler is told beside its event."""

    def __init__(self, environment):
        self.execution_id = environment.get("COCORE_EXECUTION_ID")
        self.function_name = environment.get("COCORE_FUNCTION_NAME")
        self.function_version = _number(environment.get("COCORE_FUNCTION_VERSION"))
        self.memory_mib = _number(environment.get("COCORE_MEMORY_MIB"))
        self._timeout_ms = _number(environment.get("COCORE_TIMEOUT_MS"))

    def remaining_ms(self):
        """How long the handler may still run; None where that is not known."""
        if self._timeout_ms is None:
            return None
        return max(0, self._timeout_ms - round((time.monotonic() - BEGAN) * 1000))


def _number(text):
    return None if text is None else int(text)


def _write(value):
    place = os.environ.get("COCORE_RESULT")
    if place is None:
        return
    try:
        content = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as cause:
        raise TypeError(f"what the handler returned is not JSON: {cause}") from None
    with open(place, "wb") as file:
        file.write(content)


def _load(entry, name):
    # As when Python runs the file, but for its name.
    sys.path[0] = os.path.dirname(entry)
    sys.argv = [entry, *sys.argv[3:]]
    module_name = os.path.splitext(os.path.basename(entry))[0]
    spec = importlib.util.spec_from_file_location(module_name, entry)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    handler = getattr(module, name, None)
    if not callable(handler):
        raise TypeError(f"{os.path.basename(entry)} has no function {name}")
    return handler


def _event():
    text = sys.stdin.buffer.read()
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except ValueError as cause:
        raise ValueError(f"the event on standard input is not JSON: {cause}") from None


async def _settled(awaitable):
    return await awaitable


def _frames_of_function(error):
    # Without those of this program, and of the importer that it calls, which the function's author has never seen.
    cursor = frames = error.__traceback__
    while cursor is not None:
        if cursor.tb_frame.f_code.co_filename == __file__:
            frames = cursor.tb_next
        cursor = cursor.tb_next
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
        frames = frames.tb_next
    return frames


def _report(error):
    stack = "".join(traceback.format_exception(type(error), error, _frames_of_function(error)))
    sys.stdout.flush()
    sys.stderr.write(stack)
    sys.stderr.flush()
    text = {"type": type(error).__name__, "message": str(error), "stack": stack}
    readable = {key: value[:MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8") for key, value in text.items()}
    _write({"$cocoreError": readable})


def main(entry, name):
    try:
        handler = _load(entry, name)
        value = handler(_event(), Context(os.environ))
        if inspect.isawaitable(value):
            value = asyncio.run(_settled(value))
        _write(value)
    except Exception as error:
        _report(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
