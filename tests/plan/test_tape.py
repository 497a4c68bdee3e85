"""The tape frees, keeps and adds up as autograd does."""

from __future__ import annotations

from sft.plan.memory.ledger import Ledger, Parameter
from sft.plan.memory.tape import Tape, Tensor


def made() -> tuple[Ledger, Tape]:
    ledger = Ledger()
    return ledger, Tape(ledger)


def test_a_buffer_lives_as_long_as_something_refers_to_it() -> None:
    ledger, tape = made()
    first = tape.buffer(100)
    again = first
    del first
    assert ledger.total == 100
    del again
    assert (ledger.total, ledger.peak) == (0, 100)


def test_what_the_backward_reads_is_kept_until_it_has_run() -> None:
    ledger, tape = made()
    weight = Parameter(10, 4, trained=True)
    x = tape.leaf(10, 4, needs_grad=False)
    y = tape.op([x, weight], 10, 4, saves=[x])
    del x
    assert ledger.total == 80  # x, which the gradient of the weight reads, and y
    node = y.node
    del y
    assert ledger.total == 40
    assert node is not None
    tape.backward(node, tape.buffer(40))
    del node
    assert ledger.live["gradients"] == 40
    assert ledger.total == 40


def test_nothing_is_kept_for_what_is_frozen() -> None:
    ledger, tape = made()
    x = tape.leaf(10, 4, needs_grad=False)
    y = tape.op([x, Parameter(10, 4, trained=False)], 10, 4, saves=[x])
    del x
    assert (y.node, ledger.total) == (None, 40)


def test_a_gradient_that_two_read_is_added_to_in_place_once_one_is_done_with_it() -> None:
    ledger, tape = made()
    x = tape.leaf(100, 4, needs_grad=True)
    branch = tape.op([x], 100, 4)
    total = tape.op([x, branch], 100, 4, passes=True)
    node = total.node
    del total, branch
    before, ledger.peak = ledger.total, 0
    assert node is not None
    tape.backward(node, tape.buffer(400))
    # The gradient that came in reaches x and the branch; the branch makes another one, which is added to the first.
    assert ledger.peak == before + 2 * 400
    del node


def test_a_gradient_that_is_still_read_is_added_to_in_a_copy() -> None:
    ledger, tape = made()
    x = tape.leaf(100, 4, needs_grad=True)
    early = tape.op([x], 100, 4)
    late = tape.op([x], 100, 4)
    total = tape.op([x, early], 100, 4, passes=True)
    total = tape.op([total, late], 100, 4, passes=True)
    node = total.node
    del total, early, late
    before, ledger.peak = ledger.total, 0
    assert node is not None
    tape.backward(node, tape.buffer(400))
    # `late` hands on its own gradient while `early` has not read the one that came in.
    assert ledger.peak == before + 3 * 400
    del node


def test_a_layer_that_is_computed_again_keeps_its_input_alone() -> None:
    ledger, tape = made()
    weight = Parameter(10, 4, trained=True)

    def layer(y: Tensor) -> Tensor:
        for _ in range(3):
            y = tape.op([y, weight], 1000, 4, saves=[y])
        return y

    x = tape.leaf(1000, 4, needs_grad=True)
    out = tape.checkpointed(layer, x)
    node = out.node
    del x, out
    assert ledger.total == 4000
    assert node is not None
    tape.backward(node, tape.buffer(4000))
    del node
    assert ledger.total == weight.size == 40


def test_a_second_gradient_is_added_to_the_first() -> None:
    ledger, tape = made()
    weight = Parameter(10, 4, trained=True)
    for _ in range(2):
        y = tape.op([weight], 1, 4)
        node = y.node
        assert node is not None
        tape.backward(node, tape.buffer(4))
    del y, node
    assert ledger.live["gradients"] == 40
