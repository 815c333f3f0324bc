"""Dynamic batching: who shares a batch, how long requests wait, and dropped requests."""

import asyncio
import threading
import time
from types import SimpleNamespace

from transformers_detr.model.padding_detr import group_by_shape
from transformers_detr.serving.batching import Batcher, ModelExecutor
from transformers_detr.serving.limits import Limits


class FakeModel:
    """Requests are (name, shape); a batch holds equal shapes, and waits while `gate` is closed."""

    def __init__(self, seconds=0.0):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.seconds = seconds

    def select_batch(self, requests, batch_size):
        return group_by_shape({index: item.shape for index, item in enumerate(requests)}, batch_size, 0.0)[0]

    def run(self, requests):
        self.gate.wait(10)
        time.sleep(self.seconds)
        self.batches.append([item.name for item in requests])
        if any(item.name == "bad" for item in requests):
            raise ArithmeticError("bad")
        return [item.name.upper() for item in requests]


def prepared(name, shape=(1, 1)):
    return SimpleNamespace(name=name, shape=shape)


def in_loop(scenario, model, **limits):
    async def run():
        batcher = Batcher(model, Limits(**limits), ModelExecutor(), lambda size: None)
        try:
            return await asyncio.wait_for(scenario(batcher), 10)
        finally:
            await batcher.close()

    return asyncio.run(run())


async def while_busy(batcher, model, requests):
    """Submit requests while the model is busy with another."""
    model.gate.clear()
    first = asyncio.create_task(batcher.submit(prepared("first")))
    await asyncio.sleep(0.05)
    tasks = [asyncio.create_task(batcher.submit(one)) for one in requests]
    await asyncio.sleep(0.05)
    return [first, *tasks]


def test_what_waits_together_runs_together_by_shape_the_oldest_first():
    model = FakeModel()

    async def scenario(batcher):
        shapes = [(2, 1), (1, 1), (2, 1), (1, 1), (2, 1)]
        tasks = await while_busy(batcher, model, [prepared(str(n), shape) for n, shape in enumerate(shapes)])
        model.gate.set()
        return await asyncio.gather(*tasks)

    results = in_loop(scenario, model, batch_size=2)
    assert model.batches == [["first"], ["0", "2"], ["1", "3"], ["4"]]
    assert [result.output for result in results] == ["FIRST", "0", "1", "2", "3", "4"]
    assert [result.batch_size for result in results] == [1, 2, 2, 2, 2, 1]
    assert all(result.queued_seconds >= 0.04 for result in results[1:])


def test_a_lone_image_does_not_wait():
    async def scenario(batcher):
        return await batcher.submit(prepared("a"))

    assert in_loop(scenario, FakeModel(), batch_wait_seconds=5.0).queued_seconds < 1


def test_an_image_waits_for_one_on_its_way_but_not_for_long():
    model = FakeModel()

    async def prepare_and_submit(batcher):
        with batcher.expecting():
            await asyncio.sleep(0.1)
        return await batcher.submit(prepared("b"))

    async def scenario(batcher):
        second = asyncio.create_task(prepare_and_submit(batcher))
        await asyncio.sleep(0)
        together = await asyncio.gather(batcher.submit(prepared("a")), second)
        with batcher.expecting():
            alone = await batcher.submit(prepared("c"))
        return together, alone

    together, alone = in_loop(scenario, model, batch_wait_seconds=0.5)
    assert model.batches == [["a", "b"], ["c"]]
    assert 0.08 < together[0].queued_seconds < 0.4
    assert 0.4 < alone.queued_seconds < 2


def test_a_full_batch_does_not_wait():
    model = FakeModel()

    async def scenario(batcher):
        with batcher.expecting():
            return await asyncio.gather(batcher.submit(prepared("a")), batcher.submit(prepared("b")))

    in_loop(scenario, model, batch_wait_seconds=8.0, batch_size=2)
    assert model.batches == [["a", "b"]]


def test_cancelled_requests_are_dropped():
    model = FakeModel()

    async def scenario(batcher):
        tasks = await while_busy(batcher, model, [prepared("a"), prepared("b"), prepared("c")])
        tasks[2].cancel()
        await asyncio.sleep(0)
        model.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = in_loop(scenario, model)
    assert model.batches == [["first"], ["a", "c"]]
    assert isinstance(results[2], asyncio.CancelledError)


def test_a_request_that_fails_does_not_affect_others():
    model = FakeModel()

    async def scenario(batcher):
        tasks = await while_busy(batcher, model, [prepared("a"), prepared("bad"), prepared("c")])
        model.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = in_loop(scenario, model)
    assert model.batches[1:] == [["a", "bad", "c"], ["a"], ["bad"], ["c"]]
    assert isinstance(results[2], ArithmeticError)
    assert [results[1].output, results[3].output] == ["A", "C"]


def test_models_take_turns():
    async def run():
        executor, models = ModelExecutor(), [FakeModel(0.05), FakeModel(0.05)]
        batchers = [Batcher(model, Limits(batch_size=1), executor, lambda size: None) for model in models]
        ends = []

        async def submit(which):
            await batchers[which].submit(prepared("x"))
            ends.append(which)

        await asyncio.gather(*(submit(which) for which in (0, 0, 0, 1)))
        for batcher in batchers:
            await batcher.close()
        return ends

    assert asyncio.run(run()).index(1) < 2, "one model's queue does not go before the other's first"


def test_the_time_per_image_is_known():
    async def scenario(batcher):
        await batcher.submit(prepared("a"))
        return batcher.seconds_per_image

    assert 0.1 <= in_loop(scenario, FakeModel(0.1)) < 1
