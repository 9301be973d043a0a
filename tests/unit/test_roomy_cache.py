"""A cache with room holds what transformers' own holds, whatever is written, taken out, and in which order."""

import torch
from transformers import DynamicCache

from radit_job.models.roomy_cache import RoomyLayer, make_room


def filled(n_layers=2, batch=3, positions=5):
    cache = DynamicCache()
    for layer in range(n_layers):
        cache.update(*states(batch, positions, seed=layer), layer)
    return cache


def states(batch, positions, seed):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, 2, positions, 4, generator=random).unbind()


def equal(one, other):
    return all(
        torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)
        for a, b in zip(one.layers, other.layers, strict=True)
    )


def test_what_is_written_stands_behind_what_was_there():
    plain, roomy = filled(), filled()
    make_room(roomy, 4)
    assert all(isinstance(layer, RoomyLayer) for layer in roomy.layers)
    for step in range(6):  # two more than there was room for
        for layer in range(2):
            new = states(3, 1, seed=10 * step + layer)
            keys, values = roomy.update(*new, layer)
            wanted = plain.update(*new, layer)
            assert torch.equal(keys, wanted[0])
            assert torch.equal(values, wanted[1])
    assert roomy.get_seq_length() == plain.get_seq_length() == 11


def test_rows_that_leave_take_nothing_of_the_others_along():
    plain, roomy = filled(), filled()
    make_room(roomy, 2)
    for cache in (plain, roomy):
        cache.batch_select_indices(torch.tensor([2, 0]))
        for layer in range(2):
            cache.update(*states(2, 1, seed=7), layer)
    assert equal(plain, roomy)


def test_writing_leaves_the_cache_alone_from_which_the_rows_were_taken():
    source = filled()
    before = [layer.keys.clone() for layer in source.layers]
    taken = filled()
    taken.layers = list(source.layers)
    make_room(taken, 2)
    taken.update(*states(3, 1, seed=1), 0)
    assert all(torch.equal(layer.keys, kept) for layer, kept in zip(source.layers, before, strict=True))


def test_nothing_is_copied_while_there_is_room():
    cache = filled(n_layers=1)
    make_room(cache, 2)
    place = cache.layers[0].keys.data_ptr()
    cache.update(*states(3, 1, seed=3), 0)
    cache.update(*states(3, 1, seed=4), 0)
    assert cache.layers[0].keys.data_ptr() == place
