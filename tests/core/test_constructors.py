"""The quick constructors of the hot path make the same values as the classes do."""

import pickle
from dataclasses import FrozenInstanceError, fields

import pytest

from signal_ledger import receipt
from signal_ledger.commands import Deliver, new_deliver
from signal_ledger.decisions import Accepted, Stored, new_accepted, new_stored
from signal_ledger.events import Delivered, DeliveryOutcome, new_delivered
from signal_ledger.operations import DeliverCall, new_deliver_call
from signal_ledger.wait_state import Inbox, WaitState, new_inbox, new_wait_state

DELIVERY = {"job_id": 7, "signal_id": "one", "channel": "", "payload": b"\x83j", "payload_digest": "00"}
STORED = Stored(outcome=DeliveryOutcome.WOKEN, version=3)
CASES = [
    (Deliver, new_deliver, DELIVERY),
    (
        Delivered,
        new_delivered,
        {
            "run": 1,
            "channel": "",
            "signal_id": "one",
            "payload": b"\x83j",
            "payload_digest": "00",
            "key": "k",
            "source": None,
            "outcome": DeliveryOutcome.LIVE,
        },
    ),
    (DeliverCall, new_deliver_call, {"deliveries": (Deliver(**DELIVERY),)}),
    (Stored, new_stored, {"outcome": DeliveryOutcome.WOKEN, "version": 3}),
    (Accepted, new_accepted, {"events": (), "reply": STORED}),
    (Inbox, new_inbox, {"channel": "votes", "pending": 2, "after": 5}),
    (WaitState, new_wait_state, {"job_id": 7, "version": 2}),
    (
        receipt.Receipt,
        receipt._new_receipt,
        {"job_id": 7, "outcome": receipt.Outcome.WOKEN, "signal_id": "one", "version": 3},
    ),
]


@pytest.mark.parametrize(("cls", "new", "values"), CASES, ids=lambda case: getattr(case, "__name__", ""))
class TestAQuickConstructor:
    def test_makes_the_value_that_the_class_makes(self, cls, new, values):
        quick, plain = new(**values), cls(**values)
        assert type(quick) is cls
        assert quick == plain
        assert repr(quick) == repr(plain)
        assert hash(quick) == hash(plain)
        assert pickle.loads(pickle.dumps(quick)) == plain

    def test_makes_a_value_that_cannot_be_changed(self, cls, new, values):
        quick = new(**values)
        for field in fields(cls):
            with pytest.raises(FrozenInstanceError):
                setattr(quick, field.name, None)

    def test_refuses_what_the_class_refuses(self, cls, new, values):
        for wrong in ({}, values | {"other": 1}):
            with pytest.raises(TypeError):
                new(**wrong)
            with pytest.raises(TypeError):
                cls(**wrong)
        with pytest.raises(TypeError):
            new(*values.values())
