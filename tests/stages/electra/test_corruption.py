"""What is masked, how much of it, and what the discriminator is shown."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from electra_miniature import SPECIAL_IDS, VOCAB_SIZE, make_batch, row_keys

from stages.electra.objectives.corruption import Masked, mask_tokens, max_masked, num_masked, replace_tokens, write
from stages.electra.objectives.objective import Masking

UNMASKABLE = tuple(SPECIAL_IDS[name] for name in ("pad", "cls", "sep", "mask"))


@partial(jax.jit, static_argnames=("fraction", "probability", "masking"))
def _mask(key_B, batch, *, fraction, probability, masking) -> Masked:
    return mask_tokens(
        key_B,
        batch["ids"],
        batch["length"],
        unmaskable_ids=UNMASKABLE,
        mask_id=SPECIAL_IDS["mask"],
        mask_fraction=fraction,
        mask_probability=probability,
        masking=masking,
    )


def mask(batch, *, seed=0, fraction=0.25, probability=0.85, masking=Masking.DISTINCT) -> Masked:
    key_B = row_keys(seed, len(batch["ids"]))
    return _mask(key_B, batch, fraction=fraction, probability=probability, masking=masking)


def original_count(length: int, fraction: float, num_tokens: int) -> int:
    """The original's arithmetic, in numpy: float32 product, np.round to even, both bounds."""
    at_most = int((fraction + 0.005) * num_tokens)
    return max(1, min(at_most, int(np.round(np.float32(length) * np.float32(fraction)))))


@pytest.mark.parametrize("fraction", [0.15, 0.25])
def test_every_length_masks_as_many_tokens_as_the_original(fraction):
    lengths = np.arange(1, 513)
    ours = num_masked(jnp.asarray(lengths), mask_fraction=fraction, maximum=max_masked(512, fraction))
    assert list(np.asarray(ours)) == [original_count(int(length), fraction, 512) for length in lengths]


def test_rounding_half_up_would_differ():
    lengths = np.arange(1, 513)
    half_up = np.maximum(1, np.minimum(max_masked(512, 0.25), np.floor(lengths * 0.25 + 0.5)))
    ours = np.asarray(num_masked(jnp.asarray(lengths), mask_fraction=0.25, maximum=max_masked(512, 0.25)))
    assert int(np.sum(half_up != ours)) == 63


def test_the_masked_positions_of_a_text_are_distinct_and_exactly_as_many_as_wanted():
    lengths = [24, 20, 13, 9, 5, 3]
    batch = make_batch(lengths)
    for seed in range(20):
        masked = mask(batch, seed=seed)
        for row, length in enumerate(lengths):
            used = np.asarray(masked.weights_BP[row]) > 0
            positions = np.asarray(masked.positions_BP[row])[used]
            assert len(set(positions)) == len(positions)
            maskable = int(np.isin(np.asarray(batch["ids"][row]), UNMASKABLE, invert=True).sum())
            assert len(positions) == min(original_count(length, 0.25, 24), maskable)


@pytest.mark.parametrize("fraction", [0.15, 0.25])
def test_texts_of_every_length_have_distinct_maskable_positions_masked_and_as_many_as_wanted(fraction):
    lengths = np.arange(1, 513)
    batch = make_batch(list(lengths), num_tokens=512)
    masked = jax.device_get(mask(batch, fraction=fraction))
    used_BP, positions_BP = masked.weights_BP > 0, masked.positions_BP
    maskable_BT = np.isin(np.asarray(batch["ids"]), UNMASKABLE, invert=True)
    wanted = [original_count(int(length), fraction, 512) for length in lengths]
    np.testing.assert_array_equal(used_BP.sum(axis=1), np.minimum(wanted, maskable_BT.sum(axis=1)))
    hits_BT = np.zeros(maskable_BT.shape, int)
    np.add.at(hits_BT, (np.nonzero(used_BP)[0], positions_BP[used_BP]), 1)
    assert hits_BT.max() == 1
    assert not hits_BT[~maskable_BT].any()


def test_the_original_masking_draws_some_positions_twice_and_so_masks_fewer():
    batch = make_batch([128] * 400, num_tokens=128)
    masked = jax.device_get(mask(batch, fraction=0.15, masking=Masking.ORIGINAL))
    assert np.all(masked.weights_BP.sum(axis=1) == 19)
    maskable_T = np.isin(np.asarray(batch["ids"][0]), UNMASKABLE, invert=True)
    assert np.all(maskable_T[masked.positions_BP])
    distinct = [len(set(row)) for row in masked.positions_BP]
    # n (1 - (1 - 1/n)^19) of n positions: the 17.7 that are measured on the original.
    expected = maskable_T.sum() * (1 - (1 - 1 / maskable_T.sum()) ** 19)
    assert abs(np.mean(distinct) - expected) < 4 * np.std(distinct) / np.sqrt(len(distinct))
    assert max(distinct) == 19


@pytest.mark.parametrize("masking", Masking)
def test_all_maskings_leave_texts_with_nothing_to_mask_alone(masking):
    masked = mask(make_batch([2, 24]), masking=masking)
    assert not np.any(np.asarray(masked.weights_BP[0]))
    assert np.any(np.asarray(masked.weights_BP[1]))


def test_values_at_one_position_are_averaged_as_by_the_original():
    """Against its `scatter_update`, transcribed: sums and counts of what falls on a position, divided and floored."""
    random = np.random.default_rng(0)
    ids_BT = random.integers(5, VOCAB_SIZE, (50, 12))
    positions_BP, values_BP = random.integers(1, 12, (50, 8)), random.integers(5, VOCAB_SIZE, (50, 8))
    where_BP = random.random((50, 8)) < 0.8
    expected = ids_BT.copy()
    for row in range(50):
        for position in set(positions_BP[row][where_BP[row]]):
            written = values_BP[row][where_BP[row] & (positions_BP[row] == position)]
            expected[row, position] = written.sum() // len(written)
    arrays = (jnp.asarray(array, jnp.int32) for array in (ids_BT, positions_BP, values_BP))
    np.testing.assert_array_equal(write(*arrays, where_BP=jnp.asarray(where_BP)), expected)
    assert any(len(set(row)) < 8 for row in positions_BP)


def test_no_special_token_and_no_padding_is_ever_masked():
    # [MASK] occurs in the text itself, and [UNK], which is a word like any other.
    batch = make_batch([24, 11, 6])
    ids = batch["ids"].at[:, 2].set(SPECIAL_IDS["mask"]).at[:, 3].set(SPECIAL_IDS["unk"])
    batch |= {"ids": ids}
    seen = set()
    for seed in range(50):
        masked = mask(batch, seed=seed, fraction=0.5)
        used = np.asarray(masked.weights_BP) > 0
        seen |= set(np.asarray(masked.targets_BP)[used].tolist())
        assert np.all(np.asarray(masked.positions_BP)[used] < np.repeat([24, 11, 6], used.sum(axis=1)))
    assert not seen & set(UNMASKABLE)
    assert SPECIAL_IDS["unk"] in seen


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_text_with_nothing_to_mask_is_left_alone(length):
    batch = make_batch([length, 24])
    masked = mask(batch)
    assert not np.any(np.asarray(masked.weights_BP[0]))
    np.testing.assert_array_equal(masked.ids_BT[0], batch["ids"][0])
    ids, replaced = replace_tokens(batch["ids"], masked, jnp.full_like(masked.targets_BP, 7))
    np.testing.assert_array_equal(ids[0], batch["ids"][0])
    assert not np.any(np.asarray(replaced[0]))


def test_85_of_100_masked_tokens_become_mask_and_the_rest_stay():
    batch = make_batch([128] * 400, num_tokens=128)
    masked = mask(batch)
    used = np.asarray(masked.weights_BP) > 0
    shown = np.take_along_axis(np.asarray(masked.ids_BT), np.asarray(masked.positions_BP), axis=1)[used]
    targets = np.asarray(masked.targets_BP)[used]
    is_mask = shown == SPECIAL_IDS["mask"]
    assert np.all(is_mask | (shown == targets))
    deviation = np.sqrt(0.85 * 0.15 / len(shown))
    assert abs(is_mask.mean() - 0.85) < 4 * deviation


def test_all_positions_are_masked_equally_often():
    batch = make_batch([24] * 2000)
    masked = mask(batch)
    used = np.asarray(masked.weights_BP) > 0
    counts = np.bincount(np.asarray(masked.positions_BP)[used], minlength=24)
    maskable = np.isin(np.asarray(batch["ids"][0]), UNMASKABLE, invert=True)
    expected = used.sum() / maskable.sum()
    assert np.all(counts[~maskable] == 0)
    assert np.all(np.abs(counts[maskable] - expected) < 5 * np.sqrt(expected))


def test_tokens_that_are_not_masked_reach_the_generator_unchanged():
    batch = make_batch([24, 15, 7])
    masked = mask(batch)
    elsewhere = np.ones(batch["ids"].shape, bool)
    for row in range(3):
        elsewhere[row, np.asarray(masked.positions_BP[row])[np.asarray(masked.weights_BP[row]) > 0]] = False
    np.testing.assert_array_equal(np.asarray(masked.ids_BT)[elsewhere], np.asarray(batch["ids"])[elsewhere])


def test_the_discriminator_sees_no_mask_and_a_right_guess_counts_as_original():
    batch = make_batch([24, 24, 12])
    masked = mask(batch)
    # Odd slots are guessed right, even slots wrong.
    right = np.arange(masked.targets_BP.shape[1]) % 2 == 1
    wrong = (masked.targets_BP + 1) % VOCAB_SIZE
    samples = jnp.where(right, masked.targets_BP, wrong)
    ids, replaced = (np.asarray(value) for value in replace_tokens(batch["ids"], masked, samples))
    expected = np.asarray(batch["ids"]).copy()
    labels = np.zeros(expected.shape, bool)
    for row in range(3):
        for slot, position in enumerate(np.asarray(masked.positions_BP[row])):
            if masked.weights_BP[row, slot] and not right[slot]:
                expected[row, position] = wrong[row, slot]
                labels[row, position] = True
    assert labels.any()
    np.testing.assert_array_equal(ids, expected)
    np.testing.assert_array_equal(replaced, labels)


def test_masks_differ_from_step_to_step_and_from_text_to_text():
    batch = make_batch([24] * 4)
    first, second = (np.sort(np.asarray(mask(batch, seed=seed).positions_BP)) for seed in (0, 1))
    assert np.any(first != second)
    assert len({tuple(row) for row in first}) > 1
