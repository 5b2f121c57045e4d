"""Results that are remembered as long as the object exists that a function was called with."""

from __future__ import annotations

import gc
from weakref import ref

from cloven.remembered import remembered


class Owner:
    pass


def test_a_result_is_remembered_for_its_object_and_freed_with_it() -> None:
    called: list[int] = []

    @remembered
    def doubled(owner: Owner, number: int) -> set[int]:
        called.append(number)
        return {2 * number}

    one, other = Owner(), Owner()
    result = ref(doubled(one, 3))
    assert doubled(one, 3) is result()
    assert doubled(one, 4) == {8}
    assert doubled(other, 3) == {6}
    assert called == [3, 4, 3]

    del one
    gc.collect()
    assert result() is None
