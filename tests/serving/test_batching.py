"""Dynamic batching: who shares a batch, how long that may take, and what becomes of works nobody waits for."""

import asyncio
import threading
import time
from types import SimpleNamespace

from transformers_detr.inference.predictor import group_by_shape
from transformers_detr.serving.batching import Batcher, ModelTurn
from transformers_detr.serving.limits import Limits


class FakeModel:
    """Works are (name, shape); a batch holds equal shapes, and waits while `gate` is closed."""

    def __init__(self, seconds=0.0):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.seconds = seconds

    def group(self, works, batch_size):
        return group_by_shape({index: work.shape for index, work in enumerate(works)}, batch_size, 0.0)[0]

    def run(self, works):
        self.gate.wait(10)
        time.sleep(self.seconds)
        self.batches.append([work.name for work in works])
        if any(work.name == "bad" for work in works):
            raise ArithmeticError("bad")
        return [work.name.upper() for work in works]


def work(name, shape=(1, 1)):
    return SimpleNamespace(name=name, shape=shape)


def in_loop(scenario, model, **limits):
    async def run():
        batcher = Batcher(model, Limits(**limits), ModelTurn(), lambda size: None)
        try:
            return await asyncio.wait_for(scenario(batcher), 10)
        finally:
            await batcher.close()

    return asyncio.run(run())


async def while_busy(batcher, model, works):
    """Submit works while the model is busy with another."""
    model.gate.clear()
    first = asyncio.create_task(batcher.submit(work("first")))
    await asyncio.sleep(0.05)
    tasks = [asyncio.create_task(batcher.submit(one)) for one in works]
    await asyncio.sleep(0.05)
    return [first, *tasks]


def test_what_waits_together_runs_together_by_shape_the_oldest_first():
    model = FakeModel()

    async def scenario(batcher):
        shapes = [(2, 1), (1, 1), (2, 1), (1, 1), (2, 1)]
        tasks = await while_busy(batcher, model, [work(str(n), shape) for n, shape in enumerate(shapes)])
        model.gate.set()
        return await asyncio.gather(*tasks)

    outcomes = in_loop(scenario, model, batch_size=2)
    assert model.batches == [["first"], ["0", "2"], ["1", "3"], ["4"]]
    assert [outcome.result for outcome in outcomes] == ["FIRST", "0", "1", "2", "3", "4"]
    assert [outcome.batch_size for outcome in outcomes] == [1, 2, 2, 2, 2, 1]
    assert all(outcome.queued_seconds >= 0.04 for outcome in outcomes[1:])


def test_a_lone_picture_does_not_wait():
    async def scenario(batcher):
        return await batcher.submit(work("a"))

    assert in_loop(scenario, FakeModel(), batch_wait_seconds=5.0).queued_seconds < 1


def test_a_picture_waits_for_one_on_its_way_but_not_for_long():
    model = FakeModel()

    async def prepare_and_submit(batcher):
        with batcher.expecting():
            await asyncio.sleep(0.1)
        return await batcher.submit(work("b"))

    async def scenario(batcher):
        second = asyncio.create_task(prepare_and_submit(batcher))
        await asyncio.sleep(0)
        together = await asyncio.gather(batcher.submit(work("a")), second)
        with batcher.expecting():
            alone = await batcher.submit(work("c"))
        return together, alone

    together, alone = in_loop(scenario, model, batch_wait_seconds=0.5)
    assert model.batches == [["a", "b"], ["c"]]
    assert 0.08 < together[0].queued_seconds < 0.4
    assert 0.4 < alone.queued_seconds < 2


def test_a_full_batch_does_not_wait():
    model = FakeModel()

    async def scenario(batcher):
        with batcher.expecting():
            return await asyncio.gather(batcher.submit(work("a")), batcher.submit(work("b")))

    in_loop(scenario, model, batch_wait_seconds=8.0, batch_size=2)
    assert model.batches == [["a", "b"]]


def test_cancelled_works_are_left_out():
    model = FakeModel()

    async def scenario(batcher):
        tasks = await while_busy(batcher, model, [work("a"), work("b"), work("c")])
        tasks[2].cancel()
        await asyncio.sleep(0)
        model.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = in_loop(scenario, model)
    assert model.batches == [["first"], ["a", "c"]]
    assert isinstance(outcomes[2], asyncio.CancelledError)


def test_a_work_that_fails_takes_no_other_with_it():
    model = FakeModel()

    async def scenario(batcher):
        tasks = await while_busy(batcher, model, [work("a"), work("bad"), work("c")])
        model.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = in_loop(scenario, model)
    assert model.batches[1:] == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert isinstance(outcomes[2], ArithmeticError)
    assert [outcomes[1].result, outcomes[3].result] == ["A", "C"]


def test_models_take_turns():
    async def run():
        turn, models = ModelTurn(), [FakeModel(0.05), FakeModel(0.05)]
        batchers = [Batcher(model, Limits(batch_size=1), turn, lambda size: None) for model in models]
        ends = []

        async def submit(which):
            await batchers[which].submit(work("x"))
            ends.append(which)

        await asyncio.gather(*(submit(which) for which in (0, 0, 0, 1)))
        for batcher in batchers:
            await batcher.close()
        return ends

    assert asyncio.run(run()).index(1) < 2, "one model's queue does not go before the other's first"


def test_the_time_per_picture_is_known():
    async def scenario(batcher):
        await batcher.submit(work("a"))
        return batcher.seconds_per_picture

    assert 0.1 <= in_loop(scenario, FakeModel(0.1)) < 1
