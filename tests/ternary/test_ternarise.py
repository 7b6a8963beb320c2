"""The ternariser: proven over all random numbers, then measured with a stated power, then at its edges."""

import math

import numpy as np
import pytest

from minidl import backend
from minidl.errors import InputError
from minidl.ternary.pack import ternarise_pack, unpack_base
from minidl.ternary.ternarise import LANES, LARGEST, Ternariser, draw_key, draws, scale_of, ternarise, trits_of

ALL = 2**24
needs_numba = pytest.mark.skipif(not backend._fast_module("ternarise"), reason="Numba or minidl/fast is not there")
FORMS = ["numpy", pytest.param("numba", marks=needs_numba)]


def gaussian(n, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(n).astype(dtype)


def one_scale(g, s, key=0, own=None):
    s = np.array([s], np.float32)
    return ternarise(g, s, np.uint64(key), s if own is None else np.array([own], np.float32), g.size)


# ------------------------------------------------------------------------------------------------ the talk's example


def test_the_talks_own_vector():
    g = np.array([0.30, -1.20, 0.60, 0.9], np.float32)
    stepped = dict(Ternariser().steps(g))
    assert list(stepped) == ["s", "sign", "P", "b", "g~"]
    assert stepped["s"] == np.float32(1.20)
    assert stepped["sign"].tolist() == [1, -1, 1, 1]
    assert np.allclose(stepped["P"], [0.25, 1, 0.5, 0.75], atol=1e-7)
    assert stepped["b"][1] == 1 and set(stepped["b"].tolist()) <= {0, 1}
    assert np.array_equal(stepped["g~"], stepped["s"] * stepped["sign"] * stepped["b"])
    assert np.array_equal(stepped["g~"], stepped["s"] * Ternariser().trits(g))


@pytest.mark.parametrize("scale", ["tensor", "layer", 3, 64])
def test_steps_show_what_trits_does_for_every_shape_and_block(scale):
    g = gaussian(7 * 30).reshape(7, 30)
    chosen = dict(step=3, worker=2, tensor=1)
    ternariser = Ternariser(scale)
    stepped = dict(ternariser.steps(g, **chosen))
    s = np.repeat(ternariser.scales(g), ternariser.block(g.size))[: g.size]
    assert stepped["g~"].shape == stepped["P"].shape == g.shape
    assert np.array_equal(stepped["g~"].ravel(), s * ternariser.trits(g, **chosen))
    assert np.allclose(stepped["P"].ravel(), np.minimum(np.abs(g.ravel()) / s, 1), atol=1e-7)


# ------------------------------------------------------------------------------------------------ proof: all 2^24 draws


@pytest.mark.parametrize("form", FORMS)
def test_over_all_draws_the_mean_is_exactly_q(form):
    """A proof, no statistics: for these q the sum of t over every U is q, so the mean is q / 2^24."""
    with backend.form(form):
        for q in (0, 1, -1, 2**23, -(2**23), ALL, -ALL, ALL - 1, 1 - ALL, 5_592_406, -11_184_810):
            total, last = 0, -2
            for first in range(0, ALL, 2**22):
                u = np.arange(first, first + 2**22, dtype=np.int32)
                t = trits_of(np.full(u.size, q, np.int32), u)
                total += int(t.sum(dtype=np.int64))
                assert t[0] >= last and (t[1:] >= t[:-1]).all(), "t grows with U"
                assert np.array_equal(np.unique(t), np.unique([math.floor((q + int(x)) / ALL) for x in (u[0], u[-1])]))
                last = t[-1]
            assert total == q


def sum_over_all_draws(trits_of, q, last=ALL):
    parts = (np.arange(first, min(first + 2**22, last), dtype=np.int32) for first in range(0, last, 2**22))
    return sum(int(np.sum(trits_of(np.full(u.size, q, np.int32), u), dtype=np.int64)) for u in parts)


@pytest.mark.parametrize("q", [5_592_406, -11_184_810])
def test_the_proof_refuses_what_no_sample_could_show(q):
    """Biases of 2^-24 and of 2^-12, as comparisons and short random numbers have them: the sum must be q, no less."""
    sign = np.sign(q)
    assert sum_over_all_draws(trits_of, q) == q
    assert sum_over_all_draws(lambda q, u: sign * (u < np.abs(q)), q) == q, "a comparison with < is right as well"
    assert sum_over_all_draws(lambda q, u: sign * (u <= np.abs(q)), q) == q + sign, "with <= it is not"
    assert sum_over_all_draws(trits_of, abs(q), ALL + 1) == abs(q) + 1, "u in [0, 1], with the 1"
    half = lambda u: (np.float16(u / ALL).astype(np.float64) * ALL).astype(np.int32)
    assert sum_over_all_draws(lambda q, u: trits_of(q, half(u)), q) != q, "u in half precision"
    assert sum_over_all_draws(lambda q, u: trits_of(np.int32(q / 1.001), u), q) != q, "a wrong scale"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 9, 64])
def test_hermites_identity(form, n):
    """Draws spread evenly, u_k = (u + k) / n: the trits of n equal gradients add up to floor(n y + u)."""
    rng = np.random.default_rng(n)
    q = np.append(rng.integers(-ALL, ALL + 1, 5000), [0, 1, -1, ALL, -ALL]).astype(np.int32)
    u = rng.integers(0, ALL, q.size)
    with backend.form(form):
        every = [trits_of(q, ((u + k * ALL) // n).astype(np.int32)) for k in range(n)]
    assert np.array_equal(np.sum(every, axis=0, dtype=np.int64), (n * q.astype(np.int64) + u) >> 24)


def test_symmetry():
    u = np.arange(0, ALL, 7, dtype=np.int32)
    for q in (0, 1, 12_345_678, 2**23, ALL):
        q = np.full(u.size, q, np.int32)
        exception = (q + u) % ALL == 0
        assert np.array_equal(trits_of(-q, ALL - 1 - u)[~exception], -trits_of(q, u)[~exception])


# ------------------------------------------------------------------------------------------------ Monte Carlo

SIGMAS, BIAS = 6.0, 1e-3


def z_scores(g, s, draw, repeats):
    """How many standard errors the mean of s t is off clip(g): up or down, and towards or away from zero."""
    aim, variance = np.clip(g, -s, s).astype(np.float64), 0.0
    up = away = 0.0
    for key in range(repeats):
        error = s * draw(g, s, draw_key(1, key, 0, 0)) - aim
        up += error.sum()
        away += (error * np.sign(g)).sum()
        variance += (np.abs(aim) * (s - np.abs(aim))).sum()
    return up / math.sqrt(variance), away / math.sqrt(variance), math.sqrt(variance)


def honest(g, s, key):
    return one_scale(g, s, key)


def with_q(change):
    def draw(g, s, key):
        q = np.rint(np.clip(g.astype(np.float64) / s, -1, 1) * ALL)
        return trits_of(np.rint(np.clip(change(q), -ALL, ALL)).astype(np.int32), draws(key, 0, g.size))

    return draw


MUTANTS = {
    "adds 1e-3 s": with_q(lambda q: q + BIAS * ALL),
    "shrinks by 0.3 %": with_q(lambda q: q * 0.997),
    "rounds to the nearest trit": lambda g, s, key: np.rint(np.clip(g / s, -1, 1)),
    "truncates the draws": lambda g, s, key: np.trunc(np.clip(g / s, -1, 1) + draws(key, 0, g.size) / ALL),
    "same sign, keeps with <= in half precision": lambda g, s, key: (
        np.sign(g) * (np.float16(draws(key, 0, g.size) // 2**16 / 256) <= np.float16(np.abs(g) / s))
    ),
}


def test_unbiased_at_six_sigma_with_power_above_999_permille():
    g, repeats = gaussian(2**18), 64
    s = float(scale_of(g))
    up, away, deviation = z_scores(g, s, honest, repeats)
    assert abs(up) < SIGMAS and abs(away) < SIGMAS
    shift = BIAS * s * g.size * repeats / deviation  # where a bias of 1e-3 s would put the mean of Z
    power = 0.5 * (1 + math.erf((shift - SIGMAS) / math.sqrt(2)))
    assert power > 0.999, f"{shift:.1f} standard errors"
    for name, mutant in MUTANTS.items():
        up, away, _ = z_scores(g, s, mutant, repeats if MUTANTS[name].__name__ == "draw" else 8)
        assert max(abs(up), abs(away)) > SIGMAS, f"the mutant that {name} was not caught"


def worst_coordinate(draw, g, s, repeats=2000):
    """The largest |z| of any coordinate's mean, in standard errors of one that has no bias."""
    total = np.sum([s * draw(g, s, draw_key(3, k, 0, 0)) for k in range(repeats)], axis=0, dtype=np.float64)
    magnitude = np.abs(g.astype(np.float64))
    deviation = np.sqrt(np.maximum(magnitude * (s - magnitude), 1e-6) / repeats)
    return np.abs((total / repeats - g) / deviation).max()


def test_no_coordinate_is_biased():
    """Bonferroni: of 1,000 honest coordinates none passes z = 7.1 but once in 10^9 seeds; a tenth of s does."""
    g = np.append(gaussian(998), [0, 3.3]).astype(np.float32)
    s = float(scale_of(g, clip=None))
    assert worst_coordinate(honest, g, s) < 7.1
    assert worst_coordinate(lambda g, s, key: 1.1 * honest(g, s, key), g, s) > 7.1, "decoded with a wrong scale"
    assert worst_coordinate(lambda g, s, key: honest(g, 1.1 * s, key), g, s) > 7.1, "drawn with a wrong scale"
    one = np.arange(g.size) == 500
    for bias in (0.1, -0.1):
        mutant = with_q(lambda q, bias=bias: q + one * bias * ALL)
        assert worst_coordinate(mutant, g, s) > 7.1, "one coordinate of a thousand, by a tenth of the scale"


@pytest.mark.parametrize("n", [1, 2, 8])
def test_the_noise_of_n_workers_is_an_nth_of_one_workers(n):
    """Var of the mean is |g| (s - |g|) / n; were the draws the same on all workers, it would be that of one."""
    g, repeats = gaussian(2**12), 200
    s = scale_of(g, clip=None)
    p = np.abs(g.astype(np.float64)) / s

    def error(worker_of):
        """Sum over coordinates of the mean squared error, over that of one worker."""
        squared = 0.0
        for step in range(repeats):
            mean = sum(one_scale(g, s, draw_key(4, step, worker_of(w), 0)).astype(np.float64) for w in range(n)) / n
            squared += np.square(mean - g / s).sum()
        return squared / repeats / (p * (1 - p)).sum()

    within = 6 * math.sqrt(3 / (repeats * g.size))  # a squared error varies by less than 3 times its mean squared
    assert abs(error(lambda w: w) * n - 1) < within
    assert abs(error(lambda w: 0) - 1) < within and (n == 1 or error(lambda w: 0) > 1.9 / n)


def test_variance_and_second_moment():
    """Var g~ = |g| (s - |g|), and E||g~||^2 = s ||g||_1: each within six of its own standard errors."""
    g, repeats = gaussian(2**12), 500
    s = scale_of(g, clip=None)
    t = np.array([one_scale(g, s, draw_key(2, k, 0, 0)) for k in range(repeats)], np.float64)
    p = np.abs(g.astype(np.float64)) / s
    second = (s * s * t * t).sum() / repeats
    expected = s * np.abs(g).sum(dtype=np.float64)
    assert abs(second - expected) < 6 * s * s * math.sqrt((p * (1 - p)).sum() / repeats)
    squared_error = ((t - g / s) ** 2).mean(axis=0) - p * (1 - p)
    fourth = p * (1 - p) * ((1 - p) ** 3 + p**3) - (p * (1 - p)) ** 2
    assert abs(squared_error.sum()) < 6 * math.sqrt(fourth.sum() / repeats)


def test_gaussian_golden_numbers():
    """methods 3.1: clipping at 2.5 sigma shrinks the length to .9887, turns it by 2.75 degrees, and zeroes 68.2 %."""
    g = gaussian(1_000_000, dtype=np.float64)
    s = float(scale_of(g))
    clipped = np.clip(g, -s, s)
    length = np.linalg.norm(clipped) / np.linalg.norm(g)
    angle = math.degrees(math.acos(clipped @ g / np.linalg.norm(clipped) / np.linalg.norm(g)))
    assert abs(length - 0.9887) < 5e-4 and abs(angle - 2.75) < 0.03
    assert abs(np.mean(Ternariser().trits(g) == 0) - 0.682) < 3e-3


# ------------------------------------------------------------------------------------------------ the draws


def test_draws_are_uniform_and_serially_independent():
    for key in (draw_key(0, 0, 0, 0), draw_key(0, 1, 0, 0), draw_key(7, 123, 3, 5), np.uint64(0)):
        u = draws(key, 0, 2**20)
        for cells in (u >> 16, u & 255, (u[::2] >> 20) * 16 + (u[1::2] >> 20)):
            counts = np.bincount(cells, minlength=256)
            chi2 = ((counts - cells.size / 256) ** 2 / (cells.size / 256)).sum()
            assert abs(chi2 - 255) < 6 * math.sqrt(2 * 255)


def test_no_two_workers_steps_or_tensors_share_draws():
    grid = [(s, t, w, k) for s in range(3) for t in range(40) for w in range(9) for k in range(9)]
    keys = {draw_key(*at) for at in grid}
    assert len(keys) == len(grid)
    base = draws(draw_key(0, 0, 0, 0), 0, 100_000).astype(np.float64)
    for other in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)):
        u = draws(draw_key(*other), 0, 100_000).astype(np.float64)
        assert np.mean(u == base) < 1e-4 and abs(np.corrcoef(u, base)[0, 1]) < 6 / math.sqrt(u.size)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", [0, 2**31 - 300, 2**33, 2**40 + 7])
def test_chunks_of_a_tensor_give_the_trits_of_the_whole(form, start):
    """Also beyond 2^31 elements: a view of a tensor of 2^33 that no machine here could hold."""
    g, s, key = gaussian(1000), np.array([2.0], np.float32), draw_key(0, 1, 2, 3)
    with backend.form(form):
        whole = ternarise(g, s, key, s, g.size, start)
        for a, b in ((0, 300), (300, 700), (700, 1000)):
            assert np.array_equal(ternarise(g[a:b], s, key, s, b - a, start + a), whole[a:b])
        if start:
            assert not np.array_equal(whole, ternarise(g, s, key, s, g.size)), "the draws go on, they do not repeat"
        u = np.array([int(draws(key, start + k, 1)[0]) for k in (0, 1, 299)])
        assert np.array_equal(draws(key, start, 300)[[0, 1, 299]], u)


# ------------------------------------------------------------------------------------------------ both forms, same bits


def both_forms(function):
    found = []
    for form in ("numpy", "numba"):
        with backend.form(form):
            found.append(function())
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype and np.array_equal(one, other)
    return found[0]


def drawn_and_packed(n, dtype, scale):
    g, ternariser = gaussian(n, seed=n, dtype=dtype) * dtype(1e-3), Ternariser(scale)
    key, block = draw_key(n, 1, 2, 3), ternariser.block(n)

    def draw():
        own = ternariser.scales(g)
        shared = own * np.float32(1.3)
        trits, packed = ternarise(g, shared, key, own, block), ternarise_pack(g, shared, key, own, block)
        return own, trits, packed, ternarise_pack(g, own, key, own, block, 2**33)

    _, trits, packed, _ = both_forms(draw)
    assert np.array_equal(unpack_base(packed, n), trits)


@needs_numba
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_and_numba_give_the_same_bits(dtype):
    for n in (0, 1, 5, 63, 64, 1000):
        for scale in ("tensor", 1, 7, 64, 1000):
            drawn_and_packed(n, dtype, scale)
    assert all(backend.calls[name, "numba"] for name in ("ternarise", "ternarise_pack", "moments"))


@needs_numba
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_many_lanes_numpy_and_numba_give_the_same_bits(dtype):
    for n in (LANES - 1, LANES, LANES + 1, 8 * LANES, 17 * LANES + 5):
        for scale in ("tensor", 1000):
            drawn_and_packed(n, dtype, scale)


@needs_numba
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_at_every_pair_of_scales_numpy_and_numba_give_the_same_bits(dtype):
    """Zero, denormal and the largest; a worker's own scale below, at and above the shared one; numbers beyond both."""
    scales, key = np.array([0, 1e-45, 1e-38, 0.3, 1, 3e38], np.float32), draw_key(0, 0, 0, 0)
    for s in scales[:, None]:
        for own in scales[:, None]:
            units = np.array([0, 1e-9, 0.25, 0.5, 1, 1 + 1e-6, 1e3])
            g = np.concatenate([-units * s, units * s, units * own, [LARGEST, -1e-45]])
            g = np.clip(g, -LARGEST, LARGEST).astype(dtype)  # beyond, scale_of refuses
            both_forms(lambda g=g, s=s, own=own: [ternarise(g, s, key, own, g.size)])


def test_hash_vectors_pin_the_stream():
    """The draws are part of a run's result: they must not change from version to version."""
    assert int(draw_key(0, 0, 0, 0)) == KEY_0
    assert draws(draw_key(1, 2, 3, 4), 0, 4).tolist() == DRAWS_1234


KEY_0 = 2_391_539_541_053_276_776
DRAWS_1234 = [5_570_262, 16_140_311, 11_546_455, 5_600_658]


# ------------------------------------------------------------------------------------------------ scales


def test_scale_rules():
    g = gaussian(10_000)
    assert scale_of(g, clip=None) == np.abs(g).max()
    assert np.isclose(scale_of(g), 2.5 * g.astype(np.float64).std(), rtol=1e-6)
    assert scale_of(g[:63]) == np.abs(g[:63]).max(), "sigma of few numbers says little"
    assert scale_of(np.sign(g)) == 1, "2.5 sigma would be needless: max|g| is smaller"
    assert scale_of(np.full(1000, 0.1, np.float32)) == np.float32(0.1), "sigma = 0: no clip"
    for x in (0.1, 0.3, 1.0 + 1e-9):
        assert float(scale_of(np.full(1000, x))) >= x, "a float64 scale is rounded up"
    assert scale_of(np.zeros(1000)) == 0 and scale_of(np.zeros(0)) == 0
    assert isinstance(scale_of(g), np.float32)
    far = 1e6 + gaussian(10_000, dtype=np.float64)
    assert np.isclose(scale_of(far), 2.5 * far.std(), rtol=1e-6), "no cancellation around a large mean"


def test_the_published_rule_is_c_sigma_whatever_the_maximum():
    published = lambda g: Ternariser(rule="published").scales(g)[0]
    signs = np.sign(gaussian(1000))
    assert np.isclose(published(signs), 2.5 * signs.std()) and scale_of(signs) == 1, (
        "2.5 times the scale that is needed"
    )
    assert np.isclose(published(np.array([1.0, 1.1])), 2.5 * 0.05), "also of two numbers: they keep 12 %"
    assert published(np.full(100, 0.1, np.float32)) == 0, "and of a constant nothing is left"
    assert not Ternariser(rule="published").trits(np.full(100, 0.1, np.float32)).any()
    assert published(gaussian(63)) > np.abs(gaussian(63)).max() - 1 and np.isfinite(published(signs * np.float32(3e38)))
    assert Ternariser(clip=None, rule="published").scales(signs * 2)[0] == 2


def test_under_the_published_rule_a_worker_is_clipped_at_the_shared_scale():
    g, own, shared = np.full(100, 4.0, np.float32), np.array([1.0], np.float32), np.array([4.0], np.float32)
    assert (Ternariser(rule="published").trits(g, shared, own=own) == 1).all()
    assert (Ternariser().trits(g, shared, own=own) == 0).any()


def test_bias_is_what_the_clip_takes_away():
    g = gaussian(100_000, dtype=np.float64)
    clipped = np.clip(g, -2.5 * g.std(), 2.5 * g.std())
    assert abs(Ternariser().bias(g) - np.linalg.norm(g - clipped) / np.linalg.norm(g)) < 1e-6
    above, density = math.erfc(2.5 / math.sqrt(2)) / 2, math.exp(-(2.5**2) / 2) / math.sqrt(2 * math.pi)
    tail = 2 * ((1 + 2.5**2) * above - 2.5 * density)  # E (|x| - 2.5)^2 where |x| > 2.5
    assert abs(Ternariser().bias(g) - math.sqrt(tail)) < 3e-3, "the closed form for a Gaussian"
    assert Ternariser(clip=None).bias(g) == Ternariser(scale=1).bias(g) == Ternariser().bias(0 * g) == 0
    assert Ternariser(scale=1000).bias(g.reshape(100, 1000)) > 0 and Ternariser().bias(np.zeros(0)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 70, 2999])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_not_finite_is_refused_by_name(bad, at, form):
    g = gaussian(3000)
    g[at] = bad
    with backend.form(form), pytest.raises(InputError, match=rf"conv1.weight has -?(nan|inf) at element {at} of 3000"):
        Ternariser().scales(g, "conv1.weight")


def test_beyond_float32_is_refused():
    with pytest.raises(InputError, match="1e[+]39 at element 1 of 2"):
        scale_of(np.array([1.0, 1e39]))


@pytest.mark.parametrize("form", FORMS)
def test_edges(form):
    with backend.form(form):
        assert not one_scale(np.zeros(100, np.float32), 0).any()
        assert Ternariser().trits(np.array([-3.0])).tolist() == [-1], "one element keeps its sign"
        assert Ternariser().trits(np.zeros((0, 3), np.float32)).shape == (0,)
        constant = np.full(100, -0.1, np.float32)
        assert (Ternariser().trits(constant) == -1).all(), "|g| = s: always the sign"
        tiny = np.full(100, 1e-45, np.float32)
        assert (Ternariser().trits(tiny) == 1).all() and Ternariser().scales(tiny)[0] > 0, "denormal"
        assert (Ternariser().trits(np.full(100, 1e-300)) == 0).all(), "below float32: a probability of 1e-255"
        assert Ternariser().scales(np.full(100, 3e38, np.float32))[0] == np.float32(3e38)
        assert one_scale(np.array([9.0, -9.0], np.float32), 1).tolist() == [1, -1], "beyond the scale: clipped"


def test_a_worker_is_clipped_at_its_own_scale_also_when_the_shared_one_is_larger():
    g = np.full(200_000, 4.0, np.float32)
    t = one_scale(g, 2.0, own=1.0)
    assert abs(t.mean() - 0.5) < 6 * 0.5 / math.sqrt(g.size)


def test_block_length_one_gives_the_gradient_back():
    g = gaussian(1000)
    ternariser = Ternariser(scale=1)
    assert np.array_equal(ternariser.scales(g) * ternariser.trits(g), g)


def test_blocks_share_nothing_but_the_draws():
    g = gaussian(1000)
    blocks = Ternariser(scale=300)
    s = blocks.scales(g)
    assert s.tolist() == [scale_of(g[a : a + 300]) for a in range(0, 1000, 300)]
    every = [blocks.trits(np.where(np.arange(1000) // 300 == b, g, 0).astype(np.float32), s, own=s) for b in range(4)]
    assert np.array_equal(blocks.trits(g), np.sum(every, axis=0))


def test_bad_options():
    for bad in ("bucket", 0, -4, 2.5):
        with pytest.raises(InputError, match="'tensor', 'layer' or a block length"):
            Ternariser(scale=bad)
    with pytest.raises(InputError, match="clip=0"):
        Ternariser(clip=0)
    with pytest.raises(InputError, match="rule='paper' is not 'exact' or 'published'"):
        Ternariser(rule="paper")
