"""Checks of what callers pass. Each says what was expected and what was found, before anything is written."""

from collections.abc import Iterable, Mapping
from datetime import timedelta

from signal_ledger.names import DEFAULT_CHANNEL, JobId

DURATION_MAX = timedelta(days=50 * 365.25)
TEXT_BYTES_MAX = 255

_SECONDS_MAX = DURATION_MAX.total_seconds()

_ID_MIN = -(2**63)
_ID_MAX = 2**63 - 1


def to_duration(name: str, value: object) -> timedelta:
    """Check a duration.

    Args:
        name: The argument's name, for the message.
        value: Seconds (int or float) or a timedelta; 0 to 50 years.

    Raises:
        TypeError: It is neither.
        ValueError: It is negative, not finite, or longer than 50 years.

    >>> to_duration("wait_for", 1.5)
    datetime.timedelta(seconds=1, microseconds=500000)
    """
    if isinstance(value, timedelta):
        if value < timedelta(0):
            raise ValueError(f"{name}: expected a duration of 0 or more, got {value}")
        if value > DURATION_MAX:
            raise ValueError(f"{name}: expected at most 50 years, got {value}")
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return timedelta(seconds=to_seconds(name, value))
    raise TypeError(f"{name}: expected seconds or a timedelta, got {type(value).__name__}")


def to_seconds(name: str, value: object) -> float:
    """Check a number of seconds, 0 to 50 years. Raises as `to_duration` does."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number of seconds, got {type(value).__name__}")
    if not 0 <= value <= _SECONDS_MAX:
        found = f"{value} seconds" if isinstance(value, float) or value.bit_length() <= 64 else "far more"
        raise ValueError(f"{name}: expected 0 seconds to 50 years, got {found}")
    return value


def to_share(name: str, value: object) -> float:
    """Check a share of a whole, 0 to 1.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name}: expected a number from 0 to 1, got {type(value).__name__}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a number from 0 to 1, got {value!r}")
    return value


def type_name(value: object) -> str:
    """Return the name of a value's type with its module: some that differ have the same name.

    >>> from datetime import timedelta
    >>> type_name(timedelta())
    'datetime.timedelta'
    """
    return f"{type(value).__module__}.{type(value).__qualname__}"


def to_channel(value: object) -> str:
    """Check a channel and return it as stored. None is the default channel.

    Raises:
        TypeError: It is neither None nor a str.
        ValueError: It is empty (so the default channel is stored, and nobody can name it), too long, or unfit text.
    """
    return DEFAULT_CHANNEL if value is None else _text("channel", value)


def to_optional_text(name: str, value: object) -> str | None:
    """Check a key or a source: None, or 1 to 255 bytes of text.

    Raises:
        TypeError: It is neither None nor a str.
        ValueError: It is empty, too long, or text that a database cannot hold.
    """
    return None if value is None else _text(name, value)


def to_name(name: str, value: object) -> str:
    """Check a name: 1 to 255 bytes of text. Raises as `to_optional_text` does."""
    return _text(name, value, expected="a str")


def to_bool(name: str, value: object) -> bool:
    """Check an option.

    Raises:
        TypeError: It is no bool.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}: expected True or False, got {type(value).__name__}")
    return value


def to_targets(target: object) -> tuple[list[JobId], bool]:
    """Check the target of a signal.

    Args:
        target: A job id, a job (anything with an ``id``), or an iterable of these.

    Returns:
        The job ids in order, and whether the target was a single one.

    Raises:
        TypeError: It is, or holds, something else; a bool, for instance.
        ValueError: A job has no id yet, or an id does not fit in 64 bits.
    """
    if type(target) is int and _ID_MIN <= target <= _ID_MAX:
        # What most calls give; a bool is of another type.
        return [JobId(target)], True
    if isinstance(target, int) or hasattr(target, "id"):
        return [_job_id(target)], True
    if isinstance(target, str | bytes | Mapping) or not isinstance(target, Iterable):
        raise TypeError(f"target: expected a job id, a job, or an iterable of these, got {type(target).__name__}")
    return [_job_id(item) for item in target], False


def to_job_id(value: object) -> JobId:
    """Check a job id, or a job and return its id. Raises as `to_targets` does."""
    return _job_id(value)


def _job_id(value: object) -> JobId:
    if isinstance(value, bool):
        raise TypeError("target: expected a job id or a job, got bool")
    if isinstance(value, int):
        job_id = int(value)
    elif hasattr(value, "id"):
        if value.id is None:
            raise ValueError("target: expected a job that has been enqueued, got one without an id")
        return _job_id(value.id)
    else:
        raise TypeError(f"target: expected a job id or a job, got {type(value).__name__}")
    if not _ID_MIN <= job_id <= _ID_MAX:
        raise ValueError("target: expected a job id of 64 bits, got a larger number")
    return JobId(job_id)


def _text(name: str, value: object, *, expected: str = "a str or None") -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")
    text = str.__str__(value)
    if not text:
        raise ValueError(f"{name}: expected {expected} of 1 to {TEXT_BYTES_MAX} bytes, got an empty str")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{name}: expected text that UTF-8 can encode, got a lone surrogate") from None
    if size > TEXT_BYTES_MAX:
        raise ValueError(f"{name}: expected 1 to {TEXT_BYTES_MAX} bytes of text, got {size}")
    if "\0" in text:
        raise ValueError(f"{name}: expected text without NUL characters, which databases cannot hold")
    return text
