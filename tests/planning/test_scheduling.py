"""The six schedulers of RFC 8260, section 3, without a group; and the pace of a rate."""

from __future__ import annotations

import math
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taps_core.model.property import Scheduler
from taps_core.planning.pacing import LATE, Pace
from taps_core.planning.scheduling import PACKET, Claim, Schedule

FCFS, RR, RRP, PB, FC, WFQ = Scheduler


class Sender(Claim):
    """A claim and the Messages that wait: number of their coming, size."""

    def __init__(self, name, priority=100, *, bundles=True):
        super().__init__(priority)
        self.name = name
        self.bundles = bundles
        self.queue = deque()


class Line:
    """A schedule and its senders."""

    def __init__(self, scheduler, *senders):
        self.schedule = Schedule(scheduler)
        self.senders = senders
        self.came = 0

    def give(self, sender, *sizes):
        for size in sizes:
            self.came += 1
            sender.queue.append((self.came, size))
        if sender.queue:
            sender.arrival = sender.queue[0][0]
            self.schedule.wait(sender)

    def step(self):
        """Who sent, and how much; None: nobody waits."""
        sender = self.schedule.first()
        if sender is None:
            return None
        _, size = sender.queue.popleft()
        if sender.queue:
            sender.arrival = sender.queue[0][0]
        self.schedule.sent(sender, size)
        if not sender.queue:
            self.schedule.leave(sender)
        return sender, size

    def order(self):
        """The names of those who sent, until nobody waits."""
        names = ""
        while (step := self.step()) is not None:
            names += step[0].name
        return names

    def bytes(self, total):
        """What each one sent, once so many bytes have left."""
        sent = Counter()
        while sent.total() < total:
            sender, size = self.step()
            sent[sender.name] += size
        return sent


def line(scheduler, **queues):
    """Senders by name: priority and sizes of what waits; given in turn, one of each."""
    made = Line(scheduler, *(Sender(name, priority) for name, (priority, _) in queues.items()))
    sizes = {name: deque(sizes) for name, (_, sizes) in queues.items()}
    while any(sizes.values()):
        for sender in made.senders:
            if sizes[sender.name]:
                made.give(sender, sizes[sender.name].popleft())
    return made


# ------------------------------------------------------------------- orders


def test_first_come_first_served_keeps_the_order_of_the_sends():
    made = Line(FCFS, a := Sender("a"), b := Sender("b"))
    for sender in (a, b, b, a, b, a, a):
        made.give(sender, 10)
    assert made.order() == "abbabaa"


def test_first_come_first_served_follows_what_a_sender_puts_first():
    made = Line(FCFS, a := Sender("a"), b := Sender("b"))
    made.give(a, 10)
    made.give(b, 10)
    a.queue.appendleft((3, 10))  # of a better msgPriority: it goes first, and came last
    a.arrival = 3
    made.schedule.wait(a)
    assert made.order() == "baa"


def test_round_robin_takes_one_message_of_each_in_turn():
    made = line(RR, a=(100, [9000] * 3), b=(1, [10] * 4), c=(5, [1]))
    assert made.order() == "abcababb"


def test_round_robin_per_packet_fills_a_packet_in_each_turn():
    third = PACKET // 3
    made = line(RRP, a=(100, [third] * 6), b=(1, [PACKET] * 3))
    assert made.order() == "aaabaaabb"


def test_a_message_of_several_packets_uses_up_several_turns():
    made = line(RRP, a=(100, [4 * PACKET, PACKET]), b=(1, [PACKET] * 5))
    assert made.order() == "abbbbab"


def test_datagrams_share_no_packet():
    made = Line(RRP, a := Sender("a", bundles=False), b := Sender("b", bundles=False))
    made.give(a, *[10] * 3)
    made.give(b, *[PACKET] * 3)
    assert made.order() == "ababab"


def test_who_is_back_at_once_goes_on_with_its_packet():
    made = Line(RRP, a := Sender("a"), b := Sender("b"))
    made.give(a, PACKET // 2)
    made.give(b, *[PACKET] * 3)
    made.step()
    made.give(a, PACKET // 2, PACKET)
    assert made.order() == "abab" + "b"


def test_a_packet_that_is_not_full_leaves_when_its_sender_rests():
    made = Line(RRP, a := Sender("a"), b := Sender("b"))
    made.give(a, PACKET - 1)
    made.give(b, *[PACKET] * 4)
    for _ in range(3):
        made.step()
    made.give(a, 10, 10)
    assert made.order() == "aabb"


def test_priority_goes_before_everything():
    made = line(PB, a=(100, [10] * 2), b=(1, [5000] * 3), c=(100, [10] * 2))
    assert made.order() == "bbb" + "acac"


def test_a_changed_priority_counts_at_once():
    made = line(PB, a=(100, [10] * 2), b=(200, [10] * 2))
    made.step()
    for priority in (1, 200, 1):
        made.senders[1].priority = priority
        made.schedule.wait(made.senders[1])
    assert made.order() == "bba"


def test_fair_capacity_gives_equal_bytes():
    made = line(FC, a=(1, [500] * 400), b=(200, [1500] * 400), c=(100, [70] * 2000))
    sent = made.bytes(150_000)
    assert max(sent.values()) - min(sent.values()) <= 2 * 1500


def test_weights_are_one_by_priority_and_one():
    made = line(WFQ, a=(1, [1000] * 600), b=(100, [1500] * 600), c=(200, [700] * 600))
    sent = made.bytes(500_000)
    whole = 1 / 2 + 1 / 101 + 1 / 201
    for name, weight in (("a", 1 / 2), ("b", 1 / 101), ("c", 1 / 201)):
        assert sent[name] / sent.total() == pytest.approx(weight / whole, abs=0.01)


def test_a_changed_weight_counts_from_the_next_message():
    made = line(WFQ, a=(0, [100] * 300), b=(0, [100] * 300))
    assert set(made.bytes(20_000).values()) == {10_000}
    made.senders[1].priority = 3
    made.schedule.wait(made.senders[1])
    sent = made.bytes(20_000)
    assert sent["a"] == pytest.approx(16_000, abs=400)


def test_what_was_not_used_is_not_saved_up():
    made = Line(WFQ, a := Sender("a", 0), b := Sender("b", 0))
    made.give(a, *[100] * 100)
    made.bytes(5000)
    made.give(b, *[100] * 100)
    assert made.bytes(2000) == {"a": 1000, "b": 1000}


def test_who_is_back_at_once_has_lost_nothing():
    made = Line(WFQ, a := Sender("a", 0), b := Sender("b", 9))
    made.give(a, 100)
    made.give(b, *[100] * 100)
    sent = Counter()
    for _ in range(110):
        sender, size = made.step()
        sent[sender.name] += size
        if sender is a:
            made.give(a, 100)
    assert sent["a"] == pytest.approx(10_000, abs=200)


def test_another_scheduler_begins_with_what_waits():
    made = line(WFQ, a=(0, [100] * 9), b=(200, [100] * 9), c=(100, [100] * 9))
    made.bytes(500)
    made.schedule.become(RR, made.senders)
    first = made.step()[0].name + made.step()[0].name + made.step()[0].name
    assert sorted(first) == ["a", "b", "c"]
    assert len(made.schedule) == 3
    made.schedule.become(PB, made.senders)
    assert made.order()[:3] == "aaa"


# ------------------------------------------------------------------- what holds for all

steps = st.lists(
    st.one_of(
        st.tuples(st.just("give"), st.integers(0, 3), st.integers(0, 5000)),
        st.tuples(st.just("step"), st.just(0), st.just(0)),
        st.tuples(st.just("priority"), st.integers(0, 3), st.integers(0, 300)),
        st.tuples(st.just("withdraw"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("scheduler"), st.sampled_from(range(6)), st.just(0)),
    ),
    max_size=200,
)


@given(scheduler=st.sampled_from(Scheduler), steps=steps)
def test_somebody_sends_while_anybody_waits(scheduler, steps):
    made = Line(scheduler, *(Sender(str(number)) for number in range(4)))
    waiting = 0
    for what, which, number in steps:
        if what == "give":
            made.give(made.senders[which], number)
            waiting += 1
        elif what == "step":
            step = made.step()
            assert (step is not None) == (waiting > 0)
            waiting -= step is not None
        elif what == "priority":
            sender = made.senders[which]
            sender.priority = number
            if sender.waits:
                made.schedule.wait(sender)
        elif what == "withdraw":
            sender = made.senders[which]
            waiting -= len(sender.queue)
            sender.queue.clear()
            made.schedule.leave(sender)
        else:
            made.schedule.become(tuple(Scheduler)[which], made.senders)
        assert len(made.schedule) == sum(bool(sender.queue) for sender in made.senders)
    assert len(made.order()) == waiting


@given(
    scheduler=st.sampled_from([FCFS, RR, RRP, FC, WFQ]),
    queues=st.lists(
        st.tuples(st.integers(0, 300), st.lists(st.integers(0, 3000), min_size=1, max_size=5)),
        min_size=2,
        max_size=5,
    ),
)
def test_nobody_starves(scheduler, queues):
    """One that never ends is among them; only Priority-Based may have nothing for the others."""
    made = Line(scheduler, *(Sender(str(number), rank) for number, (rank, _) in enumerate(queues)))
    for sender, (_, sizes) in zip(made.senders, queues, strict=True):
        made.give(sender, *sizes)
    endless = made.senders[0]
    # The others' bytes in terms of a weight that is 301 times as large, and of the largest packet.
    for _ in range(5 * 5 * 301 * 3001):
        if not any(sender.queue for sender in made.senders[1:]):
            break
        if not endless.queue:
            made.give(endless, 3000)
        made.step()
    assert not any(sender.queue for sender in made.senders[1:])


@given(
    scheduler=st.sampled_from([FC, WFQ]),
    ranks=st.lists(st.integers(0, 300), min_size=2, max_size=4),
    sizes=st.lists(st.integers(1, 3000), min_size=20, max_size=100),
)
def test_shares_differ_by_no_more_than_a_message_of_each(scheduler, ranks, sizes):
    """The bound of start-time fair queueing, at each moment."""
    made = Line(scheduler, *(Sender(str(number), rank) for number, rank in enumerate(ranks)))
    for number, sender in enumerate(made.senders):
        made.give(sender, *sizes[number:])
    costs = [rank + 1 if scheduler is WFQ else 1 for rank in ranks]
    sent = Counter()
    while all(sender.queue for sender in made.senders):
        sender, size = made.step()
        sent[sender.name] += size
        paid = [sent[each.name] * cost for each, cost in zip(made.senders, costs, strict=True)]
        for one, cost in zip(paid, costs, strict=True):
            for other, price in zip(paid, costs, strict=True):
                assert abs(one - other) <= max(sizes) * (cost + price)


def test_many_that_come_and_go_leave_nothing_behind():
    schedule = Schedule(WFQ)
    busy, idle = Claim(0), Claim(200)
    schedule.wait(busy)
    for _ in range(10_000):
        schedule.wait(idle)
        schedule.leave(idle)
    assert len(schedule._places) < 100
    assert schedule.first() is busy


# ------------------------------------------------------------------- the pace


def test_each_message_is_paid_for_before_the_next_one_leaves():
    pace = Pace(8000, now=5.0)
    assert pace.due == 5.0
    pace.left(500, 5.0)
    assert pace.due == 5.5
    pace.left(250, 5.5)
    assert pace.due == 5.75


def test_a_rest_saves_nothing_up():
    pace = Pace(8000, now=0.0)
    pace.left(1000, 0.0)
    pace.left(1000, 60.0)
    assert pace.due == 61.0


def test_lateness_is_made_up_for_within_bounds():
    pace = Pace(8000, now=0.0)
    pace.left(1000, 0.0)
    pace.left(1000, 1.0 + LATE / 2)
    assert pace.due == 2.0
    pace.left(1000, 2.0 + 2 * LATE)
    assert pace.due == 3.0 + 2 * LATE


def test_another_rate_holds_for_what_is_owed():
    pace = Pace(8000, now=0.0)
    pace.left(1000, 0.0)
    pace.change(16_000, 0.5)
    assert pace.due == 0.75
    assert pace.rate == 16_000
    pace.change(math.inf, 0.5)
    assert pace.due == 0.5
    pace.left(10**9, 0.5)
    assert pace.due == 0.5


@given(
    rate=st.integers(100, 10**9),
    sizes=st.lists(st.integers(0, 10**6), min_size=1, max_size=50),
    pauses=st.lists(st.floats(0, 3), min_size=50, max_size=50),
)
def test_no_second_has_more_than_the_rate_what_was_made_up_for_and_one_message(rate, sizes, pauses):
    pace = Pace(rate, now=0.0)
    now = 0.0
    left = []
    for size, pause in zip(sizes, pauses, strict=False):
        now = max(now + pause, pace.due)  # as soon as it may, or later
        pace.left(size, now)
        left.append((now, size))
    for begin, _ in left:
        second = [size for at, size in left if begin <= at < begin + 1]
        assert sum(second) - max(second) <= rate / 8 * (1 + LATE + 1e-9) + 1e-6
