"""Masks: each against its definition in NumPy, as arrays, text and pictures."""

import copy
import pickle
import xml.etree.ElementTree as xml

import numpy as np
import pytest
import reference
import regard
from regard import Mask


def test_every_mask_is_its_definition(rng):
    p, j = np.arange(20)[:, None] + 4, np.arange(24)
    some, blocks, dense = rng.random(24) < 0.5, rng.random((4, 4)) < 0.5, rng.random((20, 24)) < 0.5
    everything = np.ones((20, 24), bool)
    definitions = [
        (Mask.full(), everything),
        (Mask.causal(), reference.causal(20, 24)),
        (Mask.window(3, 2), reference.window(20, 24, 3, 2)),
        (Mask.window(None, 0), reference.causal(20, 24)),
        (Mask.global_keys([0, 5, 5, 99]), everything & np.isin(j, [0, 5])),
        (Mask.global_queries(np.array([7, 9])), everything & np.isin(p, [7, 9])),
        (Mask.keys(some), everything & some),
        (Mask.block_diagonal(5), p // 5 == j // 5),
        (Mask.strided(7), everything & (j % 7 == 0)),
        (Mask.prefix(6), everything & (j < 6)),
        (Mask.blocks(blocks, 7), blocks[np.minimum(p // 7, 3), j // 7]),
        (Mask.dense(dense), dense),
        (~Mask.causal() | Mask.prefix(2) & Mask.strided(2), ~reference.causal(20, 24) | ((j < 2) & (j % 2 == 0))),
    ]
    for mask, kept in definitions:
        assert (mask.to_numpy(20, 24) == kept).all(), mask


def test_random_keys_are_as_many_as_said():
    kept = Mask.random(0.25, 7).to_numpy(50, 40)
    assert (kept.sum(1) == 10).all() and len({tuple(row) for row in kept}) > 40
    assert (kept == Mask.random(0.25, 7).to_numpy(50, 40)).all()
    assert (kept != Mask.random(0.25, 8).to_numpy(50, 40)).any()


def test_edges_come_in_many_forms():
    class Csr:
        indptr, indices = np.array([0, 2, 2, 3], np.int32), np.array([1, 3, 0], np.int64)

    expected = np.zeros((3, 4), bool)
    expected[[0, 0, 2], [1, 3, 0]] = True
    pairs = [(0, 1), (0, 3), (2, 0)]
    for given in (pairs, np.array(pairs), (Csr.indptr, Csr.indices), Csr()):
        assert (Mask.edges(given).to_numpy(3, 4, offset=0) == expected).all()
    both = Mask.edges(pairs, symmetric=True).to_numpy(4, 4)
    assert (both == both.T).all() and both.sum() == 6
    assert not Mask.edges([]).to_numpy(3, 3).any()


def test_masks_that_differ(rng):
    kept = rng.random((3, 12)) < 0.5
    mask = Mask.causal() & Mask.keys(kept)
    both = mask.to_numpy(12, 12)
    assert both.shape == (3, 1, 12, 12)
    assert (both[:, 0] == reference.causal(12, 12) & kept[:, None]).all()
    assert (mask.select(1, 0).to_numpy(12, 12) == both[1, 0]).all()
    heads = Mask.by_head([Mask.window(1, 1), Mask.prefix(3)])
    assert heads.to_numpy(5, 5).shape == (1, 2, 5, 5)
    with pytest.raises(ValueError, match=r"differs by 3 batch entries and 1 heads: layout is of one, .select"):
        mask.layout(12, 12)


@pytest.mark.parametrize("case", range(40))
def test_booleans_are_broadcast_whatever_their_memory(rng, case):
    """Any axis of 1 or missing in front; in any order of memory, and whatever byte stands for True."""
    shape = [2, 4, *(int(x) for x in rng.choice([1, 5, 33], size=2))]
    q, k, v = (rng.standard_normal((2, 4, n, 8)) for n in (shape[2], shape[3], shape[3]))
    has = [extent if rng.random() < 0.7 else 1 for extent in shape][int(rng.integers(0, 4)) :]
    kept = rng.random(has) < 0.7
    bytes_ = np.where(kept, rng.integers(1, 256, size=has), 0).astype(np.uint8)
    forms = [
        kept,
        np.asfortranarray(kept),
        np.flip(np.flip(kept, -1).copy(), -1),
        bytes_.view(bool),
        np.repeat(kept, 2, -1)[..., ::2],
    ]
    options = {"offset": int(rng.integers(-3, 4))} if rng.random() < 0.5 else {}
    expected = reference.attention(q, k, v, kept=np.broadcast_to(kept, shape))[0]
    for form in forms:
        assert abs(regard.attention(q, k, v, form, **options) - expected).max() < 1e-12
        if kept.ndim >= 2:
            n_q, n_k = kept.shape[-2:]
            written = Mask.dense(form).to_numpy(n_q, n_k)
            assert (written == kept.reshape(written.shape if 1 in kept.shape[:-2] else kept.shape)).all()
        if kept.ndim == 2:
            blocks = Mask.blocks(form, 1).to_numpy(*kept.shape, offset=0)
            assert (blocks == kept).all()
            assert (Mask.keys(form).to_numpy(1, kept.shape[1], offset=0).reshape(kept.shape) == kept).all()


def test_arrays_that_are_added():
    added = Mask.causal().to_numpy(3, 3, additive=True)
    assert added.dtype == np.float32
    assert (added == np.where(reference.causal(3, 3), 0, -np.inf)).all()


def test_layouts_count(rng):
    kept = rng.random((100, 200)) < 0.1
    layout = Mask.dense(kept).layout(100, 200)
    assert layout.live_pairs == kept.sum() and layout.density == pytest.approx(kept.mean())
    assert layout.shape == (100, 200) and layout.live_pairs <= layout.cost <= 128 * 256
    window = Mask.causal() & Mask.window(511, None)
    layout = window.layout(8192, 8192)
    assert layout.live_pairs <= layout.cost < 1.1 * layout.live_pairs


def test_pictures_are_pictures():
    mask = Mask.causal() & Mask.window(9, None)
    for picture in (mask.svg(40, 40), mask._repr_svg_(), mask.layout(300, 300).svg(), mask.layout(300, 300)._repr_svg_()):
        assert xml.fromstring(picture).tag.endswith("svg")
    for picture in (mask.png(40, 40), mask.layout(300, 300).png()):
        assert picture.startswith(b"\x89PNG")
    assert mask.draw(3, 3) == "█··\n██·\n███\n"


def test_expressions_are_read_and_written():
    mask = Mask("causal & (window(2, inf) | !prefix(1))")
    assert mask == Mask.causal() & (Mask.window(2, None) | ~Mask.prefix(1))
    assert Mask(str(mask)) == mask and eval(repr(mask)) == mask
    assert mask.allows(5, 4, 9) and not mask.allows(5, 0, 9)
    assert mask != Mask.causal() and mask != 7


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Mask("windw(1, 2)"), ValueError, "windw"),
        (lambda: Mask("causal &"), ValueError, "the end; expected a mask"),
        (lambda: Mask(7), TypeError, "text"),
        (lambda: Mask.window(-1, 0), ValueError, "`left` is -1"),
        (lambda: Mask.window(0, 2**200), ValueError, "`right` is 16069"),
        (lambda: Mask.prefix(-1), ValueError, "`n` is -1"),
        (lambda: Mask.prefix(1.5), TypeError, "`n` is a float"),
        (lambda: Mask.block_diagonal(0), ValueError, "at least 1"),
        (lambda: Mask.strided(0), ValueError, "at least 1"),
        (lambda: Mask.random(1.5, 0), ValueError, "1.5"),
        (lambda: Mask.global_keys([-1]), ValueError, "-1"),
        (lambda: Mask.global_keys(5), TypeError, "`indices` is an int; expected a sequence"),
        (lambda: Mask.keys([0.5]), TypeError, "`kept` has dtype float64; expected booleans"),
        (lambda: Mask.keys(np.ones((2, 2, 2), bool)), ValueError, r"`kept` has shape \[2, 2, 2\]"),
        (lambda: Mask.blocks(np.ones(3, bool), 2), ValueError, r"`block_mask` has shape \[3\]"),
        (lambda: Mask.dense(np.ones(3, bool)), ValueError, r"`array` has shape \[3\]"),
        (lambda: Mask.edges([(0, 1, 2)]), ValueError, r"`pairs` has shape \[1, 3\]"),
        (lambda: Mask.edges([(0.0, 1.0)]), TypeError, "`pairs` is a list; expected an array of whole numbers"),
        (lambda: Mask.edges([(0, -1)]), ValueError, "-1"),
        (lambda: Mask.edges(([0, 5], [1, 2])), ValueError, "offsets"),
        (lambda: Mask.edges(([0, 1],)), ValueError, "tuple of 1"),
        (lambda: Mask.by_batch([]), ValueError, "at least one"),
        (lambda: Mask.causal() | "full", TypeError, "unsupported operand"),
        (lambda: Mask.full().to_numpy(1 << 20, 1 << 20), MemoryError, "too many"),
        (lambda: Mask.full().draw(1 << 20, 1 << 20), ValueError, "too many"),
        (lambda: Mask.full().svg(0, 5), ValueError, "0 queries × 5 keys"),
    ],
)
def test_what_is_no_mask(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_copies_of_a_mask_are_the_mask():
    mask = Mask.window(2, 3) & Mask.causal()
    held = {"mask": mask, "of": [mask]}
    assert copy.copy(mask) is mask and copy.deepcopy(held)["of"][0] is mask


def test_masks_are_keys_and_can_be_sent_where_text_says_all():
    mask = Mask.causal() & (Mask.window(31, None) | ~Mask.prefix(4) | Mask.global_keys([1, 5]) | Mask.random(0.25, 7))
    assert {mask: 1}[Mask(str(mask))] == 1 and hash(mask) != hash(Mask.causal())
    assert pickle.loads(pickle.dumps(mask)) == mask
    assert copy.deepcopy([mask])[0] == mask
    assert pickle.loads(pickle.dumps(Mask.keys([True, False]))) == Mask.keys([True, False])
    for held in (Mask.edges([(0, 1)]), Mask.dense(np.eye(2, dtype=bool))):
        with pytest.raises(TypeError, match="cannot pickle Mask.*arrays"):
            pickle.dumps(Mask.causal() & held)
        assert copy.deepcopy(held) == held


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Mask(3), TypeError, "`expression` is an int; expected text such as"),
        (lambda: Mask.causal().layout(-1, 3), ValueError, "`n_q` is -1"),
        (lambda: Mask.causal().to_numpy(2, 2**70), ValueError, "`n_k` is 1180591620717411303424"),
        (lambda: Mask.causal().draw(2, 2, 2**70), ValueError, "`offset` is 1180591620717411303424"),
        (lambda: Mask.causal().svg(2.0, 2), TypeError, "`n_q` is a float"),
        (lambda: Mask.causal().allows(0, -1, 3), ValueError, "`j` is -1"),
        (lambda: Mask.causal().select(True, 0), TypeError, "`batch` is a bool"),
        (lambda: Mask.block_diagonal(-1), ValueError, "`size` is -1"),
        (lambda: Mask.random(0.5, -1), ValueError, "`seed` is -1"),
        (lambda: Mask.edges(((0, 1), (1, 2))), ValueError, "a tuple is read as .indptr, indices.: pairs come in a list"),
    ],
)
def test_what_masks_are_refused_for(call, error, message):
    with pytest.raises(error, match=message):
        call()
