import os
import select
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from small_index import same

from contextae.data.pipes import frame, receive, write
from contextae.masking import Mask
from contextae.methods.views import MaskedView


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    source, sink = os.pipe()
    yield source, sink
    for end in (source, sink):
        try:
            os.close(end)
        except OSError:
            continue


def through(pipe: tuple[int, int], message: object) -> object:
    source, sink = pipe
    thread = threading.Thread(target=write, args=(sink, frame(message)))
    thread.start()
    got = receive(source)
    thread.join()
    return got


def test_messages_larger_than_the_pipe_come_through_with_writable_arrays(pipe: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    batch = MaskedView(
        rng.integers(0, 256, (64, 3, 37, 41)).astype(np.uint8),
        Mask(rng.integers(0, 9, (64, 5)), np.zeros((0, 3), np.int64)),
        rng.integers(0, 9, (64, 4)).T[::2],
    )
    got = through(pipe, batch)
    assert same(got, batch)
    assert isinstance(got, MaskedView)
    got.images[:] = 0  # what follows may normalise in place


def test_a_pipe_that_takes_only_part_of_a_message_gets_the_rest_later(pipe: tuple[int, int]) -> None:
    source, sink = pipe
    os.set_blocking(sink, False)
    message = np.arange(500_000)
    thread = threading.Thread(
        target=write, args=(sink, frame(message)), kwargs={"wait": lambda: select.select([], [sink], [])}
    )
    thread.start()
    got = receive(source)
    thread.join()
    assert np.array_equal(got, message)


def test_the_arrays_of_a_message_are_not_copied_to_send_it() -> None:
    images = np.zeros((3, 5), np.uint8)
    parts = frame(Mask(images, images))
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), images) for part in parts[2:])


def test_several_messages_keep_their_order_and_their_borders(pipe: tuple[int, int]) -> None:
    for message in ("one", None, {"a": [1, 2]}, b""):
        assert through(pipe, message) == message


@pytest.mark.parametrize("cut", [0, 3, 12, -1])
def test_a_writer_that_went_away_is_the_end_of_the_file(pipe: tuple[int, int], cut: int) -> None:
    source, sink = pipe
    os.write(sink, b"".join(frame("a message"))[:cut])
    os.close(sink)
    with pytest.raises(EOFError):
        receive(source)


def test_a_reader_that_went_away_breaks_the_pipe(pipe: tuple[int, int]) -> None:
    source, sink = pipe
    os.close(source)
    with pytest.raises(BrokenPipeError):
        write(sink, frame("a message"))


def test_each_read_and_write_waits_first(pipe: tuple[int, int]) -> None:
    source, sink = pipe
    waits: list[str] = []
    write(sink, frame("a message"), lambda: waits.append("write"))
    assert receive(source, lambda: waits.append("read")) == "a message"
    assert waits == ["write"] * 2 + ["read"] * 3
