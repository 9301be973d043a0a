"""A cache with room holds what transformers' own holds, whatever is written, taken out, and in which order."""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicSlidingWindowLayer

from radit_job.models.roomy_cache import RoomyLayer, can_join, join, make_room


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


def test_rows_that_join_stand_right_aligned_beside_the_others():
    ours, theirs = filled(n_layers=1, batch=2, positions=5), filled(n_layers=1, batch=1, positions=3)
    kept, new = ours.layers[0].keys.clone(), theirs.layers[0].keys.clone()
    make_room(ours, 1)
    mask = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])  # nobody has a token at the first position any more
    joined = join(ours, mask, theirs, torch.tensor([[0, 1, 1]]), n_more=2)
    assert joined.tolist() == [[0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]]
    keys = ours.layers[0].keys
    assert torch.equal(keys[:2], kept[:, :, 1:])
    assert torch.equal(keys[2:, :, 1:], new)
    assert not keys[2, :, 0].any()  # what is masked must be a number
    place = keys.data_ptr()
    for _ in range(2):
        ours.update(*states(3, 1, seed=5), 0)
    assert ours.layers[0].keys.data_ptr() == place
    assert ours.get_seq_length() == 6


def test_a_longer_prompt_that_joins_moves_the_others_to_the_right():
    ours, theirs = filled(n_layers=1, batch=1, positions=2), filled(n_layers=1, batch=1, positions=4)
    kept = ours.layers[0].values.clone()
    make_room(ours, 1)
    joined = join(ours, torch.ones(1, 2, dtype=torch.long), theirs, torch.ones(1, 4, dtype=torch.long), n_more=1)
    assert joined.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert torch.equal(ours.layers[0].values[:1, :, 2:], kept)
    assert torch.equal(ours.layers[0].values[1:], theirs.layers[0].values)


def test_rows_join_layers_of_full_attention_only():
    cache = filled()
    assert can_join(cache)
    make_room(cache, 1)
    assert can_join(cache)
    cache.layers[1] = DynamicSlidingWindowLayer(sliding_window=4)
    assert not can_join(cache)
