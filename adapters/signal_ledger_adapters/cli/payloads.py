"""Payloads as JSON: what JSON has no word for is tagged, so that nothing is lost and nothing is mistaken.

=====================  ==========================================
payload                JSON
=====================  ==========================================
None, True, 1, 1.5     as it is, and so are text and lists
a dict with text keys  an object, unless a key begins with ``$``
bytes                  ``{"$bytes": "<base64>"}``
a tuple                ``{"$tuple": [...]}``
an atom                ``{"$atom": "name"}``
inf, -inf, nan         ``{"$float": "inf"}``
any other dict         ``{"$map": [[key, value], ...]}``
=====================  ==========================================
"""

import math
from base64 import b64encode

from erlpack import Atom


def to_json(payload: object) -> object:
    """Return a decoded payload as JSON has it.

    >>> to_json({"files": [b"x"], "size": (2, 3)})
    {'files': [{'$bytes': 'eA=='}], 'size': {'$tuple': [2, 3]}}
    """
    match payload:
        case Atom():
            return {"$atom": str(payload)}
        case bytes():
            return {"$bytes": b64encode(payload).decode()}
        case float() if not math.isfinite(payload):
            return {"$float": str(payload)}
        case tuple():
            return {"$tuple": [to_json(item) for item in payload]}
        case list():
            return [to_json(item) for item in payload]
        case dict() if all(type(key) is str and not key.startswith("$") for key in payload):
            return {key: to_json(value) for key, value in payload.items()}
        case dict():
            return {"$map": [[to_json(key), to_json(value)] for key, value in payload.items()]}
        case _:
            return payload
